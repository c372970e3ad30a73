"""The measures' definitions on trajectories made by hand, and verdicts and intervals against plain numpy."""

import json
import re
from configparser import ConfigParser
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from strategies import examples

from wiring.chapters import chapters
from wiring.costs.identities import Finding, Report
from wiring.evidence import claims, measured, measures, verdicts
from wiring.evidence.claims import CLAIMS, Claim
from wiring.evidence.measures import (
    edge_costs,
    final_accuracy,
    gone,
    largest_drop,
    recovered,
    recovery,
    retained,
    turning_epoch,
)
from wiring.evidence.verdicts import compare, interval, judge
from wiring.search.experiments import PRESETS, Experiment, anywhere, preflight, preset
from wiring.search.records import Record
from wiring.search.searchers import dropped
from wiring.supernet.operations import NAMES
from wiring.supernet.topology import MINIMAL, TOPOLOGIES

#: One letter per epoch: D dropped, K kept, = a tie of None with the best operation.
NONE_SHARE = {"D": 0.6, "K": 0.1, "=": 0.4}


def probabilities(fate):
    """The edge's probabilities over time: the best operation other than None is sep_conv_5x5."""
    rows = []
    for letter in fate:
        row = np.zeros(8)
        row[0], row[7] = {"D": (0.6, 0.4), "K": (0.1, 0.9), "=": (0.4, 0.4)}[letter]
        row[1] = 1 - row.sum()
        rows.append(row)
    return np.array(rows)


def record(*fates, start="K", topology=MINIMAL, kinds=1, seed=0):
    """A run whose edges have these fates; with two kinds of cell the reduction cells' edges follow the normal ones'."""
    epochs = len(fates[0])
    assert len(fates) == kinds * len(topology.edges)
    stacked = np.stack([probabilities(start + fate) for fate in fates], axis=1)
    probability = stacked.reshape(1 + epochs, kinds, len(topology.edges), 8).astype(np.float32)
    reductions = tuple(range(1, kinds))
    experiment = Experiment(epochs=epochs, topology=topology, seed=seed, cells=2, reductions=reductions)
    return Record(experiment, pd.DataFrame(), {"probability": probability}, {})


def judged(numbers, seeds=None, side="above", threshold=0.5):
    """The verdict on a claim of one's own from made-up numbers, one per seed."""
    seeds = range(len(numbers)) if seeds is None else seeds
    lookup = dict(zip(seeds, numbers, strict=True))
    claim = Claim("X", "a statement", lambda run: float(lookup[run.experiment.seed]), side, threshold)
    return judge(claim, [record(*["K"] * 5, seed=seed) for seed in seeds])


def verdict_on(claim, runs):
    """The verdict on a claim from these runs, whatever their seeds."""
    return judge(
        claim, [replace(run, experiment=replace(run.experiment, seed=k)) for k, run in enumerate(runs)]
    ).verdict


# dropped


def test_dropped_means_none_is_strictly_the_most_probable():
    assert dropped(probabilities("DK=")).tolist() == [True, False, False]


def test_uniform_probabilities_drop_nothing():
    assert not dropped(np.full((4, 5, 8), 1 / 8)).any()


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=8, max_size=8))
def test_dropped_is_a_loop_over_the_other_operations(numbers):
    row = np.array(numbers, dtype=float)
    assert bool(dropped(row[None])[0]) == all(row[0] > row[k] for k in range(1, 8))
    assert NAMES[0] == "none"


# recovered and retained


FATES = {
    #          epochs 1..20                recovered  retained
    "never": ("KKKKKKKKKKKKKKKKKKKK", False, True),
    "always": ("DDDDDDDDDDDDDDDDDDDD", False, False),
    "early": ("DDDKKKKKKKKKKKKKKKKK", True, True),
    "just in time": ("DDDDDDDDDDDDDDDDDDKK", True, True),
    "one too late": ("DDDDDDDDDDDDDDDDDDDK", False, False),
    "back at the end": ("KDKKKKKKKKKKKKKKKKKD", False, False),
    "back in the last tenth": ("KDKKKKKKKKKKKKKKKKDK", False, False),
    "back and forth, never gone": ("DKDKDKDKDKDKDKDKDKKK", False, True),
    "dropped for two": ("KKKKDDKKKKKKKKKKKKKK", False, True),
    "gone for three": ("KKKKDDDKKKKKKKKKKKKK", True, True),
    "to a tie": ("DDDDDDDDDDDDDDDDDD==", True, True),
    "only tied": ("====================", False, True),
    "late": ("KKKKKKKKKKKKKKKKKKDD", False, False),
}


@pytest.mark.parametrize("name", FATES)
def test_recovered_and_retained_follow_their_definitions(name):
    fate, expected_recovered, expected_retained = FATES[name]
    others = ["K" * 20] * 4
    assert recovered(record(fate, *others)).tolist() == [expected_recovered] + [False] * 4
    assert retained(record(fate, *others)).tolist() == [expected_retained] + [True] * 4


@given(st.integers(1, 45).flatmap(lambda epochs: st.text("DK=", min_size=epochs, max_size=epochs)))
@examples(60)
def test_gone_is_dropped_for_a_tenth_of_the_search_without_a_break(fate):
    long = "D" * min(len(fate), max(3, len(fate) // 10))
    assert gone(record(fate, *["K" * len(fate)] * 4)).tolist() == [long in fate] + [False] * 4


def test_the_start_before_the_first_step_does_not_count():
    run = record(*["K" * 4] * 5, start="D")
    assert not recovered(run).any()
    assert largest_drop(run) == 0


@pytest.mark.parametrize("epochs", [1, 2, 9, 10, 19])
def test_last_tenth_of_few_epochs_is_the_last_epoch(epochs):
    assert retained(record(*["D" * (epochs - 1) + "K"] * 5)).all()
    assert not retained(record(*["K" * (epochs - 1) + "D"] * 5)).any()


def test_edges_without_a_choice_are_left_out():
    topology = MINIMAL.with_operations((0, 2), "none").with_operations((0, 3), "sep_conv_5x5")
    topology = topology.without_operations("none", edge=(1, 3))
    run = record("DDDK", "DDDK", "DDDK", "DDDK", "KKKK", topology=topology)
    assert recovered(run).tolist() == [True, False]  # edges 1 and 4
    assert largest_drop(run) == 0.5


def test_two_kinds_of_cell_count_as_twice_the_edges():
    run = record(*["DDDK"] * 5, *["KKKK"] * 4, "DDDD", kinds=2)
    assert recovered(run).tolist() == [True] * 5 + [False] * 5
    assert retained(run).tolist() == [True] * 9 + [False]
    assert largest_drop(run) == 0.6
    assert recovery(run) == pytest.approx(5 / 6)
    only_reductions = replace(run, experiment=replace(run.experiment, reductions=(0, 1)))
    assert retained(only_reductions).tolist() == [True] * 4 + [False]


# the claims' numbers


def test_largest_drop_is_at_one_and_the_same_epoch_of_the_first_half():
    assert largest_drop(record("DKKK", "KDKK", "KDKK", "KKDD", "KKDD")) == 0.4
    assert largest_drop(record("KKDD", "KKDD", "KKDD", "KKDD", "KKDD")) == 0
    assert largest_drop(record("KDKK", "KDKK", "KDKK", "KDKK", "KDKK")) == 1


def test_largest_drop_of_one_epoch_looks_at_that_epoch():
    assert largest_drop(record("D", "D", "K", "K", "K")) == 0.4


def test_recovery_is_the_share_of_the_edges_that_were_gone():
    assert recovery(record("DDDKK", "DDDDD", "KDDDK", "KDKKK", "KKDDD")) == 0.5
    assert recovery(record("DDDD", "KKKK", "KKKK", "KKKK", "KKKK")) == 0


def test_recovery_is_nan_where_nothing_was_dropped():
    assert np.isnan(recovery(record(*["KK=K"] * 5)))


# intervals


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-10, 10), min_size=3, max_size=5))
def test_interval_cuts_two_and_a_half_percent_off_every_resample(values):
    # The bootstrap draws resamples; this enumerates all of them, so its means have exact frequencies.
    means = np.array([np.mean(resample) for resample in product(values, repeat=len(values))])
    low, high = interval(values)
    for end, tail in ((low, 0.025), (high, 0.975)):
        assert (means < end - 1e-9).mean() <= tail + 0.01
        assert (means <= end + 1e-9).mean() >= tail - 0.01


def test_interval_of_many_values_is_the_normal_one():
    values = np.random.default_rng(0).standard_normal(400)
    expected = values.mean() + np.array([-1.96, 1.96]) * values.std() / 20
    np.testing.assert_allclose(interval(values.tolist()), expected, atol=0.006)


def test_interval_is_the_same_every_time_and_disturbs_no_generator():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert interval([0.1, 0.5, 0.7]) == interval([0.1, 0.5, 0.7])
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_interval_of_equal_values_is_that_value():
    assert interval([0.3, 0.3, 0.3]) == (0.3, 0.3)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_interval_of_fewer_than_two_values_is_nan(values):
    assert np.isnan(interval(values)).all()


# verdicts


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ([0.9, 0.8, 0.95, 0.7], "holds"),
        ([0.1, 0.2, 0.0, 0.3], "fails"),
        ([0.1, 0.9, 0.2, 0.8], "undecided"),
        ([1.0, 1.0, 1.0], "holds"),
        ([0.5, 0.5, 0.5], "fails"),  # it holds above the threshold, not at it
        ([0.9, 0.9], "undecided"),
        ([0.9], "undecided"),
        ([], "undecided"),
        ([0.1, 0.1], "undecided"),
        ([np.nan, np.nan, np.nan], "undecided"),
        ([0.9, 0.9, np.nan], "undecided"),
        ([0.9, np.nan, 0.9, 0.8], "holds"),
        ([0.0, np.nan, 0.1, 0.1], "fails"),
    ],
)
def test_verdict_is_decided_by_the_interval_of_three_or_more_seeds(numbers, verdict):
    judgement = judged(numbers)
    there = [number for number in numbers if not np.isnan(number)]
    assert judgement.verdict == verdict
    assert judgement.seeds == len(there)
    if there:
        assert judgement.estimate == pytest.approx(np.mean(there))
    else:
        assert np.isnan(judgement.estimate)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=6), st.floats(0, 1), st.sampled_from(["above", "below"]))
def test_verdict_is_the_interval_s_side_of_the_threshold(numbers, threshold, side):
    judgement = judged(numbers, None, side, threshold)
    low, high = interval(numbers)
    assert (judgement.low, judgement.high) == (low, high)
    if side == "above":
        assert judgement.verdict == ("holds" if low > threshold else "fails" if high <= threshold else "undecided")
    else:
        assert judgement.verdict == ("holds" if high < threshold else "fails" if low >= threshold else "undecided")


def test_order_of_the_seeds_changes_no_verdict():
    one, other = judged([0.6, 0.7, 0.9], [1, 2, 3]), judged([0.9, 0.6, 0.7], [3, 1, 2])
    assert one.verdict == other.verdict == "holds"
    assert one.estimate == pytest.approx(other.estimate)


def test_two_runs_of_one_seed_are_refused_by_their_seeds():
    runs = [record(*["K"] * 5, seed=seed) for seed in (1, 2, 1)]
    with pytest.raises(ValueError, match=r"\[1, 2, 1\]"):
        judge("P1a", runs)


def test_unknown_claim_is_refused_with_the_claims_there_are():
    with pytest.raises(ValueError, match=r"'P9'.*P1a.*P1b"):
        judge("P9", [])


def test_p1_of_runs_that_drop_all_and_recover_some():
    fates = ["DDDK", "DDDD", "DDDD", "DDDK", "DDDD"]
    runs = [record(*fates[k:], *fates[:k], seed=k) for k in range(3)]
    assert judge("P1a", runs).verdict == "holds"
    assert judge("P1b", runs).verdict == "holds"
    assert judge("P1b", runs).estimate == pytest.approx(0.4)


def test_p1_of_runs_that_never_drop():
    runs = [record(*["KKKK"] * 5, seed=k) for k in range(3)]
    assert judge("P1a", runs).verdict == "fails"
    assert judge("P1b", runs).verdict == "undecided"
    assert judge("P1b", runs).seeds == 0


def led(lead, seed, **fields):
    """A run that ends with this lead of None on every edge, and lists a course."""
    course = np.zeros((2, 1, 5, 8))
    course[-1, ..., 0] = lead
    experiment = Experiment(seed=seed, **fields)
    return Record(experiment, pd.DataFrame(), {"course_alpha": course}, {})


def test_a_claim_against_other_runs_is_about_the_differences_of_pairs():
    alone, against = [led(0.3 + 0.1 * k, k) for k in range(3)], [led(0.5 + 0.3 * k, k) for k in range(3)]
    partners = [replace(run, experiment=replace(run.experiment, alpha_weight_decay=0.0)) for run in against]
    verdict = judge("X2", list(zip(alone, partners, strict=True)))
    assert verdict.estimate == pytest.approx(-0.4)
    assert (verdict.verdict, verdict.seeds) == ("holds", 3)
    assert verdict.claim.quantity.endswith(", minus that with alpha_weight_decay 0.0")
    assert judge("X2", []).seeds == 0
    for pairs in ([(alone[0], against[0])], [(partners[0], partners[0])], [(alone[0], partners[1])], alone):
        with pytest.raises(ValueError, match="X2"):
            judge("X2", pairs)
    with pytest.raises(ValueError, match="P1a"):
        judge("P1a", [(alone[0], partners[0])])
    log_sum = replace(alone[0], experiment=replace(alone[0].experiment, searcher="dsnas-log-sum"))
    with pytest.raises(ValueError, match=r"X4.*dsnas-code"):
        judge("X4", [(alone[0], log_sum)])
    assert np.isnan(measures.final_lead(record(*["KK"] * 5)))


@given(st.integers(0, 99))
@examples(20)
def test_an_edges_cost_is_the_mean_over_what_it_drew(seed):
    random = np.random.default_rng(seed)
    count = random.integers(0, 4, (2, 1, 3, 5, 8)).astype(float)
    count[..., 0] += 1  # every edge drew something
    mean = np.where(count > 0, random.normal(size=count.shape), np.nan)
    run = Record(Experiment(), pd.DataFrame(), {"cost_mean": mean, "cost_count": count}, {})
    for epoch, cell, edge in product((1, 2), range(3), range(5)):
        times, costs = (array[epoch - 1, 0, cell, edge] for array in (count, mean))
        drawn = [cost for cost, n in zip(costs, times, strict=True) for _ in range(int(n))]
        assert edge_costs(run, epoch)[cell, edge] == pytest.approx(sum(drawn) / len(drawn))


def priced(costs, topology=MINIMAL):
    """A run in whose first epoch every edge of every cell cost so much."""
    costs = np.array(costs)
    shape = (1, 1, *costs.shape, 8)
    arrays = {"cost_mean": np.broadcast_to(costs[..., None], shape), "cost_count": np.ones(shape)}
    return Record(Experiment(topology=topology, cells=len(costs)), pd.DataFrame(), arrays, {})


def test_what_an_edge_pays_for_depth_is_told_from_what_it_pays_for_its_place():
    # Cell 0 reads the stem twice. Cells 1 and 3 read by edges 1 and 3 what is a cell deeper than by 0 and 2; in cell 2
    # both are one deep.
    none, deep, place = [0.0] * 5, [-1.0, 1, -2, 2, 9], [-1.0, 2, -1, 2, 9]
    assert measures.depth_preference(priced([none, deep, none, deep])) == pytest.approx(3)
    assert measures.depth_preference(priced([place] * 4)) == pytest.approx(0)
    assert measures.depth_preference(priced([deep, place, deep, place])) == pytest.approx(0)
    assert measures.depth_preference(priced([none, none, place])) == pytest.approx(-3)
    swapped = [[own[1], own[0], own[3], own[2], own[4]] for own in (none, deep, none, deep)]
    assert measures.depth_preference(priced(swapped, TOPOLOGIES["swapped"])) == pytest.approx(3)
    for cells in ([none], [none, deep]):  # in two cells no two inputs are as deep
        assert np.isnan(measures.depth_preference(priced(cells)))
    assert np.isnan(measures.depth_preference(priced([deep] * 8, TOPOLOGIES["chain"])))


@given(st.sampled_from(["minimal", "swapped"]), st.integers(3, 9), st.integers(0, 2**32 - 1))
def test_shortest_ways_are_counted_as_by_going_every_way(name, cells, seed):
    topology = TOPOLOGIES[name]

    def ways(cell):
        """Every way from the stem to a cell's output, as the cells it goes through and whether past the last one."""
        for at in set(topology.sources(cell)):
            step = (cell, 0 if cell == 0 else 1 if at < cell else -1)
            yield from ([*before, step] for before in ways(at - 1)) if at else [[step]]

    every = list(ways(cells - 1))
    shortest = [way for way in every if len(way) == min(map(len, every))]
    foretold = np.array([np.sum([dict(way).get(cell, 0) for way in shortest]) for cell in range(1, cells)])

    random = np.random.default_rng(seed)
    costs, own = random.normal(size=(cells, 5)), [1, 3] if name == "minimal" else [0, 2]  # those from the last cell
    found = [
        costs[cell, own].mean() - costs[cell, [e for e in range(4) if e not in own]].mean() for cell in range(1, cells)
    ]
    expected = np.nan if np.ptp(foretold) == 0 else spearmanr(foretold, found).statistic
    assert measures.way_agreement(priced(costs, topology)) == pytest.approx(expected, nan_ok=True)
    assert np.isnan(measures.way_agreement(priced(costs, TOPOLOGIES["chain"])))


@pytest.mark.parametrize(("costs", "epoch"), [([2, 1, -1, 3, -2], 3), ([-1, 1], 1), ([2, 0], None)])
def test_the_turning_epoch_is_the_first_with_a_negative_cost(costs, epoch):
    assert turning_epoch(costly([0.1] * len(costs), costs)) == epoch


def test_verdict_as_text_says_claim_number_interval_and_seeds():
    assert str(judge("P1a", [record(*["DDKK"] * 5, seed=k) for k in range(3)])) == (
        "P1a holds: at the start of the search every edge is dropped\n"
        "  largest share of edges dropped at once in the first half:\n"
        "  1, 95 % interval [1, 1] over 3 seeds; holds above 0.9"
    )


@pytest.mark.parametrize("claim", [own for own in CLAIMS.values() if own.reference], ids=lambda claim: claim.id)
def test_a_claim_names_runs_that_can_be_made_and_is_undecided_without_them(claim):
    for fields in (claim.changes, claim.against):
        preflight(preset(claim.reference, **(fields or {})), device=False)
    assert judge(claim, []).verdict == "undecided"


def test_the_earlier_cells_push_is_the_sum_over_their_edges_beside_that_of_all():
    random = np.random.default_rng(0)
    p, costs = random.random((21, 1, 5, 8)), random.normal(size=(20, 2, 3, 5, 8))
    costs[0, 0, 0, 0, 3] = np.nan
    e = Experiment(cells=3, epochs=20, searcher="darts", level="bi")
    of_cells = [0.0, 0.0, 0.0]
    for epoch, cell, edge in product((18, 19), range(3), range(5)):
        w = p[epoch, 0, edge]
        of_cells[cell] += w[0] * sum(w[k] * costs[epoch, 0, cell, edge, k] for k in range(8))
    own = Record(e, pd.DataFrame(), {"probability": p, "cost_mean": costs}, {})
    assert measures.earlier_cells_push(own) == pytest.approx(abs((of_cells[0] + of_cells[1]) / sum(of_cells)))
    assert np.isnan(measures.earlier_cells_push(replace(own, experiment=replace(e, searcher="dsnas"))))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_where_a_verdict_has_no_number_its_json_has_none(value):
    verdict = judge(
        Claim("mine", "all is well", lambda run: value, "above", 0.5), [record(*["KKKK"] * 5, seed=k) for k in range(3)]
    )
    assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["estimate"] is None


def test_a_claim_of_ones_own_is_judged_and_named_by_its_statistic():
    def kept(run):
        """Share of edges that stay (no unit); a second sentence."""
        return float(retained(run).mean())

    mine = Claim("mine", "most edges stay", kept, "above", 0.5)
    runs = [record(*["KKKK"] * 5, seed=k) for k in range(3)]
    assert str(judge(mine, runs)).splitlines()[:2] == [
        "mine holds: most edges stay",
        "  share of edges that stay (no unit):",
    ]
    assert judge(mine, runs).to_dict()["claim"] == "mine"
    assert compare({"kept": runs}, [mine]).verdict["kept", "mine"] == "holds"
    assert replace(mine, statistic=lambda run: 0.0).quantity == "<lambda>"


def test_a_comparison_has_a_row_for_each_group_and_claim_that_its_runs_say_anything_of():
    never = [record(*["KKKK"] * 5, seed=k) for k in range(3)]
    always = [record(*["DDDK"] * 5, seed=k) for k in range(3)]
    table = compare({"never": never, "always": always, "once": always[:1]}, ("P1a", "P1b"))
    assert table.index.names == ["runs", "claim"]
    assert table.to_dict("split")["data"] == [
        ["fails", "0", "0 to 0", 3],
        ["holds", "1", "1 to 1", 3],
        ["holds", "1", "1 to 1", 3],
        ["undecided", "1", "none", 1],
        ["undecided", "1", "none", 1],
    ]
    assert ("never", "P1b") not in table.index


def test_of_a_live_comparison_the_notebooks_tests_compare_the_words():
    rules = ConfigParser(interpolation=None)
    rules.read(Path(__file__).parents[1] / "nbval.cfg")

    def compared(*dropped, live):
        runs = [record(*["DDKK"] * edges, *["KKKK"] * (5 - edges), seed=k) for k, edges in enumerate(dropped)]
        table = compare({"runs": runs}, ("P1a",), live)
        texts = [table.to_html(), str(table)]
        for rule in rules.sections():
            texts = [re.sub(rules[rule]["regex"], rules[rule]["replace"], text) for text in texts]
        return texts

    def all_differ(some, others):
        return all(one != other for one, other in zip(some, others, strict=True))

    few, none, every = (1, 1, 2), (0, 0, 0), (5, 5, 5)  # fails, fails, holds
    assert compared(*few, live=True) == compared(*none, live=True)
    assert all_differ(compared(*none, live=True), compared(*every, live=True))
    assert all_differ(compared(*few, live=False), compared(*none, live=False))


# Theorem 2 and the identities


def costly(accuracy, cost, seed=0, theta_lr=0.1):
    """A run of these accuracies and costs by epoch; rows of another split and group must not count."""
    rows = [
        {"epoch": epoch, "split": split, "group": group, "accuracy": a + shift, "cost": c + 7 * shift}
        for epoch, (a, c) in enumerate(zip(accuracy, cost, strict=True), 1)
        for split, group, shift in (("training", "all", 0), ("training", "correct", 1), ("search", "all", 2))
    ]
    return Record(Experiment(epochs=len(cost), seed=seed, theta_lr=theta_lr), pd.DataFrame(rows), {}, {})


def test_the_initial_cost_is_the_first_epochs_where_weights_stay():
    assert CLAIMS["T2b"].statistic(costly([0.1, 0.1], [0.3, 0.5], theta_lr=0.0)) == 0.3
    assert np.isnan(CLAIMS["T2b"].statistic(costly([0.1, 0.1], [0.3, 0.5])))


def test_high_accuracy_is_nine_tenths_and_its_cost_the_mean_there():
    assert CLAIMS["T2c-sign"].statistic(costly([0.5, 0.9, 0.95], [9.0, -0.2, -0.4])) == pytest.approx(-0.3)
    assert np.isnan(CLAIMS["T2c-sign"].statistic(costly([0.5, 0.89], [9.0, 9.0])))


def test_the_final_accuracy_is_the_last_epochs():
    assert final_accuracy(costly([0.1, 0.7], [1, 1])) == 0.7


@pytest.mark.parametrize(("cost", "trend"), [([3, 2, 1], -1), ([1, 20, 300], 1), ([1, 3, 2], 0.5)])
def test_the_trend_is_a_rank_correlation(cost, trend):
    assert CLAIMS["T2c-trend"].statistic(costly([0.1, 0.2, 0.9], cost)) == pytest.approx(trend)


def test_no_trend_in_two_epochs():
    assert np.isnan(CLAIMS["T2c-trend"].statistic(costly([0.1, 0.2], [1, 2])))


def costing(straight, intermediate=0.0, topology=TOPOLOGIES["simplified"], **fields):
    """A run whose measured mean costs of all but None are these, on the last edge and on those before it."""
    means = np.zeros((2, 1, 1, len(topology.edges), 8))
    means[1, ..., :-1, 1:], means[1, ..., -1, 1:] = straight, intermediate
    experiment = Experiment(searcher="uniform", epochs=1, measuring_epochs=1, cells=1, topology=topology, **fields)
    return Record(experiment, pd.DataFrame(), {"cost_mean": means, "cost_count": np.ones_like(means)}, {})


OF_COST = {
    "T2b": (1, lambda cost: costly([0.1], [cost], theta_lr=0.0)),
    "T2c-sign": (-1, lambda cost: costly([0.95], [cost])),
    "T2c-trend": (-1, lambda cost: costly([0.1, 0.2, 0.3], [1, 1 + cost, 1 + 2 * cost])),
    "H1-initial-every": (1, lambda cost: costing(cost, cost, theta_lr=0.0)),
    "H1-trained-every": (-1, lambda cost: costing(cost, cost)),
    "D1": (1, lambda cost: costing(0.7, 0.7 + cost)),
    "D2-remains": (1, lambda cost: costing(0.7, 0.7 + cost)),
    "D3-sign": (1, costing),
    "D3-order": (-1, lambda cost: costing(0.7, 0.7 + cost)),
}


@pytest.mark.parametrize("claim", OF_COST)
def test_claims_on_a_costs_sign_hold_on_their_side_of_zero(claim):
    good, run = OF_COST[claim]
    good *= 0.1
    assert verdict_on(claim, map(run, (good, 2 * good, 3 * good))) == "holds"
    assert verdict_on(claim, map(run, (-good, -2 * good, -3 * good))) == "fails"
    assert verdict_on(claim, map(run, (good, -good, good, -good))) == "undecided"
    assert verdict_on(claim, map(run, (good, good))) == "undecided"


@pytest.mark.parametrize("identity", ["T1", "CA", "CO", "T2a"])
def test_an_identity_holds_to_rounding(identity):
    def verdict(*residuals):
        return judge(identity, [Report({identity: Finding(own, True, "")}, 1.0) for own in residuals]).verdict

    assert CLAIMS[identity].threshold == claims.ROUNDING == 1e-10
    assert verdict(1e-15, 1e-16, 1e-14) == "holds"
    assert verdict(1e-15, 1e-16, 1e-3) == "undecided"
    assert verdict(1e-5, 1e-6, 1e-3) == "fails"
    assert verdict(1e-15, 1e-16) == "undecided"


# P2, P3, X1 and the bi-level claims


def test_width_preference_is_the_difference_of_the_shares_retained():
    statistic = CLAIMS["P2"].statistic
    assert statistic(record("K", "K", "K", "K", "D")) == 1
    assert statistic(record("D", "K", "K", "K", "D")) == 0.75
    assert statistic(record("D", "D", "D", "K", "K")) == -0.75
    darts = ["K"] * 14
    for edge, (i, _) in enumerate(TOPOLOGIES["darts"].edges):
        darts[edge] = "D" if i >= 2 else "K"
    darts[2] = "K"  # of six intermediate edges one is kept
    assert TOPOLOGIES["darts"].edges[4] == (2, 3)
    darts[4] = "K"
    assert statistic(record(*darts, topology=TOPOLOGIES["darts"])) == pytest.approx(5 / 6)


def test_preferences_of_two_kinds_of_cell_count_both():
    both = record(*"KKKKD", *"DDDDK", kinds=2)
    assert CLAIMS["P2"].statistic(both) == pytest.approx(0.5 - 0.5)
    assert CLAIMS["X1"].statistic(record(*"KDKDD", *"KDKDD", kinds=2)) == 1


def test_bypass_preference_contrasts_the_two_inputs_alone():
    statistic = CLAIMS["X1"].statistic
    assert statistic(record("K", "D", "K", "D", "D")) == 1
    assert statistic(record("K", "D", "K", "K", "K")) == 0.5
    assert statistic(record("D", "K", "D", "K", "K")) == -1


def test_preferences_need_both_kinds_of_edges():
    no_intermediate = MINIMAL.without_edges((2, 3))
    assert np.isnan(CLAIMS["P2"].statistic(record(*"KKKK", topology=no_intermediate)))
    one_input = TOPOLOGIES["simplified"]
    assert np.isnan(CLAIMS["X1"].statistic(record(*"KKK", topology=one_input)))
    fixed = MINIMAL.with_operations((2, 3), "sep_conv_3x3")  # no choice, so no fate
    assert np.isnan(CLAIMS["P2"].statistic(record(*"KKKKK", topology=fixed)))


def test_retention_is_the_share_retained():
    assert CLAIMS["P3"].statistic(record("DD", "KD", "DK", "KK", "DD")) == 0.4


def bi_level(values, epochs=20):
    """A run whose scalars (split, group, column) are these in the last tenth, and 99 times as large before."""
    rows = [
        {"epoch": epoch, "split": split, "group": group, "loss": 1.0, "entropy": 1.0, "cost": 1.0}
        | {
            key[2]: value * (1 if epoch > epochs - 2 else 99)
            for key, value in values.items()
            if key[:2] == (split, group)
        }
        for epoch in range(1, epochs + 1)
        for split in ("training", "search")
        for group in ("all", "correct", "wrong")
    ]
    return Record(Experiment(epochs=epochs, level="bi"), pd.DataFrame(rows), {}, {})


@pytest.mark.parametrize(
    ("claim", "key", "value", "number"),
    [
        ("B1", ("search", "correct", "loss"), 1.4, 1.4),
        ("B1", ("training", "correct", "entropy"), 1.25, 1.25),
        ("B1", ("search", "correct", "entropy"), 0.5, 2.0),
        ("B2-loss", ("search", "wrong", "loss"), 3.0, 3.0),
        ("B2-entropy", ("training", "wrong", "entropy"), 2.0, 0.5),
        ("B3", ("search", "all", "cost"), -0.5, -0.5),
    ],
)
def test_bi_level_claims_compare_the_splits_late_in_the_search(claim, key, value, number):
    assert CLAIMS[claim].statistic(bi_level({key: value})) == pytest.approx(number)


def test_bi_level_claims_say_nothing_of_a_single_level_run():
    one = bi_level({})
    one = replace(one, scalars=one.scalars.query("split == 'training'"))
    assert all(np.isnan(CLAIMS[claim].statistic(one)) for claim in ("B1", "B2-loss", "B2-entropy", "B3"))


def test_the_generalisation_gap_is_the_late_difference_of_the_accuracies():
    run = bi_level({("training", "all", "accuracy"): 0.9, ("search", "all", "accuracy"): 0.4})
    assert measures.generalisation_gap(run) == pytest.approx(0.5)


# H1, D1 to D3


def test_equal_training_is_judged_beside_the_simplified_cell_of_the_same_seed():
    def pairs(*excesses):
        return [
            (costing(0.2, 0.2 + own, TOPOLOGIES["equal"], seed=k), costing(0.1, 0.1 + other, seed=k))
            for k, (own, other) in enumerate(excesses)
        ]

    verdict = judge("D2-fall", pairs((0.1, 0.3), (0.0, 0.3), (-0.1, 0.3)))
    assert (verdict.verdict, verdict.estimate) == ("holds", pytest.approx(-0.3))
    assert judge("D2-fall", pairs((0.4, 0.3), (0.5, 0.3), (0.6, 0.3))).verdict == "fails"
    with pytest.raises(ValueError, match="D2-fall"):
        judge("D2-fall", [(partner, run) for run, partner in pairs((0.1, 0.3))])
    for run, partner in verdicts.recorded(CLAIMS["D2-fall"]):
        assert run.experiment.seed == partner.experiment.seed
        assert anywhere(run.experiment) == anywhere(preset("d2-reference", seed=run.experiment.seed))
        assert anywhere(partner.experiment) == anywhere(preset("d1-reference", seed=run.experiment.seed))


def test_the_control_is_the_simplified_cell_with_its_first_edge_fixed_and_one_output():
    topology = PRESETS["d3-reference"].topology
    assert topology.edges == ((1, 2), (1, 3), (2, 3))
    assert [len(names) for names in topology.candidates] == [1, 8, 8]
    assert topology.output == (3,)


def test_the_equal_cell_is_the_simplified_cell_whose_first_edge_is_never_none():
    topology = PRESETS["d2-reference"].topology
    assert topology.edges == TOPOLOGIES["simplified"].edges == ((0, 1), (0, 2), (1, 2))
    assert [names[0] for names in topology.candidates] == ["skip_connect", "none", "none"]


# all of them


def test_statistics_sides_and_thresholds_are_as_fixed():
    fixed = {
        "P1a": (measures.largest_drop, "above", 0.9),
        "P1b": (measures.recovery, "above", 0),
        "P2": (measures.width_preference, "above", 0),
        "P3": (measures.retention, "below", 0.1),
        "X1": (measures.bypass_preference, "above", 0),
        "X2": (measures.final_lead, "below", 0),
        "X3": (measures.final_lead, "below", 0),
        "X4": (measures.final_lead, "below", 0),
        "X5": (measures.depth_preference, "above", 0),
        "X6": (measures.way_agreement, "above", 0),
        "B1": (measures.gap_of_correct, "below", 1.5),
        "B2-loss": (measures.loss_gap_of_wrong, "above", 1.5),
        "B2-entropy": (measures.entropy_gap_of_wrong, "below", 1 / 1.5),
        "B3": (measures.late_search_cost, "above", 0),
        "H1-initial-every": (measured.lowest_initial, "above", 0),
        "H1-initial-most": (measured.positive_share, "above", 0.5),
        "H1-trained-every": (measured.highest_trained, "below", 0),
        "H1-trained-most": (measured.negative_share, "above", 0.5),
        "D1": (measured.least_excess, "above", 0),
        "D2-fall": (measured.intermediate_excess, "below", 0),
        "D2-remains": (measured.intermediate_excess, "above", 0),
        "D3-sign": (measured.straight_cost, "above", 0),
        "D3-order": (measured.intermediate_excess, "below", 0),
        "T2b": (measures.initial_cost, "above", 0),
        "T2c-sign": (measures.cost_at_high_accuracy, "below", 0),
        "T2c-trend": (measures.cost_trend, "below", 0),
        "R0": (measures.retention, "below", 0.1),
        "R1": (measures.final_lead, "below", 0),
        "R2": (measures.final_lead, "below", 0),
        "R3": (measures.retention, "above", 0.5),
        "R4-lead": (measures.final_lead, "below", 0),
        "R4-sign": (measures.final_lead, "above", 0),
        "R5": (measures.retention, "below", 0.1),
        "R6": (measures.final_lead, "above", 0),
        "R7": (measures.retention, "below", 0.1),
        "R8": (measures.earlier_cells_push, "below", 0.1),
        "R9": (measures.final_lead, "below", 0.0),
        "R10": (measures.final_lead, "below", 0.0),
        "R11": (measures.strongest_accuracy, "above", 0.0),
        "R12": (measures.gain_of_dropping, "below", 0.0),
    }
    own = {claim.id: (claim.statistic, claim.side, claim.threshold) for claim in CLAIMS.values() if claim.reference}
    assert own == fixed
    assert all((own.side, own.threshold) == ("below", claims.ROUNDING) for own in CLAIMS.values() if not own.reference)
    assert measures.HIGH_ACCURACY == 0.9
    assert verdicts.FEWEST_SEEDS == 3


def test_every_claim_gets_a_verdict_from_its_own_records_as_it_is_found(monkeypatch):
    asked = []
    monkeypatch.setattr(verdicts, "load_reference", lambda name, **changes: asked.append(name) or [])
    one_by_one = verdicts.judge_all()
    assert next(one_by_one).claim.id == "P1a"
    assert asked == ["p1-long-reference"]
    rest = list(one_by_one)
    assert ["P1a", *(own.claim.id for own in rest)] == list(CLAIMS)
    assert set(asked) <= set(PRESETS)
    assert {own.claim.id for own in rest if own.verdict == "holds"} == {"T1", "CA", "CO", "T2a"}
    assert all(own.verdict == "undecided" and own.seeds == 0 for own in rest if own.claim.reference)


def test_without_recorded_runs_nothing_is_judged(monkeypatch, tmp_path):
    monkeypatch.setattr(verdicts, "REFERENCE", tmp_path / "reference")
    with pytest.raises(ValueError, match="no recorded runs"):
        verdicts.judge_all()


def test_recorded_runs_are_named_by_searcher_and_cells():
    assert list(verdicts.references()) == [
        "DSNAS, 8 minimal cells",
        "DSNAS, 4 DARTS cells",
        "DSNAS, 1 minimal cell",
        "SNAS, 1 minimal cell",
        "DARTS, 8 minimal cells",
    ]


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claims_chapter_names_it(claim):
    assert re.search(rf"\b{claim}\b", chapters()[CLAIMS[claim].chapter].read_text())
