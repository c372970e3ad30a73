"""What the book's players show, as data for the browser: recorded searches, and the cost explorer's costs.

The players themselves are ``book/_static/players.js``; :mod:`wiring_book.site` puts both into the built book.
"""

import base64
import json
import zlib
from typing import Any

import numpy as np
from wiring.evidence.measures import cells_of_types, scalars_of
from wiring.evidence.verdicts import title
from wiring.figures import ORIGINS, bend, edge_origin, label_place, node_names, positions
from wiring.search.experiments import PRESETS
from wiring.search.records import CELL_TYPES, REFERENCE, Record, load_reference
from wiring.supernet.operations import NAMES
from wiring.supernet.topology import MINIMAL, Topology

from wiring_book import explorer


def searches() -> list[str]:
    """The recorded presets that have something to play: those whose α moves, for more than an epoch."""
    return [
        name for name, e in PRESETS.items() if e.searcher != "uniform" and e.epochs > 1 and (REFERENCE / name).is_dir()
    ]


def caption(name: str, record: Record) -> str:
    """A preset's search in a few words: name, searcher, cells, level."""
    return f"{name.removesuffix('-reference')}: {title(record.experiment)}, {record.experiment.level}-level"


def search(name: str) -> dict[str, Any]:
    """The runs of a preset, of every seed, and what a cell looks like."""
    records = load_reference(name)
    return {
        "title": caption(name, records[0]),
        "cell": drawing(records[0].experiment.topology),
        "runs": [run for record in records for run in runs(record)],
    }


def runs(record: Record) -> list[dict[str, Any]]:
    """What there is to play of a record, an entry for each type of cell: cells of one type share their α.

    By epoch: ``probability`` of every operation, (1 + epochs, edges, operations); ``cost`` of every edge, (epochs,
    edges), in nats; ``output``, L − H on the split that α learns from.
    """
    types, seed = cells_of_types(record), record.experiment.seed
    return [
        {
            "seed": seed if len(types) == 1 else f"{seed}, {CELL_TYPES[kind]} cells",
            "probability": record.arrays["probability"][:, kind].astype(float).round(6).tolist(),
            "cost": edge_costs(record, kind).round(4).tolist(),
            "output": scalars_of(record).cost.to_numpy().round(4).tolist(),
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


def drawing(topology: Topology) -> dict[str, Any]:
    """A cell's nodes and edges on the plane, as :func:`wiring.figures.cell` draws them, the inputs further out."""
    first = len(topology.inputs)
    places = [(x - 0.6 * (node < first), y) for node, (x, y) in enumerate(positions(topology))]
    edges = [(i, j, edge_origin(topology, number)) for number, (i, j) in enumerate(topology.edges)]
    return {
        "nodes": [{"x": x, "y": y, "name": name} for (x, y), name in zip(places, node_names(topology), strict=True)],
        "edges": [_edge(places[i], places[j]) | {"ends": [i, j], "kind": kind} for i, j, kind in edges],
        "output": [_edge(places[j], places[-1]) for j in topology.output],
    }


def _edge(start: tuple[float, float], end: tuple[float, float]) -> dict[str, Any]:
    """A quadratic curve through the same control point as matplotlib's ``arc3``, and the place of its label."""
    bulge, dx, dy = bend(start, end), end[0] - start[0], end[1] - start[1]
    t = np.linspace(0, 1, 13 if bulge else 2)
    off = 2 * t * (1 - t) * bulge
    x, y = start[0] + t * dx + off * dy, start[1] + t * dy - off * dx
    return {"x": x.round(3).tolist(), "y": y.round(3).tolist(), "label": label_place(start, end)}


def common() -> dict[str, Any]:
    """What every player needs: operations and the colours of edges."""
    return {
        "operations": list(NAMES),
        "colours": {kind: f"rgb({', '.join(str(round(255 * c)) for c in colour)})" for kind, colour in ORIGINS.items()},
        "minimal": drawing(MINIMAL),
        "step": explorer.STEP,
        "quantities": list(explorer.QUANTITIES),
        "states": explorer.STATES,
        "titles": {name: caption(name, load_reference(name)[0]) for name in searches()},
    }


def costs(state: str) -> str:
    """A state of the cost explorer: int16, low bytes before high bytes, deflated, in base64."""
    values = explorer.load_costs()[state].astype("<i2").reshape(-1, 1).view(np.uint8)
    return base64.b64encode(zlib.compress(values.T.tobytes(), 9)).decode()


def scripts() -> dict[str, str]:
    """The data as scripts, by name: a page opened from disk may load scripts, and nothing else."""
    contents: dict[str, Any] = {"common": common()}
    contents |= {name: search(name) for name in searches()}
    contents |= {f"costs-{state}": costs(state) for state in explorer.STATES}
    return {
        f"{name}.js": f"(window.wiring ??= {{}})[{json.dumps(name)}] = {json.dumps(value, separators=(',', ':'))};\n"
        for name, value in contents.items()
    }
