"""The claims' definitions and statistics. They were fixed before anything was measured, and are never tuned.

*Dropped*: None is strictly the most probable operation of the edge. *Recovered*: dropped at some epoch, and not
dropped at any epoch of the last tenth of the search. *Retained*: not dropped at any epoch of the last tenth.

A claim is one number per run (:data:`CLAIMS`). Over several seeds they give an estimate, a 95 % interval and a
verdict: *holds* if the whole interval lies on the claim's side of its threshold, *fails* if it lies on the other
side, *undecided* otherwise or with fewer than three seeds. An identity is judged alike, by the residual that a model's
report (:func:`wiring.identities.verify`) gives it in double precision with a vanishing eps: it is to be rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import bootstrap, spearmanr

from wiring.identities import Report
from wiring.operations import NONE
from wiring.records import Record

#: Below this number of seeds nothing is decided.
FEWEST_SEEDS = 3
#: The share of correctly classified images from which on an accuracy is called high.
HIGH_ACCURACY = 0.9
#: A residual below this, as a share of the costs it is made of, is rounding in double precision.
ROUNDING = 1e-10


def dropped(probability: Float[np.ndarray, "*time edge operation"]) -> Bool[np.ndarray, "*time edge"]:
    """Whether None is strictly the most probable operation of an edge."""
    return probability[..., NONE] > np.delete(probability, NONE, axis=-1).max(-1)


def _fate(record: Record) -> tuple[Bool[np.ndarray, "epoch edge"], Bool[np.ndarray, "late edge"]]:
    """``dropped`` after every epoch, and in the last tenth, of the edges that have a choice, kinds of cell joined."""
    allowed = record.experiment.topology.allowed().numpy()
    choice = allowed[:, NONE] & (allowed.sum(1) > 1)
    over_epochs = dropped(record.arrays["probability"])[1:, :, choice].reshape(record.experiment.epochs, -1)
    return over_epochs, over_epochs[-max(1, record.experiment.epochs // 10) :]


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


def _training(record: Record) -> pd.DataFrame:
    """The scalars of the images that θ learns from, one row per epoch."""
    return record.scalars.query("split == 'training' and group == 'all'")


def _residual(identity: str) -> Callable[[Report], float]:
    return lambda report: report[identity].residual


@dataclass(frozen=True)
class Claim:
    """A statement of the paper as a number per run.

    Parameters
    ----------
    statement
        What is claimed.
    quantity
        What the number is, as a verdict names it.
    statistic
        The number of one run's record, or of one model's report; NaN where it says nothing.
    side
        On which side of the threshold the claim holds.
    threshold
        See ``side``.
    """

    statement: str
    quantity: str
    statistic: Callable[[Any], float]
    side: Literal["above", "below"]
    threshold: float


CLAIMS: dict[str, Claim] = {
    "P1a": Claim(
        "at the start of the search every edge is dropped",
        "largest share of edges dropped at once in the first half",
        largest_drop,
        "above",
        0.9,
    ),
    "P1b": Claim(
        "later some of the dropped edges recover",
        "share of dropped edges that recover",
        recovery,
        "above",
        0.0,
    ),
    "T1": Claim(
        "no cost passes a normalised operation",
        "largest share of its cost that any operation passes on",
        _residual("T1"),
        "below",
        ROUNDING,
    ),
    "CA": Claim(
        "the cost at a cell's output is assigned to its edges",
        "largest share of the edges' costs that is missing at their cell's output",
        _residual("CA"),
        "below",
        ROUNDING,
    ),
    "CO": Claim(
        "in every cell but the last the edges' costs sum to zero",
        "largest sum of a cell's costs, as a share of them",
        _residual("CO"),
        "below",
        ROUNDING,
    ),
    "T2a": Claim(
        "the cost at the last cell's output is L - H",
        "difference of the two, as a share of L + H",
        _residual("T2a"),
        "below",
        ROUNDING,
    ),
    "T2b": Claim(
        "at the initial weights that cost is positive in expectation",
        "mean cost at the initial weights (nats)",
        initial_cost,
        "above",
        0.0,
    ),
    "T2c-sign": Claim(
        "at high accuracy that cost is not positive",
        f"mean cost over the epochs with an accuracy of {HIGH_ACCURACY:g} or more (nats)",
        cost_at_high_accuracy,
        "below",
        0.0,
    ),
    "T2c-trend": Claim(
        "that cost falls as accuracy rises",
        "rank correlation of cost and accuracy over the epochs",
        cost_trend,
        "below",
        0.0,
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What records say of a claim. ``low`` and ``high`` bound the 95 % interval over seeds (NaN if there is none)."""

    claim: str
    verdict: Literal["holds", "fails", "undecided"]
    estimate: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        claim = CLAIMS[self.claim]
        return (
            f"{self.claim} {self.verdict}: {claim.statement}\n"
            f"  {claim.quantity}:\n  {self.estimate:.2g}, 95 % interval [{self.low:.2g}, {self.high:.2g}] "
            f"over {self.seeds} seeds; holds {claim.side} {claim.threshold:g}"
        )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over seeds; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    if len(set(values)) == 1:  # every resample has this mean
        return values[0], values[0]
    found = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


def judge(claim: str, evidence: Sequence[Record] | Sequence[Report]) -> Verdict:
    """The verdict on a claim from runs that differ in their seed, or from the reports of as many models.

    Raises
    ------
    ValueError
        If there is no such claim, two records have the same seed, or they differ in more than the seed.
    """
    if claim not in CLAIMS:
        raise ValueError(f"claim {claim!r}: allowed are {', '.join(CLAIMS)}")
    experiments = [own.experiment for own in evidence if isinstance(own, Record)]
    seeds = [experiment.seed for experiment in experiments]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {seeds}: every run must have a seed of its own")
    if len({replace(experiment, seed=0) for experiment in experiments}) > 1:
        raise ValueError("the records are of different experiments; they may differ in the seed alone")
    numbers = [CLAIMS[claim].statistic(own) for own in evidence]
    values = [value for value in numbers if not np.isnan(value)]
    low, high = interval(values)
    sign = 1 if CLAIMS[claim].side == "above" else -1
    margins = sorted(sign * (end - CLAIMS[claim].threshold) for end in (low, high))
    verdict: Literal["holds", "fails", "undecided"] = "undecided"
    if len(values) >= FEWEST_SEEDS and margins[0] > 0:
        verdict = "holds"
    elif len(values) >= FEWEST_SEEDS and margins[1] <= 0:
        verdict = "fails"
    return Verdict(claim, verdict, float(np.mean(values)) if values else float("nan"), low, high, len(values))
