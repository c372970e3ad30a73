"""What the book's players show, as data for the browser: recorded searches, and the cost explorer's costs.

The players themselves are ``book/_static/players.js``; :mod:`wiring_book.site` puts both into the built book.
"""

import json
from itertools import product
from typing import Any

import numpy as np
from wiring.evidence.measures import cells_of_types, scalars_of
from wiring.evidence.verdicts import title
from wiring.figures import ORIGINS
from wiring.search.experiments import LEVELS, PRESETS, Experiment, settings
from wiring.search.records import CELL_TYPES, REFERENCE, Record, load_reference
from wiring.supernet.operations import NAMES
from wiring.supernet.topology import MINIMAL

from wiring_book import explorer
from wiring_book.drawing import drawing


def searches() -> list[str]:
    """The recorded presets that have something to play: those whose α moves, for more than an epoch."""
    moving = [name for name, e in PRESETS.items() if e.searcher != "uniform" and e.alpha_lr > 0 and e.epochs > 1]
    return [name for name in moving if (REFERENCE / name).is_dir()]


def captions() -> dict[str, str]:
    """Every search in a few words, by its preset: level, searcher, cells, images, and what else sets it apart."""
    experiments = {name: load_reference(name)[0].experiment for name in searches()}
    return {name: f"{name.removesuffix('-reference')}: {words}" for name, words in _telling(experiments).items()}


def _telling(experiments: dict[str, Experiment]) -> dict[str, str]:
    """A description of each experiment, with the settings in which it differs from others of the same description."""
    said = {name: _describe(e) for name, e in experiments.items()}
    for words in set(said.values()):
        same = {name: settings(experiments[name]) for name in said if said[name] == words}
        for name, own in same.items():
            differ = [key for key in own if any(other[key] != own[key] for other in same.values()) and key != "seed"]
            said[name] = ", ".join([words, *(f"{key} {own[key]}" for key in differ)])
    return said


def _describe(e: Experiment) -> str:
    images = f"{e.images:,}".replace(",", " ") if e.images else "all"
    return f"{e.level}-level {title(e)}, {images} images of {data_name(e)}"


def data_name(e: Experiment) -> str:
    """What its images are, as the book writes it."""
    return e.data.replace("cifar10", "CIFAR-10")


def runs(record: Record) -> list[dict[str, Any]]:
    """What there is to play of a record, an entry for each type of cell: cells of one type share their α.

    By epoch: ``probability`` of every operation, (1 + epochs, edges, operations); ``cost`` of every edge, (epochs,
    edges), in nats; and of every split, first the one that α learns from, accuracy and cost at the output, L − H.
    """
    types, e = cells_of_types(record), record.experiment
    splits = {split: scalars_of(record, split) for split, _ in LEVELS[e.level]}
    return [
        {
            "seed": str(e.seed) if len(types) == 1 else f"{e.seed}, {CELL_TYPES[kind]} cells",
            "cell": drawing(e.topology),
            "probability": record.arrays["probability"][:, kind].astype(float).round(6).tolist(),
            "cost": edge_costs(record, kind).round(4).tolist(),
            "splits": {
                split: {name: scalars[name].to_numpy().round(4).tolist() for name in ("accuracy", "cost")}
                for split, scalars in splits.items()
            },
        }
        for kind in types
    ]


def edge_costs(record: Record, kind: int) -> np.ndarray:
    """The cost of every edge in every epoch, (epochs, edges), in nats: what α's step weighs against None's zero.

    Of each operation the mean cost over the epoch, on the split that α learns from, weighed by the operation's
    probability after the epoch and summed over the cells of that type, which share α.
    """
    cells = cells_of_types(record)[kind]
    mean = np.nan_to_num(record.arrays["cost_mean"][:, 0, cells])  # the first split is the one that α learns from
    weight = record.arrays["probability"][1:, kind]
    return np.asarray((mean.sum(1) * weight).sum(-1))


def common(played: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What every player needs: operations, the colours of edges, the searches' names, the explorer's terms."""
    titles = captions()
    return {
        "operations": list(NAMES),
        "colours": {kind: f"rgb({', '.join(str(round(255 * c)) for c in colour)})" for kind, colour in ORIGINS.items()},
        "searches": {
            name: {"title": titles[name], "seeds": [run["seed"] for run in own]} for name, own in played.items()
        },
        "cell": drawing(MINIMAL),
        "step": explorer.STEP,
        "states": explorer.STATES,
        "extremes": {state: explorer.extremes(values) for state, values in explorer.load_costs().items()},
    }


def scripts() -> dict[str, str]:
    """The data as scripts, by name: a page opened from disk may load scripts, and nothing else.

    A run is a script, and so are the explorer's costs of all architectures with the same operations on edges 3 and 4:
    by state, an array of ``explorer.SHOWN``, operation on edge 0, 1 and 2.
    """
    played = {name: [run for record in load_reference(name) for run in runs(record)] for name in searches()}
    contents: dict[str, Any] = {"common": common(played)}
    for name, own in played.items():
        contents |= {f"{name}-{number}": run for number, run in enumerate(own)}
    shown = {state: explorer.shown(values) for state, values in explorer.load_costs().items()}
    for third, fourth in product(range(len(NAMES)), repeat=2):
        costs = {state: values[..., third, fourth].ravel().tolist() for state, values in shown.items()}
        contents[f"costs-{third}{fourth}"] = costs
    return {
        f"{name}.js": f"(window.wiring ??= {{}})[{json.dumps(name)}] = {json.dumps(value, separators=(',', ':'))};\n"
        for name, value in contents.items()
    }
