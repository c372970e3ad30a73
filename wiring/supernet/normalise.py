"""A 1x1 convolution and the batch normalisation behind it, as one matrix product.

Given the batch's moments, ``BN(W d)`` is affine in the features ``d`` (at every pixel, a column of channels): it is
``T (d - m)`` with ``T = diag(1/σ) W`` and ``σ^2 = diag(W V W^T) + eps``, where ``m`` and ``V`` are the mean and the
covariance of ``d`` over the batch and its pixels. So neither ``W d`` nor its normalised copy need be stored, a gated
sum of such outputs is a sum of matrix products, and the costs ``<g, T (d - m)>`` fall out of the products ``g^T d``
that W's gradient consists of. A pool's normalisation is the case ``W = 1``.

A CPU's library multiplies narrow matrices slowly. So where channels are few, several pixels stand in one row, and a
matrix acts on each of them as a block on the diagonal: in the rows' products, too, only these blocks count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

EPS = 1e-5

#: A batch of images, or of a node's feature maps.
Images = Float[Tensor, "batch channel height width"]
#: The same, channels last: a matrix for each image, one row a pixel.
Pixels = Float[Tensor, "batch pixel channel"]

#: Rows have at least so many numbers, if the image's pixels can be parted so: the narrowest matrices that are fast.
WIDE = 16

#: A tensor of at most so many numbers is small: what is done with it takes no longer than to call it.
SMALL = 2**16


def pixels(x: Images) -> Pixels:
    """The images' matrices: a view of a channels_last tensor. Sums over pixels need single precision at least."""
    x = x.permute(0, 2, 3, 1).flatten(1, 2)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def images(x: Pixels, like: Tensor) -> Images:
    """The way back from :func:`pixels`; height, width and precision are those of ``like``."""
    return x.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2).to(like.dtype)


def _per_row(x: Pixels) -> int:
    """How many pixels stand in one row."""
    several = 1
    while several * x.shape[2] < WIDE and x.shape[1] % (2 * several) == 0:
        several *= 2
    return several


def _rows(x: Pixels, several: int) -> Float[Tensor, "batch row _"]:
    return x.reshape(x.shape[0], x.shape[1] // several, several * x.shape[2])


def _blocks(matrices: Float[Tensor, "*any out channel"], several: int) -> Float[Tensor, "*any _ _"]:
    """Each matrix on the diagonal as often as there are pixels in a row."""
    return torch.kron(torch.eye(several, dtype=matrices.dtype), matrices) if several > 1 else matrices


def _sum_of_blocks(products: Float[Tensor, "*any _ _"], several: int) -> Float[Tensor, "*any out channel"]:
    """The sum of the blocks on the diagonal of the rows' products: the product over single pixels."""
    if several == 1:
        return products
    blocks = products.unflatten(-1, (several, -1)).unflatten(-3, (several, -1))
    return blocks.diagonal(dim1=-4, dim2=-2).sum(-1)


@dataclass(frozen=True, eq=False)
class Normalised:
    """``BN(W d)``, not computed yet: features ``d`` and weight ``W``, as a 1x1 convolution has it; None: identity."""

    features: Images
    weight: Float[Tensor, "out channel 1 1"] | None
    eps: float = EPS

    @cached_property
    def moments(self) -> tuple[Float[Tensor, " channel"], Float[Tensor, "channel channel"]]:
        """Mean and covariance of the features over the batch and its pixels."""
        with torch.no_grad():
            d = pixels(self.features)
            # Image by image first: long sums lose digits, and squares minus the squared mean cancel.
            mean = d.mean(1).mean(0)
            rows = _rows(d, several := _per_row(d))
            square = _sum_of_blocks(torch.bmm(rows.mT, rows).sum(0), several)
            return mean, torch.addr(square, mean, mean, beta=1 / (d.shape[0] * d.shape[1]), alpha=-1)


def by_library(x: Tensor) -> bool:
    """Whether the library's kernels serve ``x`` best: off the CPU, and on it where calls cost more than arithmetic."""
    return x.device.type != "cpu" or x.numel() <= SMALL


def normalised(x: Images, weight: Float[Tensor, "out channel 1 1"] | None, eps: float = EPS) -> Images | Normalised:
    """``BN(W x)``: by the library and at once, or left to the node where the edge ends."""
    if not by_library(x):
        return Normalised(x, weight, eps)
    return F.batch_norm(x if weight is None else F.conv2d(x, weight), None, None, training=True, eps=eps)


class Affine:
    """The maps ``d -> T (d - m)`` of several normalised outputs, and how a gradient goes back through them.

    The leading axis of every attribute numbers the outputs. Raises ValueError if they differ in eps.
    """

    def __init__(self, outputs: Sequence[Normalised]) -> None:
        if len({output.eps for output in outputs}) > 1:
            raise ValueError(f"eps = {[output.eps for output in outputs]}: outputs of one node must share it")
        means, covariances = zip(*(output.moments for output in outputs), strict=True)
        self.mean, self.covariance = torch.stack(means)[:, None], torch.stack(covariances)
        weights = [output.weight for output in outputs]
        eye = torch.eye(len(means[0]), dtype=means[0].dtype, device=means[0].device)
        weight = torch.stack([eye if w is None else w.flatten(1).to(eye.dtype) for w in weights])
        variance = torch.bmm(weight, self.covariance).mul_(weight).sum(2, keepdim=True)
        self.scale = variance.clamp_(min=0).add_(outputs[0].eps).rsqrt_()
        self.matrix = weight.mul_(self.scale)
        #: ``-T m``
        self.offset = torch.bmm(self.mean, self.matrix.mT).neg_()[:, 0]

    def apply(self, gates: Float[Tensor, "batch output"], features: Sequence[Pixels]) -> Pixels:
        """``sum_k gate_k T_k (d_k - m_k)``."""
        several = _per_row(features[0])
        gated, (first, *rest) = self._gated(gates, several), [_rows(d, several) for d in features]
        total = torch.baddbmm((gates @ self.offset).repeat(1, several)[:, None], first, gated[0].mT)
        for d, matrix in zip(rest, gated[1:], strict=True):
            total.baddbmm_(d, matrix.mT)
        return total.view_as(features[0])

    def vjp(
        self, gates: Float[Tensor, "batch output"], features: Sequence[Pixels], g: Pixels
    ) -> tuple[list[Pixels], Float[Tensor, "output out channel"], Float[Tensor, "batch output"]]:
        """Take the gradient ``g`` of the gated sum back to the features, the weights and, for each image, the gates.

        The gradients of an image's gates are the outputs' costs ``<g, T (d - m)>``. All other sums run over the ``n``
        pixels of the batch, each with its image's gate. With the moments held fixed, ``m`` and ``T`` have the
        gradients ``-T^T s`` and ``S``::

            s = sum gate g        S = sum gate g (d - m)^T

        Row ``i`` of ``T`` is ``W_i / σ_i``: it changes by ``dW_i / σ_i - T_i (dW_i V T_i^T / σ_i + T_i dV T_i^T / 2)``.
        And ``dm`` and ``dV`` are the means over the pixels of ``dd`` and of ``(d - m) dd^T + dd (d - m)^T``. Put
        together, with ``n r_i`` the part of ``S_i`` along ``T_i``, which the normalisation takes away again::

            r = rowsum(S * T) / n        Q = T^T diag(r) T
            dL/dW = diag(1/σ) (S - n diag(r) T V)
            dL/dd = gate T^T g - Q (d - m) - T^T s / n
        """
        T, m, V = self.matrix, self.mean, self.covariance
        n, several = g.shape[0] * g.shape[1], _per_row(g)
        sums, rows = g.sum(1), _rows(g, several)
        products = torch.stack([torch.bmm(rows.mT, _rows(d, several)) for d in features])
        products = _sum_of_blocks(products, several).flatten(2)  # [output, batch, out * channel]
        costs = torch.addmm(torch.bmm(products, T.flatten(1)[:, :, None])[:, :, 0].T, sums, self.offset.T)
        s = (gates.T @ sums)[:, :, None]
        S = torch.bmm(gates.T[:, None], products).view_as(T).baddbmm_(s, m, alpha=-1)
        rT = (S * T).sum(2, keepdim=True).div_(n) * T
        Q = torch.bmm(T.mT, rT)
        constant = torch.bmm(m, Q).baddbmm_(s.mT, T, alpha=-1 / n)  # what dL/dd holds of m and s
        to_weights = S.baddbmm_(rT, V, alpha=-n).mul_(self.scale)
        to_features = []
        gated, constant, Q = self._gated(gates, several), constant.repeat(1, 1, several), _blocks(Q, several)
        for c, d, q, matrix in zip(constant, features, Q, gated, strict=True):
            to_d = torch.addmm(c, _rows(d, several).flatten(0, 1), q, alpha=-1)
            to_features.append(to_d.view_as(rows).baddbmm_(rows, matrix).view_as(d))
        return to_features, to_weights, costs

    def _gated(self, gates: Float[Tensor, "batch output"], several: int) -> tuple[Float[Tensor, "batch _ _"], ...]:
        """``gate T`` of each output, for rows of ``several`` pixels."""
        return (gates[:, :, None, None] * _blocks(self.matrix, several)).unbind(1)
