"""Gates: one number per cell, edge and operation that multiplies the operation's output.

They choose the architecture, and they measure it: the gradient of the loss with respect to the gate of operation ``O``
on edge ``(i, j)`` is its cost, ``<dL/dX_j^i, O(X_i)>``, from the very backward pass that trains the weights.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from wiring.supernet.normalise import Affine, Images, Normalised, by_library, images, pixels

#: What an operation hands to the node that it ends in.
Output = Images | Normalised


@dataclass(frozen=True)
class Gates:
    """What one forward pass runs."""

    values: Float[Tensor, "*image cell edge operation"]
    """One per cell, edge and operation; with a leading axis, one per image as well."""
    active: Bool[Tensor, "cell edge operation"]
    """On the CPU: which operations run. The others cost neither time nor memory."""


def moved(x: Tensor, device: torch.device) -> Tensor:
    """``x``, from the CPU, on the device; nothing waits for it, as out of memory that is not pinned CUDA would."""
    pinned = device.type == "cuda" and x.device.type == "cpu" and not x.requires_grad
    return (x.pin_memory() if pinned else x).to(device, non_blocking=True)


def image_dot(a: Float[Tensor, "batch *shape"], b: Float[Tensor, "batch *shape"]) -> Float[Tensor, " batch"]:
    """``<a, b>`` of each image, in at least single precision. Reads tensors of either memory format without a copy."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    if b.dim() == 4 and b.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.vecdot(a.reshape(len(a), -1).to(dtype), b.reshape(len(b), -1).to(dtype))

    few = max(1, 2**19 // max(1, math.prod(a.shape[1:])))
    with torch.autocast(a.device.type, enabled=False):
        if a.device.type != "cpu" or len(a) <= few:
            return dot(a, b)
        # A few images at a time: their products stay in the cache, and so do copies, if it takes any.
        return torch.cat([dot(*pair) for pair in zip(a.split(few), b.split(few), strict=True)])


class _GatedSum(torch.autograd.Function):
    """The sum of outputs that are ready, by one product each, and of those to be normalised, by :class:`Affine`."""

    @staticmethod
    def forward(ctx: Any, relu: bool, outputs: list[Output], gates: Tensor, *tensors: Tensor | None) -> Tensor:
        features: Any = tensors[: len(outputs)]
        pending = [output for output in outputs if isinstance(output, Normalised)]
        ready = ctx.ready = len(outputs) - len(pending)
        ctx.affine = Affine(pending) if pending else None
        total = gates.new_zeros(())
        if pending:
            total = ctx.affine.apply(gates[:, ready:], [pixels(x) for x in features[ready:]])
        for x, gate in zip(features[:ready], gates.T[:ready], strict=True):
            total = torch.addcmul(total, pixels(x), gate[:, None, None])
        x = images(total.relu_() if relu else total, features[0])
        ctx.save_for_backward(x if relu else None, gates, *tensors)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, gates, *tensors), ready = ctx.saved_tensors, ctx.ready
        if x is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, x, 0)
        features, weights = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        # A concatenation hands back a slice, a mean an expanded tensor: every kernel behind would stride through it.
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        g = pixels(gradient)
        to_features = [g * gate[:, None, None] for gate in gates.T[:ready]]
        to_gates = [image_dot(gradient, x)[:, None] for x in features[:ready]]
        to_weights = [None] * len(weights)
        if ctx.affine is not None:
            d = [pixels(x) for x in features[ready:]]
            with torch.autocast(g.device.type, enabled=False):
                to_d, matrices, costs = ctx.affine.vjp(gates[:, ready:], d, g)
            to_features += to_d
            to_gates.append(costs)
            pairs = zip(matrices, weights[ready:], strict=True)
            to_weights[ready:] = [None if w is None else matrix.view_as(w).to(w.dtype) for matrix, w in pairs]
        like = (images(x, feature) for x, feature in zip(to_features, features, strict=True))
        return None, None, torch.cat(to_gates, dim=1).to(gates.dtype), *like, *to_weights


class _StackedSum(torch.autograd.Function):
    """The sum of outputs that are all ready, in one product: of what is small, calls cost the most."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, *outputs: Tensor) -> Tensor:
        stack = torch.stack([pixels(x) for x in outputs]).flatten(2)
        ctx.save_for_backward(gates, stack)
        ctx.dtypes = [x.dtype for x in outputs]
        total = torch.bmm(gates[:, None], stack.transpose(0, 1))
        return images(total.view(len(gates), -1, outputs[0].shape[1]), outputs[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        gates, stack = ctx.saved_tensors
        g = pixels(gradient.contiguous(memory_format=torch.channels_last))
        costs = torch.bmm(stack.transpose(0, 1), g.flatten(1)[:, :, None])[:, :, 0]
        # With the outputs' axis outermost in memory each one's gradient is dense: no kernel behind strides through it.
        to_outputs = (gates.T.contiguous()[:, :, None, None] * g).unbind()
        return costs.to(gates.dtype), *(images(x, gradient).to(d) for x, d in zip(to_outputs, ctx.dtypes, strict=True))


def gated_sum(outputs: list[Output], gates: Float[Tensor, "batch output"], relu: bool = False) -> Images:
    """``sum_k gate_k * output_k``, whose gradient with respect to ``gate_k`` is ``<dL/dsum, output_k>``, per image.

    Outputs that are ready come before those still to be normalised. With ``relu``, the ReLU of the sum.
    """
    ready = [x for x in outputs if not isinstance(x, Normalised)]
    pairs = [(x.features, x.weight) if isinstance(x, Normalised) else (x, None) for x in outputs]
    features, weights = zip(*pairs, strict=True)
    with torch.autocast(gates.device.type, enabled=False):
        if len(ready) == len(outputs) and by_library(ready[0]):
            return _StackedSum.apply(gates, *ready)
        return _GatedSum.apply(relu, outputs, gates, *features, *weights)


def normalised_relu(output: Output) -> Images:
    """``ReLU(BN(W d))``, computed at once."""
    if not isinstance(output, Normalised):
        return F.relu(output)
    precision = torch.promote_types(output.features.dtype, torch.float32)
    return gated_sum([output], output.features.new_ones(len(output.features), 1, dtype=precision), relu=True)
