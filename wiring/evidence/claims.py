"""The claims: each a statement of the paper, or of ours, as a number that every run has, held to a threshold.

Definitions come before the runs that they judge; where one came after a look at some, the book's summary says so.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, Literal

from wiring.costs import Report
from wiring.evidence import measured, measures

#: Losses or entropies of two splits are comparable if they differ by less than this factor, and far apart otherwise.
COMPARABLE = 1.5
#: A residual below this, as a share of the costs it is made of, is rounding in double precision.
ROUNDING = 1e-10


@dataclass(frozen=True)
class Claim:
    """A statement about searches as one number a run, and on which side of a threshold in its unit it holds."""

    id: str
    statement: str
    statistic: Callable[[Any], float]
    """The number of a run's record or of a model's report, NaN where it says nothing; its docstring gives the unit."""
    side: Literal["above", "below"]
    threshold: float
    _: KW_ONLY
    chapter: str | None = None
    """The book's chapter about it."""
    reference: str | None = None
    """The preset whose recorded runs the book judges it by; None for an identity, which is checked anew."""
    changes: Mapping[str, Any] | None = field(default=None, hash=False)
    """The fields in which those runs differ from the preset."""
    against: Mapping[str, Any] | None = field(default=None, hash=False)
    """Where given, the number is a run's minus that of its partner, which has the same seed and other such fields."""

    @property
    def quantity(self) -> str:
        """What the number is: its statistic's docstring up to the first semicolon or full stop, else its name."""
        text = re.split(r"[;.](?:\s|$)", inspect.getdoc(self.statistic) or self.statistic.__name__)[0]
        text = text if text[1:2] == " " else text[:1].lower() + text[1:]  # "L on the search split" keeps its L
        text += f", with {_written(self.changes)}" if self.changes else ""
        return text + (f", minus that with {_written(self.against)}" if self.against else "")

    @property
    def runs(self) -> str:
        """The recorded runs' preset, and in what they differ from it; empty for an identity."""
        return ", ".join(filter(None, (self.reference, _written(self.changes))))


def _written(fields: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (fields or {}).items())


def _identity(id: str, statement: str, residual: str, chapter: str) -> Claim:
    """The claim that an identity of :func:`wiring.costs.identities.verify` holds; ``residual`` says a share of what."""

    def statistic(report: Report) -> float:
        return report[id].residual

    statistic.__doc__ = residual
    return Claim(id, statement, statistic, "below", ROUNDING, chapter=chapter)


_P1 = partial(Claim, chapter="p1", reference="p1-long-reference")
_P2 = partial(Claim, chapter="p2", reference="p1-long-reference")
_P3 = partial(Claim, chapter="p3", reference="p3-reference")
_B = partial(Claim, chapter="p3", reference="fixed-alpha-reference")
_H1 = partial(Claim, chapter="cost-means")
_D = partial(Claim, chapter="intermediate-edges")
_X = partial(Claim, chapter="threshold", reference="start-reference")
_T2 = partial(Claim, chapter="theorem2")
# What the cost foretells of remedies for P3, for the reasons that their chapter has. R8 is about runs recorded before.
_R = partial(Claim, chapter="remedies", reference="collapse-reference")

# fmt: off
_TABLE = (
    _P1("P1a", "at the start of the search every edge is dropped", measures.largest_drop, "above", 0.9),
    _P1("P1b", "later some of the dropped edges recover", measures.recovery, "above", 0.0),
    _P2("P2", "input edges are kept and intermediate edges are not", measures.width_preference, "above", 0.0),
    _P3("P3", "bi-level search drops every edge for good", measures.retention, "below", 0.1),
    _P2("X1", "edges from the cell before last are kept rather than those from the last cell",
        measures.bypass_preference, "above", 0.0),
    _X("X2", "weight decay on α, by Adam's L2 penalty, holds None back",
       measures.final_lead, "below", 0.0, against={"alpha_weight_decay": 0.0}),
    _X("X3", "the same decay on α itself, by AdamW, holds None back less",
       measures.final_lead, "below", 0.0, against={"alpha_decoupled": True}),
    _X("X4", "Adam's penalty holds None back more if α's gradient lacks the number of edges as a factor",
       measures.final_lead, "below", 0.0, changes={"searcher": "dsnas-code"}, against={"searcher": "dsnas-log-sum"}),
    _X("X5", "edges from the last cell cost more than those past it where their input is deeper than elsewhere",
       measures.depth_preference, "above", 0.0, chapter="p1", changes={"alpha_weight_decay": 0.0, "cells": 7}),
    _X("X6", "edges past the last cell earn more in cells where more of the shortest ways lead over them",
       measures.way_agreement, "above", 0.0, chapter="p1", changes={"alpha_weight_decay": 0.0, "cells": 9}),
    _B("B1", "on correctly classified images L and H are comparable on both splits",
       measures.gap_of_correct, "below", COMPARABLE),
    _B("B2-loss", "on wrongly classified images L is far higher on the search split",
       measures.loss_gap_of_wrong, "above", COMPARABLE),
    _B("B2-entropy", "on wrongly classified images H is far lower on the search split",
       measures.entropy_gap_of_wrong, "below", 1 / COMPARABLE),
    _B("B3", "the search split's cost stays positive", measures.late_search_cost, "above", 0.0),
    _H1("H1-initial-every", "near initialisation the mean cost of every operation but None is positive",
        measured.lowest_initial, "above", 0.0, reference="h1-initial-reference"),
    _H1("H1-initial-most", "near initialisation the mean cost of most operations but None is positive",
        measured.positive_share, "above", 0.5, reference="h1-initial-reference"),
    _H1("H1-trained-every", "near convergence of the weights the mean cost of every operation but None is negative",
        measured.highest_trained, "below", 0.0, reference="h1-trained-reference"),
    _H1("H1-trained-most", "near convergence of the weights the mean cost of most operations but None is negative",
        measured.negative_share, "above", 0.5, reference="h1-trained-reference"),
    _D("D1", "in the simplified cell every operation costs more on the intermediate than on the straight edge",
       measured.least_excess, "above", 0.0, reference="d1-reference"),
    _D("D2-fall", "training both edges equally often removes some of the difference between them",
       measured.intermediate_excess, "below", 0.0, reference="d2-reference", against={"topology": "simplified"}),
    _D("D2-remains", "trained equally often, the intermediate edge still costs more than the straight one",
       measured.intermediate_excess, "above", 0.0, reference="d2-reference"),
    _D("D3-sign", "in the control, node 1 always fed and its way out deleted, the straight edge costs something",
       measured.straight_cost, "above", 0.0, reference="d3-reference"),
    _D("D3-order", "in the control the straight edge costs more than the intermediate one",
       measured.intermediate_excess, "below", 0.0, reference="d3-reference"),
    _identity("T1", "no cost passes a normalised operation",
              "largest share of its cost that any operation passes on", "theorem1"),
    _identity("CA", "the cost at a cell's output is assigned to its edges",
              "largest share of the edges' costs that is missing at their cell's output", "theorem1"),
    _identity("CO", "in every cell but the last the edges' costs sum to zero",
              "largest sum of a cell's costs, as a share of them", "corollary"),
    _identity("T2a", "the cost at the last cell's output is L - H",
              "difference of the two, as a share of the larger", "theorem2"),
    _T2("T2b", "at the initial weights the cost at the last cell's output is positive in expectation",
        measures.initial_cost, "above", 0.0, reference="initial-reference"),
    _T2("T2c-sign", "at high accuracy the cost at the last cell's output is not positive",
        measures.cost_at_high_accuracy, "below", 0.0, reference="theorem2-quick"),
    _T2("T2c-trend", "the cost at the last cell's output falls as accuracy rises",
        measures.cost_trend, "below", 0.0, reference="uniform-reference"),
    _R("R0", "without a remedy every edge is dropped for good", measures.retention, "below", 0.1),
    _R("R1", "stronger weight decay on θ holds None back", measures.final_lead, "below", 0.0,
       changes={"theta_weight_decay": 3e-3}, against={"theta_weight_decay": 3e-4}),
    _R("R2", "early stopping of operations holds None back", measures.final_lead, "below", 0.0,
       changes={"early_stop": 0.4}, against={"early_stop": -1.0}),
    _R("R3", "sigmoid gates under a zero-one loss keep most edges", measures.retention, "above", 0.5,
       changes={"searcher": "darts-sigmoid"}),
    _R("R4-lead", "a penalty on α's smooth maximum holds None back", measures.final_lead, "below", 0.0,
       changes={"searcher": "darts-smooth-max"}, against={"searcher": "darts"}),
    _R("R4-sign", "under that penalty None still leads", measures.final_lead, "above", 0.0,
       changes={"searcher": "darts-smooth-max"}),
    _R("R5", "with edge normalisation every edge is dropped for good", measures.retention, "below", 0.1,
       changes={"searcher": "darts-edges"}),
    _R("R6", "decay on α itself, in place of Adam's penalty, lets None lead further", measures.final_lead, "above", 0.0,
       changes={"alpha_decoupled": True}, against={"alpha_decoupled": False}),
    _R("R7", "second-order search drops every edge for good", measures.retention, "below", 0.1,
       changes={"level": "unrolled"}),
    _R("R8", "the last cell brings nearly all of the push on None",
       measures.earlier_cells_push, "below", 0.1, reference="p3-reference"),
    _R("R9", "partial channels hold None back", measures.final_lead, "below", 0.0,
       changes={"partial": 4}, against={"partial": 1}),
    _R("R10", "nodes that are means of their edges hold None back", measures.final_lead, "below", 0.0,
       changes={"searcher": "darts-mean"}, against={"searcher": "darts"}),
    _R("R11", "early stopping leaves a better cell of strongest operations but None, trained alone",
       measures.strongest_accuracy, "above", 0.0, changes={"early_stop": 0.4}, against={"early_stop": -1.0}),
    _R("R12", "the edges that an early-stopped search drops would have made its cell better, trained alone",
       measures.gain_of_dropping, "below", 0.0, changes={"early_stop": 0.4}),
)
# fmt: on
CLAIMS: dict[str, Claim] = {claim.id: claim for claim in _TABLE}
