"""Measured mean costs by a plain count over epochs, cells and operations."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from wiring.evidence import measured
from wiring.search.experiments import Experiment
from wiring.search.records import Record
from wiring.supernet.topology import CONTROL, MINIMAL, TOPOLOGIES

UNIFORM = Experiment(searcher="uniform", epochs=2, measuring_epochs=3, cells=2)


def run(counts, means, experiment=UNIFORM):
    """A run with these counts and mean costs, [epoch, cell, edge, operation], on its training split."""
    arrays = {"cost_count": np.asarray(counts)[:, None], "cost_mean": np.asarray(means)[:, None]}
    return Record(experiment, pd.DataFrame(), arrays, {})


@st.composite
def runs(draw, learn=True):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    topology = draw(st.sampled_from([MINIMAL, TOPOLOGIES["simplified"], CONTROL]))
    shape = (5, 2, len(topology.edges), 8)
    counts = random.integers(0, 4, shape)
    means = np.where(counts > 0, random.normal(size=shape), np.nan)
    return run(counts, means, replace(UNIFORM, topology=topology, theta_lr=0.025 * learn))


def plain_mean(record, cell, edge, operation):
    """Mean cost over the draws after the search, one epoch after the other; None without any."""
    total = draws = 0
    for epoch in range(2, 5):
        if count := record.arrays["cost_count"][epoch, 0, cell, edge, operation]:
            total += count * record.arrays["cost_mean"][epoch, 0, cell, edge, operation]
            draws += count
    return total / draws if draws else None


def plain_means(record):
    edges = range(len(record.experiment.topology.edges))
    every = [plain_mean(record, cell, edge, o) for cell in range(2) for edge in edges for o in range(1, 8)]
    return [mean for mean in every if mean is not None]


@given(runs())
@examples(40)
def test_measured_costs_are_means_over_the_draws_after_the_search(record):
    means = measured.measured_costs(record)
    for index in np.ndindex(means.shape):
        plain = plain_mean(record, *index)
        assert means[index] == pytest.approx(plain) if plain is not None else np.isnan(means[index])


@given(runs())
@examples(40)
def test_signs_of_learnt_weights_are_counted_over_all_but_none(record):
    means = plain_means(record)
    assert measured.negative_share(record) == pytest.approx(sum(mean < 0 for mean in means) / len(means))
    assert measured.highest_trained(record) == pytest.approx(max(means))
    assert np.isnan(measured.positive_share(record))
    assert np.isnan(measured.lowest_initial(record))


@given(runs(learn=False))
@examples(40)
def test_signs_of_initial_weights_are_counted_over_all_but_none(record):
    means = plain_means(record)
    assert measured.positive_share(record) == pytest.approx(sum(mean > 0 for mean in means) / len(means))
    assert measured.lowest_initial(record) == pytest.approx(min(means))
    assert np.isnan(measured.negative_share(record))
    assert np.isnan(measured.highest_trained(record))


@given(runs())
@examples(40)
def test_the_two_edges_are_compared_operation_by_operation(record):
    number = len(record.experiment.topology.edges)  # of every cell here the last two edges end in its last node

    def of_cells(edge, operation):
        """Mean over the cells; None where one of them never drew it."""
        means = [plain_mean(record, cell, edge, operation) for cell in range(2)]
        return None if None in means else sum(means) / 2

    pairs = [(of_cells(number - 2, o), of_cells(number - 1, o)) for o in range(1, 8)]
    straight = [one for one, _ in pairs if one is not None]
    excess = [other - one for one, other in pairs if one is not None and other is not None]
    assert measured.straight_cost(record) == pytest.approx(sum(straight) / len(straight))
    assert measured.intermediate_excess(record) == pytest.approx(sum(excess) / len(excess))
    assert measured.least_excess(record) == pytest.approx(min(excess))


def test_a_search_or_a_run_without_measuring_epochs_says_nothing_of_the_signs():
    counts, means = np.ones((5, 2, 5, 8)), np.ones((5, 2, 5, 8))
    searched = run(counts, means, replace(UNIFORM, searcher="dsnas"))
    unmeasured = run(counts[:2], means[:2], replace(UNIFORM, measuring_epochs=0))
    for record in (searched, unmeasured):
        assert np.isnan(measured.negative_share(record))
        assert np.isnan(measured.highest_trained(record))


@pytest.mark.parametrize(
    ("topology", "straight", "intermediate"),
    [(MINIMAL, (1, 3), (2, 3)), (TOPOLOGIES["simplified"], (0, 2), (1, 2)), (CONTROL, (1, 3), (2, 3))],
)
def test_the_two_edges_into_the_last_node_are_compared(topology, straight, intermediate):
    edges = topology.edges
    means = np.zeros((5, 2, len(edges), 8))
    means[2:, :, edges.index(straight)], means[2:, :, edges.index(intermediate)] = 0.2, 0.5
    means[2:, :, edges.index(intermediate), 3] = 0.1  # one operation costs less there
    means[2:, :, :, 0] = 9  # None does not count
    record = run(np.ones_like(means), means, replace(UNIFORM, topology=topology))
    assert measured.least_excess(record) == pytest.approx(-0.1)
    assert measured.intermediate_excess(record) == pytest.approx((6 * 0.3 - 0.1) / 7)
    assert measured.straight_cost(record) == pytest.approx(0.2)


def test_costs_over_the_course_are_those_of_every_single_draw():
    random = np.random.default_rng(0)
    draws = [[random.normal(0.1, 0.3, size=(5, n)) for n in (3, 0, 4)] for _ in range(8)]  # [operation][time]
    course = {name: np.zeros((3, 1, 5, 8)) for name in ("cost", "square", "count")}
    for operation, times in enumerate(draws):
        for time, costs in enumerate(times):
            course["count"][time, 0, :, operation] = costs.shape[1]
            for name, values in (("cost", costs), ("square", costs**2)):
                mean = values.mean(1) if costs.shape[1] else np.nan
                course[name][time, 0, :, operation] = mean
    arrays = {f"course_{name}": values for name, values in course.items()} | {"alpha": np.zeros((2, 1, 5, 8))}
    for edge, costs in enumerate(measured.course_costs(Record(Experiment(), pd.DataFrame(), arrays, {}))):
        every = np.concatenate([times[edge] for operation in draws[1:] for times in operation])
        assert (costs.mean, costs.spread) == (pytest.approx(every.mean()), pytest.approx(every.std()))
