"""What the book's players show, as data for the browser: recorded searches, and the cost explorer's costs.

The players themselves are ``book/_static/players.js``; :mod:`wiring_book.site` puts both into the built book.
"""

import json
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float
from wiring.evidence.measures import cells_of_types, scalars_of
from wiring.evidence.verdicts import title
from wiring.figures import ORIGINS, bend, edge_origin, node_names, positions
from wiring.search.experiments import LEVELS, PRESETS, Experiment, settings
from wiring.search.records import CELL_TYPES, REFERENCE, Record, load_reference
from wiring.supernet.operations import NAMES
from wiring.supernet.topology import MINIMAL, Topology

from wiring_book import explorer

#: Width of a cell's drawing in its own units, about the pixels that a phone has for it; the other lengths are in these.
WIDTH = 360
#: Half the distance of the two rows of nodes, the radius of a node, the length of an arrow's head.
ROW, NODE, HEAD = 66, 13, 12
#: A label's width and height: an operation and a number, or, in a cell of more edges than ``FEW``, the edge's number.
FEW, LABEL, NUMBER = 6, (76, 30), (20, 16)

Points = Float[np.ndarray, "point 2"]
Place = tuple[float, float]
#: Middle and half the extent of what must not be covered: x, y, width, height.
Box = tuple[float, float, float, float]


def searches() -> list[str]:
    """The recorded presets that have something to play: those whose α moves, for more than an epoch."""
    return [
        name for name, e in PRESETS.items() if e.searcher != "uniform" and e.epochs > 1 and (REFERENCE / name).is_dir()
    ]


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
    return f"{e.level}-level {title(e)}, {images} images of {e.data.replace('cifar10', 'CIFAR-10')}"


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


def drawing(topology: Topology) -> dict[str, Any]:
    """A cell as lines on the plane, y downwards, as :func:`wiring.figures.cell` draws it, the inputs further out."""
    first = len(topology.inputs)
    figure = positions(topology)
    places = [(x - 0.8 * (node < first), y) for node, (x, y) in enumerate(figure)]
    left, right = places[0][0], places[-1][0]
    ends = [*topology.edges, *((j, topology.nodes) for j in topology.output)]
    curves = [_curve(places[i], places[j], bend(figure[i], figure[j])) for i, j in ends]
    top = max(y for curve in curves for _, y in curve)
    # From the plane of the figures to the drawing's: the nodes' circles touch its sides, and there is room for names.
    scale, origin = np.array([(WIDTH - 2 * NODE - 4) / (right - left), -ROW / 0.8]), np.array([left, top])
    offset = np.array([NODE + 2, 44])
    nodes = (np.array(places) - origin) * scale + offset
    lines = [(curve - origin) * scale + offset for curve in curves]
    names = [_name(place, text) for place, text in zip(nodes, node_names(topology), strict=True) if text]
    taken = [(x, y, NODE + 2, NODE + 2) for x, y in nodes] + [name.pop("box") for name in names]
    size = LABEL if len(topology.edges) <= FEW else NUMBER
    labels = _place_labels(lines, len(topology.edges), taken, size)
    edges = [
        _arrow(line) | {"label": label, "ends": list(pair), "kind": edge_origin(topology, number)}
        for number, (line, label, pair) in enumerate(zip(lines, labels, topology.edges, strict=False))
    ]
    return {
        "height": round(max(y for line in lines for _, y in line) + 44),
        "label": size,
        "nodes": nodes.round(1).tolist(),
        "names": names,
        "edges": edges,
        "output": [_arrow(line) for line in lines[len(edges) :]],
    }


def _curve(start: Place, end: Place, bulge: float) -> Points:
    """A quadratic curve through the same control point as matplotlib's ``arc3``."""
    a, b = np.array(start), np.array(end)
    t = np.linspace(0, 1, 101)[:, None]
    return a + t * (b - a) + 2 * t * (1 - t) * bulge * np.array([b[1] - a[1], a[0] - b[0]])


def _arrow(line: Points) -> dict[str, Any]:
    """What is seen of a line between two nodes, as an SVG polyline's points, and its head: tip and angle in degrees."""
    here, there = (np.hypot(*(line - end).T) for end in (line[0], line[-1]))
    seen = line[(here > NODE) & (there > NODE + HEAD)]
    straight = np.allclose(line[50], (line[0] + line[-1]) / 2)
    points = seen[[0, -1]] if straight else np.concatenate([seen[:-1:6], seen[-1:]])
    way = line[-1] - seen[-1]
    tip = line[-1] - way / np.hypot(*way) * (NODE + 1)
    angle = np.degrees(np.arctan2(way[1], way[0]))
    return {"points": points.round(1).ravel().tolist(), "tip": tip.round(1).tolist(), "angle": round(float(angle), 1)}


def _name(place: Points, text: str) -> dict[str, Any]:
    """A node's name in lines above its circle or, in the lower row, below; away from the side on which edges leave."""
    lines = text.replace("before ", "before|").split("|")
    above, output = text.startswith("cell") or text == "output", text == "output"
    x = place[0] + NODE * (1 if output else -1)
    y = place[1] - NODE - 6 - 12 * (len(lines) - 1) if above else place[1] + NODE + 14
    half = 2.9 * max(map(len, lines))
    box = (x - half if output else x + half, y + 6 * (len(lines) - 1) - 4, half, 6 * len(lines))
    return {"lines": lines, "x": round(x, 1), "y": round(y, 1), "anchor": "end" if output else "start", "box": box}


def _place_labels(lines: list[Points], count: int, taken: list[Box], size: tuple[int, int]) -> list[list[float]]:
    """Where the labels of the first lines stand: on their line, near its middle.

    None overlaps what is taken or another label; as few points of other lines are hidden as can be. The label of a
    level, straight line stands beside it, outwards, since it would hide it. Raises ValueError if there is no room.
    """
    width, height = size[0] / 2, size[1] / 2
    taken, labels = list(taken), []
    for number, line in enumerate(lines[:count]):
        level = np.ptp(line[:, 1]) < 1
        outwards = -1 if line[0, 1] < np.mean([own[:, 1].mean() for own in lines]) else 1
        others = np.concatenate([other for k, other in enumerate(lines) if k != number])
        free = []
        for k in range(15, 86):
            x, y = line[k] + (0, outwards * (height + 7) * level)
            if all(abs(x - bx) > width + bw + 2 or abs(y - by) > height + bh + 2 for bx, by, bw, bh in taken):
                hidden = (np.abs(others - (x, y)) < (width, height)).all(1).sum()
                free.append((hidden, abs(k - 50), x, y))
        if not free:
            raise ValueError(f"edge {number}: no room for its label")
        *_, x, y = min(free)
        taken.append((x, y, width, height))
        labels.append([round(float(x), 1), round(float(y), 1)])
    return labels


def common() -> dict[str, Any]:
    """What every player needs: operations, the colours of edges, the searches' names, the explorer's terms."""
    titles = captions()
    seeds = {name: [run["seed"] for record in load_reference(name) for run in runs(record)] for name in titles}
    return {
        "operations": list(NAMES),
        "colours": {kind: f"rgb({', '.join(str(round(255 * c)) for c in colour)})" for kind, colour in ORIGINS.items()},
        "searches": {name: {"title": titles[name], "seeds": seeds[name]} for name in titles},
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
    contents: dict[str, Any] = {"common": common()}
    for name in searches():
        own = [run for record in load_reference(name) for run in runs(record)]
        contents |= {f"{name}-{number}": run for number, run in enumerate(own)}
    shown = {state: explorer.shown(values) for state, values in explorer.load_costs().items()}
    for at in product(range(len(NAMES)), repeat=2):
        contents[f"costs-{at[0]}{at[1]}"] = {
            state: values[..., *at].ravel().tolist() for state, values in shown.items()
        }
    return {
        f"{name}.js": f"(window.wiring ??= {{}})[{json.dumps(name)}] = {json.dumps(value, separators=(',', ':'))};\n"
        for name, value in contents.items()
    }
