"""The search space: operations, topologies, gates, and the supernet that runs one forward pass of them."""

from wiring.supernet.gates import Gates, image_dot
from wiring.supernet.network import Supernet
from wiring.supernet.normalise import Images
from wiring.supernet.operations import NAMES, NONE, OPERATIONS
from wiring.supernet.textbook import PlainSupernet
from wiring.supernet.topology import CONTROL, EQUAL, MINIMAL, SWAPPED, TOPOLOGIES, Topology, complete, topology_name

__all__ = ["CONTROL", "EQUAL", "MINIMAL", "NAMES", "NONE", "OPERATIONS", "SWAPPED", "TOPOLOGIES"]
__all__ += ["Gates", "Images", "PlainSupernet", "Supernet", "Topology", "complete", "image_dot", "topology_name"]
