"""The supernet a second time, as a textbook writes it: what the tests hold wiring's against.

Shares names and weights with wiring and no code. NCHW, one module per operation, None multiplies by 0, and the tensor
that each operation contributes is kept, so that autograd itself can be asked for a cost, ``<dL/dX, O(X)>``.
"""

import torch
from torch import nn
from torch.nn import functional as F

NAMES = (
    "none",
    "skip_connect",
    "max_pool_3x3",
    "avg_pool_3x3",
    "sep_conv_3x3",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "sep_conv_5x5",
)


def conv(channels_in, channels_out, kernel, stride=1, dilation=1, groups=1):
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, groups, bias=False)


def norm(channels):
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def relu_conv_bn(channels_in, channels_out):
    return nn.Sequential(nn.ReLU(), conv(channels_in, channels_out, 1), norm(channels_out))


class Zero(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return 0 * x[:, :, :: self.stride, :: self.stride]


class FactorizedReduce(nn.Module):
    """DARTS's, on an image padded to even size."""

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.left = conv(channels_in, channels_out - channels_out // 2, 1, stride=2)
        self.right = conv(channels_in, channels_out // 2, 1, stride=2)
        self.norm = norm(channels_out)

    def forward(self, x):
        x = F.relu(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2)))
        return self.norm(torch.cat([self.left(x), self.right(x[:, :, 1:, 1:])], dim=1))


def operation(name, channels, stride):
    """The operation of that name as a module of an image."""

    def block(kernel, dilation, stride):
        depthwise = conv(channels, channels, kernel, stride, dilation, groups=channels)
        return nn.ReLU(), depthwise, conv(channels, channels, 1), norm(channels)

    match name:
        case "none":
            return Zero(stride)
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
        case "max_pool_3x3":
            return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), norm(channels))
        case "avg_pool_3x3":
            return nn.Sequential(nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), norm(channels))
        case "sep_conv_3x3":
            return nn.Sequential(*block(3, 1, stride), *block(3, 1, 1))
        case "dil_conv_3x3":
            return nn.Sequential(*block(3, 2, stride))
        case "dil_conv_5x5":
            return nn.Sequential(*block(5, 2, stride))
        case "sep_conv_5x5":
            return nn.Sequential(*block(5, 1, stride), *block(5, 1, 1))


class Network(nn.Module):
    """Cells whose edges run the names ``chosen[cell][edge]``: one each make a child network, several a mixed one.

    A forward pass keeps ``contributions[cell, edge, name]``, the pair (O(X), weight * O(X)); ``nodes[cell, j]``,
    the sum X_j; and ``outputs``, of the stem and of each cell.
    """

    def __init__(self, topology, chosen, channels, classes, image_channels=3, reductions=()):
        super().__init__()
        self.topology, self.reductions = topology, reductions
        first = len(topology.inputs)
        self.stem = nn.Sequential(
            conv(image_channels, 3 * channels, 3), nn.BatchNorm2d(3 * channels, track_running_stats=False)
        )
        self.inputs, self.edges = nn.ModuleList(), nn.ModuleList()
        widths, halvings = [3 * channels], [0]
        for cell, names in enumerate(chosen):
            stride = 2 if cell in reductions else 1
            channels *= stride
            self.inputs.append(
                nn.ModuleList(
                    (FactorizedReduce if halvings[at] < halvings[-1] else relu_conv_bn)(widths[at], channels)
                    for at in self._read(cell)
                )
            )
            self.edges.append(
                nn.ModuleList(
                    nn.ModuleDict({name: operation(name, channels, stride if i < first else 1) for name in own})
                    for (i, _), own in zip(topology.edges, names, strict=True)
                )
            )
            widths.append(len(topology.output) * channels)
            halvings.append(halvings[-1] + stride - 1)
        self.classifier = nn.Linear(widths[-1], classes, bias=False)

    def _read(self, cell):
        """Where in ``outputs`` the cell's input nodes read: so many cells back, at most back to the stem."""
        return [max(0, cell + 1 - back) for back in self.topology.inputs]

    def forward(self, images, weights=None):
        """The logits; ``weights[cell, edge, operation]`` multiply the operations' outputs."""
        self.contributions, self.nodes, self.outputs = {}, {}, [self.stem(images)]
        for cell in range(len(self.inputs)):
            nodes = [read(self.outputs[at]) for read, at in zip(self.inputs[cell], self._read(cell), strict=True)]
            stride = 2 if cell in self.reductions else 1
            zeros = torch.zeros_like(nodes[0][:, :, ::stride, ::stride])
            last = max([*self.topology.output, *(j for _, j in self.topology.edges)])
            for j in range(len(nodes), last + 1):
                total = zeros
                for edge, (i, end) in enumerate(self.topology.edges):
                    for name, module in self.edges[cell][edge].items() if end == j else ():
                        weight = 1 if weights is None else weights[cell, edge, NAMES.index(name)]
                        output = module(nodes[i])
                        self.contributions[cell, edge, name] = output, weight * output
                        total = total + self.contributions[cell, edge, name][1]
                self.nodes[cell, j] = total
                nodes.append(total)
            self.outputs.append(torch.cat([nodes[j] for j in self.topology.output], dim=1))
        return self.classifier(self.outputs[-1].mean((2, 3)))


def parameter_pairs(network, supernet):
    """(the network's, the supernet's) parameters that are the same weight."""
    modules = [(network.stem, supernet.stem), (network.classifier, supernet.classifier)]
    for inputs, edges, cell in zip(network.inputs, network.edges, supernet.cells, strict=True):
        modules += zip(inputs, cell.inputs, strict=True)
        for edge, theirs in zip(edges, cell.edges, strict=True):
            modules += [(edge[name], theirs[name]) for name in edge if name != "none"]
    return [pair for own, theirs in modules for pair in zip(own.parameters(), theirs.parameters(), strict=True)]


@torch.no_grad()
def copy_weights(network, supernet):
    for own, theirs in parameter_pairs(network, supernet):
        own.copy_(theirs)
    return network


def inner_products(loss, pairs):
    """For each pair (X, Y) of batches of images: ``<X, dL/dY>`` of every image."""

    def one(x, y):
        gradient = torch.autograd.grad(loss, y, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        return (x * gradient).sum((1, 2, 3)).detach()

    return [one(x, y) if y.requires_grad else x.new_zeros(len(x)) for x, y in pairs]
