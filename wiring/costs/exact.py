"""Networks in double precision and without eps: an identity's residual on them is rounding, or a counter-example."""

from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from wiring.supernet import Gates, PlainSupernet, Supernet, Topology

Network = TypeVar("Network", Supernet, PlainSupernet)

#: An eps that vanishes beside any variance. For 0 the theorems are exact, but a channel without variance is then NaN.
NO_EPS = 1e-30


def set_eps(model: nn.Module, eps: float) -> nn.Module:
    """Give every normalisation in the model this ``eps`` and return the model."""
    for part in model.modules():
        if hasattr(part, "eps"):
            setattr(part, "eps", eps)  # noqa: B010 (to mypy a module's attributes are tensors and modules)
    return model


def random_supernet(
    topology: Topology,
    cells: int,
    channels: int,
    seed: int,
    classes: int = 10,
    image_channels: int = 1,
    kind: type[Network] = Supernet,  # type: ignore[assignment]  # before Python 3.13 a type variable has no default
) -> Network:
    """A supernet in double precision, without eps, whose initial weights the seed draws.

    Torch's global generator is left as it was. ``kind`` may also be :class:`wiring.PlainSupernet`, which has modules
    to probe; both kinds of one seed have the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = kind(topology, cells, channels, classes, image_channels).double()
    set_eps(network, NO_EPS)
    return network


def uniform_gates(topology: Topology, cells: int) -> Gates:
    """Every allowed operation of an edge at the same gate, in double precision; they sum to 1."""
    active = topology.allowed().expand(cells, -1, -1)
    return Gates(active / active.sum(-1, keepdim=True).double(), active)


def random_gates(topology: Topology, cells: int, generator: torch.Generator) -> Gates:
    """Every allowed operation of an edge at a random gate: the softmax of normal noise, the same in all cells."""
    active = topology.allowed().expand(cells, -1, -1)
    noise = torch.randn(active.shape[1:], generator=generator).double()
    return Gates(noise.masked_fill(~active, -torch.inf).log_softmax(-1).exp(), active)


def loss_minus_entropy(logits: Float[Tensor, "batch class"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """The batch's mean of ``L - H``, cross-entropy minus entropy, in nats: by Theorem 2 what the last cell costs."""
    log_p = logits.log_softmax(-1)
    return F.nll_loss(log_p, labels) + (log_p.exp() * log_p).sum(-1).mean()
