"""Costs at the outputs of anyone's modules are autograd's own inner products, whatever the model does with them."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, Case, examples
from torch import nn
from torch.nn.functional import cross_entropy, relu
from torch.utils.checkpoint import checkpoint

from wiring import MINIMAL, NAMES, CostProbe, GateProbe, PlainSupernet
from wiring.costs.probe import matching

close = torch.testing.assert_close


class Model(nn.Module):
    """A chain of named parts; ``between`` is what happens to the output of one before the next reads it."""

    def __init__(self, *parts, between=lambda x: x):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.head = nn.Linear(4, 3)
        self.between = between

    def forward(self, x):
        for part in self.parts:
            x = self.between(part(x))
        return self.head(x.mean((2, 3)))


def conv():
    return nn.Conv2d(4, 4, 3, padding=1)


def batch(seed=0):
    torch.manual_seed(seed)
    return torch.randn(5, 4, 6, 6), torch.randint(3, (5,))


def measure(model, modules, images, labels):
    with CostProbe(model, modules) as probe:
        cross_entropy(model(images), labels).backward()
    return probe


def expected(model, images, labels):
    """For each part of a chain without hooks: ``<dL/dX, X>`` of each image."""
    outputs, x = [], images
    for part in model.parts:
        x = part(x)
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        outputs.append(x)
        x = model.between(x.clone())
    loss = cross_entropy(model.head(x.mean((2, 3))), labels)
    gradients = torch.autograd.grad(loss, outputs)
    pairs = zip(gradients, outputs, strict=True)
    return torch.stack([(gradient * x).flatten(1).sum(1) for gradient, x in pairs], dim=1).detach()


@given(SEEDS, st.lists(st.sampled_from(["conv", "identity", "norm", "relu", "pool"]), min_size=1, max_size=5))
@examples(25)
def test_costs_are_autograds_inner_products(seed, kinds):
    images, labels = batch(seed)
    make = {
        "conv": conv,
        "identity": nn.Identity,
        "norm": lambda: nn.BatchNorm2d(4),
        "relu": nn.ReLU,
        "pool": lambda: nn.AvgPool2d(3, 1, 1),
    }
    model = Model(*(make[kind]() for kind in kinds))
    probe = measure(model, "parts.*", images, labels)
    assert probe.names == tuple(f"parts.{number}" for number in range(len(kinds)))
    close(probe.per_image, expected(model, images, labels))
    close(probe.costs, expected(model, images, labels).sum(0))
    assert probe.by_name() == dict(zip(probe.names, probe.costs.tolist(), strict=True))


BETWEEN = {
    "in place": lambda x: relu(x, inplace=True),
    "checkpointed": lambda x: checkpoint(torch.tanh, x, use_reentrant=False),
    "skipped": lambda x: x + relu(x),
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("frozen", [False, True])
def test_costs_do_not_depend_on_what_follows_or_on_what_learns(between, frozen):
    images, labels = batch()
    model = Model(conv(), nn.Identity(), conv(), between=between).requires_grad_(not frozen)
    close(measure(model, "parts.*", images, labels).per_image, expected(model, images, labels))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_modules_are_counted_once(reentrant):
    images, labels = batch()
    model = Model(conv(), conv())
    wanted = expected(model, images, labels)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            for part in model.parts:
                x = checkpoint(part, x, use_reentrant=reentrant)
            return model.head(x.mean((2, 3)))

    probe = measure(Checkpointed(), "model.parts.*", images.requires_grad_(), labels)
    close(probe.per_image, wanted)


def test_a_modules_calls_and_the_tensors_of_its_output_are_summed():
    class Twice(nn.Module):
        def forward(self, x):
            return x, {"negative": -x}, "text"

    class Calls(Model):
        def forward(self, x):
            (split,) = self.parts
            first, named, _ = split(x)
            second, other, _ = split(2 * first)
            return self.head((first + 3 * named["negative"] + second + 5 * other["negative"]).mean((2, 3)))

    images, labels = batch()
    model = Calls(Twice())
    probe = measure(model, {"split": model.parts[0]}, images, labels)

    first = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model.head((1 - 3 + 2 - 10) * first.mean((2, 3))), labels), [first])
    # d/dX of what depends on each output: 1 and 2 - 10 through the second call; -3; 1; -5 of an output twice as large.
    through = (gradient * images).flatten(1).sum(1) / (1 - 3 + 2 - 10)
    close(probe.per_image[:, 0], through * ((1 + 2 - 10) - 3 + 2 - 10))


def test_what_did_not_run_is_nan_and_what_leads_nowhere_costs_nothing():
    class Branches(Model):
        def forward(self, x):
            self.parts[1](x)
            return self.head(self.parts[0](x).mean((2, 3)))

    model = Branches(conv(), conv(), conv())
    probe = measure(model, "parts.*", *batch())
    assert probe.costs[0] != 0
    assert probe.costs[1] == 0
    assert probe.costs[2].isnan()


def test_only_the_last_pass_is_kept_and_autograd_grad_is_measured_too():
    images, labels = batch()
    model = Model(conv())
    with CostProbe(model, "parts.0") as probe:
        cross_entropy(model(2 * images), labels).backward()
        loss = cross_entropy(model(images), labels)
        torch.autograd.grad(loss, model.parts[0].weight, retain_graph=True)
        torch.autograd.grad(loss, model.parts[0].weight)
        with torch.no_grad():
            model(3 * images)
    close(probe.per_image, expected(model, images, labels))


def test_costs_have_single_precision_under_autocast():
    images, labels = batch()
    model = Model(conv(), conv())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probe = measure(model, "parts.*", images, labels)
    assert probe.per_image.dtype == torch.float32
    close(probe.costs, expected(model, images, labels).sum(0), rtol=0.1, atol=0.02)


def test_probing_changes_nothing_and_leaves_no_hook_behind():
    images, labels = batch()
    model = Model(conv(), nn.ReLU(inplace=True), conv())
    plain = deepcopy(model)
    cross_entropy(plain(images), labels).backward()
    probes = CostProbe(model, "parts.*"), CostProbe(model, {"second": model.parts[2]})
    logits, copy = [], []

    def interrupted():
        with probes[0], probes[1]:
            logits.append(model(images))
            cross_entropy(logits[0], labels).backward()
            copy.append(deepcopy(model))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert torch.equal(logits[0], plain(images))
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)
    before = probes[0].costs.clone()
    close(before[2], probes[1].costs[0])
    for each in (model, *copy):
        cross_entropy(each(2 * images), labels).backward()
    assert torch.equal(probes[0].costs, before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@given(SEEDS)
@examples(10)
def test_a_plain_supernets_modules_cost_what_the_gates_measure(seed):
    case = Case(MINIMAL, channels=4, image_channels=3, classes=3, seed=seed)
    gates, _ = case.child()
    plain = PlainSupernet(MINIMAL, 2, 4, 3).double().copy_weights(case.supernet.parameters())
    with GateProbe(case.supernet) as ours:
        cross_entropy(case.supernet(case.images, gates), case.labels).backward()
    with CostProbe(plain, "cells.*.edges.*.*_*") as theirs:
        cross_entropy(plain(case.images, gates), case.labels).backward()
    costs = theirs.by_name()
    for cell, edge, k in gates.active.nonzero().tolist():
        if NAMES[k] != "none":
            cost = costs[f"cells.{cell}.edges.{edge}.{NAMES[k]}"]
            assert cost == pytest.approx(ours.costs[cell, edge, k].item(), rel=1e-8, abs=1e-10)


def refused():
    model = Model(conv())
    compiled = Model(conv())
    compiled.parts[0].compile()
    return [
        (model, None, "modules = None: name the submodules of Model to measure$"),
        (Case(MINIMAL).supernet, None, "modules = None: name the submodules of Supernet .*GateProbe"),
        (model, "cells.*", r"modules = 'cells.\*': fits no name of a part of Model, such as 'head'"),
        (model, {"mine": conv()}, "'mine' is no submodule of the model Model"),
        (model, {}, "name at least one"),
        (compiled, "parts.*", "model: Model is compiled"),
        (torch.compile(model), "*", "is compiled"),
    ]


@pytest.mark.parametrize(("model", "modules", "message"), refused())
def test_what_cannot_be_measured_is_refused(model, modules, message):
    with pytest.raises(ValueError, match=message):
        CostProbe(model, modules)


def test_costs_before_a_pass_are_refused():
    model = Model(conv())
    with CostProbe(model, "parts.*") as probe, torch.no_grad():
        model(batch()[0])
    for read in (lambda: probe.costs, lambda: probe.per_image, probe.by_name):
        with pytest.raises(RuntimeError, match="nothing was measured yet"):
            read()


def test_another_place_than_inputs_and_outputs_is_refused():
    with pytest.raises(ValueError, match="at = 'output': allowed are outputs and inputs"):
        CostProbe(Model(conv()), "parts.*", at="output")


def test_inputs_of_another_length_than_the_images_are_left_alone():
    class Weighed(nn.Module):
        def forward(self, x, weights):
            return x * weights.sum()

    model = nn.Module()
    model.part, model.forward = Weighed(), lambda x: model.part(x, torch.ones(3)).mean((2, 3))
    images = torch.randn(5, 4, 2, 2, requires_grad=True)
    with CostProbe(model, {"part": model.part}, at="inputs") as probe:
        cross_entropy(model(images), torch.zeros(5).long()).backward()
    assert probe.per_image.shape == (5, 1)
    torch.testing.assert_close(probe.per_image[:, 0], (images.grad * images).sum((1, 2, 3)).detach())


def test_a_pass_without_its_way_back_measures_nothing():
    model = nn.Sequential(nn.Conv2d(4, 3, 2), nn.Flatten())
    with CostProbe(model, "0") as probe:
        model(torch.randn(2, 4, 2, 2)).sum().backward()
        assert probe.costs.shape == (1,)
        model(torch.randn(2, 4, 2, 2))
        with pytest.raises(RuntimeError, match="and then backward"):
            _ = probe.costs


@given(SEEDS)
@examples(10)
def test_costs_at_inputs_are_what_comes_back_through_the_module_alone(seed):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)

        def forward(self, x):
            return (self.left(x) + self.right(x)).relu().mean((2, 3))

    torch.manual_seed(seed)
    model, x, labels = Fork(), torch.randn(4, 2, 5, 5), torch.randint(3, (4,))
    with CostProbe(model, "*", at="inputs") as probe:
        cross_entropy(model(x), labels).backward()
    for name, cost in zip(probe.names, probe.per_image.T, strict=True):
        own = x.clone().requires_grad_()
        left, right = (own if name == which else x for which in ("left", "right"))
        logits = (model.left(left) + model.right(right)).relu().mean((2, 3))
        (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), own)
        torch.testing.assert_close(cost, (gradient * x).sum((1, 2, 3)))


def test_a_star_stands_for_one_part_of_a_name():
    names = ["cells", "cells.0", "cells.0.edges", "cells.10", "cells.0.edges.1"]
    assert matching(names, "cells.*") == ["cells.0", "cells.10"]
    assert matching(names, "*.0.*.1") == ["cells.0.edges.1"]
