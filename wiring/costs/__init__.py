"""What one backward pass measures: local costs, the identities that they obey, and their enumeration."""

from wiring.costs.diagnosis import degree
from wiring.costs.enumeration import enumerate_minimal
from wiring.costs.exact import NO_EPS, loss_minus_entropy, random_supernet, set_eps, uniform_gates
from wiring.costs.identities import Report, verify, verify_random
from wiring.costs.probe import CostProbe, GateProbe

__all__ = [
    "NO_EPS",
    "CostProbe",
    "GateProbe",
    "Report",
    "degree",
    "enumerate_minimal",
    "loss_minus_entropy",
    "random_supernet",
    "set_eps",
    "uniform_gates",
    "verify",
    "verify_random",
]
