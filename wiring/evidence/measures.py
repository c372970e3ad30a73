"""Measures: one number, or one mark an edge, from the record of one run.

*Dropped*: None is strictly the most probable operation of the edge. *Recovered*: dropped at some epoch, and not
dropped at any epoch of the last tenth of the search. *Retained*: not dropped at any epoch of the last tenth.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import spearmanr

from wiring.search.records import Record
from wiring.search.searchers import dropped
from wiring.supernet.operations import NONE

#: The share of correctly classified images from which on an accuracy is called high.
HIGH_ACCURACY = 0.9


def _fate(record: Record) -> tuple[Bool[np.ndarray, "epoch edge"], Bool[np.ndarray, "late edge"]]:
    """``dropped`` after every epoch, and in the last tenth, of the edges that have a choice, kinds of cell joined."""
    over_epochs = dropped(record.arrays["probability"])[1:, :, _choice(record)].reshape(record.experiment.epochs, -1)
    return over_epochs, over_epochs[-max(1, record.experiment.epochs // 10) :]


def _choice(record: Record) -> Bool[np.ndarray, " edge"]:
    """Which edges have a choice between None and another operation."""
    allowed = record.experiment.topology.allowed().numpy()
    return np.asarray(allowed[:, NONE] & (allowed.sum(1) > 1))


def recovered(record: Record) -> Bool[np.ndarray, " edge"]:
    """Which edges were dropped at some epoch, and not in the last tenth of the search."""
    over_epochs, late = _fate(record)
    return np.asarray(over_epochs.any(0) & ~late.any(0))


def retained(record: Record) -> Bool[np.ndarray, " edge"]:
    """Which edges were not dropped in the last tenth of the search."""
    return np.asarray(~_fate(record)[1].any(0))


def largest_drop(record: Record) -> float:
    """The largest share of the edges that are dropped at one and the same epoch of the first half."""
    over_epochs, _ = _fate(record)
    early = over_epochs[: max(1, len(over_epochs) // 2)]
    return float(early.mean(1).max()) if early.size else float("nan")


def recovery(record: Record) -> float:
    """The share of the edges dropped at some epoch that recovered; NaN if none was dropped."""
    over_epochs, _ = _fate(record)
    ever = over_epochs.any(0)
    return float(recovered(record)[ever].mean()) if ever.any() else float("nan")


def turning_epoch(record: Record) -> int | None:
    """The first epoch whose mean cost at the last cell's output is negative on the training split, if any's is."""
    negative = _training(record).query("cost < 0")
    return None if negative.empty else int(negative.epoch.iloc[0])


def width_preference(record: Record) -> float:
    """Share of the input edges that are retained minus that of the intermediate edges; NaN without both."""
    topology = record.experiment.topology
    return _contrast(record, np.array([topology.is_input_edge(edge) for edge in range(len(topology.edges))]))


def bypass_preference(record: Record) -> float:
    """Share of the edges from the cell before last that are retained minus that of those from the last cell.

    Other edges are left out; NaN without both.
    """
    topology = record.experiment.topology
    back = [topology.inputs[i] if i < len(topology.inputs) else 0 for i, _ in topology.edges]
    return _contrast(record, np.array(back) == 2, np.array(back) == 1)


def retention(record: Record) -> float:
    """The share of the edges that are retained."""
    return float(retained(record).mean())


def _contrast(
    record: Record, first: Bool[np.ndarray, " edge"], second: Bool[np.ndarray, " edge"] | None = None
) -> float:
    """Share retained among the first edges minus that among the second (by default the rest); all kinds of cell."""
    second = ~first if second is None else second
    choice = _choice(record)
    kinds = record.arrays["probability"].shape[1]
    kept = retained(record)
    shares = [kept[np.tile(edges[choice], kinds)] for edges in (first, second)]
    return float(shares[0].mean() - shares[1].mean()) if all(map(len, shares)) else float("nan")


def gap_of_correct(record: Record) -> float:
    """The larger factor by which L or H of correct images differ between the splits, late in the search."""
    ratios = [_late_ratio(record, "correct", quantity) for quantity in ("loss", "entropy")]
    return float(np.exp(np.abs(np.log(ratios)).max()))


def loss_gap_of_wrong(record: Record) -> float:
    """L of wrong images on the search split, in units of that on the training split, late in the search."""
    return _late_ratio(record, "wrong", "loss")


def entropy_gap_of_wrong(record: Record) -> float:
    """The same ratio of H."""
    return _late_ratio(record, "wrong", "entropy")


def late_search_cost(record: Record) -> float:
    """The mean cost at the last cell's output on the search split in the last tenth of the search, in nats."""
    return float(_late(record, "search", "all").cost.mean())


def generalisation_gap(record: Record) -> float:
    """Accuracy on the training split minus that on the search split, in the last tenth of the search."""
    return float(_late(record, "training", "all").accuracy.mean() - _late(record, "search", "all").accuracy.mean())


def _late_ratio(record: Record, group: str, quantity: str) -> float:
    means = [_late(record, split, group)[quantity].mean() for split in ("search", "training")]
    return float(means[0] / means[1])


def _late(record: Record, split: str, group: str) -> pd.DataFrame:
    """The scalars of the last tenth of the search; no rows where the search has no such split."""
    own = record.scalars.query("split == @split and group == @group")
    return own[own.epoch > record.experiment.epochs - max(1, record.experiment.epochs // 10)]


def initial_cost(record: Record) -> float:
    """The mean cost at the last cell's output, in nats, over an epoch at the initial weights; NaN if these learn."""
    return float(_training(record).cost.iloc[0]) if record.experiment.theta_lr == 0 else float("nan")


def cost_at_high_accuracy(record: Record) -> float:
    """The mean of that cost over the epochs of high accuracy; NaN if there is none."""
    return float(_training(record).query("accuracy >= @HIGH_ACCURACY").cost.mean())


def cost_trend(record: Record) -> float:
    """Spearman's rank correlation of that cost with the accuracy, over the epochs; NaN for fewer than three."""
    epochs = _training(record)
    return float(spearmanr(epochs.accuracy, epochs.cost).statistic) if len(epochs) > 2 else float("nan")


def positive_share(record: Record) -> float:
    """The share of the operations of all edges, None left out, whose mean cost at the initial weights is positive.

    NaN if the weights learn.
    """
    return float((_means(record, 0) > 0).mean()) if record.experiment.theta_lr == 0 else float("nan")


def negative_share(record: Record) -> float:
    """The share of them whose mean cost in the last epoch is negative; NaN unless α is fixed and the weights learn."""
    e = record.experiment
    trained = e.searcher == "uniform" and e.theta_lr > 0
    return float((_means(record, -1) < 0).mean()) if trained else float("nan")


def intermediate_excess(record: Record) -> float:
    """The mean cost of an operation on the intermediate edge minus that of the same on the edge beside it.

    Over all operations that both edges may carry, None left out, and all epochs, in nats: edge (1, 2) against (0, 2) in
    the simplified cell, (2, 3) against (1, 3) in the minimal cell and its control.
    """
    topology = record.experiment.topology
    first = len(topology.inputs)
    intermediate, straight = (topology.edges.index(edge) for edge in ((first, first + 1), (first - 1, first + 1)))
    means = record.arrays["cost_mean"][:, 0, :, :, NONE + 1 :].mean(1)
    return float(np.nanmean(means[:, intermediate] - means[:, straight]))


def _means(record: Record, epoch: int) -> Float[np.ndarray, " operation"]:
    """The mean costs of an epoch on the training split, of all operations but None that the edges may carry."""
    means = record.arrays["cost_mean"][epoch, 0, ..., NONE + 1 :]
    return np.asarray(means[~np.isnan(means)])


def _training(record: Record) -> pd.DataFrame:
    """The scalars of the images that θ learns from, one row per epoch."""
    return record.scalars.query("split == 'training' and group == 'all'")
