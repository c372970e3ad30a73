"""Random topologies, supernets, batches and gates for hypothesis, and their plain counterparts."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from plain import NAMES, Network

from wiring.supernet.gates import Gates
from wiring.supernet.network import Supernet
from wiring.supernet.topology import Topology

SEEDS = st.integers(0, 2**31 - 1)


def examples(number):
    """Run a property on so many examples, the same ones every time; to trace a failure would be slow."""
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    return settings(max_examples=number, deadline=None, derandomize=True, phases=phases)


@st.composite
def topologies(draw):
    """Any directed acyclic graph, its edges in any order, with any candidates and any output."""
    inputs = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    first, nodes = len(inputs), len(inputs) + draw(st.integers(1, 3))
    pairs = [(i, j) for j in range(first, nodes) for i in range(j)]
    edges = tuple(draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=5, unique=True)))
    names = st.sets(st.sampled_from(NAMES), min_size=1, max_size=4).map(
        lambda names: tuple(sorted(names, key=NAMES.index))
    )
    output = draw(st.lists(st.sampled_from(range(first, nodes)), min_size=1, unique=True))
    return Topology(inputs, edges, tuple(output), tuple(draw(names) for _ in edges))


@st.composite
def normalised_topologies(draw):
    """The same without skip_connect, so that every operation is normalised."""
    topology = draw(topologies())
    kept = tuple(tuple(n for n in names if n != "skip_connect") or ("sep_conv_3x3",) for names in topology.candidates)
    return replace(topology, candidates=kept)


@dataclass
class Case:
    """A supernet with random weights, a batch, and the plain network of the same weights."""

    topology: Topology
    cells: int = 2
    channels: int = 2
    classes: int = 3
    image_channels: int = 1
    reductions: tuple[int, ...] = ()
    partial: int = 1
    batch: int = 4
    size: tuple[int, int] = (6, 5)
    seed: int = 0
    dtype: torch.dtype = torch.float64

    @cached_property
    def generator(self):
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def supernet(self):
        sizes = self.channels, self.classes, self.image_channels, self.reductions, self.partial
        supernet = Supernet(self.topology, self.cells, *sizes).to(self.dtype)
        with torch.no_grad():
            for weight in supernet.parameters():
                weight.copy_(0.5 * torch.randn(weight.shape, generator=self.generator))
        return supernet

    @cached_property
    def images(self):
        shape = self.batch, self.image_channels, *self.size
        return torch.randn(shape, generator=self.generator, dtype=self.dtype)

    @cached_property
    def labels(self):
        return torch.randint(self.classes, (self.batch,), generator=self.generator)

    def network(self, chosen):
        """The plain network that runs ``chosen[cell][edge]``, a tuple of names each."""
        network = Network(self.topology, chosen, self.channels, self.classes, self.image_channels, self.reductions)
        return network.to(self.dtype).copy_weights(self.supernet.parameters())

    def chosen(self):
        """One random operation for each edge of each cell."""
        indices = torch.randint(2**31, (self.cells, len(self.topology.edges)), generator=self.generator)
        return [
            [(names[index % len(names)],) for names, index in zip(self.topology.candidates, cell, strict=True)]
            for cell in indices.tolist()
        ]

    def child(self):
        """Such a choice's gates, and the plain child network."""
        chosen = self.chosen()
        return self.one_hot(chosen), self.network(chosen)

    def one_hot(self, chosen):
        active = torch.tensor([[[name in names for name in NAMES] for names in cell] for cell in chosen])
        return Gates(active.to(self.dtype), active)

    def relaxed(self):
        """Gates of random weights for all candidates, which want a gradient."""
        active = self.topology.allowed().expand(self.cells, -1, -1)
        values = torch.rand(active.shape, generator=self.generator, dtype=self.dtype).requires_grad_()
        return Gates(values, active)

    def mixed(self):
        """Such gates, and the plain mixed network."""
        return self.relaxed(), self.network([self.topology.candidates] * self.cells)


@st.composite
def cases(draw, topologies=topologies()):  # noqa: B008 (a strategy is a value)
    cells = draw(st.integers(1, 3))
    return Case(
        draw(topologies),
        cells=cells,
        channels=draw(st.integers(1, 3)),
        classes=draw(st.integers(2, 4)),
        image_channels=draw(st.integers(1, 3)),
        reductions=tuple(draw(st.sets(st.integers(0, cells - 1), max_size=1))),
        batch=draw(st.integers(3, 5)),
        size=(draw(st.integers(4, 7)), draw(st.integers(4, 7))),
        seed=draw(SEEDS),
    )
