"""The textbook supernet as an oracle: it runs any choice of operations, and keeps what each contributes to its node.

With wiring's fast supernet it shares names, weights and how stem, cells and classifier are built in a row, but nothing
that computes. The tensors that it keeps let autograd itself be asked for a cost, ``<dL/dX, O(X)>``.
"""

import torch

from wiring.supernet.textbook import PlainSupernet

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


class Network(PlainSupernet):
    """Cells whose edges run the names ``chosen[cell][edge]``: one each make a child network, several a mixed one.

    A forward pass keeps ``contributions[cell, edge, name]``, the pair (O(X), weight * O(X)), None's with O(X) = 0;
    ``nodes[cell, j]``, the sum X_j; and ``outputs``, of the stem and of each cell.
    """

    def __init__(self, topology, chosen, channels, classes, image_channels=3, reductions=()):
        super().__init__(topology, len(chosen), channels, classes, image_channels, reductions)
        self.chosen = chosen

    def forward(self, images, weights=None):
        """The logits; ``weights[cell, edge, operation]`` multiply the operations' outputs."""
        self.contributions, self.nodes, self.outputs = {}, {}, [self.stem(images)]
        for number, (cell, chosen) in enumerate(zip(self.cells, self.chosen, strict=True)):
            # How many cells back an input node reads, at most back to the stem.
            read = [self.outputs[max(0, number + 1 - back)] for back in self.topology.inputs]
            nodes = [module(x) for module, x in zip(cell.inputs, read, strict=True)]
            zeros = torch.zeros_like(nodes[0][:, :, :: cell.stride, :: cell.stride])
            last = max([*self.topology.output, *(j for _, j in self.topology.edges)])
            for j in range(len(nodes), last + 1):
                total = zeros
                for edge, (i, end) in enumerate(self.topology.edges):
                    for name in chosen[edge] if end == j else ():
                        weight = 1 if weights is None else weights[number, edge, NAMES.index(name)]
                        output = zeros if name == "none" else cell.edges[edge][name](nodes[i])
                        self.contributions[number, edge, name] = output, weight * output
                        total = total + self.contributions[number, edge, name][1]
                self.nodes[number, j] = total
                nodes.append(total)
            self.outputs.append(torch.cat([nodes[j] for j in self.topology.output], dim=1))
        return self.classifier(self.outputs[-1].mean((2, 3)))


def inner_products(loss, pairs):
    """For each pair (X, Y) of batches of images: ``<X, dL/dY>`` of every image."""

    def one(x, y):
        gradient = torch.autograd.grad(loss, y, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        return (x * gradient).sum((1, 2, 3)).detach()

    return [one(x, y) if y.requires_grad else x.new_zeros(len(x)) for x, y in pairs]
