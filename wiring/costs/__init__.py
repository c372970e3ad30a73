"""What one backward pass measures: local costs, the identities that they obey, and their enumeration."""

from wiring.costs.enumeration import enumerate_minimal
from wiring.costs.identities import NO_EPS, Report, degree, set_eps, verify, verify_random
from wiring.costs.probe import CostProbe

__all__ = ["NO_EPS", "CostProbe", "Report", "degree", "enumerate_minimal", "set_eps", "verify", "verify_random"]
