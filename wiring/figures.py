"""The book's figures. One visual language: an edge's colour tells where it starts, in every figure.

Every function takes topologies or records and returns a matplotlib figure; none reads a file.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure as _MatplotlibFigure
from matplotlib.patches import FancyArrowPatch, Patch

from wiring.evidence import dropped
from wiring.operations import NONE
from wiring.records import Record
from wiring.topology import Topology

_PALETTE = sns.color_palette("colorblind")
#: Colour of the edges that start at the last input node, the one before it, and at intermediate nodes.
KINDS = {"from the last cell": _PALETTE[0], "from the cell before last": _PALETTE[2], "intermediate": _PALETTE[1]}
OUTPUT = "0.45"


class Figure(_MatplotlibFigure):
    """A figure outside pyplot that a notebook shows as a PNG: it is shown once, and nothing is left open."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def edge_kind(topology: Topology, edge: int) -> str:
    """Which of ``KINDS`` an edge is."""
    start = topology.edges[edge][0]
    if start >= len(topology.inputs):
        return "intermediate"
    return "from the last cell" if topology.inputs[start] == 1 else "from the cell before last"


@contextmanager
def _style() -> Iterator[None]:
    # A white card with dark ink is readable on a light page and, as a card, on a dark one.
    style: dict[Any, Any] = {
        "figure.dpi": 150,
        "font.size": 10.5,
        "axes.titlesize": 10.5,
        "figure.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    }
    with mpl.rc_context(style):
        yield


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    return figure, list(axes.flat)


def cell(topology: Topology, chosen: Sequence[str] | None = None) -> Figure:
    """The cell as a graph: nodes in a row from input to output, edges numbered as in the paper.

    Parameters
    ----------
    topology
        The cell.
    chosen
        One operation per edge (a one-hot sample) to write on the edges; None is drawn dashed.
    """
    with _style():
        figure, (axes,) = _figure(8.0, 2.2 + 0.3 * len(topology.intermediate))
        positions = _positions(topology)
        for number, (i, j) in enumerate(topology.edges):
            label = str(number) if chosen is None else f"{number}: {chosen[number]}"
            gone = chosen is not None and chosen[number] == "none"
            _arrow(axes, positions[i], positions[j], KINDS[edge_kind(topology, number)], label, gone)
        for j in topology.output:
            _arrow(axes, positions[j], positions[topology.nodes], OUTPUT, "", False)
        for node, (x, y) in enumerate(positions):
            inner = node in topology.intermediate
            face = "0.92" if inner else "white"
            axes.plot(x, y, "o", ms=24, mfc=face, mec="0.2", mew=1.2, zorder=3)
            axes.text(x, y, str(node), ha="center", va="center", zorder=4)
            if node < len(topology.inputs):
                back = topology.inputs[node]
                name = "last cell" if back == 1 else "cell before last" if back == 2 else f"{back} cells back"
                axes.text(x - 0.05 * positions[-1][0], y, name, ha="right", va="center", color="0.35")
            elif not inner:
                axes.text(x + 0.05 * positions[-1][0], y, "output", ha="left", va="center", color="0.35")
        used = dict.fromkeys(edge_kind(topology, number) for number in range(len(topology.edges)))
        handles = [Patch(color=KINDS[kind], label=kind) for kind in used] + [Patch(color=OUTPUT, label="concatenation")]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
        axes.set_xlim(-0.28 * positions[-1][0], 1.16 * positions[-1][0])
        heights = [y for _, y in positions]
        axes.set_ylim(min(heights) - 0.75, max(heights) + 0.75)
        axes.axis("off")
    return figure


def _positions(topology: Topology) -> list[tuple[float, float]]:
    """Input nodes in a column, intermediate nodes in a zigzag so that no edge hides another, the output last."""
    first, count = len(topology.inputs), len(topology.intermediate)
    inputs = [(0.0, float(y)) for y in np.linspace(0.8, -0.8, first)] if first > 1 else [(0.0, 0.0)]
    middle = [(1.3 * (k + 1), 0.8 if k % 2 == 0 else -0.8) for k in range(count)]
    return [*inputs, *middle, (1.3 * (count + 1), 0.0)]


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: object, label: str, gone: bool
) -> None:
    bend = 0.0 if abs(start[1] - end[1]) > 1e-6 or abs(end[0] - start[0]) < 1.4 else -0.25 * np.sign(start[1] or 1)
    arrow = FancyArrowPatch(
        start,
        end,
        connectionstyle=f"arc3,rad={bend}",
        arrowstyle="-|>",
        mutation_scale=14,
        shrinkA=14,
        shrinkB=14,
        color=colour,
        lw=1.8,
        linestyle=":" if gone else "-",
        alpha=0.5 if gone else 1.0,
    )
    axes.add_patch(arrow)
    if label:
        # Short of the middle, where edges into one node have not met yet, on the arc's bulge.
        at = 0.5 if bend or start[0] > 0 or start[1] == end[1] else 0.36
        dx, dy = end[0] - start[0], end[1] - start[1]
        x, y = start[0] + at * dx + 0.5 * bend * dy, start[1] + at * dy - 0.5 * bend * dx
        axes.text(x, y, label, ha="center", va="center", color=colour, backgroundcolor="white", fontsize=9.5)


def none_probability(records: Sequence[Record]) -> Figure:
    """p(None) of every edge over the epochs, one panel per edge: a line per seed, the mean thick.

    The dots below the curves mark the epochs at which the edge is dropped, one row per seed.
    """
    topology = records[0].experiment.topology
    with _style():
        columns = min(5, len(topology.edges))
        rows = -(-len(topology.edges) // columns)
        figure, panels = _figure(8.0, 0.6 + 2.1 * rows, rows, columns)
        curves = np.stack([record.arrays["probability"][:, 0] for record in records])
        gone = dropped(curves)
        epochs = np.arange(curves.shape[1])
        top = min(1.0, 1.15 * float(curves[..., NONE].max()))
        row = 0.05 * top  # the dots' rows, below the axis
        for number, panel in enumerate(panels):
            if number >= len(topology.edges):
                panel.axis("off")
                continue
            colour = KINDS[edge_kind(topology, number)]
            for seed, curve in enumerate(curves[:, :, number, NONE]):
                panel.plot(epochs, curve, color=colour, lw=0.8, alpha=0.6)
                when = epochs[gone[seed, :, number]]
                panel.plot(when, np.full(len(when), -row * (seed + 1)), ".", color=colour, ms=3)
            panel.plot(epochs, curves[:, :, number, NONE].mean(0), color=colour, lw=2.2)
            panel.axhline(0, color="0.6", lw=0.6)
            panel.set_title(f"edge {number} {topology.edges[number]}")
            panel.set_ylim(-row * (len(records) + 1), top)
            panel.set_yticks([tick for tick in (0, 0.1, 0.2, 0.5, 1.0) if tick <= top])
        figure.supxlabel("epoch")
        figure.supylabel("p(None)")
        used = dict.fromkeys(edge_kind(topology, number) for number in range(len(topology.edges)))
        figure.legend(
            handles=[Patch(color=KINDS[kind], label=kind) for kind in used],
            loc="outside upper center",
            ncols=3,
            frameon=False,
        )
    return figure


def growth(records: Sequence[Record]) -> Figure:
    """Share of the edges that are dropped, and the cost at the last cell's output, over the epochs; a line per seed."""
    with _style():
        figure = Figure(figsize=(8.0, 2.9))
        left, right = figure.subplots(1, 2, sharex=True)
        for record in records:
            share = dropped(record.arrays["probability"]).mean((1, 2))
            left.plot(share, color=_PALETTE[3], lw=1.2, alpha=0.7)
            last = record.scalars.query("group == 'all' and split == @record.scalars.split.iloc[-1]")
            right.plot(last.epoch, last.cost, color=_PALETTE[4], lw=1.2, alpha=0.7)
        left.set(xlabel="epoch", ylabel="share of edges dropped", ylim=(-0.03, 1.03))
        right.set(xlabel="epoch", ylabel="L − H at the output (nats)")
        right.axhline(0, color="0.6", lw=0.8)
    return figure
