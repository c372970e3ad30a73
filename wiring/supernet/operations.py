"""The eight candidate operations of an edge, by name, in the paper's order.

Every operation maps a node's feature map to one of the same width; ``stride`` 2 halves height and width, rounding up.
They are numerically those of DARTS (Liu et al., 2019): BN behind pools, ``sep`` is (ReLU, depthwise, pointwise, BN)
twice, ``dil`` once with dilation 2. BN has no affine parameters and always uses the statistics of its batch.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from wiring.supernet.gates import Output, normalised_relu
from wiring.supernet.normalise import EPS, Images, by_library, normalised


class _ReLUConvs(torch.autograd.Function):
    """ReLU and the 1x1 convolutions that read it. Only ``x`` is kept, once for all; its ReLU is computed again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        rectified = F.relu(x)
        return tuple(F.conv2d(rectified, weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        needs_x, *needs_weights = ctx.needs_input_grad
        x = x.to(gradients[0].dtype)
        rectified, one, zero = F.relu(x), [1, 1], [0, 0]
        to_x, to_weights = None, []
        for gradient, weight, needed in zip(gradients, weights, needs_weights, strict=True):
            part, to_weight, _ = torch.ops.aten.convolution_backward(
                gradient, rectified, weight.to(x.dtype), None, one, zero, one, False, zero, 1, [needs_x, needed, False]
            )
            to_x = part if to_x is None else to_x.add_(part)
            to_weights.append(to_weight)
        return None if to_x is None else torch.ops.aten.threshold_backward(to_x, x, 0), *to_weights


class Node:
    """A node's feature map ``x``; what several operations compute of it, or several ``readers``, is computed once."""

    def __init__(self, x: Images, readers: Sequence["ReLUConvBN"] = ()) -> None:
        self.x, self._readers = x, readers
        self._convolved: dict[ReLUConvBN, Tensor] = {}
        self._pooled: dict[Any, Output] = {}

    def convolved(self, reader: "ReLUConvBN") -> Float[Tensor, "batch out height width"]:
        """The reader's 1x1 convolution of ``rectified``; the first reader's call computes those of all readers."""
        if by_library(self.x):
            return F.conv2d(self.rectified, reader.conv.weight)
        if reader not in self._convolved:
            readers = [reader, *(other for other in self._readers if other is not reader)]
            outputs = _ReLUConvs.apply(self.x, *(each.conv.weight for each in readers))
            self._convolved |= zip(readers, outputs, strict=True)
        return self._convolved.pop(reader)

    @cached_property
    def rectified(self) -> Images:
        return F.relu(self.x)

    def pooled(self, pool: Callable[[Tensor, int], Tensor], stride: int, eps: float) -> Output:
        """The pool of ``x``, normalised or to be: edges that pool the same node share it and its moments."""
        if (key := (pool, stride, eps)) not in self._pooled:
            self._pooled[key] = normalised(pool(self.x, stride), None, eps)
        return self._pooled[key]


#: Normalises with the batch's own statistics: what makes an operation homogeneous of degree 0 (Theorem 1).
batch_norm = partial(nn.BatchNorm2d, affine=False, track_running_stats=False)
pointwise = partial(nn.Conv2d, kernel_size=1, bias=False)


def _depthwise_weight_gradient(x: Tensor, gradient: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    """The kernel's gradient of a depthwise convolution that keeps the image's size, or with stride 2 halves it.

    On a CPU the library is fast without dilation, up to three columns, and on images no smaller than the kernel: wider
    kernels are cut into such strips, small images padded beforehand, and a dilated convolution is a plain one on the
    grids of every ``dilation``-th row and column. In memory the columns of these grids lie side by side like channels,
    and so they are taken.
    """
    channels, half = x.shape[1], kernel // 2
    if x.device.type != "cpu" or x.shape[3] <= dilation * half:
        shape = channels, 1, kernel, kernel
        return conv2d_weight(x, shape, gradient, stride, dilation * half, dilation, groups=channels)
    x, gradient = _grids(x, dilation), _grids(gradient, dilation)
    strips, rows = [], half
    if x.shape[2] < kernel:
        x, rows = F.pad(x, (0, 0, half, half)), 0
    for left in range(0, kernel, 3):
        width = min(3, kernel - left)
        # How many columns outside the image a strip sees. The library adds none but equal numbers of them itself.
        before, after = half - left, left + width - 1 - half
        seen, padding = (x, before) if before == after else (F.pad(x, (before, after)), 0)
        shape = (dilation * channels, 1, kernel, width)
        strips.append(conv2d_weight(seen, shape, gradient, stride, (rows, padding), groups=shape[0]))
    return torch.cat(strips, dim=3).view(dilation, channels, 1, kernel, kernel).sum(0)


def _grids(x: Images, step: int) -> Float[Tensor, "grid_image column_channel grid_height grid_width"]:
    """Every ``step``-th row as an image and every ``step``-th column as channels of their own."""
    if step == 1:
        return x
    height, width = x.shape[2:]
    rows = F.pad(x, (0, -width % step, 0, -height % step)).permute(0, 2, 3, 1).unflatten(1, (-1, step))
    return torch.cat(rows.unflatten(3, (-1, step)).flatten(4).unbind(2)).permute(0, 3, 1, 2)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution that keeps the image's size, or with stride 2, and then without dilation, halves it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: dict[str, int]) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.geometry, ctx.shape = geometry, x.shape
        return F.conv2d(x, weight, None, **geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, dtype = None, None, gradient.dtype
        stride, dilation = ctx.geometry["stride"], ctx.geometry["dilation"]
        if ctx.needs_input_grad[0]:
            weight = weight.to(dtype)
            # Without stride the kernel turned round: the library's own gradient takes 5 to 20 times as long on a CPU.
            if stride == 1:
                to_x = F.conv2d(gradient, weight.flip(2, 3), None, **ctx.geometry)
            else:
                to_x = conv2d_input(ctx.shape, weight, gradient, **ctx.geometry)
        if ctx.needs_input_grad[1]:
            to_weight = _depthwise_weight_gradient(x.to(dtype), gradient, weight.shape[-1], stride, dilation)
        return to_x, to_weight, None


def _depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int = 1) -> Tensor:
    if stride == dilation > 1:  # every pixel that it reads lies on the grid of those it writes
        x, stride, dilation = x[:, :, ::stride, ::stride], 1, 1
    padding = dilation * (weight.shape[-1] // 2)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": len(weight)}
    if 1 not in (stride, dilation) or (by_library(x) and (dilation == 1 or x.device.type != "cpu")):
        return F.conv2d(x, weight, None, **geometry)
    return _Depthwise.apply(x, weight, geometry)


class Depthwise(nn.Conv2d):
    """A depthwise convolution without bias, padded so that stride 1 keeps the image's size."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, dilation * (kernel // 2), dilation, channels, bias=False)

    def forward(self, x: Images) -> Float[Tensor, "batch channel out_height out_width"]:
        return _depthwise(x, self.weight, self.stride[0], self.dilation[0])


class SkipConnect(nn.Module):
    """The node itself; not normalised."""

    def forward(self, node: Node) -> Images:
        return node.x


class FactorizedReduce(nn.Module):
    """Halve the resolution: ReLU; 1x1 convolutions of the pixels of even rows and columns, and of odd ones; BN."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.even = pointwise(channels_in, channels_out - channels_out // 2)
        self.odd = pointwise(channels_in, channels_out // 2)
        self.norm = batch_norm(channels_out)

    def forward(self, node: Node) -> Images:
        x = node.rectified
        padded = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        # Slices, not stride 2: the library's backward of a strided 1x1 convolution writes past the end of small images.
        halves = [self.even(x[:, :, ::2, ::2]), self.odd(padded[:, :, 1::2, 1::2])]
        return self.norm(torch.cat(halves, dim=1))


class ReLUConvBN(nn.Module):
    """ReLU, 1x1 convolution, BN: how a cell reads the output of an earlier cell."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = pointwise(channels_in, channels_out)
        self.norm = batch_norm(channels_out)

    def forward(self, node: Node) -> Images:
        return self.norm(node.convolved(self))


class PointwiseBN(nn.Module):
    """A 1x1 convolution and BN. Where they are left to the node that the edge ends in, it evaluates all its edges'."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.eps = pointwise(channels, channels).weight, EPS

    def forward(self, x: Images) -> Output:
        return normalised(x, self.weight, self.eps)


class Pool(nn.Module):
    """A pool, and BN, which may be left to the node where the edge ends."""

    def __init__(self, pool: Callable[[Tensor, int], Tensor], stride: int) -> None:
        super().__init__()
        self.pool, self.stride, self.eps = pool, stride, EPS

    def forward(self, node: Node) -> Output:
        return node.pooled(self.pool, self.stride, self.eps)


class Convs(nn.Sequential):
    """Stages of a ReLU, a depthwise and a 1x1 convolution, and BN; the last 1x1 convolution and BN may be left."""

    def forward(self, node: Node) -> Output:
        x = node.rectified
        *before, last = self
        for stage in before:
            x = normalised_relu(stage(x))
        return last(x)


def _stage(channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(Depthwise(channels, kernel, stride, dilation), PointwiseBN(channels))


def max_pool(x: Images, stride: int) -> Float[Tensor, "batch channel out_height out_width"]:
    """The largest of each 3x3 pixels inside the image."""
    return F.max_pool2d(x, 3, stride, 1)


def avg_pool(x: Images, stride: int) -> Float[Tensor, "batch channel out_height out_width"]:
    """The mean of each 3x3 pixels inside the image; of large ones by a convolution: faster, and keeps no input."""
    if by_library(x):
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    ones = x.new_ones(x.shape[1], 1, 3, 3)
    inside = F.conv2d(x.new_ones(1, 1, *x.shape[2:]), ones[:1], stride=stride, padding=1)
    return _depthwise(x, ones, stride) / inside


#: Name -> factory(width, stride). ``none`` has no module: it is skipped, and its cost is 0.
OPERATIONS: dict[str, Callable[[int, int], nn.Module] | None] = {
    "none": None,
    "skip_connect": lambda width, stride: SkipConnect() if stride == 1 else FactorizedReduce(width, width),
    "max_pool_3x3": lambda width, stride: Pool(max_pool, stride),
    "avg_pool_3x3": lambda width, stride: Pool(avg_pool, stride),
    "sep_conv_3x3": lambda width, stride: Convs(OrderedDict(first=_stage(width, 3, stride), second=_stage(width, 3))),
    "dil_conv_3x3": lambda width, stride: Convs(OrderedDict(conv=_stage(width, 3, stride, dilation=2))),
    "dil_conv_5x5": lambda width, stride: Convs(OrderedDict(conv=_stage(width, 5, stride, dilation=2))),
    "sep_conv_5x5": lambda width, stride: Convs(OrderedDict(first=_stage(width, 5, stride), second=_stage(width, 5))),
}

#: The operations' names: the order of the last axis of every cost, gate and probability.
NAMES = tuple(OPERATIONS)
NONE = NAMES.index("none")
