"""The prediction of α's course for known costs: closed forms, the searchers' own gradients, and a simulation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from strategies import examples

from wiring.search.drift import Costs, gradient_moments, predict, simulate, threshold
from wiring.search.experiments import Experiment
from wiring.search.searchers import SEARCHERS, lead
from wiring.supernet import MINIMAL

DSNAS = Experiment(alpha_std=0.0)
ALPHAS = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(lambda pair: np.array([pair[0], *[pair[1]] * 7]))
COSTS = st.builds(Costs, st.floats(-0.1, 0.1), st.floats(0.01, 0.1), st.floats(0, 0.9))


def closed_form(searcher, alpha, costs):
    """Mean and variance of None's and of another's gradient, worked out by hand for one-hot draws and for DARTS."""
    p0, q = softmax(alpha)[:2]
    c, sigma, rho = costs.mean, costs.spread, costs.correlation
    means = np.array([-p0 * (1 - p0) * c, p0 * q * c])
    if searcher == "dsnas":
        none = p0**2 * (1 - p0) * (sigma**2 + p0 * c**2)
        return means, np.array([none, q * (1 - q * (1 + p0)) * (c**2 + sigma**2) - q**2 * p0**2 * c**2])
    none = p0**2 * (1 - p0) * sigma**2 * ((1 - rho) * q + rho * (1 - p0))
    return means, np.array([none, q**2 * sigma**2 * ((1 - rho) * (1 - q * (1 + p0)) + rho * p0**2)])


@pytest.mark.parametrize("searcher", ["dsnas", "darts"])
@given(ALPHAS, COSTS)
@examples(50)
def test_moments_are_the_closed_forms(searcher, alpha, costs):
    mean, square = gradient_moments(replace(DSNAS, searcher=searcher), alpha, costs)
    means, variances = closed_form(searcher, alpha, costs)
    np.testing.assert_allclose(mean[:2], means, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose((square - mean**2)[:2], variances, rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(mean[1:], mean[1])  # the others are alike
    np.testing.assert_allclose(square[1:], square[1])


@pytest.mark.parametrize("searcher", ["darts", "snas", "dsnas", "dsnas-log-sum", "dsnas-code"])
def test_moments_are_those_of_the_searchers_own_gradients(searcher):
    experiment = replace(DSNAS, searcher=searcher, temperature=0.6)
    alpha, costs, cells = np.array([0.5, *[-0.2] * 7]), Costs(0.03, 0.05, 0.4), 20_000
    random = torch.Generator().manual_seed(0)
    own = SEARCHERS[searcher](MINIMAL, list(range(cells)))
    own.anneal(0.6)
    with torch.no_grad():
        own.alpha.copy_(torch.tensor(alpha))
    gates = own.draw(random)
    shared, each = torch.randn(cells, 5, 1, generator=random), torch.randn(cells, 5, 8, generator=random)
    drawn = 0.03 + 0.05 * (0.4**0.5 * shared + 0.6**0.5 * each)
    drawn[..., 0] = 0
    if gates.values.requires_grad:
        (gates.values * drawn).sum().backward()
    own.add_gradient(gates, drawn.masked_fill(~gates.active, torch.nan))
    found = own.alpha.grad.flatten(0, 1).double().numpy()
    for power, expected in enumerate(gradient_moments(experiment, alpha, costs), 1):
        error = (found**power).std(0) / len(found) ** 0.5
        assert (np.abs((found**power).mean(0) - expected) <= 5 * error + 1e-3 * np.abs(expected)).all()


def test_a_searcher_without_known_draws_is_refused():
    with pytest.raises(ValueError, match="searcher = 'uniform'"):
        gradient_moments(replace(DSNAS, searcher="uniform"), np.zeros(8), Costs(0.0, 1.0))


@pytest.mark.parametrize("searcher", ["dsnas", "darts"])
@given(st.floats(0.02, 0.2), st.floats(1e-5, 1e-4), st.floats(0, 0.4))
@examples(30)
def test_a_small_decays_threshold_is_the_closed_form(searcher, spread, decay, correlation):
    experiment = replace(DSNAS, searcher=searcher, alpha_weight_decay=decay)
    costs = Costs(0.0, spread, correlation)
    found = threshold(experiment, costs)
    p0 = q = 1 / 8
    _, variances = closed_form(searcher, np.ones(8), replace(costs, mean=found))
    none, other = np.sqrt(variances)
    assert found == pytest.approx(decay * (other - none) / (p0 * ((1 - p0) * other + q * none)), rel=0.05)


def test_without_the_factor_k_the_threshold_is_k_times_as_high():
    costs = Costs(0.0, 0.05)
    own, code = (
        threshold(replace(DSNAS, searcher=name, alpha_weight_decay=1e-5), costs) for name in ("dsnas", "dsnas-code")
    )
    assert code == pytest.approx(5 * own, rel=0.01)


@pytest.mark.parametrize(
    "fields",
    [{"alpha_mean": 0.0}, {"alpha_decoupled": True}, {"alpha_weight_decay": 0.0}],
    ids=lambda fields: next(iter(fields)),
)
def test_without_an_offset_or_with_decay_of_its_own_there_is_none(fields):
    assert threshold(replace(DSNAS, **fields), Costs(0.0, 0.05)) == pytest.approx(0, abs=1e-8)


CONFIGURATIONS = [
    (searcher, mean, decay)
    for searcher in ("dsnas", "dsnas-code", "darts", "snas")
    for mean in (0.0, 0.02)
    for decay in (0.0, 3e-3)
]


@pytest.mark.parametrize(("searcher", "mean", "decay"), CONFIGURATIONS)
def test_the_prediction_is_the_simulations_mean_course(searcher, mean, decay):
    experiment = replace(DSNAS, searcher=searcher, alpha_weight_decay=decay, alpha_lr=1e-3)
    costs, steps = Costs(mean, 0.045), 150
    simulated = lead(simulate(experiment, costs, steps, edges=500))
    error = simulated[-1].std() / simulated.shape[1] ** 0.5
    predicted = lead(predict(experiment, costs, steps))[-1]
    # Adam's own second moments, of a few dozen sparse gradients at first, are not yet their means.
    assert abs(simulated[-1].mean() - predicted) <= 4 * error + 0.002 + 0.15 * abs(predicted)


def test_a_decay_of_its_own_is_predicted_too():
    experiment = replace(DSNAS, alpha_decoupled=True, alpha_weight_decay=0.3, alpha_lr=1e-3)
    costs = Costs(0.02, 0.045)
    simulated = simulate(experiment, costs, 150, edges=500)[-1].mean(0)
    np.testing.assert_allclose(predict(experiment, costs, 150)[-1], simulated, atol=0.02)
