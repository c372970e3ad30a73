"""The supernet: stem, a chain of cells that hold every candidate operation, and a classifier without bias.

>>> supernet = Supernet(MINIMAL, cells=8, channels=16, classes=10)
>>> logits = supernet(images, gates)
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wiring.supernet.gates import Gates, mix
from wiring.supernet.operations import NAMES, OPERATIONS, FactorizedReduce, Images, Node, ReLUConvBN
from wiring.supernet.topology import Topology


class Cell(nn.Module):
    """One cell of the supernet.

    Parameters
    ----------
    topology
        Its nodes, edges, candidates and output.
    sources
        For each input node the channels of the cell it reads, and whether that cell's resolution is twice
        this one's input resolution.
    channels
        The width of every node.
    stride
        2 in a reduction cell: the edges from the input nodes halve the resolution.
    """

    edges: Any  # a ModuleList of ModuleDicts, which torch has no type for

    def __init__(self, topology: Topology, sources: list[tuple[int, bool]], channels: int, stride: int) -> None:
        super().__init__()
        self.topology, self.channels = topology, channels
        self.shrinking = stride * (2 if sources[-1][1] else 1)
        self.inputs = nn.ModuleList(
            FactorizedReduce(width, channels) if twice else ReLUConvBN(width, channels) for width, twice in sources
        )
        strides = [stride if topology.is_input_edge(edge) else 1 for edge in range(len(topology.edges))]
        self.edges = nn.ModuleList(
            nn.ModuleDict({name: build(channels, at) for name in names if (build := OPERATIONS[name]) is not None})
            for names, at in zip(topology.candidates, strides, strict=True)
        )

    def running(self, active: list[list[bool]]) -> list[list[tuple[int, int]]]:
        """For each intermediate node the (edge, operation) pairs that end there and that an input reaches."""
        reached = set(range(len(self.inputs)))
        running = []
        for j in self.topology.intermediate:
            pairs = [
                (edge, NAMES.index(name))
                for edge, (i, end) in enumerate(self.topology.edges)
                if end == j and i in reached
                for name in self.edges[edge]
                if active[edge][NAMES.index(name)]
            ]
            # By operation: skip_connect, which alone is not left to be normalised, comes first.
            pairs.sort(key=lambda pair: pair[1])
            reached |= {j} if pairs else set()
            running.append(pairs)
        return running

    def read(self, running: list[list[tuple[int, int]]]) -> set[int]:
        """The nodes that running operations read."""
        return {self.topology.edges[edge][0] for pairs in running for edge, _ in pairs}

    def forward(
        self, inputs: list[Node], running: list[list[tuple[int, int]]], gates: list[Float[Tensor, "batch _"]]
    ) -> Float[Tensor, "batch output_channels output_height output_width"]:
        """Run the operations of each intermediate node (:meth:`running`) under its gates, one column for each."""
        read = self.read(running)
        # A node that nothing reaches is zero, and so is every operation of it: it stays None and costs nothing.
        nodes: list[Any] = [Node(self.inputs[i](node)) if i in read else None for i, node in enumerate(inputs)]
        for pairs, own in zip(running, gates, strict=True):
            outputs = [self.edges[edge][NAMES[k]](nodes[self.topology.edges[edge][0]]) for edge, k in pairs]
            nodes.append(Node(mix(outputs, own)) if outputs else None)
        zeros = self._zeros(inputs[-1].x)
        return torch.cat([zeros if nodes[j] is None else nodes[j].x for j in self.topology.output], dim=1)

    def _zeros(self, last: Images) -> Float[Tensor, "batch node_channels out_height out_width"]:
        """A node's feature map that nothing reached; ``last`` is what the last input node reads."""
        height, width = (-(-size // self.shrinking) for size in last.shape[2:])
        return last.new_zeros(()).expand(len(last), self.channels, height, width)


class Supernet(nn.Module):
    """A classifier that contains every architecture of its search space.

    Parameters
    ----------
    topology
        The topology of every cell.
    cells
        Number of cells L.
    channels
        Width C of a node in the first cell; it doubles in every reduction cell.
    classes
        Number of classes.
    image_channels
        Channels of an image.
    reductions
        The numbers of the cells that halve the resolution; none in the paper.

    Raises
    ------
    ValueError
        If a number is not positive, a reduction names no cell, or an input node would read a cell of four
        times its own resolution.
    """

    def __init__(
        self,
        topology: Topology,
        cells: int,
        channels: int,
        classes: int,
        image_channels: int = 3,
        reductions: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        for name, value in {
            "cells": cells,
            "channels": channels,
            "classes": classes,
            "image_channels": image_channels,
        }.items():
            if value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        if unknown := set(reductions) - set(range(cells)):
            raise ValueError(f"reductions = {reductions}: no cell {min(unknown)} among {cells} cells")
        self.topology = topology
        self.classes = classes
        #: Which row of the architecture parameters each cell uses, 0 if it is normal and 1 if it is a reduction.
        self.cell_types = [int(cell in reductions) for cell in range(cells)]

        width, halvings = 3 * channels, 0
        self.stem = nn.Sequential(
            nn.Conv2d(image_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, track_running_stats=False),
        )
        outputs = [(width, halvings)]
        self.cells: Any = nn.ModuleList()
        for cell in range(cells):
            sources = [outputs[max(0, len(outputs) - back)] for back in topology.inputs]
            if any(halvings - at > 1 for _, at in sources):
                raise ValueError(f"reductions = {reductions}: cell {cell} would read across two of them")
            stride = 2 if cell in reductions else 1
            channels *= stride
            self.cells.append(Cell(topology, [(c, at < halvings) for c, at in sources], channels, stride))
            halvings += stride - 1
            outputs.append((channels * len(topology.output), halvings))
        self.classifier = nn.Linear(outputs[-1][0], classes, bias=False)
        self.to(memory_format=torch.channels_last)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of its gates, (cells, edges, operations)."""
        return len(self.cells), len(self.topology.edges), len(OPERATIONS)

    def forward(self, images: Images, gates: Gates) -> Float[Tensor, "batch class"]:
        """The logits of the images under the gates."""
        running = [cell.running(on) for cell, on in zip(self.cells, gates.active.tolist(), strict=True)]
        # The gates of all nodes are cut out of one tensor, node by node: their gradients come back in one piece.
        _, edges, operations = self.shape
        nodes = [(cell, pairs) for cell, own in enumerate(running) for pairs in own]
        index = torch.tensor([(cell * edges + edge) * operations + k for cell, pairs in nodes for edge, k in pairs])
        values = gates.values.expand(len(images), *self.shape).flatten(1)
        values = values.index_select(1, index.long().to(values.device, non_blocking=True))
        own = iter(values.split([len(pairs) for _, pairs in nodes], dim=1))

        readers: list[list[Tensor]] = [[] for _ in range(len(self.cells) + 1)]
        for number, (cell, pairs) in enumerate(zip(self.cells, running, strict=True)):
            read = cell.read(pairs)
            for i, (back, reader) in enumerate(zip(self.topology.inputs, cell.inputs, strict=True)):
                if i in read and isinstance(reader, ReLUConvBN):
                    readers[max(0, number + 1 - back)].append(reader.conv.weight)

        outputs = [Node(self.stem(images.contiguous(memory_format=torch.channels_last)), readers[0])]
        for cell, pairs, reading in zip(self.cells, running, readers[1:], strict=True):
            inputs = [outputs[max(0, len(outputs) - back)] for back in self.topology.inputs]
            outputs.append(Node(cell(inputs, pairs, [next(own) for _ in pairs]), reading))
            del outputs[: -max(self.topology.inputs)]  # what no later cell reads need not stay
        last = outputs[-1].x
        # Unlike a mean's, the gradient of a sum takes no memory; this is where a step needs the most.
        logits: Tensor = self.classifier(last.sum((2, 3)) / math.prod(last.shape[2:]))
        return logits
