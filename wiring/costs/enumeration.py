"""Every architecture of one minimal cell, exactly: all 8^5 = 32768 of them, each with the costs of its five edges.

Node 2 takes 64 forms (the operations of edges 0 and 1), and edge 4 turns each into 8. Node 3, the classifier and the
costs at them are sums of pooled outputs from then on, and the cost that comes back to edges 0 and 1 through edge 4 is
a directional derivative. So 64 forward passes of one node replace 32768 of the network.
"""

import warnings
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from wiring.supernet import MINIMAL, NAMES, PlainSupernet
from wiring.supernet.normalise import Images

Architectures = Float[Tensor, "op0 op1 op2 op3 op4"]
Costs = Float[Tensor, "op0 op1 op2 op3 op4 edge"]
Operations = Float[Tensor, "edge operation"]


@dataclass(frozen=True)
class Enumeration:
    """What each architecture costs on one batch; axis ``e`` of the first five is the operation of edge ``e``.

    ``direct`` is the cost of each edge along the path on which its end joins the output (4-2-0 of edge 0), ``through``
    the rest, which comes back through edge 4 (4-3-2-0): 0 but for edges 0 and 1. All are in nats, loss and
    entropy being the batch's means.
    """

    direct: Costs
    through: Costs
    loss: Architectures
    entropy: Architectures

    @property
    def costs(self) -> Costs:
        """The cost of each edge."""
        return self.direct + self.through

    def loss_gradient(self, probability: Operations) -> Operations:
        """The gradient of the expected loss with respect to α: ``sum_Z p(Z) L(Z) (Z_e - p_e)``."""
        return _score_weighted(self.loss[..., None].expand(self.costs.shape), probability)

    def expected_gradient(self, probability: Operations) -> Operations:
        """What DSNAS' gradient of α is on average: ``sum_Z p(Z) C_e(Z) (Z_e - p_e)``, the cost not clamped."""
        return _score_weighted(self.costs, probability)


def _score_weighted(values: Costs, probability: Operations) -> Operations:
    joint = torch.einsum("a,b,c,d,e->abcde", *probability)[..., None] * values
    drawn = torch.stack([joint[..., e].movedim(e, 0).flatten(1).sum(1) for e in range(len(probability))])
    return drawn - probability * drawn.sum(1, keepdim=True)


@torch.no_grad()
def enumerate_minimal(network: PlainSupernet, images: Images, labels: Int[Tensor, " batch"]) -> Enumeration:
    """Measure on a batch all architectures of a network of one normal minimal cell; another one raises ValueError."""
    if network.topology != MINIMAL or network.cell_types != [0]:
        shape = f"{len(network.cells)} of {network.topology}{', with reductions' if any(network.cell_types) else ''}"
        raise ValueError(f"network: give one normal cell of the minimal topology, not {shape}")
    cell: Any = network.cells[0]
    stem = network.stem(images)
    node_0, node_1 = (read(stem) for read in cell.inputs)
    from_0, from_1, from_2, from_3 = map(_outputs, cell.edges, (node_0, node_1, node_0, node_1))
    to_2, to_3 = network.classifier.weight.chunk(2, dim=1)
    # The logits are the sum of what the edges add to them, each through the mean over its outputs' pixels.
    adds_0, adds_1, adds_2, adds_3 = map(_logits, (from_0, from_1, from_2, from_3), (to_2, to_2, to_3, to_3))
    target = F.one_hot(labels, len(to_2))

    def adds_4(node: Tensor) -> Tensor:
        return _logits(_outputs(cell.edges[4], node), to_3)

    def form(k0: int, k1: int) -> tuple[Tensor, ...]:
        """What Enumeration has, for one form of node 2; the axes are the operations of edges 2, 3 and 4."""
        node = from_0[k0] + from_1[k1]
        adds = [adds_0[k0], adds_1[k1], adds_2[:, None, None], adds_3[:, None], adds_4(node)]
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch's own use of torch.jit
            slopes = [torch.func.jvp(adds_4, (node,), (tangent,))[1] for tangent in (from_0[k0], from_1[k1])]
        log_p = sum(adds[1:], adds[0]).log_softmax(-1)
        error = (log_p.exp() - target) / len(labels)
        costs = torch.stack([(error * part).sum((-1, -2)) for part in (*adds, *slopes)], -1)
        return (
            costs[..., :5],
            F.pad(costs[..., 5:], (0, 3)),
            -(target * log_p).sum(-1).mean(-1),
            -(log_p.exp() * log_p).sum(-1).mean(-1),
        )

    pairs = list(product(range(len(NAMES)), repeat=2))
    forms = [form(*pair) for pair in tqdm(pairs, disable=None, unit="form", leave=False)]
    return Enumeration(*(torch.stack(parts).unflatten(0, (len(NAMES),) * 2) for parts in zip(*forms, strict=True)))


def _outputs(edge: Any, node: Tensor) -> list[Tensor]:
    return [torch.zeros_like(node) if name == "none" else edge[name](node) for name in NAMES]


def _logits(outputs: list[Tensor], weight: Tensor) -> Float[Tensor, "operation batch class"]:
    return torch.stack([output.mean((2, 3)) for output in outputs]) @ weight.T
