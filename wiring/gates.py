"""Gates: one number per cell, edge and operation that multiplies the operation's output.

They choose the architecture, and they measure it: the gradient of the loss with respect to the gate of
operation ``O`` on edge ``(i, j)`` is that operation's cost, ``<dL/dX_j^i, O(X_i)>``, from the very backward
pass that trains the weights.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wiring.operations import Images


@dataclass(frozen=True)
class Gates:
    """What one forward pass runs.

    Parameters
    ----------
    values
        The gates, one per cell, edge and operation; with a leading axis, one per image as well.
    active
        On the CPU: which operations run. The others cost neither time nor memory.
    hard
        Every active gate is 1, so that outputs are passed on and not multiplied (one-hot sampling).
    """

    values: Float[Tensor, "*image cell edge operation"]
    active: Bool[Tensor, "cell edge operation"]
    hard: bool


def image_dot(a: Images, b: Images) -> Float[Tensor, " batch"]:
    """``<a, b>`` of each image, in at least single precision. Reads channels_last tensors without a copy."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    a, b = (x.permute(0, 2, 3, 1).flatten(1).to(dtype) for x in (a, b))
    return torch.linalg.vecdot(a, b)


class _Mix(torch.autograd.Function):
    """``sum_k gate_k * output_k``, whose gradient with respect to ``gate_k`` is ``<dL/dsum, output_k>``, per image."""

    @staticmethod
    def forward(ctx: Any, hard: bool, *tensors: Tensor) -> Tensor:
        outputs, gates = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ctx.hard = hard
        # Hard gates that nobody measures need nothing for the way back.
        ctx.measured = not hard or any(ctx.needs_input_grad[1 + len(outputs) :])
        if ctx.measured:
            ctx.save_for_backward(*tensors)
        if not hard:
            outputs = tuple(_scale(x, gate) for x, gate in zip(outputs, gates, strict=True))
        return _total(outputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        # A concatenation hands back a slice, a mean an expanded tensor: every kernel behind would stride through it.
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if not ctx.measured:
            return None, *(gradient if need else None for need in needed)
        tensors = ctx.saved_tensors
        outputs, gates = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        to_outputs = [
            (gradient if ctx.hard else _scale(gradient, gate)) if need else None
            for gate, need in zip(gates, needed[: len(gates)], strict=True)
        ]
        to_gates = [
            image_dot(gradient, x) if need else None for x, need in zip(outputs, needed[len(outputs) :], strict=True)
        ]
        return None, *to_outputs, *to_gates


class _Tap(torch.autograd.Function):
    """A tensor passed on as it is, whose gate gets the gradient ``<dL/dX, X>``, per image."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, image_dot(gradient, *ctx.saved_tensors)


def tap(x: Images, gate: Float[Tensor, " batch"]) -> Images:
    """``x`` under a gate of 1: the gate's gradient is ``<dL/dX, X>`` of each image."""
    tapped: Tensor = _Tap.apply(x, gate)
    return tapped


def mix(outputs: list[Images], gates: list[Float[Tensor, " batch"]], hard: bool) -> Images:
    """``sum_k gate_k * output_k``; ``hard`` promises that every gate is 1 and saves the products."""
    mixed: Tensor = _Mix.apply(hard, *outputs, *gates)
    return mixed


def _scale(x: Images, gate: Float[Tensor, " batch"]) -> Images:
    return x * gate.to(x.dtype)[:, None, None, None]


def _total(outputs: list[Images] | tuple[Images, ...]) -> Images:
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total
