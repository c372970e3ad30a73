"""The enumeration is what one pass of each architecture gives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, Case, examples
from torch.nn.functional import cross_entropy

from wiring import MINIMAL, NAMES, GateProbe, PlainSupernet, enumerate_minimal

close = torch.testing.assert_close


def enumerated(case):
    plain = PlainSupernet(MINIMAL, 1, case.channels, case.classes, case.image_channels).to(case.dtype)
    return enumerate_minimal(plain.copy_weights(case.supernet.parameters()), case.images, case.labels)


@given(SEEDS, st.data())
@examples(3)
def test_costs_are_those_of_single_passes(seed, data):
    case = Case(MINIMAL, cells=1, seed=seed, size=(5, 4))
    everything = enumerated(case)
    assert everything.costs.shape == (8, 8, 8, 8, 8, 5)
    for _ in range(20):
        chosen = data.draw(st.tuples(*[st.integers(0, 7)] * 5))
        gates = case.one_hot([[(NAMES[k],) for k in chosen]])
        with GateProbe(case.supernet) as probe:
            logits = case.supernet(case.images, gates)
            loss = cross_entropy(logits, case.labels)
            loss.backward()
        close(everything.costs[chosen], probe.costs[0].nansum(-1), rtol=1e-9, atol=1e-12)
        close(everything.loss[chosen], loss.detach())
        p = logits.detach().softmax(1)
        close(everything.entropy[chosen], -(p * p.log()).sum(1).mean())


def test_the_part_through_edge_4_is_what_stopping_the_gradient_there_takes_away():
    case = Case(MINIMAL, cells=1, size=(5, 4))
    everything = enumerated(case)
    assert not everything.through[..., 2:].any()
    chosen = (4, 2, 5, 3, 6)
    network = case.network([[(NAMES[k],) for k in chosen]])
    network.cells[0].edges[4][NAMES[chosen[4]]].register_forward_pre_hook(
        lambda _, inputs: tuple(x.detach() for x in inputs)
    )
    loss = cross_entropy(network(case.images), case.labels)
    outputs = list(network.contributions.values())
    gradients = torch.autograd.grad(loss, [inner for _, inner in outputs])
    direct = [(gradient * x).sum() for gradient, (x, _) in zip(gradients, outputs, strict=True)]
    close(everything.direct[chosen], torch.stack(direct).detach())


@pytest.mark.parametrize(
    "network",
    [
        PlainSupernet(MINIMAL, 2, 2, 3),
        PlainSupernet(MINIMAL.with_output(3), 1, 2, 3),
        PlainSupernet(MINIMAL, 1, 2, 3, 3, (0,)),
    ],
)
def test_another_network_is_refused(network):
    with pytest.raises(ValueError, match="network: give one normal cell of the minimal topology"):
        enumerate_minimal(network, torch.randn(2, 3, 4, 4), torch.zeros(2).long())


@given(SEEDS)
@examples(2)
def test_the_expected_gradient_is_autograds_of_the_expected_cost(seed):
    case = Case(MINIMAL, cells=1, seed=seed, size=(4, 4))
    everything = enumerated(case)
    alpha = torch.randn(5, 8, dtype=case.dtype, generator=case.generator, requires_grad=True)
    log_p = alpha.log_softmax(1)
    joint = sum(log_p[edge].view([8 if axis == edge else 1 for axis in range(5)]) for edge in range(5))
    surrogate = sum(
        (
            joint.exp().detach()
            * everything.costs[..., edge]
            * log_p[edge].view([8 if a == edge else 1 for a in range(5)])
        ).sum()
        for edge in range(5)
    )
    p = log_p.exp().detach()
    close(everything.expected_gradient(p), torch.autograd.grad(surrogate, alpha, retain_graph=True)[0])
    expected_loss = (joint.exp() * everything.loss).sum()
    close(everything.loss_gradient(p), torch.autograd.grad(expected_loss, alpha)[0])
