"""The supernet: stem, a chain of cells that hold every candidate operation, and a classifier without bias.

>>> supernet = Supernet(MINIMAL, cells=8, channels=16, classes=10)
>>> logits = supernet(images, gates)
"""

import math
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wiring.supernet.gates import Gates, gated_sum, moved
from wiring.supernet.normalise import Images
from wiring.supernet.operations import NAMES, NONE, OPERATIONS, FactorizedReduce, Node, ReLUConvBN
from wiring.supernet.topology import Topology


class Plan(NamedTuple):
    """What one forward pass runs of a cell: the (edge, operation) pairs by intermediate node, the input nodes read."""

    operations: list[list[tuple[int, int]]]
    inputs: list[int]

    @classmethod
    def of(cls, topology: Topology, active: list[list[bool]], partial: bool = False) -> "Plan":
        """Of ``active[edge][operation]``, what an input node reaches; with partial channels every edge passes some."""
        reached, operations, starts = set(range(len(topology.inputs))), [], set()
        for j in topology.intermediate:
            edges = [edge for edge, (i, end) in enumerate(topology.edges) if end == j and i in reached]
            # By operation: skip_connect, which alone is not left to be normalised, comes first.
            pairs = [(edge, k) for k in range(len(NAMES)) for edge in edges if active[edge][k] and k != NONE]
            operations.append([(edge, k) for edge, k in pairs if NAMES[k] in topology.candidates[edge]])
            passing = edges if partial else [edge for edge, _ in operations[-1]]
            reached |= {j} if passing else set()
            starts |= {topology.edges[edge][0] for edge in passing}
        return cls(operations, [i for i in range(len(topology.inputs)) if i in starts])


class Cell(nn.Module):
    """One cell of the supernet, whose nodes all have ``channels`` channels.

    ``sources`` gives for each input node the channels of the cell it reads, and whether that cell's resolution is
    twice this one's input resolution. With stride 2, in a reduction cell, the edges from the input nodes halve it.

    With ``partial`` K > 1 the operations see the first of K parts of a node's channels; the others pass along every
    edge as they are, max-pooled where it halves the resolution, and the parts are shuffled (PC-DARTS; Xu et al., 2020).
    """

    edges: Any  # a ModuleList of ModuleDicts, which torch has no type for

    def __init__(
        self, topology: Topology, sources: list[tuple[int, bool]], channels: int, stride: int, partial: int
    ) -> None:
        super().__init__()
        self.topology, self.channels, self.stride, self.partial = topology, channels, stride, partial
        self.seen = channels // partial
        self.shrinking = stride * (2 if sources[-1][1] else 1)
        self.inputs = nn.ModuleList(
            FactorizedReduce(width, channels) if twice else ReLUConvBN(width, channels) for width, twice in sources
        )
        self.edges = nn.ModuleList()
        for edge, names in enumerate(topology.candidates):
            at = stride if topology.is_input_edge(edge) else 1
            self.edges.append(
                nn.ModuleDict({name: build(self.seen, at) for name in names if (build := OPERATIONS[name])})
            )

    def forward(
        self, inputs: list[Node], plan: Plan, gates: list[Float[Tensor, "batch _"]]
    ) -> Float[Tensor, "batch output_channels output_height output_width"]:
        """Run the planned operations of each intermediate node under its gates, one column for each."""
        # A node that nothing reaches is zero, and so is every operation of it: it is left out and costs nothing.
        whole = {i: self.inputs[i](inputs[i]) for i in plan.inputs}
        nodes = {i: Node(self._seen(x)) for i, x in whole.items()}
        for j, pairs, columns in zip(self.topology.intermediate, plan.operations, gates, strict=True):
            x = None
            if pairs:
                outputs = [self.edges[edge][NAMES[k]](nodes[self.topology.edges[edge][0]]) for edge, k in pairs]
                x = gated_sum(outputs, columns)
            if (x := x if self.partial == 1 else self._beside(j, x, whole)) is not None:
                whole[j], nodes[j] = x, Node(self._seen(x))
        last = inputs[-1].x
        height, width = (-(-size // self.shrinking) for size in last.shape[2:])
        zeros = last.new_zeros(()).expand(len(last), self.channels, height, width)
        return torch.cat([whole.get(j, zeros) for j in self.topology.output], dim=1)

    def _seen(self, x: Tensor) -> Tensor:
        """The channels of a node that its operations see."""
        return x if self.partial == 1 else x[:, : self.seen].contiguous(memory_format=torch.channels_last)

    def _beside(self, j: int, x: Tensor | None, whole: dict[int, Tensor]) -> Tensor | None:
        """Node ``j``: beside what its operations give, the channels they do not see, from every node it reads."""
        others = []
        for i in (i for i, end in self.topology.edges if end == j and i in whole):
            other = whole[i][:, self.seen :]
            halved = self.stride == 2 and i < len(self.topology.inputs)
            others.append(F.max_pool2d(other, 2, ceil_mode=True) if halved else other)
        if not others:
            return None
        other = torch.stack(others).sum(0)
        x = torch.zeros_like(other[:, : self.seen]) if x is None else x
        parts = torch.cat([x, other], dim=1).unflatten(1, (self.partial, -1))
        return parts.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)


class Chain(nn.Module):
    """A stem, cells, and a classifier without bias: what both supernets, which differ in their cells, are made of."""

    cell_class: ClassVar[type[nn.Module]]
    memory_format: ClassVar[torch.memory_format]

    def __init__(
        self,
        topology: Topology,
        cells: int,
        channels: int,
        classes: int,
        image_channels: int = 3,
        reductions: tuple[int, ...] = (),
        partial: int = 1,
    ) -> None:
        super().__init__()
        sizes = {"cells": cells, "channels": channels, "classes": classes, "image_channels": image_channels}
        sizes["partial"] = partial
        if small := [f"{name} = {value}" for name, value in sizes.items() if value < 1]:
            raise ValueError(f"{small[0]}: must be at least 1")
        if unknown := set(reductions) - set(range(cells)):
            raise ValueError(f"reductions = {reductions}: no cell {min(unknown)} among {cells} cells")
        if channels % partial:
            raise ValueError(f"partial = {partial}: allowed: what divides channels = {channels}")
        self.topology, self.partial = topology, partial
        self.cell_types = [int(cell in reductions) for cell in range(cells)]
        width, halvings = 3 * channels, 0
        conv = nn.Conv2d(image_channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(width, track_running_stats=False))
        outputs = [(width, halvings)]
        self.cells: Any = nn.ModuleList()
        for cell in range(cells):
            sources = [outputs[at] for at in topology.sources(cell)]
            if any(halvings - at > 1 for _, at in sources):
                raise ValueError(f"reductions = {reductions}: cell {cell} would read across two of them")
            stride = 2 if cell in reductions else 1
            channels *= stride
            read = [(width, at < halvings) for width, at in sources]
            self.cells.append(self.cell_class(topology, read, channels, stride, partial))
            halvings += stride - 1
            outputs.append((channels * len(topology.output), halvings))
        self.classifier = nn.Linear(outputs[-1][0], classes, bias=False)
        self.to(memory_format=self.memory_format)


class Supernet(Chain):
    """A classifier that contains every architecture of its search space: L ``cells`` of one topology.

    ``channels`` is the width C of a node in the first cell. The cells numbered in ``reductions``, none in the paper,
    double the width and halve the resolution. Operations see one of ``partial`` parts of a node's channels. Raises
    ValueError if a number is not positive, ``channels`` are no multiple of ``partial``, a reduction names no cell, or
    an input node would read a cell of four times its own resolution.
    """

    cell_class, memory_format = Cell, torch.channels_last
    _index: tuple[Any, Tensor] | None = None
    cell_types: list[int]
    """Which row of the architecture parameters each cell uses: 0 if it is normal, 1 if it is a reduction."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of its gates, (cells, edges, operations)."""
        return len(self.cells), len(self.topology.edges), len(OPERATIONS)

    def forward(self, images: Images, gates: Gates) -> Float[Tensor, "batch class"]:
        """The logits of the images under the gates."""
        plans = [Plan.of(self.topology, active, self.partial > 1) for active in gates.active.tolist()]
        columns = iter(self._columns(plans, gates.values, len(images)))
        sources = [self.topology.sources(number) for number in range(len(self.cells))]
        readers: list[list[ReLUConvBN]] = [[] for _ in range(len(self.cells) + 1)]
        for cell, plan, at in zip(self.cells, plans, sources, strict=True):
            for i in plan.inputs:
                if isinstance(cell.inputs[i], ReLUConvBN):
                    readers[at[i]].append(cell.inputs[i])

        outputs = {0: Node(self.stem(images.contiguous(memory_format=self.memory_format)), readers[0])}
        for number, (cell, plan) in enumerate(zip(self.cells, plans, strict=True)):
            x = cell([outputs[at] for at in sources[number]], plan, [next(columns) for _ in plan.operations])
            outputs[number + 1] = Node(x, readers[number + 1])
            outputs.pop(number + 1 - max(self.topology.inputs), None)  # what no later cell reads need not stay
        last = outputs[len(self.cells)].x
        # Unlike a mean's, the gradient of a sum takes no memory; this is where a step needs the most.
        return self.classifier(last.sum((2, 3)) / math.prod(last.shape[2:]))

    def _columns(
        self, plans: list[Plan], values: Float[Tensor, "*image cell edge operation"], batch: int
    ) -> tuple[Float[Tensor, "batch _"], ...]:
        """Each node's gates, cut out of one tensor of all nodes': their gradients come back in one piece."""
        _, edges, operations = self.shape
        nodes = [(cell, pairs) for cell, plan in enumerate(plans) for pairs in plan.operations]
        values = moved(values, self.classifier.weight.device).expand(batch, *self.shape).flatten(1)
        if self._index is None or self._index[0] != nodes:  # relaxed gates run the same at every step
            index = [(cell * edges + edge) * operations + k for cell, pairs in nodes for edge, k in pairs]
            self._index = nodes, moved(torch.tensor(index).long(), values.device)
        values = values.index_select(1, self._index[1].to(values.device))
        return values.split([len(pairs) for _, pairs in nodes], dim=1)
