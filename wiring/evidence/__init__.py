"""What runs say: a number from a record, the claims about it, and their verdicts."""

from wiring.evidence.claims import CLAIMS, Claim
from wiring.evidence.measures import initial_cost
from wiring.evidence.verdicts import Verdict, compare, interval, judge, judge_all

__all__ = ["CLAIMS", "Claim", "Verdict", "compare", "initial_cost", "interval", "judge", "judge_all"]
