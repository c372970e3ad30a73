"""The eight candidate operations of an edge, by name, in the paper's order.

Every operation maps a node's feature map to one of the same width; ``stride`` 2 halves height and width
(rounding up). They are numerically those of DARTS (Liu et al., 2019): pools are followed by batch
normalisation, ``sep`` is (ReLU, depthwise, pointwise, BN) twice, ``dil`` once with dilation 2. Batch
normalisation has no affine parameters and always uses the statistics of its batch.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

Images = Float[Tensor, "batch channel height width"]


class Node:
    """A node's feature map ``x``; its ReLU is computed once, for all the operations that read it."""

    def __init__(self, x: Images) -> None:
        self.x = x

    @cached_property
    def rectified(self) -> Images:
        return F.relu(self.x)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Normalise with the batch's own statistics: what makes an operation homogeneous of degree 0 (Theorem 1)."""
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def pointwise(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)


class _SameDepthwise(torch.autograd.Function):
    """A depthwise convolution that keeps the image's size.

    Its gradient with respect to the image is the same convolution with the kernel turned round. The library's own
    kernel for that gradient takes 5 to 20 times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = {"padding": padding, "dilation": dilation, "groups": len(weight)}
        return F.conv2d(x, weight, **ctx.geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x = F.conv2d(gradient, weight.flip(2, 3), **ctx.geometry) if ctx.needs_input_grad[0] else None
        to_weight = conv2d_weight(x, weight.shape, gradient, **ctx.geometry) if ctx.needs_input_grad[1] else None
        return to_x, to_weight, None, None


class Depthwise(nn.Conv2d):
    """A depthwise convolution without bias, padded so that stride 1 keeps the image's size."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel - 1) // 2
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Images) -> Float[Tensor, "batch channel out_height out_width"]:
        if self.stride != (1, 1):
            return super().forward(x)
        weight: Tensor = self.weight
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        y: Tensor = _SameDepthwise.apply(x, weight, self.padding[0], self.dilation[0])
        return y


class SkipConnect(nn.Module):
    def forward(self, node: Node) -> Images:
        return node.x


class FactorizedReduce(nn.Module):
    """Halve the resolution: ReLU, two 1x1 convolutions on shifted grids side by side, BN. Odd sizes round up."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.even = pointwise(channels_in, channels_out - channels_out // 2, stride=2)
        self.odd = pointwise(channels_in, channels_out // 2, stride=2)
        self.norm = batch_norm(channels_out)

    def forward(self, node: Node) -> Images:
        x = node.rectified
        height, width = x.shape[2:]
        shifted = F.pad(x, (0, width % 2, 0, height % 2))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1))


class ReLUConvBN(nn.Module):
    """ReLU, 1x1 convolution, BN: how a cell reads the output of an earlier cell."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = pointwise(channels_in, channels_out)
        self.norm = batch_norm(channels_out)

    def forward(self, node: Node) -> Images:
        return self.norm(self.conv(node.rectified))


class Pool(nn.Module):
    def __init__(self, pool: nn.Module, channels: int) -> None:
        super().__init__()
        self.pool = pool
        self.norm = batch_norm(channels)

    def forward(self, node: Node) -> Images:
        return self.norm(self.pool(node.x))


class SeparableConv(nn.Module):
    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            Depthwise(channels, kernel, stride), pointwise(channels, channels), batch_norm(channels)
        )
        self.second = nn.Sequential(Depthwise(channels, kernel), pointwise(channels, channels), batch_norm(channels))

    def forward(self, node: Node) -> Images:
        return self.second(F.relu(self.first(node.rectified)))


class DilatedConv(nn.Module):
    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            Depthwise(channels, kernel, stride, dilation=2),
            pointwise(channels, channels),
            batch_norm(channels),
        )

    def forward(self, node: Node) -> Images:
        return self.conv(node.rectified)


def skip_connect(channels: int, stride: int) -> nn.Module:
    return SkipConnect() if stride == 1 else FactorizedReduce(channels, channels)


def max_pool(channels: int, stride: int) -> nn.Module:
    return Pool(nn.MaxPool2d(3, stride=stride, padding=1), channels)


def avg_pool(channels: int, stride: int) -> nn.Module:
    return Pool(nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False), channels)


#: Name -> factory(channels, stride). ``none`` has no module: it is skipped, and its cost is 0.
OPERATIONS: dict[str, Callable[[int, int], nn.Module] | None] = {
    "none": None,
    "skip_connect": skip_connect,
    "max_pool_3x3": max_pool,
    "avg_pool_3x3": avg_pool,
    "sep_conv_3x3": lambda channels, stride: SeparableConv(channels, 3, stride),
    "dil_conv_3x3": lambda channels, stride: DilatedConv(channels, 3, stride),
    "dil_conv_5x5": lambda channels, stride: DilatedConv(channels, 5, stride),
    "sep_conv_5x5": lambda channels, stride: SeparableConv(channels, 5, stride),
}

#: The operations' names: the order of the last axis of every cost, gate and probability.
NAMES = tuple(OPERATIONS)
NONE = NAMES.index("none")
