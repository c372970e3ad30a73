"""What runs say: a number from a record, the claims about it, and their verdicts."""

from wiring.evidence.claims import CLAIMS, Claim
from wiring.evidence.measured import course_costs, measured_costs, straight_and_intermediate
from wiring.evidence.measures import (
    edge_costs,
    final_accuracy,
    generalisation_gap,
    gone,
    initial_cost,
    mean_costs,
    recovered,
    retention,
    scalars_of,
    turning_epoch,
)
from wiring.evidence.verdicts import Verdict, compare, interval, judge, judge_all, recorded, references

__all__ = ["CLAIMS", "Claim", "Verdict", "compare", "interval", "judge", "judge_all", "recorded", "references"]
__all__ += ["course_costs", "edge_costs", "final_accuracy", "generalisation_gap", "gone", "initial_cost", "mean_costs"]
__all__ += ["measured_costs", "recovered", "retention", "scalars_of", "straight_and_intermediate", "turning_epoch"]
