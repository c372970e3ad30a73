"""The book's figures. One visual language: an edge's colour tells where it starts, in every figure.

Every function takes topologies or records and returns a matplotlib figure; none reads a file. Where records are taken,
one alone will do: ``none_probability(record)``.
"""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle, product, zip_longest
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure as _MatplotlibFigure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.ticker import MaxNLocator

from wiring.evidence import measures
from wiring.search import Record, dropped, lead
from wiring.search.records import CELL_TYPES
from wiring.supernet import NAMES, NONE, Topology
from wiring.supernet.topology import Edge

_PALETTE = sns.color_palette("colorblind")
_MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
_LINES = ["-", "--", "-.", ":"]
#: Colour of the edges that start at the last input node, the one before it, and at intermediate nodes.
ORIGINS = {"from the last cell": _PALETTE[0], "from the cell before last": _PALETTE[2], "intermediate": _PALETTE[1]}
OUTPUT = "0.45"

#: The runs of a figure: several that differ in their seed, or one.
Runs = Sequence[Record] | Record
#: Points on a curve, as their x and their y, by the curve's name.
Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
Place = tuple[float, float]
#: How matplotlib draws a line, as the options of a patch.
Style = dict[str, Any]

# A white card with dark ink is readable on a light page and, as a card, on a dark one.
_style = mpl.rc_context(
    {
        "figure.dpi": 150,
        "font.size": 10.5,
        "axes.titlesize": 10.5,
        "figure.facecolor": "white",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    }
)


class Figure(_MatplotlibFigure):
    """A figure outside pyplot that a notebook shows as a PNG: it is shown once, and nothing is left open."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def edge_origin(topology: Topology, edge: int) -> str:
    """Which of ``ORIGINS`` an edge is."""
    if not topology.is_input_edge(edge):
        return "intermediate"
    return "from the last cell" if topology.inputs[topology.edges[edge][0]] == 1 else "from the cell before last"


def _figure(height: float, rows: int = 1, columns: int = 1, **layout: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page, and its panels row by row."""
    figure = Figure(figsize=(8.0, height))
    return figure, list(figure.subplots(rows, columns, squeeze=False, **layout).flat)


def _several(runs: Runs) -> Sequence[Record]:
    return [runs] if isinstance(runs, Record) else runs


def _origins(topology: Topology) -> list[Patch]:
    """A legend's entries: the colours that a topology's edges have."""
    used = dict.fromkeys(edge_origin(topology, number) for number in range(len(topology.edges)))
    return [Patch(color=ORIGINS[origin], label=origin) for origin in used]


def _share_legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Let the legend of one panel stand for all of them, above the figure."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=columns, frameon=False)
    axes.legend().remove()


@_style
def cell(topology: Topology, chosen: Sequence[str] | None = None) -> Figure:
    """The cell as a graph: nodes in a row from input to output, edges numbered as in the paper.

    Of a one-hot sample, ``chosen`` is the operation on each edge, to write on it; an edge of None is dotted.
    """
    figure, (axes,) = _figure(2.2 + 0.3 * len(topology.intermediate))
    labels = [str(number) if chosen is None else f"{number}: {chosen[number]}" for number in range(len(topology.edges))]
    choices = zip(topology.edges, chosen or (), strict=False)
    _draw(axes, topology, {edge: {"linestyle": ":", "alpha": 0.5} for edge, o in choices if o == "none"}, {}, labels)
    handles = [*_origins(topology), Patch(color=OUTPUT, label="concatenation")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw(axes: Axes, topology: Topology, styles: Mapping[Edge, Style], other: Style, labels: Sequence[str]) -> None:
    """Draw a cell: its edges and what feeds its output, in the ``other`` style if none is given, and its nodes."""
    places = positions(topology)
    colours = [ORIGINS[edge_origin(topology, number)] for number in range(len(topology.edges))]
    lines = [*topology.edges, *((j, topology.nodes) for j in topology.output)]
    arrow = partial(FancyArrowPatch, arrowstyle="-|>", mutation_scale=14, shrinkA=14, shrinkB=14, lw=1.8)
    write = partial(axes.text, ha="center", va="center")
    for (i, j), colour, label in zip_longest(lines, colours, labels):
        ends = places[i], places[j]
        arc = f"arc3,rad={bend(*ends)}"
        axes.add_patch(arrow(*ends, connectionstyle=arc, color=colour or OUTPUT, **styles.get((i, j), other)))
        if label:
            write(*label_place(*ends), label, color=colour, backgroundcolor="white", fontsize=9.5)
    width = places[-1][0]
    for node, ((x, y), name) in enumerate(zip(places, node_names(topology), strict=True)):
        axes.plot(x, y, "o", ms=24, mfc="white" if name else "0.92", mec="0.2", mew=1.2, zorder=3)
        write(x, y, str(node), zorder=4)
        if name:
            side, align = (1, "left") if name == "output" else (-1, "right")
            write(x + side * 0.05 * width, y, name, ha=align, color="0.35")
    heights = [y for _, y in places]
    axes.set(xlim=(-0.28 * width, 1.16 * width), ylim=(min(heights) - 0.75, max(heights) + 0.75))
    axes.axis("off")


def node_names(topology: Topology) -> list[str]:
    """What to write beside each node: whose output an input node reads, nothing beside an intermediate node."""
    inputs = [{1: "last cell", 2: "cell before last"}.get(back, f"{back} cells back") for back in topology.inputs]
    return [*inputs, *[""] * len(topology.intermediate), "output"]


def positions(topology: Topology) -> list[Place]:
    """Input nodes in a column, intermediate nodes in a zigzag so that no edge hides another, the output last."""
    first, count = len(topology.inputs), len(topology.intermediate)
    inputs = [(0.0, float(y)) for y in np.linspace(0.8, -0.8, first)] if first > 1 else [(0.0, 0.0)]
    middle = [(1.3 * (k + 1), 0.8 if k % 2 == 0 else -0.8) for k in range(count)]
    return [*inputs, *middle, (1.3 * (count + 1), 0.0)]


def bend(start: Place, end: Place) -> float:
    """How far an edge bulges, as a share of its length: long level ones do, around the node between."""
    straight = abs(start[1] - end[1]) > 1e-6 or abs(end[0] - start[0]) < 2.0
    return 0.0 if straight else -0.25 * float(np.sign(start[1] or 1))


def label_place(start: Place, end: Place) -> Place:
    """Where an edge's label stands: short of the middle, where edges into one node have not met yet, on the bulge."""
    bulge = bend(start, end)
    at = 0.5 if bulge or start[0] > 0 or start[1] == end[1] else 0.36
    dx, dy = end[0] - start[0], end[1] - start[1]
    return start[0] + at * dx + 0.5 * bulge * dy, start[1] + at * dy - 0.5 * bulge * dx


@_style
def paths(topology: Topology, edges: Sequence[int]) -> Figure:
    """The ways on which the loss's gradient comes back to an edge, one panel for each edge given.

    The edge itself is thick; the ways from the output to its end are drawn in one line style each, the rest is faint.
    """
    figure, panels = _figure(2.2 * len(edges), len(edges), sharex=True, sharey=True)
    for panel, edge in zip(panels, edges, strict=True):
        start, end = topology.edges[edge]
        ways = _ways(topology, end)
        styles = {step: {"linestyle": line} for way, line in zip(ways, _LINES, strict=False) for step in way}
        _draw(panel, topology, {**styles, (start, end): {"lw": 3.5}}, {"lw": 0.8, "alpha": 0.35}, ())
        names = ["-".join(map(str, [*(j for _, j in reversed(way)), end, start])) for way in ways]
        kind = "type 1" if len(ways) > 1 else "type 2"
        panel.set_title(f"edge {edge}, {kind}: {' and '.join(names)}", loc="left")
    return figure


def _ways(topology: Topology, node: int) -> list[list[Edge]]:
    """All ways from a node to the output, as steps; the shortest first."""
    ways = [[(node, topology.nodes)]] if node in topology.output else []
    ways += [[(i, j), *rest] for i, j in topology.edges if i == node for rest in _ways(topology, j)]
    return sorted(ways, key=len)


@_style
def cost_map(costs: Float[np.ndarray, "cell edge"]) -> Figure:
    """The cost of every edge in every cell and, apart, each cell's sum, in nats; red costs, blue earns."""
    figure, (left, right) = _figure(1.3 + 0.32 * len(costs), 1, 2, sharey=True, width_ratios=[costs.shape[1], 1])
    sums = costs.sum(1, keepdims=True)
    top = float(np.abs(np.concatenate([costs, sums], axis=1)).max())
    draw = partial(sns.heatmap, cmap="RdBu_r", vmin=-top, vmax=top, cbar=False, fmt=".2g", annot_kws={"size": 8})
    for axes, values in ((left, costs), (right, sums)):
        rounded = np.where(np.abs(values) > 1e-10 * top, values, 0)
        draw(values, annot=rounded if values.size <= 60 else None, ax=axes)
    left.set(xlabel="edge", ylabel="cell")
    left.tick_params(axis="y", rotation=0)
    right.set_xticklabels(["sum"])
    right.tick_params(axis="y", length=0)
    figure.colorbar(left.collections[0], ax=[left, right], label="cost (nats)")
    return figure


@_style
def powers(curves: Curves, predictions: Curves, xlabel: str, ylabel: str) -> Figure:
    """Measured curves as points and predicted ones as lines, each by its name, on logarithmic axes."""
    figure, (axes,) = _figure(3.4)
    for (name, (x, y)), colour, marker in zip(curves.items(), cycle(_PALETTE), cycle(_MARKERS)):
        axes.plot(x, y, marker, color=colour, ms=5, label=name)
    for (name, (x, y)), line in zip(predictions.items(), cycle(_LINES)):
        axes.plot(x, y, line, color="0.3", lw=1.2, label=name, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    _share_legend(figure, axes, 2)
    return figure


@_style
def dose_response(groups: Mapping[str, Runs]) -> Figure:
    """Share of the edges retained in bi-level runs, a point per run and a colour per named group of runs.

    Left against the gap in accuracy between the splits, right against the search split's cost late in the search.
    """
    doses, kept = ("accuracy: training − search split", "L − H on the search split (nats)"), "share of edges retained"
    numbers = (measures.generalisation_gap, measures.late_search_cost, measures.retention)
    runs = [(name, record) for name, records in groups.items() for record in _several(records)]
    rows = [(name, *(number(record) for number in numbers)) for name, record in runs]
    table = pd.DataFrame(rows, columns=["runs", *doses, kept])
    palette, markers = dict(zip(groups, cycle(_PALETTE))), dict(zip(groups, cycle(_MARKERS)))
    draw = partial(sns.scatterplot, table, hue="runs", palette=palette, style="runs", markers=markers)
    figure, (left, right) = _figure(3.2, 1, 2, sharey=True)
    for axes, dose in zip((left, right), doses, strict=True):
        draw(x=dose, y=kept, ax=axes, legend=axes is left and "full", s=55, alpha=0.8)
    left.set(ylim=(-0.05, 1.05))
    right.axvline(0, color="0.6", lw=0.8)
    _share_legend(figure, left, 2)
    return figure


@_style
def retention_map(groups: Mapping[str, Runs]) -> Figure:
    """The share of the runs that retain an edge, a row per first node, a column per last.

    A panel per named group and type of cell; an edge without a choice is left blank.
    """
    several = {name: _several(runs) for name, runs in groups.items()}
    shown = [(name, runs, kind) for name, runs in several.items() for kind in measures.cells_of_types(runs[0])]
    figure, panels = _figure(3.3, 1, len(shown))
    for axes, (name, records, kind) in zip(panels, shown, strict=True):
        topology = records[0].experiment.topology
        shares = np.mean([measures.retained(record) for record in records], axis=0)
        share_of = dict(zip(measures.counted_edges(records[0]), shares, strict=True))
        grid = pd.DataFrame(np.nan, index=range(topology.nodes - 1), columns=topology.intermediate)
        for number, edge in enumerate(topology.edges):
            grid.loc[edge] = share_of.get((kind, number), np.nan)
        sns.heatmap(grid, annot=True, fmt=".1f", cmap="viridis_r", vmin=0, vmax=1, cbar=False, ax=axes)
        axes.axhline(len(topology.inputs), color="0.2", lw=1.2)
        axes.set(title=_of_type(records[0], kind, name), xlabel="to node")
        axes.tick_params(axis="y", rotation=0)
    panels[0].set_ylabel("from node")
    figure.colorbar(panels[0].collections[0], ax=panels, label="share of runs that retain the edge")
    return figure


def _of_type(record: Record, kind: int, title: str) -> str:
    """A panel's title, which names the type of its cells where there are several."""
    return f"{title}\n{CELL_TYPES[kind]} cells" if len(measures.cells_of_types(record)) > 1 else title


@_style
def splits(bi: Runs, single: Runs) -> Figure:
    """L, H and cost over the epochs, for all, correct and wrong images; mean and range over seeds.

    Shown are both splits of bi-level runs, and the one of single-level runs.
    """
    quantities = {"loss": "L (nats)", "entropy": "H (nats)", "cost": "L − H (nats)"}
    groups = {"all": "all images", "correct": "correctly classified", "wrong": "wrongly classified"}
    hues = {"bi-level, training split": _PALETTE[0], "bi-level, search split": _PALETTE[3], "single-level": _PALETTE[7]}
    tables = [record.scalars.assign(runs="bi-level, " + record.scalars.split + " split") for record in _several(bi)]
    tables += [record.scalars.assign(runs="single-level") for record in _several(single)]
    table = pd.concat(tables)
    draw = partial(sns.lineplot, x="epoch", errorbar=("pi", 100), hue="runs", palette=hues, style="runs")
    figure, panels = _figure(6.2, len(quantities), len(groups), sharex=True, sharey="row")
    contents = product(quantities.items(), groups.items())
    for axes, ((quantity, label), (group, title)) in zip(panels, contents, strict=True):
        shown = table[table.group == group]
        draw(shown, y=quantity, hue_order=hues, style_order=hues, legend=axes is panels[0], ax=axes)
        axes.axhline(0, color="0.6", lw=0.8)
        axes.set(xlabel="", ylabel=label, title=title if quantity == "loss" else "")
    figure.supxlabel("epoch")
    _share_legend(figure, panels[0], 3)
    return figure


@_style
def cost_means(states: Mapping[str, Runs]) -> Figure:
    """Mean cost of every operation on every edge in the last epoch, a row per state, with the range over its steps.

    The mean is over seeds, the range from any step's least to its largest; the axis is linear up to 0.05 nats.
    Raises ValueError if a run has several cells.
    """
    topology = _one_cell(states)
    figure, panels = _figure(0.9 + 2.2 * len(states), len(states), len(topology.edges), sharex=True, sharey=True)
    contents = product(states.items(), enumerate(topology.edges))
    for number, (axes, ((state, runs), (edge, ends))) in enumerate(zip(panels, contents, strict=True)):
        low, mean, high = (
            np.stack([record.arrays[f"cost_{key}"][-1, 0, 0, edge, NONE + 1 :] for record in _several(runs)])
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
        title = f"edge {edge} {ends}" if number < len(topology.edges) else ""
        axes.set(title=title, ylabel="" if edge else f"{state}:\ncost (nats)")
    return figure


def _one_cell(groups: Mapping[str, Runs]) -> Topology:
    """The topology of the first group's runs. Raises ValueError if any run has more cells than one."""
    experiments = [record.experiment for runs in groups.values() for record in _several(runs)]
    if (cells := max(experiment.cells for experiment in experiments)) > 1:
        raise ValueError(f"cells = {cells}: this figure shows the costs of one cell; allowed: 1")
    return experiments[0].topology


@_style
def edge_costs(groups: Mapping[str, Runs]) -> Figure:
    """Mean cost of what was drawn on the two edges into the last node, over the epochs, a panel per group of runs.

    Raises ValueError if a run has several cells.
    """
    _one_cell(groups)
    figure, panels = _figure(3.0, 1, len(groups), sharex=True, sharey=True)
    for axes, (title, records) in zip(panels, groups.items(), strict=True):
        topology = _several(records)[0].experiment.topology
        for edge in range(len(topology.edges) - 2, len(topology.edges)):
            colour = ORIGINS[edge_origin(topology, edge)]
            means = [record.arrays["cost_mean"][:, 0, 0, edge, NONE + 1 :] for record in _several(records)]
            curves = np.nanmean(np.stack(means), axis=2)  # in a short epoch an operation may never be drawn
            epochs = range(1, curves.shape[1] + 1)
            axes.plot(epochs, curves.T, color=colour, lw=0.7, alpha=0.5)
            axes.plot(epochs, curves.mean(0), color=colour, lw=2.2, label=f"{topology.edges[edge]}")
        axes.axhline(0, color="0.4", lw=0.8)
        axes.set_title(title)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(frameon=False)
    figure.supxlabel("epoch")
    figure.supylabel("mean cost (nats)")
    return figure


@_style
def initial_costs(costs: Sequence[float], low: float, high: float) -> Figure:
    """A histogram of the costs of initialisations, with their mean and its interval."""
    figure, (axes,) = _figure(2.8)
    axes.hist(costs, bins=30, color=_PALETTE[4], alpha=0.7)
    axes.axvspan(low, high, color=_PALETTE[3], alpha=0.35, label="mean: 95 % interval")
    axes.axvline(float(np.mean(costs)), color=_PALETTE[3], lw=1.5, label="mean")
    axes.axvline(0, color="0.3", lw=0.8)
    axes.set(xlabel="cost at the last cell's output (nats)", ylabel="initialisations")
    axes.legend(frameon=False)
    return figure


@_style
def cost_against_accuracy(records: Runs) -> Figure:
    """The cost at the last cell against the accuracy, a point per epoch and seed; and apart by group of images."""
    table = pd.concat(record.scalars.query("split == 'training'") for record in _several(records))
    draw = partial(sns.scatterplot, y="cost", edgecolor="none", s=14, alpha=0.7)
    figure, (left, right) = _figure(3.2, 1, 2)
    draw(table[table.group == "all"], x="accuracy", color=_PALETTE[4], ax=left)
    apart = table[table.group != "all"]
    draw(apart, x="epoch", hue="group", style="group", palette=_PALETTE[2:4], markers=_MARKERS[:2], ax=right)
    for axes in (left, right):
        axes.axhline(0, color="0.6", lw=0.8)
    left.set(xlabel="accuracy (share of images)", ylabel="cost L − H (nats)", title="all images, an epoch a point")
    right.set(xlabel="epoch", ylabel="cost of an image (nats)", title="by how an image is classified")
    right.legend(frameon=False)
    return figure


@_style
def none_probability(records: Runs) -> Figure:
    """p(None) of every edge over the epochs, one panel per edge and type of cell: a line per seed, the mean thick.

    The dots below the curves mark the epochs at which the edge is dropped, one row per seed.
    """
    records = _several(records)
    topology, types = records[0].experiment.topology, list(measures.cells_of_types(records[0]))
    columns = min(5, len(topology.edges))
    rows = -(-len(topology.edges) // columns)
    probability = np.stack([record.arrays["probability"] for record in records])
    top = min(1.0, 1.15 * float(probability[:, :, types, :, NONE].max()))
    step = 0.05 * top  # between the rows of dots below the axis
    figure, panels = _figure(0.6 + 2.1 * rows * len(types), rows * len(types), columns, sharex=True, sharey=True)
    for panel, (kind, edge) in zip(panels, product(types, range(rows * columns)), strict=True):
        if edge >= len(topology.edges):
            panel.axis("off")
            continue
        colour = ORIGINS[edge_origin(topology, edge)]
        curves = probability[:, :, kind, edge, NONE]
        panel.plot(curves.T, color=colour, lw=0.8, alpha=0.6)
        panel.plot(curves.mean(0), color=colour, lw=2.2)
        for seed, when in enumerate(dropped(probability)[:, :, kind, edge], 1):
            panel.plot(np.where(when, -step * seed, np.nan), ".", color=colour, ms=3)
        panel.axhline(0, color="0.6", lw=0.6)
        panel.set_title(_of_type(records[0], kind, f"edge {edge} {topology.edges[edge]}"))
    ticks = [tick for tick in ((0, 0.5, 1.0) if top >= 0.5 else (0, 0.1, 0.2, 0.3, 0.4)) if tick <= top]
    panels[0].set(ylim=(-step * (len(records) + 1), top), yticks=ticks)
    figure.supxlabel("epoch")
    figure.supylabel("p(None)")
    figure.legend(handles=_origins(topology), loc="outside upper center", ncols=3, frameon=False)
    return figure


@_style
def leads(groups: Mapping[str, Runs]) -> Figure:
    """None's lead on every edge by the step: a panel per edge, a line style per named group of runs.

    A line is the mean over seeds, the band around it from the lowest to the highest. All groups have one topology.
    """
    topology = _several(next(iter(groups.values())))[0].experiment.topology
    figure, panels = _figure(2.7, 1, len(topology.edges), sharex=True, sharey=True)
    for (name, records), line in zip(groups.items(), cycle(_LINES)):
        own = _several(records)
        steps = own[0].table("course_alpha").step.unique()
        curves = lead(np.stack([record.arrays["course_alpha"][:, 0] for record in own]))
        for edge, panel in enumerate(panels):
            colour = ORIGINS[edge_origin(topology, edge)]
            panel.plot(steps, curves[..., edge].mean(0), line, color=colour, lw=1.6, label=name)
            panel.fill_between(
                steps, curves[..., edge].min(0), curves[..., edge].max(0), color=colour, alpha=0.12, lw=0
            )
            panel.set_title(f"edge {edge} {topology.edges[edge]}")
    for panel in panels:
        panel.axhline(0, color="0.6", lw=0.6)
    figure.supxlabel("step")
    figure.supylabel("lead of None")
    handles = [Line2D([], [], color="0.3", ls=line, label=name) for name, line in zip(groups, cycle(_LINES))]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


@_style
def growth(records: Runs) -> Figure:
    """Share of the edges that are dropped, and the cost at the last cell's output, over the epochs; a line per seed.

    The share is of each type of cell, the cost on the split that α learns from.
    """
    figure, (left, right) = _figure(2.9, 1, 2, sharex=True)
    for number, record in enumerate(_several(records)):
        types = measures.cells_of_types(record)
        shares = dropped(record.arrays["probability"]).mean(2)
        for kind, line in zip(types, _LINES, strict=False):
            label = f"{CELL_TYPES[kind]} cells" if not number else None
            left.plot(shares[:, kind], line, color=_PALETTE[3], lw=1.2, alpha=0.7, label=label)
        scalars = measures.scalars_of(record)
        right.plot(scalars.epoch, scalars.cost, color=_PALETTE[4], lw=1.2, alpha=0.7)
    left.set(xlabel="epoch", ylabel="share of edges dropped", ylim=(-0.03, 1.03))
    right.set(xlabel="epoch", ylabel="L − H at the output (nats)")
    right.axhline(0, color="0.6", lw=0.8)
    if len(types) > 1:
        left.legend(frameon=False)
    return figure
