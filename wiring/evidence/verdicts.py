"""The claims' definitions and statistics. They were fixed before anything was measured, and are never tuned.

*Dropped*: None is strictly the most probable operation of the edge. *Recovered*: dropped at some epoch, and not
dropped at any epoch of the last tenth of the search. *Retained*: not dropped at any epoch of the last tenth.

A claim is one number per run (:data:`CLAIMS`). Over several seeds they give an estimate, a 95 % interval and a
verdict: *holds* if the whole interval lies on the claim's side of its threshold, *fails* if it lies on the other
side, *undecided* otherwise or with fewer than three seeds. An identity is judged alike, by the residual that a model's
report (:func:`wiring.costs.identities.verify`) gives it in double precision with a vanishing eps: it is to be rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import bootstrap, spearmanr

from wiring.datasets import sample
from wiring.costs.identities import Report, verify_random
from wiring.supernet.operations import NONE
from wiring.search.records import Record, load_reference
from wiring.supernet.topology import MINIMAL

#: Below this number of seeds nothing is decided.
FEWEST_SEEDS = 3
#: The share of correctly classified images from which on an accuracy is called high.
HIGH_ACCURACY = 0.9
#: Losses or entropies of two splits are comparable if they differ by less than this factor, and far apart otherwise.
COMPARABLE = 1.5
#: A residual below this, as a share of the costs it is made of, is rounding in double precision.
ROUNDING = 1e-10


def dropped(probability: Float[np.ndarray, "*time edge operation"]) -> Bool[np.ndarray, "*time edge"]:
    """Whether None is strictly the most probable operation of an edge."""
    return probability[..., NONE] > np.delete(probability, NONE, axis=-1).max(-1)


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
    chapter
        The book's chapter about it.
    reference
        The preset whose recorded runs the book judges it by; None for an identity, which is checked anew.
    """

    statement: str
    quantity: str
    statistic: Callable[[Any], float]
    side: Literal["above", "below"]
    threshold: float
    chapter: str
    reference: str | None = None


CLAIMS: dict[str, Claim] = {
    "P1a": Claim(
        "at the start of the search every edge is dropped",
        "largest share of edges dropped at once in the first half",
        largest_drop,
        "above",
        0.9,
        "p1",
        "p1-reference",
    ),
    "P1b": Claim(
        "later some of the dropped edges recover",
        "share of dropped edges that recover",
        recovery,
        "above",
        0.0,
        "p1",
        "p1-reference",
    ),
    "P2": Claim(
        "input edges are kept and intermediate edges are not",
        "share of input edges retained minus that of intermediate edges",
        width_preference,
        "above",
        0.0,
        "p2",
        "p1-reference",
    ),
    "P3": Claim(
        "bi-level search drops every edge for good",
        "share of edges retained",
        retention,
        "below",
        0.1,
        "p3",
        "p3-reference",
    ),
    "X1": Claim(
        "edges from the cell before last are kept rather than those from the last cell",
        "share retained of the former minus that of the latter",
        bypass_preference,
        "above",
        0.0,
        "p2",
        "p1-reference",
    ),
    "B1": Claim(
        "on correctly classified images L and H are comparable on both splits",
        "largest factor between the splits late in the search",
        gap_of_correct,
        "below",
        COMPARABLE,
        "p3",
        "p3-reference",
    ),
    "B2-loss": Claim(
        "on wrongly classified images L is far higher on the search split",
        "L on the search split / L on the training split, late in the search",
        loss_gap_of_wrong,
        "above",
        COMPARABLE,
        "p3",
        "p3-reference",
    ),
    "B2-entropy": Claim(
        "on wrongly classified images H is far lower on the search split",
        "H on the search split / H on the training split, late in the search",
        entropy_gap_of_wrong,
        "below",
        1 / COMPARABLE,
        "p3",
        "p3-reference",
    ),
    "B3": Claim(
        "the search split's cost stays positive",
        "mean cost on the search split late in the search (nats)",
        late_search_cost,
        "above",
        0.0,
        "p3",
        "p3-reference",
    ),
    "H1-initial": Claim(
        "near initialisation the mean cost of every operation but None is positive",
        "share of the edges' operations with a positive mean cost",
        positive_share,
        "above",
        0.9,
        "cost-means",
        "initial-reference",
    ),
    "H1-trained": Claim(
        "near convergence of the weights the mean cost of every operation but None is negative",
        "share of the edges' operations with a negative mean cost",
        negative_share,
        "above",
        0.9,
        "cost-means",
        "uniform-reference",
    ),
    "D1": Claim(
        "in the simplified cell an operation costs more on the intermediate than on the straight edge",
        "mean cost on the intermediate edge minus that on the straight one, all epochs (nats)",
        intermediate_excess,
        "above",
        0.0,
        "intermediate-edges",
        "simplified-reference",
    ),
    "D2": Claim(
        "trained as often as the straight edge, the intermediate edge no longer costs more",
        "mean cost on the intermediate edge minus that on the straight one, all epochs (nats)",
        intermediate_excess,
        "below",
        0.0,
        "intermediate-edges",
        "equal-reference",
    ),
    "D3": Claim(
        "with the first node always fed and its own way to the output deleted, the straight edge costs more",
        "mean cost on the intermediate edge minus that on the straight one, all epochs (nats)",
        intermediate_excess,
        "below",
        0.0,
        "intermediate-edges",
        "control-reference",
    ),
    "T1": Claim(
        "no cost passes a normalised operation",
        "largest share of its cost that any operation passes on",
        _residual("T1"),
        "below",
        ROUNDING,
        "theorem1",
    ),
    "CA": Claim(
        "the cost at a cell's output is assigned to its edges",
        "largest share of the edges' costs that is missing at their cell's output",
        _residual("CA"),
        "below",
        ROUNDING,
        "theorem1",
    ),
    "CO": Claim(
        "in every cell but the last the edges' costs sum to zero",
        "largest sum of a cell's costs, as a share of them",
        _residual("CO"),
        "below",
        ROUNDING,
        "corollary",
    ),
    "T2a": Claim(
        "the cost at the last cell's output is L - H",
        "difference of the two, as a share of L + H",
        _residual("T2a"),
        "below",
        ROUNDING,
        "theorem2",
    ),
    "T2b": Claim(
        "at the initial weights the cost at the last cell's output is positive in expectation",
        "mean cost at the initial weights (nats)",
        initial_cost,
        "above",
        0.0,
        "theorem2",
        "initial-reference",
    ),
    "T2c-sign": Claim(
        "at high accuracy the cost at the last cell's output is not positive",
        f"mean cost over the epochs with an accuracy of {HIGH_ACCURACY:g} or more (nats)",
        cost_at_high_accuracy,
        "below",
        0.0,
        "theorem2",
        "theorem2-quick",
    ),
    "T2c-trend": Claim(
        "the cost at the last cell's output falls as accuracy rises",
        "rank correlation of cost and accuracy over the epochs",
        cost_trend,
        "below",
        0.0,
        "theorem2",
        "uniform-reference",
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
        interval = f"95 % interval [{self.low:.2g}, {self.high:.2g}]" if self.seeds > 1 else "no interval"
        return (
            f"{self.claim} {self.verdict}: {claim.statement}\n"
            f"  {claim.quantity}:\n  {self.estimate:.2g}, {interval} over {self.seeds} seed{'s' * (self.seeds != 1)}; "
            f"holds {claim.side} {claim.threshold:.3g}"
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


def compare(groups: Mapping[str, Sequence[Record]], claims: Sequence[str], live: bool = False) -> pd.DataFrame:
    """Verdicts on several groups of runs as a table: a row for each group and claim that its runs say anything of.

    The numbers of ``live`` runs are marked by ≈: training's digits differ between processors.
    """
    about = "≈ " if live else ""
    found = {(runs, claim): judge(claim, records) for runs, records in groups.items() for claim in claims}
    rows = {
        row: {
            "verdict": own.verdict,
            "estimate": f"{about}{own.estimate:.2g}",
            "95 % interval": f"{about}{own.low:.2g} to {own.high:.2g}" if own.seeds > 1 else "none",
            "seeds": own.seeds,
        }
        for row, own in found.items()
        if own.seeds
    }
    return pd.DataFrame(rows.values(), pd.MultiIndex.from_tuples(rows, names=["runs", "claim"]))


def verdicts() -> list[Verdict]:
    """The verdict on every claim, from the recorded runs; an identity's from random supernets, here and now."""
    images, labels = sample("digits", 32)
    topology = MINIMAL.without_operations("skip_connect")
    reports = [verify_random(topology, 2, images, labels, seed) for seed in range(5)]
    return [judge(name, load_reference(own.reference) if own.reference else reports) for name, own in CLAIMS.items()]
