"""The claims: each a statement of the paper, or of ours, as a number that every run has, held to a threshold.

Definitions come before the runs that they judge; where one came after a look at some, the book's summary says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from wiring.costs.identities import Report
from wiring.evidence import measures

#: Losses or entropies of two splits are comparable if they differ by less than this factor, and far apart otherwise.
COMPARABLE = 1.5
#: A residual below this, as a share of the costs it is made of, is rounding in double precision.
ROUNDING = 1e-10


def _residual(identity: str) -> Callable[[Report], float]:
    return lambda report: report[identity].residual


@dataclass(frozen=True, kw_only=True)
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
        statement="at the start of the search every edge is dropped",
        quantity="largest share of edges dropped at once in the first half",
        statistic=measures.largest_drop,
        side="above",
        threshold=0.9,
        chapter="p1",
        reference="p1-reference",
    ),
    "P1b": Claim(
        statement="later some of the dropped edges recover",
        quantity="share of dropped edges that recover",
        statistic=measures.recovery,
        side="above",
        threshold=0.0,
        chapter="p1",
        reference="p1-reference",
    ),
    "P2": Claim(
        statement="input edges are kept and intermediate edges are not",
        quantity="share of input edges retained minus that of intermediate edges",
        statistic=measures.width_preference,
        side="above",
        threshold=0.0,
        chapter="p2",
        reference="p1-reference",
    ),
    "P3": Claim(
        statement="bi-level search drops every edge for good",
        quantity="share of edges retained",
        statistic=measures.retention,
        side="below",
        threshold=0.1,
        chapter="p3",
        reference="p3-reference",
    ),
    "X1": Claim(
        statement="edges from the cell before last are kept rather than those from the last cell",
        quantity="share retained of the former minus that of the latter",
        statistic=measures.bypass_preference,
        side="above",
        threshold=0.0,
        chapter="p2",
        reference="p1-reference",
    ),
    "B1": Claim(
        statement="on correctly classified images L and H are comparable on both splits",
        quantity="largest factor between the splits late in the search",
        statistic=measures.gap_of_correct,
        side="below",
        threshold=COMPARABLE,
        chapter="p3",
        reference="p3-reference",
    ),
    "B2-loss": Claim(
        statement="on wrongly classified images L is far higher on the search split",
        quantity="L on the search split / L on the training split, late in the search",
        statistic=measures.loss_gap_of_wrong,
        side="above",
        threshold=COMPARABLE,
        chapter="p3",
        reference="p3-reference",
    ),
    "B2-entropy": Claim(
        statement="on wrongly classified images H is far lower on the search split",
        quantity="H on the search split / H on the training split, late in the search",
        statistic=measures.entropy_gap_of_wrong,
        side="below",
        threshold=1 / COMPARABLE,
        chapter="p3",
        reference="p3-reference",
    ),
    "B3": Claim(
        statement="the search split's cost stays positive",
        quantity="mean cost on the search split late in the search (nats)",
        statistic=measures.late_search_cost,
        side="above",
        threshold=0.0,
        chapter="p3",
        reference="p3-reference",
    ),
    "H1-initial": Claim(
        statement="near initialisation the mean cost of every operation but None is positive",
        quantity="share of the edges' operations with a positive mean cost",
        statistic=measures.positive_share,
        side="above",
        threshold=0.9,
        chapter="cost-means",
        reference="initial-reference",
    ),
    "H1-trained": Claim(
        statement="near convergence of the weights the mean cost of every operation but None is negative",
        quantity="share of the edges' operations with a negative mean cost",
        statistic=measures.negative_share,
        side="above",
        threshold=0.9,
        chapter="cost-means",
        reference="uniform-reference",
    ),
    "D1": Claim(
        statement="in the simplified cell an operation costs more on the intermediate than on the straight edge",
        quantity="mean cost on the intermediate edge minus that on the straight one, all epochs (nats)",
        statistic=measures.intermediate_excess,
        side="above",
        threshold=0.0,
        chapter="intermediate-edges",
        reference="simplified-reference",
    ),
    "D2": Claim(
        statement="trained as often as the straight edge, the intermediate edge no longer costs more",
        quantity="mean cost on the intermediate edge minus that on the straight one, all epochs (nats)",
        statistic=measures.intermediate_excess,
        side="below",
        threshold=0.0,
        chapter="intermediate-edges",
        reference="equal-reference",
    ),
    "D3": Claim(
        statement="with the first node always fed and its own way to the output deleted, the straight edge costs more",
        quantity="mean cost on the intermediate edge minus that on the straight one, all epochs (nats)",
        statistic=measures.intermediate_excess,
        side="below",
        threshold=0.0,
        chapter="intermediate-edges",
        reference="control-reference",
    ),
    "T1": Claim(
        statement="no cost passes a normalised operation",
        quantity="largest share of its cost that any operation passes on",
        statistic=_residual("T1"),
        side="below",
        threshold=ROUNDING,
        chapter="theorem1",
    ),
    "CA": Claim(
        statement="the cost at a cell's output is assigned to its edges",
        quantity="largest share of the edges' costs that is missing at their cell's output",
        statistic=_residual("CA"),
        side="below",
        threshold=ROUNDING,
        chapter="theorem1",
    ),
    "CO": Claim(
        statement="in every cell but the last the edges' costs sum to zero",
        quantity="largest sum of a cell's costs, as a share of them",
        statistic=_residual("CO"),
        side="below",
        threshold=ROUNDING,
        chapter="corollary",
    ),
    "T2a": Claim(
        statement="the cost at the last cell's output is L - H",
        quantity="difference of the two, as a share of L + H",
        statistic=_residual("T2a"),
        side="below",
        threshold=ROUNDING,
        chapter="theorem2",
    ),
    "T2b": Claim(
        statement="at the initial weights the cost at the last cell's output is positive in expectation",
        quantity="mean cost at the initial weights (nats)",
        statistic=measures.initial_cost,
        side="above",
        threshold=0.0,
        chapter="theorem2",
        reference="initial-reference",
    ),
    "T2c-sign": Claim(
        statement="at high accuracy the cost at the last cell's output is not positive",
        quantity=f"mean cost over the epochs with an accuracy of {measures.HIGH_ACCURACY:g} or more (nats)",
        statistic=measures.cost_at_high_accuracy,
        side="below",
        threshold=0.0,
        chapter="theorem2",
        reference="theorem2-quick",
    ),
    "T2c-trend": Claim(
        statement="the cost at the last cell's output falls as accuracy rises",
        quantity="rank correlation of cost and accuracy over the epochs",
        statistic=measures.cost_trend,
        side="below",
        threshold=0.0,
        chapter="theorem2",
        reference="uniform-reference",
    ),
}
