"""A cell's topology: its nodes, its edges, the operations each edge may carry, and its output.

Everything an experiment varies about the wiring is a value of :class:`Topology`; there are no flags:

>>> control = MINIMAL.without_edges((0, 2), (0, 3)).with_operations((1, 2), "sep_conv_5x5").with_output(3)
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from pydantic import ConfigDict, model_serializer, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from wiring.supernet.operations import NAMES

Edge = tuple[int, int]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Topology:
    """A directed acyclic graph of input, intermediate and output nodes; pydantic's ValueError says why one is not."""

    inputs: tuple[int, ...]
    """For each input node, numbered from 0, how many cells back it reads. ``(2, 1)``: node 1 reads the last cell."""
    edges: tuple[Edge, ...]
    """Pairs ``(i, j)``, ``i < j``, of input or intermediate nodes, in the order in which edges are numbered."""
    output: tuple[int, ...]
    """The intermediate nodes that are concatenated to the cell's output."""
    candidates: tuple[tuple[str, ...], ...] = None  # type: ignore[assignment]  # never None outside of _check
    """For each edge the names of the operations it may carry, in the paper's order; left out, all of them."""

    @model_validator(mode="after")
    def _check(self) -> "Topology":
        if self.candidates is None:
            object.__setattr__(self, "candidates", (NAMES,) * len(self.edges))
        first = len(self.inputs)
        if not first or min(self.inputs) < 1:
            raise ValueError(f"inputs {self.inputs}: give for each input node how many cells back it reads, 1 or more")
        if len(set(self.edges)) < len(self.edges):
            raise ValueError(f"edges {self.edges}: an edge stands twice")
        for i, j in self.edges:
            if not (0 <= i < j and j >= first):
                raise ValueError(f"edge {(i, j)}: an edge (i, j) needs 0 <= i < j and must not end at an input node")
        if len(self.candidates) != len(self.edges):
            raise ValueError(f"candidates: {len(self.candidates)} sets for {len(self.edges)} edges; give one an edge")
        for edge, names in zip(self.edges, self.candidates, strict=True):
            if unknown := set(names) - set(NAMES):
                raise ValueError(f"edge {edge}: unknown operation {sorted(unknown)[0]!r}; allowed: {', '.join(NAMES)}")
            if not names or list(names) != sorted(set(names), key=NAMES.index):
                raise ValueError(f"edge {edge}: operations {names}; give at least one, each once, in the paper's order")
        if not self.output or len(set(self.output)) < len(self.output) or min(self.output) < first:
            raise ValueError(f"output {self.output}: name at least one intermediate node ({first} or more), each once")
        return self

    @model_serializer
    def _written(self) -> dict[str, Any]:
        # The order of earlier records: a sweep's runs are named by this text.
        return {name: getattr(self, name) for name in ("inputs", "edges", "candidates", "output")}

    @property
    def nodes(self) -> int:
        """How many input and intermediate nodes there are; the output node is not counted."""
        return 1 + max([len(self.inputs) - 1, *self.output, *(j for _, j in self.edges)])

    @property
    def intermediate(self) -> range:
        return range(len(self.inputs), self.nodes)

    def allowed(self) -> Bool[Tensor, "edge operation"]:
        allowed = [[name in names for name in NAMES] for names in self.candidates]
        return torch.tensor(allowed, dtype=torch.bool).reshape(-1, len(NAMES))

    def sources(self, cell: int) -> list[int]:
        """Whose output each input node of a cell reads: 0 the stem's (nothing lies further back), 1 that of cell 0."""
        return [max(0, cell + 1 - back) for back in self.inputs]

    def is_input_edge(self, edge: int) -> bool:
        """Whether the edge of that number starts at an input node; the others join two intermediate nodes."""
        return self.edges[edge][0] < len(self.inputs)

    def without_edges(self, *edges: Edge) -> "Topology":
        """Delete edges; the rest keep their order."""
        dropped = [self._number(edge) for edge in edges]
        pairs = [pair for k, pair in enumerate(zip(self.edges, self.candidates, strict=True)) if k not in dropped]
        return replace(self, edges=tuple(edge for edge, _ in pairs), candidates=tuple(names for _, names in pairs))

    def with_operations(self, edge: Edge, *names: str) -> "Topology":
        """Let an edge carry these operations only; one name fixes it."""
        number = self._number(edge)
        return replace(self, candidates=(*self.candidates[:number], names, *self.candidates[number + 1 :]))

    def without_operations(self, *names: str, edge: Edge | None = None) -> "Topology":
        """Take operations off one edge, or off every edge."""
        if unknown := set(names) - set(NAMES):
            raise ValueError(f"unknown operation {sorted(unknown)[0]!r}; allowed: {', '.join(NAMES)}")
        candidates = list(self.candidates)
        for number in range(len(self.edges)) if edge is None else [self._number(edge)]:
            candidates[number] = tuple(name for name in candidates[number] if name not in names)
        return replace(self, candidates=tuple(candidates))

    def with_output(self, *nodes: int) -> "Topology":
        """Concatenate only these intermediate nodes to the cell's output."""
        return replace(self, output=nodes)

    def _number(self, edge: Edge) -> int:
        if edge not in self.edges:
            raise ValueError(f"no edge {edge}; the edges are {', '.join(map(str, self.edges))}")
        return self.edges.index(edge)


def complete(inputs: tuple[int, ...], intermediate: int) -> Topology:
    """Every earlier node feeds every intermediate node; all operations on every edge; all in the output."""
    first, nodes = len(inputs), len(inputs) + intermediate
    return Topology(inputs, tuple((i, j) for j in range(first, nodes) for i in range(j)), tuple(range(first, nodes)))


#: The paper's cell: two input nodes, two intermediate nodes, both in the output.
MINIMAL = complete((2, 1), 2)
#: The cell with one input node.
SIMPLIFIED = complete((1,), 2)
#: The minimal cell without what reads node 0, one operation fixed between nodes 1 and 2, and node 3 alone the output.
CONTROL = MINIMAL.without_edges((0, 2), (0, 3)).with_operations((1, 2), "sep_conv_5x5").with_output(3)
#: The simplified cell, in which node 1 always has an input: then edge (1, 2) is trained as often as the others.
EQUAL = SIMPLIFIED.without_operations("none", edge=(0, 1))
#: The minimal cell whose nodes 0 and 1 have changed places: node 0 reads the last cell and node 1 the one before.
SWAPPED = complete((1, 2), 2)
#: The minimal cell whose nodes 0 and 1 both read the last cell, so that no edge leads past it.
CHAIN = complete((1, 1), 2)

#: Name -> topology: what an experiment's topology may be called.
TOPOLOGIES: dict[str, Topology] = {"minimal": MINIMAL, "simplified": SIMPLIFIED, "darts": complete((2, 1), 4)}
TOPOLOGIES |= {"control": CONTROL, "equal": EQUAL, "swapped": SWAPPED, "chain": CHAIN}
TOPOLOGIES["no-skip"] = MINIMAL.without_operations("skip_connect")


def topology_name(topology: Topology) -> str:
    """Its name among :data:`TOPOLOGIES`, or its number of edges."""
    names = (name for name, named in TOPOLOGIES.items() if named == topology)
    return next(names, f"{len(topology.edges)} edges of its own")
