"""The book's figures: of topologies or of records, as matplotlib figures; no file is read.

A hue says where an edge starts (:data:`ORIGINS`), or whether a cost is above or below zero (:data:`COSTS`,
:data:`EARNS`), and nothing else. Runs, searchers, splits and operations differ in shape, line style and shade of grey.
Where records are taken, one alone will do: ``none_probability(record)``; where there is none, ValueError says so.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle, product
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

from wiring.evidence import measured, measures
from wiring.search import Record, dropped, lead
from wiring.search.records import CELL_TYPES
from wiring.supernet import NAMES, NONE, Topology
from wiring.supernet.topology import Edge

_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<", ">"]
_LINES = ["-", "--", "-.", ":"]
_SHADES, _OUTPUT = "dark:0.55", "0.45"  # greys, none so light that it is lost on the page; seaborn's name of several
_BLUE, _GREEN, _ORANGE = sns.color_palette(["#0173b2", "#029e73", "#c47a00"])  # all at least 3 : 1 on white
#: Colour of the edges that start at the last input node, the one before it, and at intermediate nodes.
ORIGINS = {"from the last cell": _BLUE, "from the cell before last": _GREEN, "intermediate": _ORANGE}
COSTS, EARNS = "#d64550", "#8a6fd1"  #: Colour of a cost above zero, and of one below.
#: A figure's width in inches. On the 312 pixels that a phone's page has for it, text of 9 points is 8 pixels high.
WIDTH = 4.8
Runs = Sequence[Record] | Record  #: The runs of a figure: several that differ in their seed, or one.
Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]  #: The x and the y of points, by the curve's name.
Place = tuple[float, float]
Look = Mapping[str, Any]

# Dark ink on white: on a dark page the book's style sheet has light and dark change places.
_RC: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
_RC |= dict.fromkeys(["axes.titlesize", "figure.titlesize", "figure.labelsize"], 9)
_style = mpl.rc_context(_RC)
#: A heat map that is light enough for dark numbers, and, where a dark page inverts it, dark enough for light ones.
_heatmap = partial(sns.heatmap, alpha=0.55, cbar=False, annot_kws={"color": "black"}, linewidths=1)


class Figure(_MatplotlibFigure):
    """A figure outside pyplot that a notebook shows as a PNG: it is shown once, and nothing is left open."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue(), {"width": 560}  # pixels in Jupyter, about as in the book


def edge_origin(topology: Topology, edge: int) -> str:
    """Which of ``ORIGINS`` an edge is."""
    if not topology.is_input_edge(edge):
        return "intermediate"
    return "from the last cell" if topology.inputs[topology.edges[edge][0]] == 1 else "from the cell before last"


def _figure(
    height: float, panels: int = 1, columns: int = 1, xlabel: str = "", ylabel: str = "", **layout: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of panels wrapped into columns, and these; a row of them has that height in inches."""
    rows = -(-panels // columns)
    figure = Figure((WIDTH, height * rows), dpi=200, facecolor="white", layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False, **layout).flat)
    for spare in range(panels, len(places)):
        places[spare].remove()
        places[spare - columns].tick_params(labelbottom=True)  # now the last of its column
    figure.supxlabel(xlabel)
    figure.supylabel(ylabel)
    return figure, places[:panels]


def _several(groups: Mapping[str, Runs], measuring: bool = False) -> dict[str, Sequence[Record]]:
    """Runs by name, as sequences. Raises ValueError without any, or if not of one measured cell where they must be."""
    several = {name: [runs] if isinstance(runs, Record) else runs for name, runs in groups.items()}
    if not several or not all(several.values()):
        raise ValueError(f"groups = {list(several)}: allowed: at least one name, and of each at least one record")
    for e in [record.experiment for runs in several.values() for record in runs if measuring]:
        if e.cells > 1 or not e.measuring_epochs:
            have = f"cells = {e.cells}, measuring_epochs = {e.measuring_epochs}"
            raise ValueError(f"{have}: this figure shows the measured costs of one cell; allowed: 1, and at least 1")
    return several


def _colours(topology: Topology) -> list[Any]:
    """The colour of every edge."""
    return [ORIGINS[edge_origin(topology, edge)] for edge in range(len(topology.edges))]


def _origins(topology: Topology) -> list[Patch]:
    """A legend's entries: the colours that a topology's edges have."""
    return [Patch(color=ORIGINS[o], label=o) for o in ORIGINS if ORIGINS[o] in _colours(topology)]


def _legend(figure: Figure, entries: Sequence[Any], place: Any = "outside upper center") -> None:
    """One legend for all panels, in two columns where its entries leave room for two."""
    figure.legend(handles=entries, loc=place, ncols=2 if max(len(entry.get_label()) for entry in entries) <= 28 else 1)


def _signs(panels: Iterable[Axes], along: str = "y") -> None:
    """Shade where on an axis of costs they are above zero, and where below. What is drawn later does not widen it."""
    for axes in panels:
        span, line = (axes.axhspan, axes.axhline) if along == "y" else (axes.axvspan, axes.axvline)
        limits = axes.get_ylim() if along == "y" else axes.get_xlim()
        span(0, max(0, *limits), color=COSTS, alpha=0.12, lw=0, zorder=-1)
        span(min(0, *limits), 0, color=EARNS, alpha=0.12, lw=0, zorder=-1)
        line(0, color="0.4", lw=0.8)
        axes.set(**{f"{along}lim": limits})


@_style
def cell(topology: Topology, chosen: Sequence[str] | None = None) -> Figure:
    """The cell as a graph: nodes in a row from input to output, edges numbered as in the paper.

    Of a one-hot sample, ``chosen`` is the operation on each edge, listed below; an edge of None is dotted.
    """
    lines = [":" if operation == "none" else "-" for operation in chosen or ()]
    styles = {edge: {"ls": line} for edge, line in zip(topology.edges, lines, strict=chosen is not None)}
    figure, (axes,) = _figure(2.6 + 0.09 * len(lines))
    _draw(axes, topology, styles, {}, range(len(topology.edges)))
    _legend(figure, [*_origins(topology), Patch(color=_OUTPUT, label="concatenation")])
    if chosen:
        listed = zip(_colours(topology), lines, enumerate(chosen), strict=True)
        entries = [Line2D([], [], color=c, ls=line, label=f"{k}: {operation}") for c, line, (k, operation) in listed]
        _legend(figure, entries, "outside lower center")
    return figure


def _draw(axes: Axes, topology: Topology, styles: Mapping[Edge, Look], other: Look, labels: Iterable[int]) -> None:
    """Draw a cell: its edges and what feeds its output, in the ``other`` style if none is given, and its nodes."""
    places, t = positions(topology), np.linspace(0, 1, 41)
    width = places[-1][0]
    high = width / 4.6  # of a unit of y, in units of x: drawings of all cells have one shape
    arrow = partial(FancyArrowPatch, arrowstyle="-|>", mutation_scale=11, shrinkA=10, shrinkB=10, lw=1.6)
    write, curves = partial(axes.text, va="center"), []
    lines = [*topology.edges, *((j, topology.nodes) for j in topology.output)]
    for (i, j), colour in zip(lines, [*_colours(topology), *[_OUTPUT] * len(topology.output)], strict=True):
        bulge, look = bend(places[i], places[j]), styles.get((i, j), other)
        axes.add_patch(arrow(places[i], places[j], connectionstyle=f"arc3,rad={bulge}", color=colour, **look))
        start, end = (complex(x, high * y) for x, y in (places[i], places[j]))
        curves.append(start + t * (end - start) * (1 - 2j * (1 - t) * bulge))  # as arc3
    for number in labels:  # on the middle part of its edge, as far as can be from all other lines
        own, others = curves[number][12:-12, None], np.concatenate(curves[:number] + curves[number + 1 :])
        best = own[np.abs(own - others).min(1).argmax(), 0]
        write(best.real, best.imag / high, str(number), ha="center", bbox={"fc": "white", "ec": "none", "pad": 0.8})
    for node, ((x, y), name) in enumerate(zip(places, node_names(topology), strict=True)):
        axes.plot(x, y, "o", ms=17, mfc="white" if name else "0.92", mec="0.2", mew=1.1, zorder=3)
        write(x, y, str(node), ha="center", zorder=4)
        dx, dy, align = (0, -0.4, "center") if name == "output" else (-0.06 * width, 0, "right")
        write(x + dx, y + dy, name.replace("before ", "before\n"), ha=align, color="0.3")
    axes.set(xlim=(-0.3 * width, 1.1 * width), ylim=(-1.35, 1.35), aspect=high)
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


@_style
def paths(topology: Topology, edges: Sequence[int]) -> Figure:
    """The ways on which the loss's gradient comes back to an edge, one panel for each edge given.

    The edge itself is thick; the ways from the output to its end are drawn in one line style each, the rest is faint.
    """
    figure, panels = _figure(2.2, len(edges))
    for panel, edge in zip(panels, edges, strict=True):
        start, end = topology.edges[edge]
        ways = _ways(topology, end)
        styles = {step: {"linestyle": line} for way, line in zip(ways, cycle(_LINES), strict=False) for step in way}
        _draw(panel, topology, {**styles, (start, end): {"lw": 3.5}}, {"lw": 0.8, "alpha": 0.35}, ())
        names = " and ".join("-".join(map(str, [*(j for _, j in reversed(way)), end, start])) for way in ways)
        panel.set_title(f"edge {edge}, type {1 if len(ways) > 1 else 2}: {names}", loc="left")
    return figure


def _ways(topology: Topology, node: int) -> list[list[Edge]]:
    """All ways from a node to the output, as steps; the shortest first."""
    ways = [[(node, topology.nodes)]] if node in topology.output else []
    ways += [[(i, j), *rest] for i, j in topology.edges if i == node for rest in _ways(topology, j)]
    return sorted(ways, key=len)


@_style
def cost_map(costs: Float[np.ndarray, "cell edge"]) -> Figure:
    """The cost (nats) of every edge in every cell and, apart, each cell's sum; red costs, violet earns."""
    sums = costs.sum(1, keepdims=True)
    top = float(np.abs(np.concatenate([costs, sums], axis=1)).max())
    scale, unit = (1000, "10⁻³ nats") if top < 0.1 else (1, "nats")
    figure, (left, right) = _figure(1.1 + 0.27 * len(costs), 2, 2, sharey=True, width_ratios=[costs.shape[1], 1])
    colours = sns.blend_palette([EARNS, "white", COSTS], as_cmap=True)
    draw = partial(_heatmap, cmap=colours, vmin=-scale * top, vmax=scale * top, fmt=".2g")
    for axes, values, names in ((left, costs, "auto"), (right, sums, ["sum"])):
        shown = scale * np.where(np.abs(values) > 1e-10 * top, values, 0)
        draw(shown, annot=shown if values.size <= 60 else None, xticklabels=names, ax=axes)
        axes.tick_params(axis="y", rotation=0, length=0)
    left.set(xlabel="edge", ylabel="cell")
    figure.colorbar(left.collections[0], ax=[left, right], label=f"cost ({unit})", location="top", aspect=40)
    return figure


@_style
def powers(curves: Curves, predictions: Curves, xlabel: str, ylabel: str) -> Figure:
    """Measured curves as points and predicted ones as lines, each by its name, on logarithmic axes."""
    figure, (axes,) = _figure(3.2)
    for (name, (x, y)), shade, marker in zip(curves.items(), sns.color_palette(_SHADES, len(curves)), cycle(_MARKERS)):
        axes.plot(x, y, marker, color=shade, ms=5.5, label=name)
    for (name, (x, y)), line in zip(predictions.items(), cycle(_LINES)):
        axes.plot(x, y, line, color="0.3", lw=1.2, label=name, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    _legend(figure, axes.get_legend_handles_labels()[0])
    return figure


@_style
def dose_response(groups: Mapping[str, Runs]) -> Figure:
    """Share of the edges retained in bi-level runs, a point per run, a marker per named group of runs.

    Left against the gap in accuracy between the splits, right against the search split's cost late in the search. Runs
    that retain the same share stand up to 0.04 apart.
    """
    doses = ["accuracy (share of images),\ntraining − search split", "L − H on the search split\n(nats)"]
    kept = "share of edges retained"
    numbers = (measures.generalisation_gap, measures.late_search_cost, measures.retention)
    rows = [(name, *(number(run) for number in numbers)) for name, runs in _several(groups).items() for run in runs]
    table = pd.DataFrame(rows, columns=["runs", *doses, kept])
    draw = partial(sns.scatterplot, hue="runs", palette=_SHADES, style="runs", markers=_MARKERS[: len(groups)], s=40)
    figure, (left, right) = _figure(3.4, 2, 2, sharey=True)
    for axes, dose in zip((left, right), doses, strict=True):
        apart = 0.02 * (table.groupby(kept)[dose].rank(method="first") % 5 - 2)
        draw(table.assign(**{kept: table[kept] + apart}), x=dose, y=kept, ax=axes)
        axes.legend().remove()
    left.set(ylim=(-0.07, 1.07))
    _signs([right], "x")
    _legend(figure, left.get_legend_handles_labels()[0])
    return figure


@_style
def retention_map(groups: Mapping[str, Runs]) -> Figure:
    """The share of the runs that retain an edge, a row per first node, a column per last.

    A panel per named group and type of cell; an edge without a choice is left blank.
    """
    shown = [(name, runs, kind) for name, runs in _several(groups).items() for kind in measures.cells_of_types(runs[0])]
    figure, panels = _figure(2.2, len(shown), 2)
    for axes, (name, records, kind) in zip(panels, shown, strict=True):
        topology = records[0].experiment.topology
        shares = np.mean([measures.retained(record) for record in records], axis=0)
        counted = zip(measures.counted_edges(records[0]), shares, strict=True)
        grid = pd.Series({topology.edges[edge]: share for (own, edge), share in counted if own == kind}).unstack()
        grid = grid.reindex(index=range(topology.nodes - 1), columns=topology.intermediate)
        _heatmap(grid, annot=True, fmt=".1f", cmap="Greys", vmin=-0.2, vmax=1.4, ax=axes)
        axes.axhline(len(topology.inputs), color="0.2", lw=1.2)
        axes.set(title=_of_type(records[0], kind, name), xlabel="to node", ylabel="from node")
        axes.tick_params(axis="y", rotation=0, length=0)
    figure.suptitle("share of the runs that retain an edge")
    return figure


def _of_type(record: Record, kind: int, title: str) -> str:
    """A panel's title, which names the type of its cells where there are several."""
    return f"{title}\n{CELL_TYPES[kind]} cells" if len(measures.cells_of_types(record)) > 1 else title


@_style
def splits(bi: Runs, single: Runs = ()) -> Figure:
    """L, H and cost over the epochs, for all, correct and wrong images; mean and range over seeds.

    Shown are both splits of bi-level runs, and the one of single-level runs, if any.
    """
    rows = {"loss": "L (nats)", "entropy": "H (nats)", "cost": "L − H (nats)"}
    columns = {"all": "all images", "correct": "correctly classified", "wrong": "wrongly classified"}
    several = _several({"bi-level": bi} | ({"single-level": single} if single else {}))
    tables = [r.scalars.assign(runs="bi-level, " + r.scalars.split + " split") for r in several.pop("bi-level")]
    tables += [r.scalars.assign(runs=name) for name, runs in several.items() for r in runs]
    names, table = ["bi-level, training split", "bi-level, search split", *several], pd.concat(tables)
    draw = partial(sns.lineplot, x="epoch", errorbar=("pi", 100), hue="runs", palette=_SHADES, style="runs")
    figure, panels = _figure(1.8, 9, 3, "epoch", sharex=True, sharey="row")
    for axes, ((quantity, label), (group, title)) in zip(panels, product(rows.items(), columns.items()), strict=True):
        draw(table[table.group == group], y=quantity, hue_order=names, style_order=names, ax=axes)
        axes.legend().remove()
        axes.set(xlabel="", ylabel=label, title=title if quantity == "loss" else "")
    _signs(panels[-len(columns) :])
    _legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def _by_edge(
    record: Record, height: float, *labels: str, kinds: Iterable[int] = (0,), entries: Iterable[Any] = ()
) -> tuple[Figure, list[tuple[Axes, int, int, Any]]]:
    """A panel for every edge and type of cell, in rows of that height; with each this type, the edge and its colour."""
    topology = record.experiment.topology
    contents = [(kind, edge, colour) for kind in kinds for edge, colour in enumerate(_colours(topology))]
    figure, panels = _figure(height, len(contents), 3, *labels, sharex=True, sharey=True)
    for panel, (kind, edge, _) in zip(panels, contents, strict=True):
        panel.set_title(_of_type(record, kind, f"edge {edge} {topology.edges[edge]}"))
    _legend(figure, [*_origins(topology), *entries])
    return figure, [(panel, *content) for panel, content in zip(panels, contents, strict=True)]


@_style
def cost_means(groups: Mapping[str, Runs]) -> Figure:
    """Measured mean cost of every operation, a panel per edge, a marker per group; with the range over steps.

    The mean is over seeds, the range from any step's least to its largest; the axis is linear up to 0.05 nats.
    Raises ValueError if a run has several cells or no measuring epochs.
    """
    several, operations = _several(groups, measuring=True), NAMES[NONE + 1 :]
    looks = list(zip(several, cycle(_MARKERS), ["white", *[None] * len(several)]))  # the first one's are hollow
    entries = [Line2D([], [], color="0.3", ls="", marker=marker, mfc=fill, label=name) for name, marker, fill in looks]
    figure, panels = _by_edge(next(iter(several.values()))[0], 2.5, "cost (nats)", entries=entries)
    for runs, (_, marker, fill), offset in zip(
        several.values(), looks, np.linspace(-0.2, 0.2, len(looks)), strict=True
    ):
        place = np.arange(len(operations)) + offset
        mean = np.mean([measured.measured_costs(r)[0] for r in runs], axis=0)
        low = np.nanmin([r.arrays["cost_min"][r.experiment.epochs :, 0, 0] for r in runs], axis=(0, 1))
        high = np.nanmax([r.arrays["cost_max"][r.experiment.epochs :, 0, 0] for r in runs], axis=(0, 1))
        for axes, _, edge, colour in panels:
            own = edge, slice(NONE + 1, None)
            axes.hlines(place, low[own], high[own], color=colour, lw=0.8, alpha=0.6)
            axes.plot(mean[own], place, marker, color=colour, mfc=fill or colour, ms=4.5)
    axes.set_xscale("symlog", linthresh=0.05)
    axes.set_xticks([-0.1, 0, 0.1], ["−0.1", "0", "0.1"])
    axes.set_yticks(range(len(operations)), operations)
    axes.invert_yaxis()
    _signs([axes for axes, *_ in panels], "x")
    return figure


@_style
def edge_costs(groups: Mapping[str, Runs]) -> Figure:
    """Measured mean cost of every operation on the straight and on the intermediate edge, a panel per group of runs.

    Large is the mean over seeds, small is a seed. Raises ValueError if a run has several cells or no measuring epochs.
    """
    several, operations = _several(groups, measuring=True), NAMES[NONE + 1 :]
    looks = list(zip(("straight", "intermediate"), _MARKERS, (_BLUE, _ORANGE), strict=False))
    figure, panels = _figure(2.6, len(several), 3, "mean cost (nats)", sharex=True, sharey=True)
    place = np.arange(len(operations))
    for axes, (title, runs) in zip(panels, several.items(), strict=True):
        costs = np.stack([measured.straight_and_intermediate(run) for run in runs], axis=-1)
        axes.hlines(place, *costs.mean(-1), color="0.7", lw=0.8)
        for own, (_, marker, colour) in zip(costs, looks, strict=True):
            axes.plot(own, place, marker, color=colour, ms=2, alpha=0.6)
            axes.plot(own.mean(-1), place, marker, color=colour, ms=5)
        axes.set_title(title)
        axes.locator_params(axis="x", nbins=2)
    axes.set_yticks(place, operations)
    axes.invert_yaxis()
    _signs(panels, "x")
    entries = [Line2D([], [], color=colour, ls="", marker=marker, label=name) for name, marker, colour in looks]
    _legend(figure, entries)
    return figure


@_style
def initial_costs(costs: Sequence[float], low: float, high: float) -> Figure:
    """A histogram of the costs of initialisations, with their mean and its interval."""
    figure, (axes,) = _figure(2.8)
    axes.hist(costs, bins=30, color="0.65")
    axes.axvspan(low, high, color="0.1", alpha=0.4, lw=0, label="mean: 95 % interval")
    axes.axvline(float(np.mean(costs)), color="0.1", lw=1.5, label="mean")
    axes.set(xlabel="cost at the last cell's output (nats)", ylabel="initialisations")
    _signs([axes], "x")
    axes.legend()
    return figure


@_style
def cost_against_accuracy(records: Runs) -> Figure:
    """The cost at the last cell against the accuracy, a point per epoch and seed; and apart by group of images."""
    table = pd.concat(r.scalars.query("split == 'training'") for r in _several({"records": records})["records"])
    draw = partial(sns.scatterplot, y="cost", s=16)
    figure, (left, right) = _figure(3.0, 2, 2)
    draw(table[table.group == "all"], x="accuracy", color="0.3", ax=left)
    apart = table[table.group != "all"]
    draw(apart, x="epoch", hue="group", style="group", palette=_SHADES, markers=_MARKERS[:2], ax=right)
    left.set(xlabel="accuracy (share of images)", ylabel="cost L − H (nats)", title="all images, an epoch a point")
    right.set(xlabel="epoch", ylabel="cost of an image (nats)", title="by how it is classified")
    right.legend()
    _signs([left, right])
    return figure


@_style
def none_probability(records: Runs) -> Figure:
    """p(None) of every edge over the epochs, one panel per edge and type of cell: a line per seed, the mean thick.

    The dots below the curves mark the epochs at which the edge is dropped, one row per seed.
    """
    records = _several({"records": records})["records"]
    types = list(measures.cells_of_types(records[0]))
    probability = np.stack([record.arrays["probability"] for record in records])
    top = min(1.0, 1.15 * float(probability[:, :, types, :, NONE].max()))
    step = 0.05 * top  # between the rows of dots below the axis
    figure, panels = _by_edge(records[0], 1.7, "epoch", "p(None)", kinds=types)
    for panel, kind, edge, colour in panels:
        curves = probability[:, :, kind, edge, NONE]
        panel.plot(curves.T, color=colour, lw=0.8, alpha=0.6)
        panel.plot(curves.mean(0), color=colour, lw=2.2)
        for seed, when in enumerate(dropped(probability)[:, :, kind, edge], 1):
            panel.plot(np.where(when, -step * seed, np.nan), ".", color=colour, ms=3)
        panel.axhline(0, color="0.6", lw=0.6)
    panel.set(ylim=(-step * (len(records) + 1), top), yticks=np.arange(0, top + 1e-9, 0.5 if top >= 0.5 else 0.1))
    return figure


@_style
def leads(groups: Mapping[str, Runs]) -> Figure:
    """None's lead on every edge by the step: a panel per edge, a line style per named group of runs.

    A line is the mean over seeds, the band around it from the lowest to the highest. All groups have one topology.
    """
    several = _several(groups)
    entries = [Line2D([], [], color="0.3", ls=line, label=name) for name, line in zip(several, cycle(_LINES))]
    figure, panels = _by_edge(next(iter(several.values()))[0], 1.9, "step", "lead of None (in α)", entries=entries)
    for records, line in zip(several.values(), cycle(_LINES)):
        steps = records[0].table("course_alpha").step.unique()
        curves = lead(np.stack([record.arrays["course_alpha"][:, 0] for record in records]))
        for panel, _, edge, colour in panels:
            own = curves[..., edge]
            panel.plot(steps, own.mean(0), line, color=colour, lw=1.6)
            panel.fill_between(steps, own.min(0), own.max(0), color=colour, alpha=0.12, lw=0)
    for panel, *_ in panels:
        panel.axhline(0, color="0.6", lw=0.6)
    return figure


@_style
def growth(records: Runs) -> Figure:
    """Share of the edges that are dropped, and the cost at the last cell's output, over the epochs; a line per seed.

    The share is of each type of cell's edges with a choice, the cost on the split that α learns from.
    """
    records = _several({"records": records})["records"]
    types = list(measures.cells_of_types(records[0]))
    figure, (left, right) = _figure(2.7, 2, 2, sharex=True)
    left.set_prop_cycle(linestyle=_LINES[: len(types)])
    for record, scalars in zip(records, map(measures.scalars_of, records), strict=True):
        counted = [[edge for own, edge in measures.counted_edges(record) if own == kind] for kind in types]
        shown = zip(types, counted, strict=True)
        shares = [dropped(record.arrays["probability"][:, kind, edges]).mean(1) for kind, edges in shown]
        left.plot(np.transpose(shares), color="0.2", lw=1.2, alpha=0.6)
        right.plot(scalars.epoch, scalars.cost, color="0.2", lw=1.2, alpha=0.6)
    left.set(xlabel="epoch", ylabel="share of edges dropped", ylim=(-0.03, 1.03))
    right.set(xlabel="epoch", ylabel="L − H at the output (nats)")
    _signs([right])
    if len(types) > 1:
        left.legend(left.lines[: len(types)], [f"{CELL_TYPES[kind]} cells" for kind in types])
    return figure
