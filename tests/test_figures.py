"""Figures show every type of cell, take one record for several, and refuse what they would show in part."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from wiring_book import players

from wiring import datasets, figures
from wiring.evidence.measures import retained, retention
from wiring.search.experiments import preset
from wiring.search.loop import Search
from wiring.search.records import load_reference
from wiring.supernet.operations import NONE


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
    assert {line.get_label(): set(line.get_ydata()) for line in left.lines} == {
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


def test_figures_of_one_cell_refuse_several(run):
    for figure in (figures.cost_means, figures.edge_costs):
        with pytest.raises(ValueError, match=r"cells = 2: .*allowed: 1"):
            figure({"two cells": [run]})


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


def test_a_point_a_run_against_two_doses():
    records = load_reference("p3-reference")
    left, right = figures.dose_response({"all": records, "one": records[0]}).axes
    assert len(left.collections[0].get_offsets()) == len(right.collections[0].get_offsets()) == len(records) + 1
