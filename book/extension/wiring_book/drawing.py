"""A cell as lines on a plane, for the book's players: what :func:`wiring.figures.cell` draws, in an SVG's terms.

Lengths are in the drawing's own units, of which it is ``WIDTH`` wide: about the pixels that a phone has for it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from wiring.figures import bend, edge_origin, node_names, positions
from wiring.supernet.topology import Topology

WIDTH = 360
#: Between the two rows of nodes; the radius of a node; the length of an arrow's head; above and below all lines.
ROWS, NODE, HEAD, MARGIN = 132, 13, 12, 44
#: A label's width and height: an operation and a number, or, in a cell of more edges than ``FEW``, the edge's number.
FEW, LABEL, NUMBER = 6, (76, 30), (20, 16)

Points = Float[np.ndarray, "point 2"]
Place = Float[np.ndarray, "2"]
#: What must not be covered: the x and y of its middle, half its width and half its height.
Box = tuple[float, float, float, float]


def drawing(topology: Topology) -> dict[str, Any]:
    """A cell: its height, its nodes and the names of some, its edges with their labels, and the ways to its output."""
    count, ends = len(topology.edges), [*topology.edges, *((j, topology.nodes) for j in topology.output)]
    figure = positions(topology)
    bends = [1.5 * bend(figure[i], figure[j]) for i, j in ends]  # further apart: here edges may be thick
    nodes = np.array(figure) * (1, -1)  # an SVG's y grows downwards
    nodes[: len(topology.inputs), 0] -= 0.8  # further out: there is a name to write above an edge
    nodes = (nodes - nodes[0]) * ((WIDTH - 2 * NODE - 4) / np.ptp(nodes[:, 0]), ROWS / 1.6) + (NODE + 2, 0)
    lines = [_curve(nodes[i], nodes[j], bulge) for (i, j), bulge in zip(ends, bends, strict=True)]
    down = (0, MARGIN - min(line[:, 1].min() for line in lines))
    nodes, lines = nodes + down, [line + down for line in lines]
    names = [_name(place, text, nodes) for place, text in zip(nodes, node_names(topology), strict=True) if text]
    taken = [*((x, y, NODE + 2, NODE + 2) for x, y in nodes), *(box for _, box in names)]
    size = LABEL if count <= FEW else NUMBER
    labels = _place_labels(lines, count, taken, size)
    edges = [
        _arrow(lines[k]) | {"label": labels[k], "ends": list(topology.edges[k]), "kind": edge_origin(topology, k)}
        for k in range(count)
    ]
    return {
        "height": round(max(line[:, 1].max() for line in lines) + MARGIN),
        "label": size,
        "nodes": nodes.round(1).tolist(),
        "names": [name for name, _ in names],
        "edges": edges,
        "output": [_arrow(line) for line in lines[count:]],
    }


def _curve(start: Place, end: Place, bulge: float) -> Points:
    """A quadratic curve that bulges, as matplotlib's ``arc3``, by a share of its length."""
    t, (dx, dy) = np.linspace(0, 1, 101)[:, None], end - start
    return start + t * (dx, dy) + 2 * t * (1 - t) * bulge * np.array([-dy, dx])


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


def _name(place: Place, text: str, nodes: Points) -> tuple[dict[str, Any], Box]:
    """A node's name, in lines above its circle or, in the lower row, below, and the box that it takes."""
    lines = text.replace("before ", "before|").split("|")
    side, anchor = (1, "end") if text == "output" else (-1, "start")
    lower = place[1] > nodes[-1, 1] + 1
    x = place[0] + side * NODE
    y = place[1] + (NODE + 14 if lower else -NODE - 6 - 12 * (len(lines) - 1))
    half = 2.9 * max(map(len, lines))
    box = (x - side * half, y - 4 + 6 * (len(lines) - 1), half, 6.0 * len(lines))
    return {"lines": lines, "x": round(x, 1), "y": round(y, 1), "anchor": anchor}, box


def _place_labels(
    lines: Sequence[Points], count: int, taken: Sequence[Box], size: tuple[int, int]
) -> list[list[float]]:
    """Where the labels of the first lines stand: on their line, near its middle.

    None overlaps what is taken or another label; as few points of other lines are hidden as can be. The label of a
    level, straight line stands beside it, outwards, since it would hide it. Raises ValueError if there is no room.
    """
    width, height = size[0] / 2, size[1] / 2
    boxes, middle = list(taken), np.concatenate(lines)[:, 1].mean()
    for number, line in enumerate(lines[:count]):
        level = np.ptp(line[:, 1]) < 1
        beside = np.array([0, level * np.copysign(height + 7, line[0, 1] - middle)])
        others = np.concatenate([other for k, other in enumerate(lines) if k != number])
        free = []
        for k in range(15, 86):
            x, y = line[k] + beside
            if all(abs(x - bx) > width + bw + 2 or abs(y - by) > height + bh + 2 for bx, by, bw, bh in boxes):
                hidden = (np.abs(others - (x, y)) < (width, height)).all(1).sum()
                free.append((hidden, abs(k - 50), float(x), float(y)))
        if not free:
            raise ValueError(f"edge {number}: no room for its label")
        boxes.append((*min(free)[2:], width, height))
    return [[round(x, 1), round(y, 1)] for x, y, _, _ in boxes[len(taken) :]]
