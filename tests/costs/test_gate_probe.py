"""Costs are inner products of the loss's gradients with outputs, and obey the paper's identities."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import NAMES, inner_products
from strategies import SEEDS, Case, cases, examples, normalised_topologies
from torch.nn.functional import cross_entropy, one_hot

from wiring import MINIMAL, TOPOLOGIES, GateProbe, PlainSupernet
from wiring.costs import NO_EPS, set_eps
from wiring.costs.probe import Statistics

pytestmark = pytest.mark.usefixtures("both_forms")

close = torch.testing.assert_close
NO_SKIP = MINIMAL.without_operations("none").without_operations("skip_connect", edge=(2, 3))


def measure(case, gates, images=None):
    """The probe after one forward and backward pass, and the logits."""
    with GateProbe(case.supernet) as probe:
        logits = case.supernet(case.images if images is None else images, gates)
        cross_entropy(logits, case.labels).backward()
    return probe, logits.detach()


def assert_costs(case, probe, network, sampled, *weights):
    """Costs per image are autograd's own ``<dL/dX, O(X)>`` on the plain network, NaN where not sampled."""
    loss = cross_entropy(network(case.images, *weights), case.labels)
    expected = torch.full_like(probe.per_image, torch.nan)
    costs = inner_products(loss, list(network.contributions.values()))
    for (cell, edge, name), cost in zip(network.contributions, costs, strict=True):
        expected[:, cell, edge, NAMES.index(name)] = cost
    assert torch.equal(expected.isnan()[0], ~sampled)
    close(probe.per_image, expected, rtol=1e-7, atol=1e-9, equal_nan=True)
    close(probe.costs, expected.sum(0), rtol=1e-7, atol=1e-9, equal_nan=True)
    cells = inner_products(loss, [(output, output) for output in network.outputs[1:]])
    close(probe.cell_per_image, torch.stack(cells, dim=1), rtol=1e-7, atol=1e-9)
    close(probe.cell_costs, torch.stack(cells).sum(1), rtol=1e-7, atol=1e-9)
    return loss


def loss_minus_entropy(logits, labels):
    p = logits.softmax(-1)
    return cross_entropy(logits, labels) + (p * p.log()).sum(-1).mean()


@given(cases())
@examples(30)
def test_costs_of_a_child_network_are_autograds_inner_products(case):
    gates, child = case.child()
    probe, _ = measure(case, gates)
    loss = assert_costs(case, probe, child, gates.active)
    into = dict.fromkeys(child.nodes, 0.0)
    for cell, edge, _ in child.contributions:
        into[cell, case.topology.edges[edge][1]] += probe.costs[cell, edge].nansum()
    for at, cost in zip(child.nodes, inner_products(loss, [(x, x) for x in child.nodes.values()]), strict=True):
        assert float(into[at]) == pytest.approx(cost.sum().item(), rel=1e-7, abs=1e-9)


@given(cases())
@examples(20)
def test_costs_of_a_mixed_network_are_autograds_inner_products(case):
    gates, mixed = case.mixed()
    probe, _ = measure(case, gates)
    assert_costs(case, probe, mixed, gates.active, gates.values.detach())


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_costs_are_autograds_inner_products_in_the_papers_cells(name):
    case = Case(TOPOLOGIES[name], cells=3, channels=4, reductions=(1,), size=(8, 7))
    gates, child = case.child()
    assert_costs(case, measure(case, gates)[0], child, gates.active)


@given(cases())
@examples(10)
def test_none_costs_nothing(case):
    for gates in (case.child()[0], case.mixed()[0]):
        none = measure(case, gates)[0].per_image[..., 0]
        assert torch.equal(none.isnan()[0], ~gates.active[..., 0])
        assert not none.nan_to_num().any()


def test_without_any_operation_all_costs_are_zero():
    case = Case(MINIMAL)
    probe, _ = measure(case, case.one_hot([[("none",)] * 5] * case.cells))
    assert not probe.costs[..., 0].any()
    assert probe.costs[..., 1:].isnan().all()
    assert not probe.cell_costs.any()


@given(cases())
@examples(15)
def test_last_cells_cost_is_loss_minus_entropy(case):
    probe, logits = measure(case, case.child()[0])
    p, y = logits.softmax(-1), one_hot(case.labels, case.classes)
    cost = probe.cell_costs[-1]
    close(cost, ((p - y) * logits).sum() / case.batch, rtol=1e-9, atol=1e-9)
    close(cost, loss_minus_entropy(logits, case.labels), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_edges_cost_the_last_cell_loss_minus_entropy_and_every_other_cell_nothing(dtype, tolerance):
    @given(cases(normalised_topologies()), st.booleans())
    @examples(20)
    def check(case, hard):
        case.dtype, case.batch, case.size = dtype, case.batch + 4, tuple(size + 2 for size in case.size)
        set_eps(case.supernet, NO_EPS if dtype == torch.float64 else 1e-12)
        gates = case.child()[0] if hard else case.mixed()[0]
        probe, logits = measure(case, gates)
        expected = torch.zeros(case.cells, dtype=dtype)
        expected[-1] = loss_minus_entropy(logits, case.labels)
        shares = (gates.values.detach() * probe.per_image).nan_to_num()  # the operations' costs times their weights
        scale = shares.abs().sum((0, 2, 3)) + cross_entropy(logits, case.labels)
        assert ((shares.sum((0, 2, 3)) - expected).abs() <= tolerance * scale).all()
        assert ((probe.cell_costs - expected).abs() <= tolerance * (scale + probe.cell_per_image.abs().sum(0))).all()

    check()


def test_the_identity_fails_where_a_gradient_is_wrong():
    case = Case(NO_SKIP, cells=1, channels=4)
    gates, _ = case.child()
    set_eps(case.supernet, NO_EPS)
    for right in (True, False):
        probe, logits = measure(case, gates)
        for costs in (probe.cell_costs[-1], probe.costs.nansum()):
            share = (costs / loss_minus_entropy(logits, case.labels)).item()
            assert (share == pytest.approx(1, rel=1e-9)) is right
        case.supernet.classifier.register_full_backward_hook(lambda _, gradients, __: (1.001 * gradients[0],))


# With one channel torch cannot tell two memory formats apart, and batch normalisation sums in another order.
@given(cases().filter(lambda case: case.channels > 1), st.booleans())
@examples(20)
def test_probing_changes_no_bit_of_outputs_and_gradients(case, hard):
    gates = case.child()[0] if hard else case.mixed()[0]
    results = []
    for probed in (False, True):
        images = case.images.clone().requires_grad_()
        case.supernet.zero_grad()
        if probed:
            logits = measure(case, gates, images)[1]
        else:
            logits = case.supernet(images, gates)
            cross_entropy(logits, case.labels).backward()
        results.append([logits, images.grad, *(weight.grad for weight in case.supernet.parameters())])
    for without, with_probe in zip(*results, strict=True):
        assert (without is None) == (with_probe is None)
        assert without is None or torch.equal(without, with_probe)


@given(cases())
@examples(15)
def test_nested_probes_agree(case):
    gates, _ = case.child()
    with GateProbe(case.supernet) as outer:
        inner, _ = measure(case, gates)
    assert torch.equal(outer.per_image.nan_to_num(), inner.per_image.nan_to_num())
    assert torch.equal(outer.cell_per_image, inner.cell_per_image)


def hooks(supernet):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in supernet.modules()]


def test_leaving_by_an_exception_takes_the_hooks_off():
    case = Case(MINIMAL)
    case.labels += case.classes
    with pytest.raises(IndexError, match="Target"):
        measure(case, case.child()[0])
    assert not any(hooks(case.supernet))


def test_a_probe_can_be_entered_again():
    case = Case(MINIMAL)
    gates, _ = case.child()
    probe, _ = measure(case, gates)
    first = probe.costs
    with probe:
        cross_entropy(case.supernet(2 * case.images, gates), case.labels).backward()
    assert not any(hooks(case.supernet))
    assert not torch.allclose(first, probe.costs, equal_nan=True)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_evaluation_inside_a_probe_is_not_measured(context):
    case = Case(MINIMAL)
    gates, _ = case.child()
    half = case.images[:2]
    expected = case.supernet(half, gates)
    with GateProbe(case.supernet) as probe:
        for _ in range(2):  # before any costs are known, and after
            with context():
                assert torch.equal(case.supernet(half, gates), expected)
            cross_entropy(case.supernet(case.images, gates), case.labels).backward()
            costs = probe.costs
        with context():
            case.supernet(half, gates)
    assert torch.equal(costs.nan_to_num(), probe.costs.nan_to_num())


def test_the_last_backward_pass_is_kept():
    case = Case(MINIMAL)
    gates, _ = case.child()
    alone, _ = measure(case, gates)
    with GateProbe(case.supernet) as probe:
        for images in (3 * case.images, case.images):
            cross_entropy(case.supernet(images, gates), case.labels).backward()
    assert torch.equal(probe.costs.nan_to_num(), alone.costs.nan_to_num())


def test_of_two_ways_back_through_one_pass_the_last_is_kept():
    case = Case(MINIMAL)
    for gates in (case.child()[0], case.mixed()[0]):  # whose values want a gradient or do not
        alone, _ = measure(case, gates)
        with GateProbe(case.supernet) as probe:
            loss = cross_entropy(case.supernet(case.images, gates), case.labels)
            (7 * loss).backward(retain_graph=True)
            loss.backward()
        close(probe.costs, alone.costs, equal_nan=True)
        close(probe.cell_costs, alone.cell_costs)


def test_what_leads_nowhere_costs_nothing():
    case = Case(MINIMAL.with_output(3))
    gates = case.one_hot([[("sep_conv_3x3",)] * 4 + [("none",)]] * case.cells)
    costs = measure(case, gates)[0].costs.nansum(-1)
    assert not costs[:, :2].any()
    assert costs[:, 2:4].all()


def test_a_copy_of_the_supernet_takes_no_hook_along():
    case = Case(MINIMAL)
    gates, _ = case.child()
    with GateProbe(case.supernet) as probe:
        cross_entropy(case.supernet(case.images, gates), case.labels).backward()
        before = probe.costs
        cross_entropy(deepcopy(case.supernet)(2 * case.images, gates), case.labels).backward()
        assert torch.equal(before.nan_to_num(), probe.costs.nan_to_num())


def test_costs_before_a_pass_are_refused():
    probe = GateProbe(Case(MINIMAL).supernet)
    for read in (lambda: probe.costs, lambda: probe.cell_per_image):
        with pytest.raises(RuntimeError, match="nothing was measured yet"):
            read()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (PlainSupernet(MINIMAL, 1, 2, 3), r"supernet: PlainSupernet has no gates; CostProbe\(model, modules\)"),
        (torch.compile(Case(MINIMAL).supernet), "is compiled"),
    ],
)
def test_what_has_no_gates_or_is_compiled_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        GateProbe(model)


def test_costs_need_no_trainable_weights():
    case = Case(MINIMAL)
    gates, child = case.child()
    case.supernet.requires_grad_(False)
    assert_costs(case, measure(case, gates)[0], child, gates.active)


@pytest.mark.parametrize("hard", [True, False])
def test_costs_have_single_precision_under_autocast(hard):
    case = Case(NO_SKIP, cells=1, channels=4, batch=8, dtype=torch.float32)
    gates = case.child()[0] if hard else case.mixed()[0]
    with torch.autocast("cpu", dtype=torch.bfloat16), GateProbe(case.supernet) as probe:
        logits = case.supernet(case.images, gates)
        cross_entropy(logits, case.labels).backward()
    assert logits.dtype == torch.bfloat16
    assert (probe.costs.dtype, probe.cell_costs.dtype) == (torch.float32, torch.float32)
    close(probe.cell_costs[0], loss_minus_entropy(logits.float(), case.labels), rtol=0.03, atol=0.03)
    close(probe.costs, measure(case, gates)[0].costs, rtol=0.2, atol=0.05, equal_nan=True)


@given(SEEDS, st.integers(1, 6), st.floats(0, 1))
@examples(30)
def test_statistics_are_numpys(seed, steps, missing):
    random = np.random.default_rng(seed)
    values = random.normal(size=(steps, 2, 3)).astype(np.float32)
    values[random.random(values.shape) < missing] = np.nan
    statistics = Statistics((2, 3))
    for value in values:
        statistics.update(torch.from_numpy(value))
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # where all are missing numpy warns
        expected = {
            "count": np.isfinite(values).sum(0),
            "mean": np.nanmean(values, 0),
            "min": np.nanmin(values, 0),
            "max": np.nanmax(values, 0),
        }
    result = statistics.result()
    assert list(result) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], value, rtol=1e-5, atol=1e-6)
