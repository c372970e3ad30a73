"""Whom to blame where an identity fails, and what to do: by the degrees of the modules that cost should not pass.

Euler's theorem: if ``f(cx) = c^d f(x)`` for all ``c > 0``, so that ``f`` is homogeneous of degree ``d``, then
differentiating at ``c = 1`` gives ``J x = d f(x)``. Hence ``<J^T g, x> = d <g, f(x)>`` whatever the gradient ``g`` is:
``f`` passes on to its input ``d`` times the cost at its output. The identities want degree 0 of operations and of what
reads a node, and degree 1 of all between a node and the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from wiring.costs.trace import Call
from wiring.supernet.gates import image_dot

#: What is wrong -> what its owner can do.
REMEDIES = {
    "eps": "set_eps(model, 1e-30) shows whether anything but eps is to blame",
    "statistics": "measure in training mode, model.train(), where each batch is normalised by itself",
    "bias": "build it with bias=False, or with a normalisation right behind it, which takes the bias away",
    "curved": "put it in front of a normalisation, or use what is homogeneous, as ReLU is",
    "open": "let a normalisation end it; on the input edges of a cell the sums hold without",
    "beside": "normalise the sum of its branches",
    "within": "look for a parameter that is added or a function that is not homogeneous, in its own `forward`",
    "past": "leave it out of the logits, with `forward`, or measure without it",
    "normalises": "read the cost behind it, or take it out: a cell's cost is L - H only before what has degree 1",
    "function": "look for a shortcut or a function that no module stands for, or a part that a pattern leaves out",
    "little": "give a smaller tolerance to have them named",
    "rounding": "measure in double precision, model.double(), or give a larger tolerance",
}


@dataclass(frozen=True)
class Reason:
    """Why a module breaks an identity: in words, and by a key of :data:`REMEDIES`."""

    text: str
    kind: str


FUNCTION = Reason("what is no named module, as a shortcut or a function", "function")
PAST = Reason("leads to the logits past the cells behind", "past")
LITTLE = Reason("modules that pass on less than the tolerance each", "little")


def degree(operation: Callable[[Tensor], Tensor], x: Float[Tensor, "batch *shape"], seed: int = 0) -> float:
    """The cost that an operation passes on to its input ``x``, in units of the cost at its output: 0 in Theorem 1.

    ``sum_n <(J^T g)_n, x_n> / sum_n <g_n, f(x)_n>`` over the images ``n``, for a random gradient ``g`` that the seed
    draws and under which every image's cost is positive.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        y = operation(x.clone())  # the operation may change its input in place
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype).to(y.device)
    arriving = image_dot(gradient, y.detach())
    gradient *= arriving.sign().to(gradient.dtype).view(-1, *(1 for _ in y.shape[1:]))
    if not y.requires_grad:
        return 0.0
    (back,) = torch.autograd.grad(y, x, gradient, allow_unused=True, materialize_grads=True)
    passed = image_dot(back, x.detach()).sum()
    return float(passed / arriving.abs().sum()) if passed else 0.0


def passes_on(call: Call, floor: float) -> Reason:
    """Why a call passes cost on where it should have degree 0; costs up to the floor are none."""
    leaves, kind = [leaf for leaf in _leaves(call) if leaf.outputs], type(call.part).__name__
    norms = [leaf for leaf in leaves if _normalises(leaf) or abs(leaf.passed) <= floor < abs(leaf.cost)]
    if not norms:
        return Reason(f"{kind}: nothing in it normalises", "open")
    # First the normalisations that are none: behind one that is, a bias or a curve in front of it may not matter.
    for leaf in norms:
        if abs(leaf.passed) > floor:
            return _describe(leaf, floor)
    for leaf in leaves:
        if abs(leaf.passed) > floor and abs(leaf.passed - leaf.cost) > floor:
            return _describe(leaf, floor)
    if abs(sum(leaf.cost for leaf in norms) - call.cost) > floor:
        return Reason(f"{kind}: cost passes beside what normalises", "beside")
    return Reason(f"{kind}: what is in front of its normalisation is not homogeneous", "within")


def keeps(call: Call, floor: float) -> list[tuple[Call, Reason]]:
    """The innermost calls in one that should have degree 1 that pass on other than what they cost."""
    if abs(call.passed - call.cost) <= floor:
        return []
    within = [found for inner in call.made if inner.inputs for found in keeps(inner, floor)]
    return within or [(call, _describe(call, floor))]


def _leaves(call: Call) -> list[Call]:
    return [leaf for inner in call.made for leaf in _leaves(inner)] or [call]


def _normalises(call: Call) -> bool:
    return hasattr(call.part, "eps") or getattr(call.part, "running_mean", None) is not None


def _describe(call: Call, floor: float) -> Reason:
    part, kind = call.part, type(call.part).__name__
    if abs(call.passed) <= floor < abs(call.cost):
        return Reason(f"{kind}: normalises, so that no cost passes it", "normalises")
    if isinstance(part, _NormBase) and part.running_mean is not None and not part.training:
        return Reason(f"{kind} with running statistics, in evaluation mode", "statistics")
    if getattr(part, "running_mean", None) is not None and not isinstance(part, _NormBase):
        return Reason(f"{kind} with statistics of its own, not the batch's", "statistics")
    if (eps := getattr(part, "eps", None)) is not None:
        return Reason(f"{kind} with eps = {eps:g}", "eps")
    if getattr(part, "bias", None) is not None:
        return Reason(f"{kind} with a bias", "bias")
    return Reason(f"{kind}: not homogeneous", "curved")
