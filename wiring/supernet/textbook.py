"""The textbook supernet, as public code for differentiable search writes it: what the fast one is measured against.

NCHW modules, one ReLU per operation, ``sum(w * op(x))`` for relaxed gates; no cost is recorded. It computes the same
function as :class:`wiring.supernet.network.Supernet` and can take over its weights.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wiring.supernet.gates import Gates
from wiring.supernet.operations import NAMES, Images
from wiring.supernet.topology import Topology


def _bn(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def _conv(channels_in: int, channels_out: int, kernel: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels_in, channels_out, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)


def _block(channels: int, kernel: int, dilation: int) -> list[nn.Module]:
    depthwise = _conv(channels, channels, kernel, dilation, groups=channels)
    return [nn.ReLU(), depthwise, _conv(channels, channels), _bn(channels)]


def _operation(name: str, channels: int) -> nn.Module:
    match name:
        case "skip_connect":
            return nn.Identity()
        case "max_pool_3x3":
            return nn.Sequential(nn.MaxPool2d(3, 1, 1), _bn(channels))
        case "avg_pool_3x3":
            return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), _bn(channels))
        case "sep_conv_3x3" | "sep_conv_5x5":
            kernel = int(name[-1])
            return nn.Sequential(*_block(channels, kernel, 1), *_block(channels, kernel, 1))
        case "dil_conv_3x3" | "dil_conv_5x5":
            return nn.Sequential(*_block(channels, int(name[-1]), 2))
    raise ValueError(f"operation {name!r}: allowed are {', '.join(NAMES)}")


class PlainSupernet(nn.Module):
    """A supernet of normal cells; the parameters are those of :class:`wiring.Supernet`, in the same order."""

    def __init__(self, topology: Topology, cells: int, channels: int, classes: int, image_channels: int = 3) -> None:
        super().__init__()
        self.topology = topology
        self.stem = nn.Sequential(
            _conv(image_channels, 3 * channels, 3), nn.BatchNorm2d(3 * channels, track_running_stats=False)
        )
        outputs = [3 * channels]
        self.cells = nn.ModuleList()
        for _ in range(cells):
            sources = [outputs[max(0, len(outputs) - back)] for back in topology.inputs]
            self.cells.append(_Cell(topology, sources, channels))
            outputs.append(channels * len(topology.output))
        self.classifier = nn.Linear(outputs[-1], classes, bias=False)

    @torch.no_grad()
    def copy_weights(self, parameters: Iterable[Tensor]) -> "PlainSupernet":
        """Take over the parameters of a fast supernet of the same shape."""
        for own, theirs in zip(self.parameters(), parameters, strict=True):
            own.copy_(theirs)
        return self

    def forward(self, images: Images, gates: Gates) -> Tensor:
        """The logits; one-hot gates run the chosen operation only, relaxed ones weigh all of them."""
        outputs = [self.stem(images)]
        for cell, values, active in zip(self.cells, gates.values, gates.active.tolist(), strict=True):
            inputs = [outputs[max(0, len(outputs) - back)] for back in self.topology.inputs]
            outputs.append(cell(inputs, values, active))
        logits: Tensor = self.classifier(outputs[-1].mean((2, 3)))
        return logits


class _Cell(nn.Module):
    def __init__(self, topology: Topology, sources: list[int], channels: int) -> None:
        super().__init__()
        self.topology = topology
        self.inputs = nn.ModuleList(nn.Sequential(nn.ReLU(), _conv(c, channels), _bn(channels)) for c in sources)
        self.edges: Any = nn.ModuleList(
            nn.ModuleDict({name: _operation(name, channels) for name in names if name != "none"})
            for names in topology.candidates
        )

    def forward(self, inputs: list[Tensor], values: Tensor, active: list[list[bool]]) -> Tensor:
        one = (values == 1).tolist()
        nodes = [read(x) for read, x in zip(self.inputs, inputs, strict=True)]
        for j in self.topology.intermediate:
            total = torch.zeros_like(nodes[0])
            for number, (i, end) in enumerate(self.topology.edges):
                for k, name in enumerate(NAMES):
                    if end == j and name in self.edges[number] and active[number][k]:
                        output = self.edges[number][name](nodes[i])
                        total = total + (output if one[number][k] else values[number, k] * output)
            nodes.append(total)
        return torch.cat([nodes[j] for j in self.topology.output], dim=1)
