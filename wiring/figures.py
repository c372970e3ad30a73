"""The book's figures. One visual language: an edge's colour tells where it starts, in every figure.

Every function takes topologies or records and returns a matplotlib figure; none reads a file.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, product
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure as _MatplotlibFigure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.ticker import MaxNLocator

from wiring.evidence.measures import generalisation_gap, late_search_cost, retained, retention
from wiring.search.records import GROUPS, Record
from wiring.search.searchers import dropped
from wiring.supernet.operations import NAMES, NONE
from wiring.supernet.topology import Topology

_PALETTE = sns.color_palette("colorblind")
#: Colour of the edges that start at the last input node, the one before it, and at intermediate nodes.
ORIGINS = {
    "from the last cell": _PALETTE[0],
    "from the cell before last": _PALETTE[2],
    "intermediate": _PALETTE[1],
}
OUTPUT = "0.45"


class Figure(_MatplotlibFigure):
    """A figure outside pyplot that a notebook shows as a PNG: it is shown once, and nothing is left open."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def edge_origin(topology: Topology, edge: int) -> str:
    """Which of ``ORIGINS`` an edge is."""
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
        places = positions(topology)
        for number, (i, j) in enumerate(topology.edges):
            label = str(number) if chosen is None else f"{number}: {chosen[number]}"
            gone = chosen is not None and chosen[number] == "none"
            style = {"linestyle": ":", "alpha": 0.5} if gone else {}
            _arrow(axes, places[i], places[j], ORIGINS[edge_origin(topology, number)], label, **style)
        for j in topology.output:
            _arrow(axes, places[j], places[topology.nodes], OUTPUT)
        _nodes(axes, topology, places)
        used = dict.fromkeys(edge_origin(topology, number) for number in range(len(topology.edges)))
        handles = [Patch(color=ORIGINS[kind], label=kind) for kind in used] + [
            Patch(color=OUTPUT, label="concatenation")
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _nodes(axes: Axes, topology: Topology, places: Sequence[tuple[float, float]]) -> None:
    """Draw the nodes, name the inputs and the output, and frame the graph."""
    width = places[-1][0]
    for node, (x, y) in enumerate(places):
        inner = node in topology.intermediate
        axes.plot(x, y, "o", ms=24, mfc="0.92" if inner else "white", mec="0.2", mew=1.2, zorder=3)
        axes.text(x, y, str(node), ha="center", va="center", zorder=4)
        if node < len(topology.inputs):
            back = topology.inputs[node]
            name = "last cell" if back == 1 else "cell before last" if back == 2 else f"{back} cells back"
            axes.text(x - 0.05 * width, y, name, ha="right", va="center", color="0.35")
        elif not inner:
            axes.text(x + 0.05 * width, y, "output", ha="left", va="center", color="0.35")
    heights = [y for _, y in places]
    axes.set(xlim=(-0.28 * width, 1.16 * width), ylim=(min(heights) - 0.75, max(heights) + 0.75))
    axes.axis("off")


def positions(topology: Topology) -> list[tuple[float, float]]:
    """Input nodes in a column, intermediate nodes in a zigzag so that no edge hides another, the output last."""
    first, count = len(topology.inputs), len(topology.intermediate)
    inputs = [(0.0, float(y)) for y in np.linspace(0.8, -0.8, first)] if first > 1 else [(0.0, 0.0)]
    middle = [(1.3 * (k + 1), 0.8 if k % 2 == 0 else -0.8) for k in range(count)]
    return [*inputs, *middle, (1.3 * (count + 1), 0.0)]


def bend(start: tuple[float, float], end: tuple[float, float]) -> float:
    """How far an edge bulges, as a share of its length: long level ones do, around the node between."""
    straight = abs(start[1] - end[1]) > 1e-6 or abs(end[0] - start[0]) < 2.0
    return 0.0 if straight else -0.25 * float(np.sign(start[1] or 1))


def label_place(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Where an edge's label stands: short of the middle, where edges into one node have not met yet, on the bulge."""
    bulge = bend(start, end)
    at = 0.5 if bulge or start[0] > 0 or start[1] == end[1] else 0.36
    dx, dy = end[0] - start[0], end[1] - start[1]
    return start[0] + at * dx + 0.5 * bulge * dy, start[1] + at * dy - 0.5 * bulge * dx


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: object, label: str = "", **style: Any
) -> None:
    bulge = bend(start, end)
    arrow = FancyArrowPatch(
        start,
        end,
        connectionstyle=f"arc3,rad={bulge}",
        arrowstyle="-|>",
        mutation_scale=14,
        shrinkA=14,
        shrinkB=14,
        color=colour,
        **{"lw": 1.8, **style},
    )
    axes.add_patch(arrow)
    if label:
        x, y = label_place(start, end)
        axes.text(x, y, label, ha="center", va="center", color=colour, backgroundcolor="white", fontsize=9.5)


def paths(topology: Topology, edges: Sequence[int]) -> Figure:
    """The ways on which the loss's gradient comes back to an edge, one panel for each edge given.

    The edge itself is thick; the ways from the output to its end are drawn in one line style each, the rest is faint.
    """
    with _style():
        figure, panels = _figure(8.0, 2.2 * len(edges), len(edges))
        places = positions(topology)
        steps = [*topology.edges, *((j, topology.nodes) for j in topology.output)]
        for panel, edge in zip(panels, edges, strict=True):
            start, end = topology.edges[edge]
            ways = _ways(topology, end)
            for number, step in enumerate(steps):
                colour = ORIGINS[edge_origin(topology, number)] if number < len(topology.edges) else OUTPUT
                style: dict[str, Any] = {"lw": 0.8, "alpha": 0.35}
                for way, line in zip(ways, ("-", "--", "-.", ":"), strict=False):
                    if step in way:
                        style = {"linestyle": line}
                if number == edge:
                    style = {"lw": 3.5}
                _arrow(panel, places[step[0]], places[step[1]], colour, "", **style)
            _nodes(panel, topology, places)
            names = ["-".join(map(str, [*(j for _, j in reversed(way)), end, start])) for way in ways]
            kind = "type 1" if len(ways) > 1 else "type 2"
            panel.set_title(f"edge {edge}, {kind}: {' and '.join(names)}", loc="left")
    return figure


def _ways(topology: Topology, node: int) -> list[list[tuple[int, int]]]:
    """All ways from a node to the output, as steps; the shortest first."""
    ways = [[(node, topology.nodes)]] if node in topology.output else []
    for i, j in topology.edges:
        if i == node:
            ways += [[(i, j), *rest] for rest in _ways(topology, j)]
    return sorted(ways, key=len)


def cost_map(costs: Float[np.ndarray, "cell edge"], topology: Topology) -> Figure:
    """The cost of every edge in every cell and, apart, each cell's sum; red costs, blue earns."""
    with _style():
        figure = Figure(figsize=(8.0, 1.3 + 0.32 * len(costs)))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[costs.shape[1], 1])
        sums = costs.sum(1, keepdims=True)
        top = float(np.abs(np.concatenate([costs, sums], axis=1)).max())
        for axes, values in ((left, costs), (right, sums)):
            image = axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
            if values.size <= 60:
                for (row, column), value in np.ndenumerate(values):
                    ink = "white" if abs(value) > 0.6 * top else "black"
                    text = f"{value:.2g}" if abs(value) > 1e-10 * top else "0"
                    axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
            axes.spines[:].set_visible(False)
        left.set(xlabel="edge", ylabel="cell", yticks=range(len(costs)), xticks=range(costs.shape[1]))
        left.set_xticklabels([f"{number}" for number in range(costs.shape[1])])
        right.set(xticks=[0], xticklabels=["sum"])
        right.tick_params(axis="y", length=0)
        figure.colorbar(image, ax=[left, right], label="cost (nats)")
    return figure


def powers(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    predictions: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Measured curves as points and predicted ones as lines, each by its name, on logarithmic axes."""
    with _style():
        figure, (axes,) = _figure(8.0, 3.4)
        markers = ("o", "s", "^", "D", "v", "P", "X")
        for (name, (x, y)), colour, marker in zip(curves.items(), cycle(_PALETTE), cycle(markers)):
            axes.plot(x, y, marker, color=colour, ms=5, label=name)
        for (name, (x, y)), line in zip(predictions.items(), cycle(("-", "--", "-.", ":"))):
            axes.plot(x, y, line, color="0.3", lw=1.2, label=name, zorder=0)
        axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def dose_response(groups: Mapping[str, Sequence[Record]]) -> Figure:
    """Share of the edges retained in bi-level runs, a point per run and a colour per named group of runs.

    Left against the gap in accuracy between the splits, right against the search split's cost late in the search.
    """
    with _style():
        figure = Figure(figsize=(8.0, 3.2))
        left, right = figure.subplots(1, 2, sharey=True)
        for (name, records), colour, marker in zip(
            groups.items(), cycle(_PALETTE), cycle(("o", "s", "^", "D", "v", "P"))
        ):
            kept = [retention(record) for record in records]
            for axes, quantity in ((left, generalisation_gap), (right, late_search_cost)):
                doses = [quantity(record) for record in records]
                axes.plot(doses, kept, marker, color=colour, ms=7, alpha=0.8, label=name)
        left.set(xlabel="accuracy: training − search split", ylabel="share of edges retained", ylim=(-0.05, 1.05))
        right.set(xlabel="L − H on the search split (nats)")
        right.axvline(0, color="0.6", lw=0.8)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def retention_map(groups: Mapping[str, Sequence[Record]]) -> Figure:
    """The share of the runs that retain an edge: a panel per named group, a row per first node, a column per last."""
    with _style():
        figure = Figure(figsize=(8.0, 3.3))
        panels = figure.subplots(1, len(groups), squeeze=False)[0]
        for axes, (name, records) in zip(panels, groups.items(), strict=True):
            topology = records[0].experiment.topology
            share = np.mean([retained(record) for record in records], axis=0)
            first, nodes = len(topology.inputs), topology.nodes
            grid = np.full((nodes - 1, nodes - first), np.nan)
            for (i, j), value in zip(topology.edges, share, strict=True):
                grid[i, j - first] = value
                axes.text(j, i, f"{value:.1f}", ha="center", va="center", color="black" if value < 0.4 else "white")
            extent = (first - 0.5, nodes - 0.5, nodes - 1.5, -0.5)
            image = axes.imshow(grid, cmap="viridis_r", vmin=0, vmax=1, extent=extent, aspect="auto")
            axes.axhline(first - 0.5, color="0.2", lw=1.2)
            axes.set(title=name, xlabel="to node", xticks=range(first, nodes), yticks=range(nodes - 1))
            axes.spines[:].set_visible(False)
        panels[0].set_ylabel("from node")
        figure.colorbar(image, ax=list(panels), label="share of runs that retain the edge")
    return figure


def splits(bi: Sequence[Record], single: Sequence[Record]) -> Figure:
    """L, H and cost over the epochs, for all, correct and wrong images; mean and range over seeds.

    Shown are both splits of bi-level runs, and the one of single-level runs.
    """
    quantities = {"loss": "L (nats)", "entropy": "H (nats)", "cost": "L − H (nats)"}
    curves = {
        "bi-level, training split": (bi, "training", _PALETTE[0], "-"),
        "bi-level, search split": (bi, "search", _PALETTE[3], "--"),
        "single-level": (single, "training", _PALETTE[7], ":"),
    }
    with _style():
        figure = Figure(figsize=(8.0, 6.2))
        panels = figure.subplots(3, 3, sharex=True, sharey="row")
        for (row, (quantity, label)), (column, group) in product(enumerate(quantities.items()), enumerate(GROUPS)):
            axes = panels[row][column]
            for name, (runs, split, colour, line) in curves.items():
                tables = [record.scalars for record in runs]
                rows = [(table["split"] == split) & (table["group"] == group) for table in tables]
                values = np.stack([table[own][quantity] for table, own in zip(tables, rows, strict=True)])
                epochs = np.arange(1, values.shape[1] + 1)
                axes.plot(epochs, values.mean(0), line, color=colour, label=name)
                axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)
            axes.axhline(0, color="0.6", lw=0.8)
            if row == 0:
                axes.set_title("all images" if group == "all" else f"{group}ly classified")
            if column == 0:
                axes.set_ylabel(label)
        figure.supxlabel("epoch")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def cost_means(states: Mapping[str, Sequence[Record]]) -> Figure:
    """Mean cost of every operation on every edge in the last epoch, a row per state, with the range over its steps.

    The mean is over seeds, the range from any step's least to its largest; the axis is linear up to 0.05 nats.
    """
    topology = next(iter(states.values()))[0].experiment.topology
    with _style():
        figure, panels = _figure(8.0, 0.9 + 2.2 * len(states), len(states), len(topology.edges))
        for number, (axes, (records, edge)) in enumerate(
            zip(panels, product(states.values(), range(len(topology.edges))), strict=True)
        ):
            low, mean, high = (
                np.stack([record.arrays[f"cost_{key}"][-1, 0, 0, edge, NONE + 1 :] for record in records])
                for key in ("min", "mean", "max")
            )
            place = np.arange(mean.shape[1])
            colour = ORIGINS[edge_origin(topology, edge)]
            axes.vlines(place, low.min(0), high.max(0), color=colour, lw=0.8, alpha=0.6)
            axes.plot(place, mean.mean(0), "o", color=colour, ms=4)
            axes.axhline(0, color="0.4", lw=0.8)
            axes.set_yscale("symlog", linthresh=0.05)
            axes.set_yticks([-0.1, -0.05, 0, 0.05, 0.1], ["−0.1", "−0.05", "0", "0.05", "0.1"])
            axes.set_xticks(place, NAMES[NONE + 1 :], rotation=90, fontsize=7.5)
            if number < len(topology.edges):
                axes.set_title(f"edge {edge} {topology.edges[edge]}")
        for row, state in enumerate(states):
            panels[row * len(topology.edges)].set_ylabel(f"{state}:\ncost (nats)")
    return figure


def edge_costs(groups: Mapping[str, Sequence[Record]]) -> Figure:
    """Mean cost of what was drawn on the two edges into the last node, over the epochs, a panel per group of runs."""
    with _style():
        figure, panels = _figure(8.0, 3.0, 1, len(groups))
        for axes, (title, records) in zip(panels, groups.items(), strict=True):
            topology = records[0].experiment.topology
            for edge in (len(topology.edges) - 2, len(topology.edges) - 1):
                colour = ORIGINS[edge_origin(topology, edge)]
                means = [record.arrays["cost_mean"][:, 0, 0, edge, NONE + 1 :] for record in records]
                curves = np.nanmean(np.stack(means), axis=2)  # in a short epoch an operation may never be drawn
                epochs = range(1, curves.shape[1] + 1)
                for curve in curves:
                    axes.plot(epochs, curve, color=colour, lw=0.7, alpha=0.5)
                axes.plot(epochs, curves.mean(0), color=colour, lw=2.2, label=f"{topology.edges[edge]}")
            axes.axhline(0, color="0.4", lw=0.8)
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.legend(frameon=False)
        figure.supxlabel("epoch")
        figure.supylabel("mean cost (nats)")
    return figure


def initial_costs(costs: Sequence[float], low: float, high: float) -> Figure:
    """A histogram of the costs of initialisations, with their mean and its interval."""
    with _style():
        figure, (axes,) = _figure(8.0, 2.8)
        axes.hist(costs, bins=30, color=_PALETTE[4], alpha=0.7)
        axes.axvspan(low, high, color=_PALETTE[3], alpha=0.35, label="mean: 95 % interval")
        axes.axvline(float(np.mean(costs)), color=_PALETTE[3], lw=1.5, label="mean")
        axes.axvline(0, color="0.3", lw=0.8)
        axes.set(xlabel="cost at the last cell's output (nats)", ylabel="initialisations")
        axes.legend(frameon=False)
    return figure


def cost_against_accuracy(records: Sequence[Record]) -> Figure:
    """The cost at the last cell against the accuracy, a point per epoch and seed; and apart by group of images."""
    with _style():
        figure = Figure(figsize=(8.0, 3.2))
        left, right = figure.subplots(1, 2)
        groups = {"correct": ("o", _PALETTE[2]), "wrong": ("s", _PALETTE[3])}
        for record in records:
            scalars = record.scalars.query("split == 'training'")
            every = scalars.query("group == 'all'")
            left.plot(every.accuracy, every.cost, "o", color=_PALETTE[4], ms=3.5, alpha=0.7)
            for group, (marker, colour) in groups.items():
                own = scalars[scalars.group == group]
                right.plot(own.epoch, own.cost, marker, color=colour, ms=3.5, alpha=0.7)
        for axes in (left, right):
            axes.axhline(0, color="0.6", lw=0.8)
        left.set(xlabel="accuracy (share of images)", ylabel="cost L − H (nats)", title="all images, an epoch a point")
        right.set(xlabel="epoch", ylabel="cost of an image (nats)", title="by how an image is classified")
        handles = [Line2D([], [], color=c, marker=m, ls="", label=name) for name, (m, c) in groups.items()]
        right.legend(handles=handles, frameon=False)
    return figure


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
            colour = ORIGINS[edge_origin(topology, number)]
            for seed, curve in enumerate(curves[:, :, number, NONE]):
                panel.plot(epochs, curve, color=colour, lw=0.8, alpha=0.6)
                when = epochs[gone[seed, :, number]]
                panel.plot(when, np.full(len(when), -row * (seed + 1)), ".", color=colour, ms=3)
            panel.plot(epochs, curves[:, :, number, NONE].mean(0), color=colour, lw=2.2)
            panel.axhline(0, color="0.6", lw=0.6)
            panel.set_title(f"edge {number} {topology.edges[number]}")
            panel.set_ylim(-row * (len(records) + 1), top)
            panel.set_yticks(
                [tick for tick in ((0, 0.5, 1.0) if top >= 0.5 else (0, 0.1, 0.2, 0.3, 0.4)) if tick <= top]
            )
        figure.supxlabel("epoch")
        figure.supylabel("p(None)")
        used = dict.fromkeys(edge_origin(topology, number) for number in range(len(topology.edges)))
        figure.legend(
            handles=[Patch(color=ORIGINS[kind], label=kind) for kind in used],
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
