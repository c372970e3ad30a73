"""A 1x1 convolution and the batch normalisation behind it, as one matrix product.

Given the batch's moments, ``BN(W d)`` is affine in the features ``d`` (at every pixel, a column of channels): it is
``T (d - m)`` with ``T = diag(1/s) W`` and ``s^2 = diag(W V W^T) + eps``, where ``m`` and ``V`` are the mean and the
covariance of ``d`` over the batch and its pixels. So neither ``W d`` nor its normalised copy need be stored, a gated
sum of such outputs is a sum of matrix products, and the costs ``<g, T (d - m)>`` fall out of the products ``g^T d``
that W's gradient consists of. A pool's normalisation is the case ``W = 1``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 1e-5

Features = Float[Tensor, "batch channel height width"]
Pixels = Float[Tensor, "batch pixel channel"]


def pixels(x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch pixel channel"]:
    """A view of a channels_last tensor, in single precision at least: sums over pixels need it."""
    x = x.permute(0, 2, 3, 1).flatten(1, 2)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def images(x: Float[Tensor, "batch pixel channel"], like: Tensor) -> Float[Tensor, "batch channel height width"]:
    """The way back; height, width and precision are those of ``like``."""
    return x.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2).to(like.dtype)


@dataclass(frozen=True, eq=False)
class Normalised:
    """``BN(W d)``, not computed yet.

    Parameters
    ----------
    features
        ``d``.
    weight
        ``W``, as a 1x1 convolution holds it; ``None`` for the identity.
    eps
        What batch normalisation adds to the variance.
    """

    features: Features
    weight: Float[Tensor, "out channel 1 1"] | None
    eps: float = EPS

    @cached_property
    def moments(self) -> tuple[Float[Tensor, " channel"], Float[Tensor, "channel channel"]]:
        """Mean and covariance of the features over the batch and its pixels."""
        with torch.no_grad():
            d = pixels(self.features)
            # Image by image first: long sums lose digits, and squares minus the squared mean cancel.
            mean = d.mean(1).mean(0)
            square = torch.bmm(d.mT, d).sum(0)
            return mean, torch.addr(square, mean, mean, beta=1 / (d.shape[0] * d.shape[1]), alpha=-1)


class Affine:
    """The maps ``d -> T (d - m)`` of several normalised outputs, and how a gradient goes back through them.

    The leading axis of every attribute numbers the outputs. Raises ValueError if they differ in eps.
    """

    def __init__(self, outputs: Sequence[Normalised]) -> None:
        if len({output.eps for output in outputs}) > 1:
            raise ValueError(f"eps = {[output.eps for output in outputs]}: outputs of one node must share it")
        means, covariances = zip(*(output.moments for output in outputs), strict=True)
        self.mean, self.covariance = torch.stack(means)[:, None], torch.stack(covariances)
        weight = torch.stack(
            [
                torch.eye(len(mean), dtype=mean.dtype, device=mean.device) if w is None else w.flatten(1).to(mean.dtype)
                for mean, w in zip(means, [output.weight for output in outputs], strict=True)
            ]
        )
        variance = torch.bmm(weight, self.covariance).mul_(weight).sum(2, keepdim=True)
        self.scale = variance.clamp_(min=0).add_(outputs[0].eps).rsqrt_()
        self.matrix = weight.mul_(self.scale)
        #: ``-T m``
        self.offset = torch.bmm(self.mean, self.matrix.mT).neg_()[:, 0]

    def apply(self, gates: Float[Tensor, "batch output"], features: Sequence[Pixels]) -> Pixels:
        """``sum_k gate_k T_k (d_k - m_k)``."""
        gated = (gates[:, :, None, None] * self.matrix).unbind(1)
        total = torch.baddbmm((gates @ self.offset)[:, None], features[0], gated[0].mT)
        for d, matrix in zip(features[1:], gated[1:], strict=True):
            total.baddbmm_(d, matrix.mT)
        return total

    def pull_back(
        self, gates: Float[Tensor, "batch output"], features: Sequence[Pixels], gradient: Pixels
    ) -> tuple[list[Pixels], Float[Tensor, "output out channel"], Float[Tensor, "batch output"]]:
        """The gradients of the features, of the weights and, for each image, of the gates: the outputs' costs."""
        count = gradient.shape[0] * gradient.shape[1]
        sums = gradient.sum(1)
        products = torch.stack([torch.bmm(gradient.mT, d) for d in features])  # [output, batch, out, channel]
        products = products.flatten(2)
        costs = torch.addmm(torch.bmm(products, self.matrix.flatten(1)[:, :, None])[:, :, 0].T, sums, self.offset.T)
        # The gated gradient summed over the batch, and its products with the centred features.
        first = (gates.T @ sums)[:, :, None]
        second = torch.bmm(gates.T[:, None], products).view_as(self.matrix).baddbmm_(first, self.mean, alpha=-1)
        curved = (second * self.matrix).sum(2, keepdim=True).div_(count) * self.matrix
        quadratic = torch.bmm(self.matrix.mT, curved)
        constant = torch.bmm(self.mean, quadratic).baddbmm_(first.mT, self.matrix, alpha=-1 / count)
        to_weights = second.baddbmm_(curved, self.covariance, alpha=-count).mul_(self.scale)
        gated = (gates[:, :, None, None] * self.matrix).unbind(1)
        to_features = [
            torch.addmm(own, d.flatten(0, 1), bend, alpha=-1).view_as(d).baddbmm_(gradient, matrix)
            for d, own, bend, matrix in zip(features, constant, quadratic, gated, strict=True)
        ]
        return to_features, to_weights, costs


class _NormalisedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Normalised, features: Tensor, weight: Tensor) -> Tensor:
        ctx.affine = Affine([output])
        d = pixels(features)
        x = images(ctx.affine.apply(d.new_ones(len(d), 1), [d]).relu_(), features)
        ctx.save_for_backward(features, weight, x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, x = ctx.saved_tensors
        d = pixels(features)
        h = pixels(torch.ops.aten.threshold_backward(gradient, x, 0))
        with torch.autocast(h.device.type, enabled=False):
            (to_features,), to_weights, _ = ctx.affine.pull_back(d.new_ones(len(d), 1), [d], h)
        return None, images(to_features, features), to_weights.view_as(weight).to(weight.dtype)


def normalised_relu(output: Normalised) -> Float[Tensor, "batch out height width"]:
    """``ReLU(BN(W d))``."""
    with torch.autocast(output.features.device.type, enabled=False):
        x: Tensor = _NormalisedReLU.apply(output, output.features, output.weight)
    return x
