"""The supernet computes what plain networks with its weights compute, and runs no more than it must."""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import NAMES
from strategies import SEEDS, Case, cases, examples
from torch.nn.functional import cross_entropy

from wiring.supernet.gates import Gates
from wiring.supernet.network import Plan, Supernet
from wiring.supernet.operations import Node
from wiring.supernet.textbook import PlainSupernet
from wiring.supernet.topology import MINIMAL, TOPOLOGIES, Topology, complete

pytestmark = pytest.mark.usefixtures("both_forms")


def close(ours, expected, tolerance=1e-10):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * max(1, expected.abs().max().item()))


def gradient(tensor):
    """Its gradient; zero where it has none."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def learn(model, case, *arguments):
    """Forward and backward: the logits and the gradient of the images."""
    images = case.images.clone().requires_grad_()
    logits = model(images, *arguments)
    cross_entropy(logits, case.labels).backward()
    return logits.detach(), gradient(images)


def assert_same_network(case, network, gates, *weights, tolerance=1e-10):
    """Logits and all gradients agree; the gradient of a weight that was not used may be None or 0."""
    pairs = zip(learn(case.supernet, case, gates), learn(network, case, *weights), strict=True)
    for ours, expected in pairs:
        close(ours, expected, tolerance)
    for ours, theirs in zip(case.supernet.parameters(), network.parameters(), strict=True):
        close(gradient(ours), gradient(theirs), tolerance)


@given(cases())
@examples(30)
def test_one_hot_gates_give_the_child_network(case):
    gates, child = case.child()
    assert_same_network(case, child, gates)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_one_hot_gates_give_the_child_network_in_the_papers_cells(name):
    case = Case(TOPOLOGIES[name], cells=3, channels=4, size=(8, 8))
    gates, child = case.child()
    assert_same_network(case, child, gates)


@given(cases())
@examples(20)
def test_relaxed_gates_give_the_mixed_network(case):
    gates, mixed = case.mixed()
    weights = gates.values.detach().clone().requires_grad_()
    assert_same_network(case, mixed, gates, weights)
    close(gradient(gates.values), gradient(weights))


@given(cases(), st.sampled_from([2, 3]), st.booleans())
@examples(20)
def test_partial_channels_give_the_textbooks_network(case, partial, relaxed):
    case = replace(case, channels=partial * case.channels, partial=partial)
    sizes = case.channels, case.classes, case.image_channels, case.reductions, partial
    plain = PlainSupernet(case.topology, case.cells, *sizes).to(case.dtype)
    gates = case.relaxed() if relaxed else case.one_hot(case.chosen())
    assert_same_network(case, plain.copy_weights(case.supernet.parameters()), gates, gates)


def test_of_partial_channels_those_that_no_operation_sees_pass_even_where_none_runs():
    topology = TOPOLOGIES["simplified"].without_edges((0, 2), (1, 2)).with_output(1)
    (cell,) = Supernet(topology, cells=1, channels=4, classes=2, partial=4).cells
    x = torch.randn(2, 12, 3, 3)
    whole = cell.inputs[0](Node(x))
    gates = [torch.ones(2, 0)]
    seen = cell([Node(x)], Plan.of(topology, [[False] * len(NAMES)], partial=True), gates)
    close(seen, torch.cat([torch.zeros_like(whole[:, :1]), whole[:, 1:]], dim=1))


@given(cases(), st.booleans())
@examples(20)
def test_single_precision_gives_the_same_networks(case, relaxed):
    case = replace(case, dtype=torch.float32)
    gates, network = case.mixed() if relaxed else case.child()
    weights = [gates.values.detach().clone().requires_grad_()] if relaxed else []
    assert_same_network(case, network, gates, *weights, tolerance=1e-4)


@given(SEEDS)
@examples(5)
def test_two_reductions_in_a_row_give_the_same_networks(seed):
    topology = TOPOLOGIES["simplified"]
    case = Case(topology, cells=4, reductions=(1, 2), batch=8, size=(9, 11), seed=seed)
    gates, child = case.child()
    assert_same_network(case, child, gates)


@given(cases())
@examples(10)
def test_gates_of_each_image_weigh_that_image_alone(case):
    gates, _ = case.mixed()
    image = gates.values.detach().expand(case.batch, *gates.values.shape)
    close(case.supernet(case.images, Gates(image, gates.active)), case.supernet(case.images, gates))


def reached(topology, chosen):
    """The (edge, name) that run: not None, and from an input node or a node that something reaches."""
    nodes, runs = set(range(len(topology.inputs))), set()
    for j in topology.intermediate:
        into = {(edge, *chosen[edge]) for edge, (i, end) in enumerate(topology.edges) if end == j and i in nodes}
        into = {(edge, name) for edge, name in into if name != "none"}
        runs |= into
        nodes |= {j} if into else set()
    return runs


@given(cases())
@examples(20)
def test_only_sampled_operations_that_something_reaches_run_and_learn(case):
    gates, child = case.child()
    calls = []
    for number, cell in enumerate(case.supernet.cells):
        for edge, operations in enumerate(cell.edges):
            for name, operation in operations.items():
                operation.register_forward_hook(lambda *_, at=(number, edge, name): calls.append(at))
    learn(case.supernet, case, gates)
    assert sorted(calls) == sorted(
        (number, *run) for number, cell in enumerate(child.chosen) for run in reached(case.topology, cell)
    )
    for number, cell in enumerate(case.supernet.cells):
        for edge, operations in enumerate(cell.edges):
            for name, operation in operations.items():
                if (number, edge, name) not in calls:
                    assert all(weight.grad is None for weight in operation.parameters())


@given(cases(st.just(MINIMAL)))
@examples(10)
def test_without_any_operation_logits_are_zero_and_learning_goes_on(case):
    gates = case.one_hot([[("none",)] * 5] * case.cells)
    logits = case.supernet(case.images, gates)
    assert torch.equal(logits, torch.zeros(case.batch, case.classes, dtype=torch.float64))
    loss = cross_entropy(logits, case.labels)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(case.classes))
    assert all(weight.grad is None or not weight.grad.any() for weight in case.supernet.parameters())


def test_a_node_that_nothing_reaches_is_zero():
    topology = Topology((1,), ((0, 1), (2, 3)), (2, 1, 3), (("skip_connect",), NAMES))
    case = Case(topology, cells=1, channels=2)
    outputs = []
    case.supernet.cells[0].register_forward_hook(lambda *arguments: outputs.append(arguments[-1]))
    case.supernet(case.images, case.child()[0])
    unreached, skipped, after_unreached = outputs[0].split(2, dim=1)
    assert not unreached.any()
    assert not after_unreached.any()
    assert skipped.any()


@given(
    SEEDS,
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
)
@examples(25)
def test_any_size_channels_and_classes(seed, height, width, channels, classes, image_channels, reduce):
    case = Case(
        MINIMAL,
        channels=channels,
        classes=classes,
        image_channels=image_channels,
        reductions=(1,) if reduce else (),
        size=(height, width),
        seed=seed,
    )
    gates, child = case.child()
    logits = case.supernet(case.images, gates)
    assert logits.shape == (case.batch, classes)
    close(logits, child(case.images))


@given(cases())
@examples(20)
def test_memory_format_does_not_matter_and_images_stay_as_they_were(case):
    gates, _ = case.child()
    images = case.images.clone()
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(case.supernet(images, gates), case.supernet(last, gates))
    assert torch.equal(images, case.images)
    assert torch.equal(last, case.images)


@given(cases())
@examples(10)
def test_evaluation_mode_computes_the_same(case):
    gates, _ = case.child()
    assert torch.equal(case.supernet.eval()(case.images, gates), case.supernet.train()(case.images, gates))


@given(cases())
@examples(10)
def test_the_state_dict_holds_the_whole_network(case):
    gates, _ = case.child()
    other = Case(case.topology, case.cells, case.channels, case.classes, case.image_channels, case.reductions, seed=1)
    other.supernet.load_state_dict(case.supernet.state_dict())
    assert torch.equal(other.supernet(case.images, gates), case.supernet(case.images, gates))


def test_a_reduction_doubles_the_width_and_halves_the_size():
    case = Case(MINIMAL, cells=3, channels=2, reductions=(1,), size=(7, 10))
    shapes = []
    for cell in case.supernet.cells:
        cell.register_forward_hook(lambda *arguments: shapes.append(tuple(arguments[-1].shape)))
    case.supernet(case.images, case.child()[0])
    assert shapes == [(4, 4, 7, 10), (4, 8, 4, 5), (4, 8, 4, 5)]
    assert case.supernet.cell_types == [0, 1, 0]


def test_the_shape_of_gates_is_cells_edges_operations():
    assert Supernet(TOPOLOGIES["darts"], cells=3, channels=1, classes=2).shape == (3, 14, 8)


def test_the_stem_is_three_times_as_wide_and_the_classifier_has_no_bias():
    supernet = Supernet(MINIMAL, cells=1, channels=4, classes=10)
    assert [tuple(weight.shape) for weight in supernet.stem.parameters()] == [(12, 3, 3, 3), (12,), (12,)]
    assert [tuple(weight.shape) for weight in supernet.classifier.parameters()] == [(10, 8)]


FAR = complete((3, 1), 1)  # the third cell's first input node reads the stem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": 0}, "cells = 0: must be at least 1"),
        ({"channels": 0}, "channels = 0: must be at least 1"),
        ({"classes": -1}, "classes = -1: must be at least 1"),
        ({"image_channels": 0}, "image_channels = 0: must be at least 1"),
        ({"reductions": (0, 3)}, "reductions = (0, 3): no cell 3 among 3 cells"),
        ({"reductions": (-1,)}, "reductions = (-1,): no cell -1 among 3 cells"),
        ({"topology": FAR, "reductions": (0, 1)}, "reductions = (0, 1): cell 2 would read across two of them"),
    ],
)
def test_an_impossible_supernet_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Supernet(**{"topology": MINIMAL, "cells": 3, "channels": 2, "classes": 2} | change)
