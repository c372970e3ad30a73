"""The search space: operations, topologies, gates, and the supernet that runs one forward pass of them."""

from wiring.supernet.gates import Gates
from wiring.supernet.network import Supernet
from wiring.supernet.operations import NAMES, OPERATIONS
from wiring.supernet.textbook import PlainSupernet
from wiring.supernet.topology import CONTROL, EQUAL, MINIMAL, SWAPPED, TOPOLOGIES, Topology, complete

__all__ = [
    "CONTROL",
    "EQUAL",
    "MINIMAL",
    "NAMES",
    "OPERATIONS",
    "SWAPPED",
    "TOPOLOGIES",
    "Gates",
    "PlainSupernet",
    "Supernet",
    "Topology",
    "complete",
]
