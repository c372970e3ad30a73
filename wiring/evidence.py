"""The claims' definitions and statistics. They were fixed before anything was measured, and are never tuned.

*Dropped*: None is strictly the most probable operation of the edge. *Recovered*: dropped at some epoch, and not
dropped at any epoch of the last tenth of the search. *Retained*: not dropped at any epoch of the last tenth.

A claim is one number per run (:data:`CLAIMS`). Over several seeds they give an estimate, a 95 % interval and a
verdict: *holds* if the whole interval lies on the claim's side of its threshold, *fails* if it lies on the other
side, *undecided* otherwise or with fewer than three seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import bootstrap

from wiring.operations import NONE
from wiring.records import Record

#: Below this number of seeds nothing is decided.
FEWEST_SEEDS = 3


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
        The number of one run; NaN where the run says nothing.
    threshold
        The claim holds above it.
    """

    statement: str
    quantity: str
    statistic: Callable[[Record], float]
    threshold: float


CLAIMS: dict[str, Claim] = {
    "P1a": Claim(
        "at the start of the search every edge is dropped",
        "largest share of edges dropped at once in the first half",
        largest_drop,
        0.9,
    ),
    "P1b": Claim(
        "later some of the dropped edges recover",
        "share of dropped edges that recover",
        recovery,
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
            f"  {claim.quantity}:\n  {self.estimate:.2f}, 95 % interval [{self.low:.2f}, {self.high:.2f}] "
            f"over {self.seeds} seeds; holds above {claim.threshold:g}"
        )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over seeds; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    if len(set(values)) == 1:  # every resample has this mean
        return values[0], values[0]
    found = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


def judge(claim: str, records: Sequence[Record]) -> Verdict:
    """The verdict on a claim from runs that differ in their seed.

    Raises
    ------
    ValueError
        If there is no such claim, two records have the same seed, or they differ in more than the seed.
    """
    if claim not in CLAIMS:
        raise ValueError(f"claim {claim!r}: allowed are {', '.join(CLAIMS)}")
    seeds = [record.experiment.seed for record in records]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {seeds}: every run must have a seed of its own")
    if len({replace(record.experiment, seed=0) for record in records}) > 1:
        raise ValueError("the records are of different experiments; they may differ in the seed alone")
    numbers = [CLAIMS[claim].statistic(record) for record in records]
    values = [value for value in numbers if not np.isnan(value)]
    low, high = interval(values)
    threshold = CLAIMS[claim].threshold
    verdict: Literal["holds", "fails", "undecided"] = "undecided"
    if len(values) >= FEWEST_SEEDS and low > threshold:
        verdict = "holds"
    elif len(values) >= FEWEST_SEEDS and high <= threshold:
        verdict = "fails"
    return Verdict(claim, verdict, float(np.mean(values)) if values else float("nan"), low, high, len(values))
