"""Networks on which the identities are exact are the seed's, and cost what the theorems say to rounding."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from wiring import MINIMAL, GateProbe, PlainSupernet, Supernet
from wiring.costs import loss_minus_entropy, random_supernet, uniform_gates


def test_both_kinds_have_the_seeds_weights_and_no_eps_and_disturb_no_generator():
    state = torch.get_rng_state()
    ours, plain, other = (
        random_supernet(MINIMAL, 2, 3, seed, kind=kind)
        for kind, seed in ((Supernet, 1), (PlainSupernet, 1), (Supernet, 2))
    )
    assert torch.equal(state, torch.get_rng_state())
    assert (type(ours), type(plain)) == (Supernet, PlainSupernet)
    weights = zip(ours.parameters(), plain.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) and (not torch.equal(a, c) or a.dim() == 1) for a, b, c in weights)
    for network in (ours, plain):
        assert {weight.dtype for weight in network.parameters()} == {torch.float64}
        assert max(part.eps for part in network.modules() if hasattr(part, "eps")) < 1e-20


def test_uniform_gates_share_an_edge_among_what_it_may_carry():
    gates = uniform_gates(MINIMAL.with_operations((2, 3), "none", "sep_conv_3x3"), 3)
    assert gates.values.shape == gates.active.shape == (3, 5, 8)
    assert (gates.values[:, :4] == 1 / 8).all()
    assert gates.values[0, 4].tolist() == [0.5, 0, 0, 0, 0.5, 0, 0, 0]


def test_only_the_last_cell_pays_loss_minus_entropy():
    normalised = MINIMAL.without_operations("skip_connect")
    network, gates = random_supernet(normalised, 2, 3, seed=0), uniform_gates(normalised, 2)
    images, labels = torch.randn(8, 1, 5, 5).double(), torch.randint(10, (8,))
    with GateProbe(network) as probe:
        logits = network(images, gates)
        cross_entropy(logits, labels).backward()
    expected = loss_minus_entropy(logits.detach(), labels).item()
    assert (gates.values * probe.costs.nan_to_num()).sum((1, 2)).tolist() == pytest.approx([0, expected], abs=1e-10)


def test_loss_minus_entropy_is_a_number_where_a_probability_is_zero():
    logits = torch.tensor([[0.0, 2000.0], [1.0, 1.0]])
    assert loss_minus_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx(1000)
