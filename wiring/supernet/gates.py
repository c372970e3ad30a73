"""Gates: one number per cell, edge and operation that multiplies the operation's output.

They choose the architecture, and they measure it: the gradient of the loss with respect to the gate of
operation ``O`` on edge ``(i, j)`` is that operation's cost, ``<dL/dX_j^i, O(X_i)>``, from the very backward
pass that trains the weights.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wiring.supernet.normalise import Affine, Images, Normalised, images, pixels

#: What an operation hands to the node that it ends in.
Output = Images | Normalised


@dataclass(frozen=True)
class Gates:
    """What one forward pass runs.

    Parameters
    ----------
    values
        The gates, one per cell, edge and operation; with a leading axis, one per image as well.
    active
        On the CPU: which operations run. The others cost neither time nor memory.
    """

    values: Float[Tensor, "*image cell edge operation"]
    active: Bool[Tensor, "cell edge operation"]


def image_dot(a: Float[Tensor, "batch *shape"], b: Float[Tensor, "batch *shape"]) -> Float[Tensor, " batch"]:
    """``<a, b>`` of each image, in at least single precision. Reads tensors of either memory format without a copy."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    if b.dim() == 4 and b.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    # A few images at a time: their products stay in the cache, and so do copies, if it takes any.
    few = max(1, 2**19 // max(1, math.prod(a.shape[1:])))
    parts = ([x.reshape(len(x), -1).to(dtype) for x in pair] for pair in zip(a.split(few), b.split(few), strict=True))
    with torch.autocast(a.device.type, enabled=False):
        return torch.cat([torch.linalg.vecdot(x, y) for x, y in parts])


class _GatedSum(torch.autograd.Function):
    """The sum of outputs that are ready, by one product each, and of those still to be normalised, by :class:`Affine`.

    The other form would normalise each output with the library and multiply it by its gate.
    """

    @staticmethod
    def forward(ctx: Any, outputs: list[Output], gates: Tensor, *tensors: Tensor | None) -> Tensor:
        ctx.save_for_backward(gates, *tensors)
        features: Any = tensors[: len(outputs)]
        pending = [output for output in outputs if isinstance(output, Normalised)]
        ctx.ready = len(outputs) - len(pending)
        ctx.affine = Affine(pending) if pending else None
        total = gates.new_zeros(())
        if ctx.affine is not None:
            total = ctx.affine.apply(gates[:, ctx.ready :], [pixels(x) for x in features[ctx.ready :]])
        for x, gate in zip(features[: ctx.ready], gates.T[: ctx.ready], strict=True):
            total = torch.addcmul(total, pixels(x), gate[:, None, None])
        return images(total, features[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gates, *tensors = ctx.saved_tensors
        features, weights = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        # A concatenation hands back a slice, a mean an expanded tensor: every kernel behind would stride through it.
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        g = pixels(gradient)
        to_features = [g * gate[:, None, None] for gate in gates.T[: ctx.ready]]
        to_gates = [image_dot(gradient, x)[:, None] for x in features[: ctx.ready]]
        to_weights: list[Tensor | None] = [None] * len(weights)
        if ctx.affine is not None:
            d = [pixels(x) for x in features[ctx.ready :]]
            with torch.autocast(g.device.type, enabled=False):
                to_d, to_matrices, costs = ctx.affine.vjp(gates[:, ctx.ready :], d, g)
            to_features += to_d
            to_gates.append(costs)
            for k, to_matrix in enumerate(to_matrices, ctx.ready):
                if (weight := weights[k]) is not None:
                    to_weights[k] = to_matrix.view_as(weight).to(weight.dtype)
        return (
            None,
            torch.cat(to_gates, dim=1).to(gates.dtype),
            *(images(x, like) for x, like in zip(to_features, features, strict=True)),
            *to_weights,
        )


def gated_sum(outputs: list[Output], gates: Float[Tensor, "batch output"]) -> Images:
    """``sum_k gate_k * output_k``, whose gradient with respect to ``gate_k`` is ``<dL/dsum, output_k>``, per image.

    Outputs that are ready come before those still to be normalised.
    """
    features = [output.features if isinstance(output, Normalised) else output for output in outputs]
    weights = [output.weight if isinstance(output, Normalised) else None for output in outputs]
    with torch.autocast(gates.device.type, enabled=False):
        total: Tensor = _GatedSum.apply(outputs, gates, *features, *weights)
    return total
