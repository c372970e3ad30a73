"""Gates are drawn as each searcher says, and α gets the gradient that the paper's formulas give for the costs."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import NAMES, inner_products
from strategies import SEEDS, Case, cases, examples, topologies
from torch.nn.functional import cross_entropy

from wiring.costs.probe import GateProbe
from wiring.search.searchers import (
    DARTS,
    DSNAS,
    SEARCHERS,
    SNAS,
    CodeDSNAS,
    EdgeDARTS,
    LogSumDSNAS,
    MeanDARTS,
    SigmoidDARTS,
    SmoothMaxDARTS,
    Uniform,
)
from wiring.supernet.topology import MINIMAL, TOPOLOGIES

close = torch.testing.assert_close


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def search(searcher, case, std=1.0):
    return searcher(case.topology, case.supernet.cell_types, 0.0, std, generator(case.seed)).to(case.dtype)


def gradient(tensor):
    """Its gradient; zero where it has none."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def plain_costs(case, network, weights):
    """C of every cell, edge and operation by autograd on the plain mixed network; 0 for what it does not run."""
    loss = cross_entropy(network(case.images, weights), case.labels)
    costs = torch.zeros_like(weights)
    shares = inner_products(loss, list(network.contributions.values()))
    for (cell, edge, name), share in zip(network.contributions, shares, strict=True):
        costs[cell, edge, NAMES.index(name)] = share.sum()
    return costs


def summed(values, kinds):
    """The sum over the cells of each kind."""
    return torch.stack([values[[own == kind for own in kinds]].sum(0) for kind in range(max(kinds) + 1)])


def one_edge(names, cells=1):
    """Cells of a single edge that may carry these operations."""
    topology = TOPOLOGIES["simplified"].without_edges((0, 2), (1, 2)).with_output(1).with_operations((0, 1), *names)
    return Case(topology, cells=cells)


# DARTS and SNAS


@pytest.mark.parametrize("searcher", [DARTS, SNAS])
def test_alphas_gradient_follows_the_formula(searcher):
    temperature = 1.0 if searcher is DARTS else 0.7

    @given(cases())
    @examples(25)
    def check(case):
        distribution = search(searcher, case)
        distribution.anneal(temperature)
        gates = distribution.draw(generator())
        cross_entropy(case.supernet(case.images, gates), case.labels).backward()
        z = gates.values.detach()
        costs = plain_costs(case, case.mixed()[1], z)
        expected = z * (costs - (z * costs).sum(-1, keepdim=True)) / temperature
        close(gradient(distribution.alpha), summed(expected, case.supernet.cell_types))

    check()


@given(cases())
@examples(15)
def test_the_gates_gradient_is_the_cost(case):
    gates = search(DARTS, case).draw(generator())
    gates.values.retain_grad()
    with GateProbe(case.supernet) as probe:
        cross_entropy(case.supernet(case.images, gates), case.labels).backward()
    close(gradient(gates.values), plain_costs(case, case.mixed()[1], gates.values.detach()))
    close(gradient(gates.values), probe.costs.nan_to_num())


@given(cases())
@examples(15)
def test_darts_weighs_by_softmax(case):
    distribution = search(DARTS, case)
    gates = distribution.draw(generator())
    for cell, kind in enumerate(case.supernet.cell_types):
        for edge, names in enumerate(case.topology.candidates):
            own = [NAMES.index(name) for name in names]
            close(gates.values[cell, edge, own], distribution.alpha[kind, edge, own].softmax(-1))


def test_the_largest_relaxed_gate_is_drawn_with_its_probability():
    case = Case(TOPOLOGIES["darts"], cells=1)
    distribution = search(SNAS, case)
    random = generator()
    largest = torch.stack([distribution.draw(random).values[0].argmax(-1) for _ in range(2000)])
    frequency = torch.nn.functional.one_hot(largest, 8).double().mean(0)
    probability = distribution.alpha[0].softmax(-1)
    assert ((frequency - probability).abs() <= 5 * (probability * (1 - probability) / 2000).sqrt()).all()


def test_gumbel_noise_has_its_mean_and_variance():
    case = one_edge(("none", "skip_connect"))
    distribution, random = search(SNAS, case, std=0.0), generator()
    # log Z_0 - log Z_1 is the difference of two Gumbel variables: logistic, of mean 0 and variance π²/3.
    log_z = torch.stack([distribution.draw(random).values[0, 0, :2].log() for _ in range(4000)])
    difference = (log_z[:, 0] - log_z[:, 1]).detach()
    assert difference.mean().abs() <= 5 * difference.std() / 4000**0.5
    assert difference.var().item() == pytest.approx(torch.pi**2 / 3, rel=0.1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature = .*: must be above 0"):
        SNAS(MINIMAL, [0]).anneal(temperature)


@given(topologies(), SEEDS)
@examples(20)
def test_relaxed_gates_become_one_hot_as_the_temperature_falls(topology, seed):
    distribution = SNAS(topology, [0], std=1.0, generator=generator(seed))
    hot = distribution.draw(generator(seed)).values
    distribution.anneal(1e-3)
    cold = distribution.draw(generator(seed)).values
    assert torch.equal(hot.argmax(-1), cold.argmax(-1))
    close(hot.sum(-1), torch.ones_like(hot[..., 0]))
    assert (cold.max(-1).values > 0.95).double().mean() >= 0.8


# DSNAS


@given(cases())
@examples(30)
def test_dsnas_gradient_is_the_cost_times_the_score(case):
    distribution = search(DSNAS, case)
    gates = distribution.draw(generator(case.seed))
    costs = torch.randn(gates.values.shape, generator=case.generator, dtype=case.dtype).masked_fill(
        ~gates.active, torch.nan
    )
    distribution.add_gradient(gates, costs)

    edge_costs = summed(costs.nansum(-1), case.supernet.cell_types).clamp(-5, 5)
    log_p = distribution.alpha.masked_fill(~case.topology.allowed(), -torch.inf).log_softmax(-1)
    drawn = dict(zip(case.supernet.cell_types, gates.active, strict=True))
    score = sum((edge_costs[kind] * log_p[kind][z]).sum() for kind, z in drawn.items())
    close(distribution.alpha.grad, torch.autograd.grad(score, distribution.alpha)[0])


@pytest.mark.parametrize("searcher", [LogSumDSNAS, CodeDSNAS])
@given(case=cases())
@examples(30)
def test_the_gradient_is_that_of_the_log_of_the_summed_probabilities(searcher, case):
    distribution = search(searcher, case)
    gates = distribution.draw(generator(case.seed))
    # With one cost for all edges the gradient is a single function's, which autograd can differentiate whole.
    costs = torch.full(gates.values.shape, torch.nan, dtype=case.dtype)
    own = {kind: case.supernet.cell_types.index(kind) for kind in set(case.supernet.cell_types)}
    for kind, cell in own.items():
        costs[cell][gates.active[cell]] = 0.5 + kind
    distribution.add_gradient(gates, costs)

    p = distribution.alpha.masked_fill(~case.topology.allowed(), -torch.inf).softmax(-1)
    factor = len(case.topology.edges) if searcher is LogSumDSNAS else 1
    score = sum((0.5 + kind) * factor * p[kind][gates.active[cell]].sum().log() for kind, cell in own.items())
    close(distribution.alpha.grad, torch.autograd.grad(score, distribution.alpha)[0])


def test_from_a_uniform_start_the_published_codes_gradient_is_a_share_of_dsnas_own():
    costs = torch.arange(40.0).reshape(1, 5, 8)
    own, summed_up, code = (gradient_of(searcher, costs) for searcher in (DSNAS, LogSumDSNAS, CodeDSNAS))
    close(own, summed_up)
    close(code, own / len(MINIMAL.edges))


@given(topologies(), SEEDS, st.floats(0, 10))
@examples(20)
def test_the_published_codes_gradient_never_reaches_the_norm_at_which_it_is_clipped(topology, seed, std):
    norms = []
    for searcher in (CodeDSNAS, DSNAS):
        distribution = searcher(topology, [0, 1], 0.0, std, generator(seed))
        gates = distribution.draw(generator(seed))
        signs = torch.randint(2, gates.values.shape, generator=generator(seed)) * 2 - 1
        distribution.add_gradient(gates, (1e6 * signs).masked_fill(~gates.active, torch.nan))
        norms.append(distribution.alpha.grad.norm())
    assert norms[0] <= 10
    assert norms[0] <= norms[1] * (1 + 1e-5)  # whose own, with many edges, can be larger than that


def gradient_of(searcher, costs):
    """α's gradient of one draw from a uniform start, for known costs."""
    distribution = searcher(MINIMAL, [0])
    gates = distribution.draw(generator())
    distribution.add_gradient(gates, costs.masked_fill(~gates.active, torch.nan))
    return distribution.alpha.grad


@given(topologies(), SEEDS)
@examples(20)
def test_dsnas_draws_one_allowed_operation_and_all_cells_of_a_kind_the_same(topology, seed):
    gates = DSNAS(topology, [0, 1, 0, 1], std=1.0, generator=generator(seed)).draw(generator(seed))
    assert torch.equal(gates.values.bool(), gates.active)
    assert (gates.active.sum(-1) == 1).all()
    assert not (gates.active & ~topology.allowed()).any()
    assert torch.equal(gates.active[:2], gates.active[2:])


@pytest.mark.parametrize("searcher", [DSNAS, Uniform])
def test_operations_are_drawn_with_their_probability(searcher):
    case = Case(MINIMAL.with_operations((0, 2), "none", "avg_pool_3x3"), cells=2, reductions=(1,))
    distribution = search(searcher, case)
    expected = case.topology.allowed() * distribution.alpha.exp()
    expected = (expected / expected.sum(-1, keepdim=True)).detach()[case.supernet.cell_types]
    random = generator()
    frequency = sum(distribution.draw(random).values.double() for _ in range(2000)) / 2000
    assert ((frequency - expected).abs() <= 5 * (expected * (1 - expected) / 2000).sqrt()).all()


@pytest.mark.parametrize(("cost", "clamped"), [(4.0, 4.0), (7.0, 5.0), (-7.0, -5.0), (-5.0, -5.0)])
def test_an_edges_cost_is_clamped_after_it_is_summed_over_cells(cost, clamped):
    distribution = search(DSNAS, one_edge(("none", "skip_connect"), cells=2), std=0.0)
    gates = distribution.draw(generator())
    costs = torch.where(gates.active, torch.tensor([10.0, cost - 10.0])[:, None, None], torch.nan).double()
    distribution.add_gradient(gates, costs)
    close(distribution.alpha.grad, clamped * (gates.values[:1] - distribution.probability()).detach())


def test_gradients_accumulate():
    distribution = search(DSNAS, Case(MINIMAL))
    gates = distribution.draw(generator())
    for _ in range(2):
        distribution.add_gradient(gates, gates.values)
    close(distribution.alpha.grad, 2 * 2 * (gates.values[:1] - distribution.probability()).detach())


def test_normal_and_reduction_cells_learn_from_their_own_costs():
    case = Case(MINIMAL, cells=3, reductions=(1,))
    distribution = search(DSNAS, case)
    gates = distribution.draw(generator())
    assert distribution.alpha.shape == (2, 5, 8)
    costs = torch.tensor([1.0, 3.0, -0.5], dtype=case.dtype)[:, None, None] * gates.values
    distribution.add_gradient(gates, costs)
    probability = distribution.probability().detach()
    close(distribution.alpha.grad[0], 0.5 * (gates.values[0] - probability[0]))
    close(distribution.alpha.grad[1], 3.0 * (gates.values[1] - probability[1]))


def test_the_estimators_mean_is_the_gradient_of_the_expected_cost():
    names = "none", "skip_connect", "max_pool_3x3"
    topology = TOPOLOGIES["simplified"]
    for edge in topology.edges:
        topology = topology.with_operations(edge, *names)
    case = Case(topology, cells=1, channels=3)
    distribution = search(DSNAS, case, std=0.5)

    costs = {}
    log_p = distribution.alpha[0][:, [NAMES.index(name) for name in names]].log_softmax(-1)
    expectation = 0
    for chosen in product(range(3), repeat=3):
        gates = case.one_hot([[(names[k],) for k in chosen]])
        with GateProbe(case.supernet) as probe:
            cross_entropy(case.supernet(case.images, gates), case.labels).backward()
        costs[tuple(gates.active.nonzero()[:, -1].tolist())] = probe.costs
        edge_costs, log_z = probe.costs[0].nansum(-1), log_p[range(3), list(chosen)]
        expectation += log_z.sum().exp().detach() * (edge_costs * log_z).sum()
    exact = torch.autograd.grad(expectation, distribution.alpha)[0]

    random, samples = generator(), []
    for _ in range(2000):
        gates = distribution.draw(random)
        distribution.alpha.grad = None
        distribution.add_gradient(gates, costs[tuple(gates.active.nonzero()[:, -1].tolist())])
        samples.append(distribution.alpha.grad)
    samples = torch.stack(samples)
    assert len(costs) == 27
    assert exact.abs().max() > 10 * samples.std(0).max() / 2000**0.5  # 0 would not pass
    assert ((samples.mean(0) - exact).abs() <= 4.5 * samples.std(0) / 2000**0.5 + 1e-12).all()


# The remedies


def beside(distribution, case):
    """α's gradient by the searcher on a batch, less the gates' own: what add_gradient brings."""
    gates = distribution.draw(generator())
    with GateProbe(case.supernet) as probe:
        cross_entropy(case.supernet(case.images, gates), case.labels).backward()
    before = gradient(distribution.alpha).clone()
    distribution.add_gradient(gates, probe.costs)
    return gradient(distribution.alpha) - before


@given(cases())
@examples(15)
def test_sigmoid_gates_do_not_compete_and_are_driven_apart_but_for_none(case):
    distribution = search(SigmoidDARTS, case)
    gates, allowed = distribution.draw(generator()), case.topology.allowed()
    for cell, kind in enumerate(case.supernet.cell_types):
        close(gates.values[cell], torch.where(allowed, 1 / (1 + torch.exp(-distribution.alpha[kind])), 0.0))
    alpha = distribution.alpha.detach().requires_grad_()
    driven = alpha.sigmoid()[:, allowed.index_fill(1, torch.tensor(NAMES.index("none")), False)]
    expected = torch.zeros_like(alpha)
    if driven.numel():
        (expected,) = torch.autograd.grad(-10 * ((driven - 0.5) ** 2).mean(), alpha)
    close(beside(distribution, case), expected)


@given(cases(), st.floats(0, 1))
@examples(15)
def test_the_smooth_maximum_of_alpha_is_penalised_as_the_search_proceeds(case, progress):
    distribution = search(SmoothMaxDARTS, case)
    distribution.progress = progress
    alpha = distribution.alpha.detach().requires_grad_()
    smooth_max = alpha.masked_fill(~case.topology.allowed(), -torch.inf).exp().sum(-1).log().mean()
    close(beside(distribution, case), torch.autograd.grad(50 * progress * smooth_max, alpha)[0])


@given(cases(), SEEDS)
@examples(15)
def test_edge_normalisation_weighs_the_edges_into_a_node_by_softmax(case, seed):
    distribution = search(EdgeDARTS, case)
    with torch.no_grad():
        distribution.beta.copy_(torch.randn(distribution.beta.shape, generator=generator(seed)))
    ends, values = [end for _, end in case.topology.edges], distribution.draw(generator()).values
    plain = search(DARTS, case).draw(generator()).values
    for cell, kind in enumerate(case.supernet.cell_types):
        for end in set(ends):
            into = [edge for edge, at in enumerate(ends) if at == end]
            share = distribution.beta[kind, into].softmax(0)
            close(values[cell, into], share[:, None] * plain[cell, into])


@given(cases())
@examples(15)
def test_a_mean_weighs_the_edges_into_a_node_equally_for_good(case):
    distribution, plain = search(MeanDARTS, case), search(DARTS, case).draw(generator()).values
    ends, gates = [end for _, end in case.topology.edges], distribution.draw(generator())
    for edge, end in enumerate(ends):
        close(gates.values[:, edge], plain[:, edge] / ends.count(end))
    cross_entropy(case.supernet(case.images, gates), case.labels).backward()
    assert distribution.beta.grad is None


# All of them


@pytest.mark.parametrize("searcher", [DARTS, SNAS, DSNAS, SigmoidDARTS, SmoothMaxDARTS, EdgeDARTS, MeanDARTS])
def test_forbidden_operations_have_no_probability_and_no_gradient(searcher):
    @given(cases(), st.floats(0.1, 2))
    @examples(15)
    def check(case, temperature):
        distribution = search(searcher, case)
        forbidden = ~case.topology.allowed()
        distribution.progress = 0.5
        probability = distribution.probability()
        assert not probability[:, forbidden].any()
        close(probability.sum(-1), torch.ones_like(probability[..., 0]))

        distribution.anneal(temperature)
        gates = distribution.draw(generator())
        assert not gates.active[:, forbidden].any()
        assert not gates.values[:, forbidden].any()
        with GateProbe(case.supernet) as probe:
            cross_entropy(case.supernet(case.images, gates), case.labels).backward()
        distribution.add_gradient(gates, probe.costs)
        assert not gradient(distribution.alpha)[:, forbidden].any()

    check()


def test_uniforms_alpha_is_zero_and_fixed():
    distribution = Uniform(MINIMAL, [0, 1], mean=1.0, std=1.0, generator=generator())
    assert torch.equal(distribution.alpha, torch.zeros(2, 5, 8))
    assert not distribution.alpha.requires_grad


@pytest.mark.parametrize("name", SEARCHERS)
def test_the_same_seed_draws_the_same_gates(name):
    case = Case(MINIMAL)
    distribution = search(SEARCHERS[name], case)
    first, second = (distribution.draw(generator(3)).values for _ in range(2))
    assert torch.equal(first, second)


def test_alpha_starts_at_mean_plus_noise_of_its_own_generator():
    alphas = [DSNAS(TOPOLOGIES["darts"], [0], mean=1.0, std=0.01, generator=generator(2)).alpha for _ in range(2)]
    assert torch.equal(*alphas)
    assert alphas[0].mean().item() == pytest.approx(1.0, abs=0.005)
    assert alphas[0].std().item() == pytest.approx(0.01, rel=0.3)


def test_the_state_dict_is_alpha_and_round_trips():
    first, second = (DSNAS(MINIMAL, [0, 1], std=1.0, generator=generator(seed)) for seed in (0, 1))
    assert list(first.state_dict()) == ["alpha"]
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.draw(generator()).values, second.draw(generator()).values)
