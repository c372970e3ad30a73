"""How a searcher and its optimiser move α for costs that are known: predicted from moments, and simulated.

The costs of an edge's operations are normal, independent from step to step and from edge to edge, and None's are 0. α's
gradient in a step is linear in them, ``g = A(Z) C``, for a random matrix A that the searcher's draw Z sets. Its first
two moments, followed through Adam's own averages, predict α's course as long as α moves little within those averages'
memory. Assumed, beside that: the mean of a ratio is the ratio of the means, α has no spread of its own, all operations
but None are alike, other edges have the same α, and no cost is clamped (the chapter on None's handicap tests it).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import binom

from wiring.search.experiments import Experiment
from wiring.search.loop import adam
from wiring.search.searchers import SEARCHERS, lead
from wiring.supernet import MINIMAL, NONE

Vector = Float[np.ndarray, " operation"]
#: SNAS's draws, whose moments have no closed form, are this many.
DRAWS = 4_000


@dataclass(frozen=True)
class Costs:
    """The costs of an edge's operations in a step: all but None alike, summed over the cells, in nats."""

    mean: float
    spread: float
    """Their standard deviation over steps."""
    correlation: float = 0.0
    """Between two operations in one step; only what sees several at once, DARTS or SNAS, meets it."""
    operations: int = 8

    def moments(self) -> tuple[Vector, Float[np.ndarray, "operation operation"]]:
        """Means and covariances of all operations, None's 0."""
        others = np.arange(self.operations) != NONE
        shared = self.correlation + (1 - self.correlation) * np.eye(self.operations)
        return self.mean * others, self.spread**2 * shared * np.outer(others, others)


def gradient_moments(experiment: Experiment, alpha: Vector, costs: Costs) -> tuple[Vector, Vector]:
    """Mean and mean square of α's gradient on an edge, over draws and costs; other edges have the same α.

    Raises ValueError for a searcher whose draws are not known here.
    """
    chances, matrices = _draws(experiment, alpha)
    mean, covariance = costs.moments()
    means = matrices @ mean
    squares = means**2 + (matrices @ covariance * matrices).sum(-1)
    return chances @ means, chances @ squares


def _draws(experiment: Experiment, alpha: Vector) -> tuple[Float[np.ndarray, " draw"], np.ndarray]:
    """The draws' probabilities, and the matrix A of each, which takes the costs to α's gradient."""
    p, one_hot = softmax(alpha), np.eye(len(alpha))
    if experiment.searcher in ("darts", "snas"):
        gates, temperature = p[None], 1.0
        if experiment.searcher == "snas":
            gumbel, temperature = np.random.default_rng(0).gumbel(size=(DRAWS, len(p))), experiment.temperature
            gates = softmax((alpha + gumbel) / temperature, axis=1)
        matrices = (gates[:, :, None] * one_hot - gates[:, :, None] * gates[:, None, :]) / temperature
        return np.full(len(gates), 1 / len(gates)), matrices
    matrices = (one_hot[:, :, None] - p[:, None]) * one_hot[:, None, :]  # (Z_s - p_s) Z_k, for each one-hot Z
    if experiment.searcher == "dsnas":
        return p, matrices
    if experiment.searcher not in ("dsnas-code", "dsnas-log-sum"):
        raise ValueError(f"searcher = '{experiment.searcher}': allowed are the paper's, darts, snas, dsnas and dsnas-*")
    # What was drawn on the other edges, None or one of the others, which are alike, sets an edge's share of the sum.
    edges = len(experiment.topology.edges)
    nones = np.arange(edges)
    rest = nones * p[NONE] + (edges - 1 - nones) * (1 - p[NONE]) / (len(p) - 1)
    share = p[:, None] / (p[:, None] + rest) * (edges if experiment.searcher == "dsnas-log-sum" else 1)
    chances = p[:, None] * binom.pmf(nones, edges - 1, p[NONE])
    return chances.ravel(), (share[..., None, None] * matrices[:, None]).reshape(-1, *matrices.shape[1:])


def _penalised(experiment: Experiment, alpha: Vector, costs: Costs) -> tuple[Vector, Vector]:
    """Mean and mean square of what Adam averages: α's gradient, with the L2 penalty's where there is one."""
    mean, square = gradient_moments(experiment, alpha, costs)
    pull = 0.0 if experiment.alpha_decoupled else experiment.alpha_weight_decay * alpha
    return mean + pull, square + 2 * pull * mean + pull**2


def predict(experiment: Experiment, costs: Costs, steps: int) -> Float[np.ndarray, "step operation"]:
    """α's mean course from ``alpha_mean``, by Adam with the gradient's moments for the gradient; row 0 is the start."""
    e, (beta1, beta2) = experiment, experiment.alpha_betas
    alpha = np.full(costs.operations, e.alpha_mean)
    course, first, second = [alpha], np.zeros_like(alpha), np.zeros_like(alpha)
    for step in range(1, steps + 1):
        mean, square = _penalised(e, alpha, costs)
        first = beta1 * first + (1 - beta1) * mean
        second = beta2 * second + (1 - beta2) * square
        moved = (first / (1 - beta1**step)) / np.sqrt(second / (1 - beta2**step))
        kept = 1 - e.alpha_lr * e.alpha_weight_decay if e.alpha_decoupled else 1.0
        alpha = kept * alpha - e.alpha_lr * moved
        course.append(alpha)
    return np.stack(course)


def threshold(experiment: Experiment, costs: Costs, alpha: Vector | None = None) -> float:
    """The mean cost (nats) above which None gains on the others in the next step, the spread being that of ``costs``.

    ``alpha`` is where the search stands, by default at its start. Adam's averages are taken as settled there.
    """
    e = experiment
    alpha = np.full(costs.operations, e.alpha_mean) if alpha is None else alpha

    def gain(mean: float) -> float:
        mean_gradient, square = _penalised(e, alpha, replace(costs, mean=mean))
        decay = e.alpha_weight_decay * alpha if e.alpha_decoupled else 0.0
        return float(lead(-mean_gradient / np.sqrt(square) - decay))

    return float(brentq(gain, -100 * costs.spread, 100 * costs.spread))


def simulate(
    experiment: Experiment, costs: Costs, steps: int, edges: int, seed: int = 0
) -> Float[np.ndarray, "step edge operation"]:
    """α's course on many edges by the searcher itself and torch's Adam; row 0 is the start.

    The edges are those of as many minimal cells, each with an α of its own, as make up at least ``edges``.
    """
    e, random = experiment, torch.Generator().manual_seed(seed)
    cells = -(-edges // len(MINIMAL.edges))
    searcher = SEARCHERS[e.searcher](MINIMAL, list(range(cells)), e.alpha_mean, e.alpha_std, random)
    searcher.anneal(e.temperature)
    optimiser = adam(e, searcher)
    mean, covariance = map(torch.from_numpy, costs.moments())
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()).float()
    course = [searcher.alpha.detach().clone()]
    for _ in range(steps):
        optimiser.zero_grad()
        gates = searcher.draw(random)
        step_costs = mean.float() + torch.randn(gates.values.shape, generator=random) @ root.T
        if gates.values.requires_grad:
            (gates.values * step_costs).sum().backward()
        searcher.add_gradient(gates, step_costs.masked_fill(~gates.active, torch.nan))
        optimiser.step()
        course.append(searcher.alpha.detach().clone())
    return torch.stack(course).flatten(1, 2).numpy()
