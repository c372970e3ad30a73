"""The searchers: architecture parameters α, how gates are drawn from them, and α's gradient.

All of them descend the same local cost ``C = <dL/dX, O(X)>`` (the paper's unified view):

- DARTS, ``w = softmax(α)``:               ``dL/dα_s = w_s (C_s - Σ_k w_k C_k)``
- SNAS, ``Z = softmax((α + Gumbel)/τ)``:   ``dL/dα_s = Z_s (C_s - Σ_k Z_k C_k) / τ``
- DSNAS, one-hot ``Z ~ softmax(α)``:       ``dL/dα_s = C(Z) d log p(Z) / dα_s = C(Z) (Z_s - p_s)``

Below them stand searchers that others have proposed as remedies; each changes DARTS in one point.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wiring.supernet import Gates, Topology
from wiring.supernet.gates import moved
from wiring.supernet.operations import NONE

Alpha = Float[Tensor, "cell_type edge operation"]


class Searcher(nn.Module):
    """Architecture parameters α and the gates drawn from them; cells of one type share a draw.

    Each cell uses the row of α that ``cell_types`` gives it (``Supernet.cell_types``). α starts at
    ``mean + std * N(0, 1)``, drawn on the CPU; an operation that the topology forbids has probability 0.
    """

    drawn_on_cpu: ClassVar[bool] = False
    """Whether α, and what its gates are drawn from, stay on the CPU in a search: then a step waits for its costs."""
    progress = 0.0
    """The share of the search's epochs that are done, from 0 to 1."""

    def __init__(
        self,
        topology: Topology,
        cell_types: list[int],
        mean: float = 0.0,
        std: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.cell_types, self.allowed = cell_types, topology.allowed()
        self.forbidden: Tensor = nn.Buffer(~self.allowed, persistent=False)
        self.types: Tensor = nn.Buffer(torch.tensor(cell_types), persistent=False)  # by cell, on the device
        noise = torch.randn(max(cell_types) + 1, *self.allowed.shape, generator=generator)
        self.alpha = nn.Parameter(mean + std * noise)

    def log_probability(self) -> Alpha:
        """``log softmax(α)`` over the allowed operations, ``-inf`` for the others."""
        return self.alpha.masked_fill(self.forbidden, -torch.inf).log_softmax(-1)

    def probability(self) -> Alpha:
        """``softmax(α)`` over the allowed operations, 0 for the others."""
        return self.log_probability().exp()

    def anneal(self, temperature: float) -> None:
        """Take the epoch's temperature (``Experiment.temperature``). A searcher that has none lets it pass."""

    def draw(self, generator: torch.Generator) -> Gates:
        """Gates for one forward pass; randomness comes from the CPU ``generator``."""
        raise NotImplementedError

    def add_gradient(self, gates: Gates, costs: Float[Tensor, "cell edge operation"]) -> None:
        """Add to ``alpha.grad`` what back-propagation through the gates does not bring."""

    def _add(self, gradient: Alpha) -> None:
        self.alpha.grad = gradient if self.alpha.grad is None else self.alpha.grad + gradient

    def _relaxed(self, weights: Alpha) -> Gates:
        return Gates(weights.index_select(0, self.types), self.allowed.expand(len(self.cell_types), -1, -1))


class DARTS(Searcher):
    """``w = softmax(α)`` weighs all operations (Liu et al., 2019)."""

    def draw(self, generator: torch.Generator) -> Gates:
        return self._relaxed(self.probability())


class SNAS(Searcher):
    """``Z = softmax((α + G)/τ)`` with Gumbel noise G weighs all operations (Xie et al., 2019)."""

    temperature = 1.0

    def anneal(self, temperature: float) -> None:
        """Set τ. Raises ValueError unless it is above 0."""
        if not temperature > 0:
            raise ValueError(f"temperature = {temperature}: must be above 0")
        self.temperature = temperature

    def draw(self, generator: torch.Generator) -> Gates:
        gumbel = -torch.empty(self.alpha.shape).exponential_(generator=generator).log()
        perturbed = self.log_probability() + moved(gumbel, self.alpha.device).to(self.alpha.dtype)
        return self._relaxed((perturbed / self.temperature).softmax(-1))


class DSNAS(Searcher):
    """One-hot ``Z ~ softmax(α)``; α learns from the score function times the cost (Hu et al., 2020).

    An edge's cost is summed over the cells that share its draw, then clamped to ``[-clamp, clamp]``.
    """

    clamp = 5.0
    drawn_on_cpu = True

    def draw(self, generator: torch.Generator) -> Gates:
        probability = self.probability().detach().cpu()
        chosen = torch.multinomial(probability.flatten(0, 1), 1, generator=generator).view(*probability.shape[:2], 1)
        active = torch.zeros_like(probability).scatter_(-1, chosen, 1.0)[self.cell_types]
        return Gates(moved(active, self.alpha.device), active.bool())

    @torch.no_grad()
    def add_gradient(self, gates: Gates, costs: Float[Tensor, "cell edge operation"]) -> None:
        probability, costs = self.probability(), costs.to(self.alpha.device)
        edge_cost = torch.zeros_like(probability[..., 0]).index_add_(0, self.types, costs.nansum(2))
        chosen = probability.index_copy(
            0, self.types, gates.values.to(self.alpha.device)
        )  # of a type without cells there is no draw
        self._add(edge_cost.clamp(-self.clamp, self.clamp)[..., None] * self.score(chosen, probability))

    def score(self, chosen: Alpha, probability: Alpha) -> Alpha:
        """``d log p(Z) / dα`` of a draw: the sum of the edges' logarithms is differentiated."""
        return chosen - probability


class LogSumDSNAS(DSNAS):
    """DSNAS with the logarithm of the *sum* of the ``k`` edges' drawn probabilities, times ``k``, differentiated.

    It scales an edge's gradient by ``k p_e / Σ p``, by 1 while all are equally likely, and shows what that alone does.
    """

    def score(self, chosen: Alpha, probability: Alpha) -> Alpha:
        drawn = (chosen * probability).sum(-1, keepdim=True)
        return super().score(chosen, probability) * drawn / drawn.mean(1, keepdim=True)


class CodeDSNAS(LogSumDSNAS):
    """DSNAS as its published code has it: without the factor ``k``.

    Adam would undo the factor, were nothing else added to the gradient; weight decay is. The code also clips the
    gradient to a norm of 10, which it cannot exceed: with an edge's cost clamped to 5 that of a cell type is below 7.1.
    """

    def score(self, chosen: Alpha, probability: Alpha) -> Alpha:
        return super().score(chosen, probability) / chosen.shape[1]


class Uniform(DSNAS):
    """One-hot, every allowed operation equally often; α is zero and fixed, wherever it was to start."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.alpha.requires_grad_(False).zero_()


class SigmoidDARTS(DARTS):
    """``w = sigmoid(α)``: operations do not compete; a loss drives each gate to 0 or 1 (FairDARTS; Chu et al., 2020).

    The loss is ``-zero_one * mean((w - 1/2)^2)``. None, which FairDARTS does not have among its candidates, stays out
    of it: its gate is half open, and an edge whose other gates are all further closed counts as dropped.
    """

    zero_one = 10.0

    def draw(self, generator: torch.Generator) -> Gates:
        return self._relaxed(self.alpha.sigmoid().masked_fill(self.forbidden, 0.0))

    @torch.no_grad()
    def add_gradient(self, gates: Gates, costs: Float[Tensor, "cell edge operation"]) -> None:
        gate = self.alpha.sigmoid()
        driven = ~self.forbidden & (torch.arange(gate.shape[-1], device=gate.device) != NONE)
        self._add(
            -2 * self.zero_one * (gate - 0.5) * gate * (1 - gate) * driven / (driven.sum().clamp(min=1) * len(gate))
        )


class SmoothMaxDARTS(DARTS):
    """DARTS with ``weight * mean over edges of log sum exp(α)`` added to the search loss (β-DARTS; Ye et al., 2022).

    Its gradient is ``weight / edges * w``, which pulls an operation down by its own gate, None as any other. The weight
    rises in proportion to the search's progress.
    """

    final_weight = 50.0

    @torch.no_grad()
    def add_gradient(self, gates: Gates, costs: Float[Tensor, "cell edge operation"]) -> None:
        self._add(self.progress * self.final_weight * self.probability() / self.alpha[..., 0].numel())


class EdgeDARTS(DARTS):
    """DARTS with edge normalisation: a softmax over the edges into a node weighs them too (PC-DARTS; Xu et al., 2020).

    ``beta``, shape (cell_type, edge), learns as α does, from 0.
    """

    def __init__(self, topology: Topology, cell_types: list[int], *arguments: Any, **options: Any) -> None:
        super().__init__(topology, cell_types, *arguments, **options)
        self.beta = nn.Parameter(torch.zeros_like(self.alpha[..., 0]))
        ends = torch.tensor([end for _, end in topology.edges])
        self.together: Tensor = nn.Buffer((ends[:, None] == ends).to(self.beta.dtype), persistent=False)

    def draw(self, generator: torch.Generator) -> Gates:
        weight = self.beta.exp()
        share = weight / (weight @ self.together)
        return self._relaxed(share[..., None] * self.probability())


class MeanDARTS(EdgeDARTS):
    """DARTS whose nodes are means of their edges: edge normalisation with shares that stay equal."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.beta.requires_grad_(False)


#: Name -> class. One of your own is added by ``SEARCHERS["mine"] = Mine`` and run by ``Experiment(searcher="mine")``,
#: here and by the workers of ``run_seeds`` and ``sweep``; another process that reads such an experiment must add it.
SEARCHERS: dict[str, type[Searcher]] = {"darts": DARTS, "snas": SNAS, "dsnas": DSNAS}
SEARCHERS |= {"dsnas-code": CodeDSNAS, "dsnas-log-sum": LogSumDSNAS, "uniform": Uniform}
SEARCHERS |= {"darts-sigmoid": SigmoidDARTS, "darts-smooth-max": SmoothMaxDARTS, "darts-edges": EdgeDARTS}
SEARCHERS["darts-mean"] = MeanDARTS


def dropped(probability: Float[np.ndarray, "*time edge operation"]) -> Bool[np.ndarray, "*time edge"]:
    """Whether None is strictly the most probable operation of an edge."""
    return probability[..., NONE] > np.delete(probability, NONE, axis=-1).max(-1)


def lead(alpha: Float[np.ndarray, "*time operation"]) -> Float[np.ndarray, "*time"]:
    """None's lead: its α minus the mean of the other operations'."""
    return np.asarray(alpha[..., NONE] - np.delete(alpha, NONE, axis=-1).mean(-1))
