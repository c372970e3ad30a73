"""Figures show every type of cell, take one record for several, and refuse what they would show in part."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from wiring_book import players

from wiring import datasets, figures
from wiring.chapters import BOOK
from wiring.evidence.measured import measured_costs
from wiring.evidence.measures import retained, retention
from wiring.search.experiments import preset
from wiring.search.loop import Search
from wiring.search.records import load_reference
from wiring.supernet.operations import NAMES, NONE
from wiring.supernet.topology import MINIMAL, TOPOLOGIES


@pytest.fixture(scope="module")
def run():
    """A search in a normal cell and a reduction cell, with other probabilities in the two."""
    sizes = {"epochs": 2, "images": 64, "batch": 32, "channels": 4, "image_size": 8}
    e = preset("p1-quick", cells=2, reductions=[1], **sizes)
    search = Search(e, datasets.load_dataset(e.data, e.image_size, e.images, e.seed))
    for _ in range(e.epochs):
        for _ in search.run_epoch():
            pass
    record = search.record()
    probability = np.full_like(record.arrays["probability"], 0.1)
    probability[:, 0, :, 1] = 0.3  # skip_connect in the normal cell
    probability[:, 1, :, NONE] = 0.3  # and None in the reduction cell
    return replace(record, arrays={**record.arrays, "probability": probability})


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_none_is_shown_for_both_types_of_cell(run):
    figure = figures.none_probability(run)
    ends = [f"edge {number} {edge}" for number, edge in enumerate(run.experiment.topology.edges)]
    assert titles(figure) == [f"{edge}\n{kind} cells" for kind in ("normal", "reduction") for edge in ends]
    shown = [axes.lines[0].get_ydata()[-1] for axes in figure.axes]
    assert shown == pytest.approx([0.1] * 5 + [0.3] * 5)


def test_edges_retained_are_shown_for_both_types_of_cell(run):
    assert retained(run).tolist() == [True] * 5 + [False] * 5
    assert retention(run) == 0.5
    figure = figures.retention_map({"a run": [run]})
    assert titles(figure) == ["a run\nnormal cells", "a run\nreduction cells"]
    assert [{text.get_text() for text in axes.texts} for axes in figure.axes[:2]] == [{"1.0"}, {"0.0"}]


def test_an_edge_without_a_choice_is_left_blank(run):
    e = run.experiment
    fixed = replace(e, topology=e.topology.with_operations((1, 2), "sep_conv_3x3"))
    axes = figures.retention_map({"a run": replace(run, experiment=fixed)}).axes[0]
    assert len(axes.texts) == 4


def test_the_share_dropped_is_shown_for_both_types_of_cell(run):
    left = figures.growth(run).axes[0]
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert dict(zip(names, [set(line.get_ydata()) for line in left.lines], strict=True)) == {
        "normal cells": {0.0},
        "reduction cells": {1.0},
    }


def test_the_players_play_both_types_of_cell(run):
    normal, reduction = players.runs(run)
    assert [normal["seed"], reduction["seed"]] == ["0, normal cells", "0, reduction cells"]
    for cell, played in enumerate((normal, reduction)):
        probability = run.arrays["probability"][:, cell]
        assert played["probability"] == pytest.approx(probability, abs=1e-6)
        costs = np.nan_to_num(run.arrays["cost_mean"][:, 0, cell]) * probability[1:]
        assert played["cost"] == pytest.approx(costs.sum(-1), abs=1e-4)


def test_figures_of_measured_costs_refuse_several_cells_and_runs_without(run):
    for figure in (figures.cost_means, figures.edge_costs):
        with pytest.raises(ValueError, match=r"cells = 2, .*allowed: 1"):
            figure({"two cells": [run]})
        with pytest.raises(ValueError, match=r"measuring_epochs = 0: .*allowed: .*at least 1"):
            figure({"nothing measured": load_reference("initial-reference")[:1]})


def test_the_straight_edge_stands_beside_the_intermediate_one_operation_by_operation():
    records = load_reference("d1-reference")
    (panel,) = figures.edge_costs({"a cell": records}).axes
    shown = [line.get_xdata() for line in panel.lines if len(line.get_ydata()) == 7]
    for edge, lines in ((1, shown[: len(shown) // 2]), (2, shown[len(shown) // 2 :])):  # (0, 2) and (1, 2)
        expected = [measured_costs(record)[0, edge, 1:] for record in records]
        assert np.stack(lines) == pytest.approx(np.stack([*expected, np.mean(expected, axis=0)]))


def test_curves_over_seeds_are_their_mean_and_range():
    bi, single = load_reference("p3-reference"), load_reference("p3-single-reference")
    first = figures.splits(bi, single).axes[0]
    losses = pd.concat(record.scalars for record in bi).query("split == 'training' and group == 'all'")
    by_epoch = losses.groupby("epoch").loss
    assert first.lines[0].get_ydata() == pytest.approx(by_epoch.mean())
    band = first.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((by_epoch.min().min(), by_epoch.max().max()))


def test_leads_over_seeds_are_their_mean_and_range_by_the_step():
    records = load_reference("start-reference")
    figure = figures.leads({"all": records, "one": records[0]})
    for edge, panel in enumerate(figure.axes[:5]):
        alpha = np.stack([record.arrays["course_alpha"][:, 0, edge] for record in records])
        own = alpha[..., NONE] - (alpha.sum(-1) - alpha[..., NONE]) / 7
        mean, one = panel.lines[:2]
        assert mean.get_xdata().tolist() == list(range(10, 521, 10))
        assert mean.get_ydata() == pytest.approx(own.mean(0), abs=1e-6)
        assert one.get_ydata() == pytest.approx(own[0], abs=1e-6)
        band = panel.collections[0].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == pytest.approx((own.min(), own.max()), abs=1e-6)


def test_a_point_a_run_against_two_doses_and_none_hides_another():
    records = load_reference("p3-reference")
    panels = figures.dose_response({"all": records, "one": records[0]}).axes
    shares = np.array([retention(record) for record in (*records, records[0])])
    for panel in panels:
        points = panel.collections[0].get_offsets()
        assert len(points) == len(records) + 1
        assert len({tuple(point) for point in points.round(3).tolist()}) == len(points)
        assert np.abs(points[:, 1] - shares).max() <= 0.04 + 1e-9


@pytest.mark.parametrize("name", ["leads", "cost_means", "edge_costs", "dose_response", "retention_map"])
def test_no_group_and_a_group_without_runs_are_refused(name):
    for groups in ({}, {"a name": []}):
        with pytest.raises(ValueError, match=r"groups = .*allowed: at least one name, and of each at least one record"):
            getattr(figures, name)(groups)


def test_no_record_is_refused():
    for draw in (figures.none_probability, figures.growth, figures.cost_against_accuracy):
        with pytest.raises(ValueError, match=r"'records'.*allowed: .*at least one record"):
            draw([])


# What a reader sees: text on a phone; colours on a light page, on a dark one, and as the colour-blind see them.

#: Pixels that a page of 360 pixels has for a figure.
PHONE = 312
DRAWN = {
    "cell": lambda run, records: figures.cell(TOPOLOGIES["darts"], (NAMES * 2)[:14]),
    "paths": lambda run, records: figures.paths(MINIMAL, [0, 2]),
    "cost_map": lambda run, records: figures.cost_map(np.linspace(-0.05, 0.012345, 40).reshape(8, 5)),
    "powers": lambda run, records: figures.powers(
        {"measured": ([1.0, 9.0], [1.0, 2.0])}, {"a" * 40: ([1.0, 9.0], [1.0, 2.0])}, "x", "y"
    ),
    "dose_response": lambda run, records: figures.dose_response(
        {f"DSNAS, {k}% of labels random": records for k in "123456"}
    ),
    "retention_map": lambda run, records: figures.retention_map(
        {"DSNAS, 8 minimal cells": run, "DSNAS, 4 DARTS cells": run}
    ),
    "splits": lambda run, records: figures.splits(records, load_reference("p3-single-reference")),
    "cost_means": lambda run, records: figures.cost_means({"initial": load_reference("h1-initial-reference")[:2]}),
    "edge_costs": lambda run, records: figures.edge_costs({name: load_reference("d3-reference") for name in "abc"}),
    "initial_costs": lambda run, records: figures.initial_costs([-0.1, 0.1, 0.2], 0.0, 0.1),
    "cost_against_accuracy": lambda run, records: figures.cost_against_accuracy(records),
    "none_probability": lambda run, records: figures.none_probability(run),
    "leads": lambda run, records: figures.leads({"the paper's gradient": load_reference("start-reference")}),
    "growth": lambda run, records: figures.growth(run),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_whole_on_a_phone_and_its_text_is_legible_there(run, name):
    figure = DRAWN[name](run, load_reference("p3-reference"))
    size = figure.get_size_inches()
    smallest = min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text())
    assert smallest * PHONE / (72 * size[0]) >= 8
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert (box.x0, box.y0) >= (-0.02, -0.02)
    assert box.x1 <= size[0] + 0.02
    assert box.y1 <= size[1] + 0.02
    panels = [axes.get_tightbbox().shrunk(0.98, 0.98) for axes in figure.axes]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(panels, 2))


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_numbers_stand_on_their_edges_and_cover_no_other_number_and_no_node(name):
    topology = TOPOLOGIES[name]
    figure = figures.cell(topology)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    nodes = [axes.transData.transform(place) for place in figures.positions(topology)]
    radius = figure.dpi * 17 / 72 / 2
    for number, (patch, box) in enumerate(zip(axes.patches, boxes[: len(topology.edges)], strict=False)):
        assert axes.texts[number].get_text() == str(number)
        middle = (box.p0 + box.p1) / 2
        corners = patch.get_path().transformed(axes.transData).to_polygons(closed_only=False)[0]
        line = np.concatenate([np.linspace(*ends, 50) for ends in itertools.pairwise(corners)])
        assert np.linalg.norm(line - middle, axis=1).min() < figure.dpi / 72
        assert not any(box.overlaps(other) for other in boxes if other is not box)
        assert min(np.linalg.norm(node - np.clip(node, box.p0, box.p1)) for node in nodes) > radius


STYLE = (BOOK / "_static" / "wiring.css").read_text()
#: Of linear red, green and blue, from Machado, Oliveira and Fernandes 2009, of severity 1.
BLIND = {
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
#: To X, Y and Z, each as a share of white's.
XYZ = np.array([[0.434, 0.376, 0.190], [0.213, 0.715, 0.072], [0.018, 0.109, 0.873]])


def linear(colour):
    colour = np.asarray(to_rgb(colour))
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def on_dark(colour):
    """A colour as the book's style sheet turns it on a dark page, by the filters' definitions."""
    rule = re.search(r"dark.*invert\((.*?)\) hue-rotate\(180deg\) brightness\((.*?)\)", STYLE)
    inverted, brighter = map(float, rule.groups())
    turned = 2 * np.array([0.213, 0.715, 0.072]) - np.eye(3)
    return np.clip(
        brighter * np.clip(turned @ (inverted + np.asarray(to_rgb(colour)) * (1 - 2 * inverted)), 0, 1), 0, 1
    )


def on_light(colour):
    return to_rgb(colour)


def contrast(one, other):
    low, high = sorted(float(XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def difference(one, other, seen):
    """CIE 1976: 2.3 can just be told."""
    matrix = BLIND.get(seen, np.eye(3))
    x, y = (np.cbrt(np.clip(XYZ @ np.clip(matrix @ linear(colour), 0, 1), 0.009, 1)) for colour in (one, other))
    return float(np.linalg.norm(np.array([[0, 116, 0], [500, -500, 0], [0, 200, -200]]) @ (x - y)))


@pytest.mark.parametrize("page", [on_light, on_dark])
def test_colours_are_told_apart_by_all_and_from_the_page(page):
    figure = figures.cost_map(np.array([[1.0, -1.0]]))
    figure.draw_without_rendering()
    shown = figure.axes[0].collections[0].get_facecolors()
    ends = 1 - shown[:, 3:] * (1 - shown[:, :3])  # on white
    for seen in (None, *BLIND):
        for one, other in itertools.combinations(figures.ORIGINS.values(), 2):
            assert difference(page(one), page(other), seen) > (10 if seen == "tritan" else 35)
        assert difference(*map(page, ends), seen) > 25
    for origin in figures.ORIGINS.values():
        assert contrast(page(origin), page("white")) >= 3
        for sign in (figures.COSTS, figures.EARNS):
            assert difference(page(origin), page(sign), None) > 35
    for colour in ends:
        assert contrast(page(colour), page("black")) >= 4.5


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in DRAWN
        if name not in ("cell", "paths", "cost_map", "cost_means", "edge_costs", "none_probability", "leads")
    ],
)
def test_hues_are_kept_for_edges_and_the_sign_of_costs(run, name):
    figure = DRAWN[name](run, load_reference("p3-reference"))
    figure.draw_without_rendering()
    inks = [line.get_color() for line in figure.findobj(Line2D)]
    inks += [patch.get_facecolor() for patch in figure.findobj(Patch)]
    inks += [face for points in figure.findobj(Collection) for face in points.get_facecolor()]
    hues = {to_hex(ink) for ink in inks if np.ptp(to_rgb(ink)) > 0.01}
    assert hues <= {figures.COSTS, figures.EARNS}
