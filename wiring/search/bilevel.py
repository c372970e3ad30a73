"""What two splits allow beside taking turns: α looks ahead over a step of θ, and operations rest that overfit."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn, optim

from wiring.supernet import Supernet


def look_ahead(
    of_search: Callable[[], Tensor],
    of_training: Callable[[], Tensor],
    theta: Iterable[nn.Parameter],
    alphas: Iterable[nn.Parameter],
    sgd: optim.Optimizer,
) -> list[Tensor]:
    """α's gradient of the search loss where the next step on the training loss would take θ, which stays where it is.

    DARTS' second order (Liu et al., 2019, equations 7 and 8): with θ' = θ - ξ (momentum, gradient and decay),
    ``dL_search(θ', α)/dα - ξ [dL_training(θ+, α)/dα - dL_training(θ-, α)/dα] / 2ε``, where
    ``θ± = θ ± ε dL_search/dθ'`` and ``ε = 0.01 / |dL_search/dθ'|``. ``of_search`` and ``of_training`` compute the two
    splits' losses anew at each call, equal for equal θ and α.
    """
    theta, alphas, group = list(theta), list(alphas), sgd.param_groups[0]
    start = [parameter.detach().clone() for parameter in theta]

    def gradients(loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
        return list(torch.autograd.grad(loss(), parameters, materialize_grads=True))

    @torch.no_grad()
    def go(direction: Iterable[Tensor], distance: float | Tensor) -> None:
        for parameter, at, by in zip(theta, start, direction, strict=True):
            parameter.copy_(at + distance * by)

    try:
        step = []
        for parameter, gradient in zip(theta, gradients(of_training, theta), strict=True):
            step.append(gradient + group["weight_decay"] * parameter.detach())
            if (momentum := sgd.state.get(parameter, {}).get("momentum_buffer")) is not None:
                step[-1] += group["momentum"] * momentum
        go(step, -group["lr"])
        found = gradients(of_search, [*alphas, *theta])
        direct, vector = found[: len(alphas)], found[len(alphas) :]
        small = 0.01 / torch.stack([v.norm() for v in vector]).norm()
        sides = []
        for sign in (1, -1):
            go(vector, sign * small)
            sides.append(gradients(of_training, alphas))
        return [g - group["lr"] * (a - b) / (2 * small) for g, a, b in zip(direct, *sides, strict=True)]
    finally:
        go(start, 0.0)


class EarlyStopping(nn.Module):
    """Operations whose weights rest for good once the splits' gradients of them part (OLES; Jiang et al., 2023).

    An operation is compared at every step, by the cosine of its weights' two gradients, and judged after every
    :attr:`steps` by the mean of them.
    """

    steps = 20

    def __init__(self, supernet: Supernet, threshold: float) -> None:
        super().__init__()
        operations = [operation for cell in supernet.cells for edge in cell.edges for operation in edge.values()]
        self.weights = [own for operation in operations if (own := list(operation.parameters()))]
        self.threshold = threshold
        self.kept: list[list[Tensor | None]] = [[] for _ in self.weights]
        self.resting: Tensor = nn.Buffer(torch.zeros(len(self.weights), dtype=torch.bool))
        self.cosines: Tensor = nn.Buffer(torch.zeros(len(self.weights)))

    def rest(self) -> None:
        """Let no gradient reach the weights that rest, so that their optimiser leaves them as they are."""
        for parameters, resting in zip(self.weights, self.resting.tolist(), strict=True):
            for parameter in parameters if resting else ():
                parameter.requires_grad_(False)
                parameter.grad = None

    def keep(self) -> None:
        """Keep the search split's gradients, which the weights have now."""
        self.kept = [[None if p.grad is None else p.grad.clone() for p in parameters] for parameters in self.weights]

    def compare(self, step: int) -> None:
        """Hold the training split's gradients, which the weights have now, against those kept; steps count from 1."""
        for number, (parameters, kept) in enumerate(zip(self.weights, self.kept, strict=True)):
            pairs = [(p.grad, g) for p, g in zip(parameters, kept, strict=True) if p.grad is not None and g is not None]
            if pairs:
                ours, theirs = (torch.cat([g.flatten() for g in side]) for side in zip(*pairs, strict=True))
                self.cosines[number] += torch.cosine_similarity(ours, theirs, dim=0)
        if step % self.steps == 0:
            self.resting |= self.cosines / self.steps < self.threshold
            self.cosines.zero_()
