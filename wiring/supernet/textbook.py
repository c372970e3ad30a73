"""The textbook supernet, as public code for differentiable search writes it: what the fast one is measured against.

NCHW modules, one ReLU per operation, ``sum(w * op(x))`` for relaxed gates; no cost is recorded. It computes the same
function as :class:`wiring.supernet.network.Supernet`, shares its chain alone, and can take over its weights.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from wiring.supernet.gates import Gates
from wiring.supernet.network import Chain
from wiring.supernet.normalise import Images
from wiring.supernet.operations import NAMES
from wiring.supernet.topology import Topology


def _bn(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, groups, bias=False)


def _block(channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    depthwise = _conv(channels, channels, kernel, stride, dilation, groups=channels)
    return [nn.ReLU(), depthwise, _conv(channels, channels), _bn(channels)]


def operation(name: str, channels: int, stride: int) -> nn.Module:
    """The operation of that name, as DARTS builds it; ``none`` has no module. Raises ValueError for other names."""
    match name:
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
        case "max_pool_3x3":
            return nn.Sequential(nn.MaxPool2d(3, stride, 1), _bn(channels))
        case "avg_pool_3x3":
            return nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), _bn(channels))
        case "sep_conv_3x3" | "sep_conv_5x5":
            kernel = int(name[-1])
            return nn.Sequential(*_block(channels, kernel, stride), *_block(channels, kernel))
        case "dil_conv_3x3" | "dil_conv_5x5":
            return nn.Sequential(*_block(channels, int(name[-1]), stride, dilation=2))
    raise ValueError(f"operation {name!r}: allowed are {', '.join(NAMES[1:])}")


class FactorizedReduce(nn.Module):
    """DARTS' way to halve the resolution: two 1x1 convolutions a pixel apart, of images padded to an even size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.even = _conv(channels_in, channels_out - channels_out // 2, stride=2)
        self.odd = _conv(channels_in, channels_out // 2, stride=2)
        self.norm = _bn(channels_out)

    def forward(self, x: Images) -> Float[Tensor, "batch out half_height half_width"]:
        x = F.relu(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)))
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


def relu_conv_bn(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), _conv(channels_in, channels_out), _bn(channels_out))


class _Cell(nn.Module):
    def __init__(
        self, topology: Topology, sources: list[tuple[int, bool]], channels: int, stride: int, partial: int
    ) -> None:
        super().__init__()
        self.topology, self.stride, self.seen, self.partial = topology, stride, channels // partial, partial
        reads = [(FactorizedReduce if twice else relu_conv_bn)(width, channels) for width, twice in sources]
        self.inputs = nn.ModuleList(reads)
        self.edges: Any = nn.ModuleList()
        for (i, _), names in zip(topology.edges, topology.candidates, strict=True):
            at = stride if i < len(topology.inputs) else 1
            self.edges.append(nn.ModuleDict({name: operation(name, self.seen, at) for name in names if name != "none"}))

    def forward(self, inputs: list[Tensor], values: Tensor, active: list[list[bool]]) -> Tensor:
        one = (values == 1).tolist()
        nodes = [read(x) for read, x in zip(self.inputs, inputs, strict=True)]
        zero = torch.zeros_like(nodes[0][:, : self.seen, :: self.stride, :: self.stride])
        for j in self.topology.intermediate:
            total = zero
            for number, (i, end) in enumerate(self.topology.edges):
                for k, name in enumerate(NAMES):
                    if end == j and name in self.edges[number] and active[number][k]:
                        output = self.edges[number][name](nodes[i][:, : self.seen])
                        total = total + (output if one[number][k] else values[number, k] * output)
            if self.partial > 1:
                passing = [nodes[i][:, self.seen :] for i, end in self.topology.edges if end == j]
                halved = [F.max_pool2d(x, 2, ceil_mode=True) if x.shape[2:] != zero.shape[2:] else x for x in passing]
                others = sum(halved, start=zero.repeat(1, self.partial - 1, 1, 1))
                total = F.channel_shuffle(torch.cat([total, others], dim=1), self.partial)
            nodes.append(total)
        return torch.cat([nodes[j] for j in self.topology.output], dim=1)


class PlainSupernet(Chain):
    """The textbook supernet; arguments and parameters are those of :class:`wiring.Supernet`, in the same order."""

    cell_class, memory_format = _Cell, torch.contiguous_format

    @torch.no_grad()
    def copy_weights(self, parameters: Iterable[Tensor]) -> "PlainSupernet":
        """Take over the parameters of a fast supernet of the same shape."""
        for mine, theirs in zip(self.parameters(), parameters, strict=True):
            mine.copy_(theirs)
        return self

    def forward(self, images: Images, gates: Gates) -> Tensor:
        """The logits; one-hot gates run the chosen operation only, relaxed ones weigh all of them."""
        outputs = [self.stem(images)]
        for number, (cell, active) in enumerate(zip(self.cells, gates.active.tolist(), strict=True)):
            inputs = [outputs[at] for at in self.topology.sources(number)]
            outputs.append(cell(inputs, gates.values[number], active))
        return self.classifier(outputs[-1].mean((2, 3)))
