"""What one backward pass measures: local costs, the identities that they obey, and their enumeration."""

from wiring.costs.diagnosis import degree
from wiring.costs.enumeration import enumerate_minimal
from wiring.costs.exact import NO_EPS, loss_minus_entropy, random_gates, random_supernet, set_eps, uniform_gates
from wiring.costs.identities import Report, verify, verify_random
from wiring.costs.probe import CostProbe, GateProbe, Statistics

__all__ = ["CostProbe", "GateProbe", "Statistics", "enumerate_minimal"]
__all__ += ["Report", "degree", "loss_minus_entropy", "verify", "verify_random"]
__all__ += ["NO_EPS", "random_gates", "random_supernet", "set_eps", "uniform_gates"]
