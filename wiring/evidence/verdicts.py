"""Verdicts on claims: over several seeds an estimate, a 95 % interval, and what these say.

A claim *holds* if the whole interval lies on its side of its threshold, *fails* if it lies on the other side, and is
*undecided* otherwise or with fewer than three seeds. An identity is judged alike, by the residual that a model's report
(:func:`wiring.costs.identities.verify`) gives it in double precision with a vanishing eps: it is to be rounding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from wiring.costs.identities import Report, verify_random
from wiring.datasets import sample
from wiring.evidence.claims import CLAIMS
from wiring.search.records import Record, load_reference
from wiring.supernet.topology import MINIMAL

#: Below this number of seeds nothing is decided.
FEWEST_SEEDS = 3


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


def judge_all() -> list[Verdict]:
    """The verdict on every claim, from the recorded runs; an identity's from random supernets, here and now."""
    images, labels = sample("digits", 32)
    topology = MINIMAL.without_operations("skip_connect")
    reports = [verify_random(topology, 2, images, labels, seed) for seed in range(5)]
    return [judge(name, load_reference(own.reference) if own.reference else reports) for name, own in CLAIMS.items()]
