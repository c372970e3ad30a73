"""Verdicts on claims: over several seeds an estimate, a 95 % interval, and what these say.

With three seeds the interval is no wider than from the lowest to the highest, and covers less than it says.

A claim *holds* if the whole interval lies on its side of its threshold, *fails* if it lies on the other side, and is
*undecided* otherwise or with fewer than three seeds. An identity is judged alike, by the residual that a model's report
(:func:`wiring.costs.identities.verify`) gives it in double precision with a vanishing eps: it is to be rounding.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from wiring.costs import Report, verify_random
from wiring.datasets import sample
from wiring.evidence import measures
from wiring.evidence.claims import CLAIMS, Claim
from wiring.search import Experiment, Record, load_reference
from wiring.search.experiments import anywhere, with_fields
from wiring.search.records import REFERENCE
from wiring.supernet import MINIMAL, TOPOLOGIES, topology_name

#: A run and its partner, which has the same seed and differs in some fields.
Pair = tuple[Record, Record]
#: Below this number of seeds nothing is decided.
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Verdict:
    """What runs say of a claim: its statistic's mean, over the runs or models of which it says anything."""

    claim: Claim
    verdict: Literal["holds", "fails", "undecided"]
    estimate: float
    low: float
    high: float
    """Ends of the estimate's 95 % interval, NaN with fewer than two seeds."""
    seeds: int
    setting: str = ""
    """How long the runs are, and how accurate at the end."""

    def __str__(self) -> str:
        claim = self.claim
        interval = f"95 % interval [{self.low:.2g}, {self.high:.2g}]" if self.seeds > 1 else "no interval"
        return (
            f"{claim.id} {self.verdict}: {claim.statement}\n"
            f"  {claim.quantity}:\n  {self.estimate:.2g}, {interval} over {self.seeds} seed{'s' * (self.seeds != 1)}; "
            f"holds {claim.side} {claim.threshold:.3g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, the claim by its id, statement and records; what JSON has no number for is None."""
        isnt = {name for name, value in vars(self).items() if isinstance(value, float) and not math.isfinite(value)}
        values = {name: None if name in isnt else value for name, value in vars(self).items()}
        return values | {"claim": self.claim.id, "statement": self.claim.statement, "records": self.claim.runs}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over seeds; NaN for fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    if len(set(values)) == 1:  # every resample has this mean
        return values[0], values[0]
    resampled = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return float(resampled.confidence_interval.low), float(resampled.confidence_interval.high)


def judge(claim: str | Claim, evidence: Sequence[Record] | Sequence[Report] | Sequence[Pair]) -> Verdict:
    """The verdict on a claim, one of ``CLAIMS`` by its id or your own.

    The evidence are records of one experiment with different seeds, with their partners where the claim is ``against``
    others, or, of an identity, the reports of several models. Raises ValueError if there is no such claim, two records
    have the same seed, they differ in more than the seed, or partners in other fields than the claim's.
    """
    if isinstance(claim, str):
        if claim not in CLAIMS:
            raise ValueError(f"claim {claim!r}: allowed are {', '.join(CLAIMS)}")
        claim = CLAIMS[claim]
    runs = [item[0] if isinstance(item, tuple) else item for item in evidence]
    records = [run for run in runs if isinstance(run, Record)]
    experiments = [record.experiment for record in records]
    seeds = [experiment.seed for experiment in experiments]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {seeds}: every run must have a seed of its own")
    if len({replace(anywhere(experiment), seed=0) for experiment in experiments}) > 1:
        raise ValueError("the records are of different experiments; they may differ in the seed, and in where they ran")
    values = [number for item in evidence if not np.isnan(number := _number(claim, item))]
    low, high = interval(values)
    sign = 1 if claim.side == "above" else -1
    least, most = sorted(sign * (end - claim.threshold) for end in (low, high))
    verdict: Literal["holds", "fails", "undecided"] = "undecided"
    if len(values) >= FEWEST_SEEDS:
        verdict = "holds" if least > 0 else "fails" if most <= 0 else "undecided"
    estimate = float(np.mean(values)) if values else np.nan
    return Verdict(claim, verdict, estimate, low, high, len(values), setting(records))


def _number(claim: Claim, item: Record | Report | Pair) -> float:
    """What the claim's statistic comes to, of a run or model, or of a run beside its partner."""
    if not isinstance(item, tuple):
        if claim.against is None:
            return claim.statistic(item)
        raise ValueError(f"{claim.id} is about pairs of runs; give each as (run, partner)")
    run, partner = item
    if claim.against is None:
        raise ValueError(f"{claim.id} is about single runs; give each without a partner")
    changes, against = dict(claim.changes or {}), dict(claim.against)
    own, other = with_fields(run.experiment, changes), with_fields(run.experiment, against)
    if not own == run.experiment != other or anywhere(other) != anywhere(partner.experiment):
        first = f"that has {changes}" if changes else "without it"
        raise ValueError(
            f"{claim.id}: each pair is a run {first}, then its partner of the same seed with {against} alone"
        )
    return claim.statistic(run) - claim.statistic(partner)


def setting(records: Sequence[Record]) -> str:
    """The searches' length and last accuracy, as "3120 steps, accuracy 0.29", and how many draws are measured since."""
    if not records or "images" not in records[0].provenance:
        return ""
    steps, e = measures.steps(records[0]), records[0].experiment
    accuracy = np.mean([measures.final_accuracy(record) for record in records])
    draws = f", {steps // e.epochs * e.measuring_epochs} draws measured" if e.measuring_epochs else ""
    return f"{steps} steps, accuracy {accuracy:.2f}{draws}"


def recorded(claim: Claim) -> list[Record] | list[Pair]:
    """The recorded runs by which the book judges a claim, each with its partner where it has one."""
    assert claim.reference is not None, claim
    changes = dict(claim.changes or {})
    runs = load_reference(claim.reference, **changes)
    if claim.against is None:
        return runs
    partners = load_reference(claim.reference, **{**changes, **claim.against})
    by_seed = {partner.experiment.seed: partner for partner in partners}
    return [(run, by_seed[run.experiment.seed]) for run in runs if run.experiment.seed in by_seed]


def judge_all() -> Iterator[Verdict]:
    """The verdict on every claim as it is found, from the recorded runs; an identity's from random supernets, now.

    Raises ValueError at once if there are no recorded runs, as in an installed package.
    """
    if not REFERENCE.is_dir():
        raise ValueError(f"there are no recorded runs in {REFERENCE}: claims are judged in a source checkout")

    @cache
    def reports() -> list[Report]:
        images, labels = sample("digits", 32)
        topology = MINIMAL.without_operations("skip_connect")
        return [verify_random(topology, 2, images, labels, seed) for seed in range(5)]

    evidence = (recorded(claim) if claim.reference else reports() for claim in CLAIMS.values())
    return map(judge, CLAIMS.values(), evidence)


def compare(groups: Mapping[str, Sequence[Record]], claims: Sequence[str | Claim], live: bool = False) -> pd.DataFrame:
    """Verdicts on several groups of runs as a table: a row for each group and claim that its runs say anything of.

    The numbers of ``live`` runs are marked by ≈: training's digits differ between processors.
    """
    about = "≈ " if live else ""
    rows = {
        (name, verdict.claim.id): {
            "verdict": verdict.verdict,
            "estimate": f"{about}{verdict.estimate:.2g}",
            "95 % interval": f"{about}{verdict.low:.2g} to {verdict.high:.2g}" if verdict.seeds > 1 else "none",
            "seeds": verdict.seeds,
        }
        for name, records in groups.items()
        for verdict in (judge(claim, records) for claim in claims)
        if verdict.seeds
    }
    return pd.DataFrame(rows.values(), pd.MultiIndex.from_tuples(rows, names=["runs", "claim"]))


def title(experiment: Experiment) -> str:
    """Searcher and cells in a few words, as "DSNAS, 8 minimal cells"."""
    e = experiment
    searcher = {"dsnas-log-sum": "DSNAS with the sum's logarithm"}.get(e.searcher, e.searcher.upper())
    cell = topology_name(e.topology)
    cell = f"{ {'darts': 'DARTS', 'swapped': 'input-swapped'}.get(cell, cell) } " if cell in TOPOLOGIES else ""
    return f"{searcher}, {e.cells} {cell}cell{'s' * (e.cells != 1)}"


def references() -> dict[str, list[Record]]:
    """The recorded single-level searches that P1 and P2 are held against, by :func:`title`, for :func:`compare`."""
    presets = ("p1", "p1-darts-cell", "p1-one-cell", "p1-snas", "p3-single")
    runs = [load_reference(f"{name}-reference") for name in presets]
    return {title(own[0].experiment): own for own in runs}
