"""Costs at the outputs of anyone's modules are autograd's own inner products, whatever the model does with them."""

import math
import warnings
import weakref
from copy import deepcopy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, Case, examples
from torch import nn
from torch.nn.functional import cross_entropy, relu
from torch.utils._pytree import tree_map
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
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch.jit is on its way out
        traced = torch.jit.trace(conv(), batch()[0])
    compiled = Model(conv())
    compiled.parts[0].compile()
    return [
        (model, None, "modules = None: name the submodules of Model to measure$"),
        (Case(MINIMAL).supernet, None, "modules = None: name the submodules of Supernet .*GateProbe"),
        (model, "cells.*", r"modules = 'cells.\*': fits no name of a part of Model, such as 'parts"),
        (model, {"mine": conv()}, "'mine' is no submodule of the model Model"),
        (model, {}, "name at least one"),
        (model, ["parts.0", "cells.*"], r"modules = 'cells.\*': fits no name"),
        (model, {"mine": "head"}, "'mine' is no submodule of the model Model"),
        (model, [], "name at least one"),
        (model, {"mine": "parts.*"}, "'mine' is no submodule of the model Model but 'parts.*'; values are modules"),
        (model, "parts0", "modules = 'parts0': fits no name of a part of Model, such as 'parts.0'"),
        (compiled, "parts.*", "model: Model has a part, Conv2d, that is compiled"),
        (torch.compile(model), "*", "model: .* is compiled"),
        (Model(traced), "parts.*", "has a part, .*, that is traced"),
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


def test_costs_are_those_of_the_last_pass_that_was_gone_back_through():
    images, labels = batch()
    model = Model(conv())
    once, twice = expected(model, images, labels), expected(model, 2 * images, labels)
    with CostProbe(model, "parts.0") as probe:
        first, second = (cross_entropy(model(factor * images), labels) for factor in (1, 2))
        first.backward()
        close(probe.per_image, once)
        second.backward()
        close(probe.per_image, twice)
        model(3 * images)
        close(probe.per_image, twice)
        losses = [cross_entropy(model(factor * images), labels) for factor in (2, 1)]
        sum(losses).backward()
    close(probe.per_image, once)


def test_of_two_ways_back_through_one_pass_the_last_counts_whole():
    class Two(Model):
        def forward(self, x):
            return self.parts[0](x).mean((1, 2, 3)), self.parts[1](x).mean((1, 2, 3))

    images, _ = batch()
    model = Two(conv(), conv())
    with CostProbe(model, "parts.*") as probe:
        one, other = model(images)
        (one + other).sum().backward(retain_graph=True)
        assert (probe.costs != 0).all()
        other.sum().backward()
    assert probe.costs[0] == 0 != probe.costs[1]


def test_what_a_backward_pass_was_told_to_leave_out_has_no_cost():
    images, labels = batch()
    model = Model(conv(), conv())
    wanted = expected(model, images, labels)
    with CostProbe(model, "parts.*") as probe:
        cross_entropy(model(images), labels).backward(inputs=[model.head.weight])
        assert probe.per_image.isnan().all()
        cross_entropy(model(images), labels).backward(inputs=[model.parts[1].weight])
        assert probe.per_image[:, 0].isnan().all()
        close(probe.per_image[:, 1], wanted[:, 1])
        torch.autograd.grad(cross_entropy(model(images), labels), [model.parts[0].weight])
    close(probe.per_image, wanted)


def test_a_supernets_gates_that_were_left_out_have_no_cost():
    case = Case(MINIMAL, seed=1)
    gates, _ = case.child()
    with GateProbe(case.supernet) as probe:
        loss = cross_entropy(case.supernet(case.images, gates), case.labels)
        torch.autograd.grad(loss, [case.supernet.classifier.weight], retain_graph=True)
        assert probe.costs.isnan().all()
        loss.backward()
        assert torch.equal(probe.costs.isnan(), ~gates.active)


def test_a_backward_pass_inside_forward_is_measured():
    class Inside(Model):
        def forward(self, x, labels):
            loss = cross_entropy(super().forward(x), labels)
            loss.backward()
            return loss.detach()

    images, labels = batch()
    model = Inside(conv(), conv())
    with CostProbe(model, "parts.*") as probe:
        model(images, labels)
    close(probe.per_image, expected(model, images, labels))


def test_a_loss_of_what_a_hook_kept_is_measured():
    kept, (images, _) = [], batch()
    model = Model(conv())
    model.parts[0].register_forward_hook(lambda _, __, output: kept.append(output))
    with CostProbe(model, "parts.*") as probe:
        model(images)
        kept[0].square().sum().backward()
    close(probe.per_image[:, 0], 2 * model.parts[0](images).square().sum((1, 2, 3)).detach())


def test_every_tensor_of_an_output_counts_whatever_its_shape():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x, keep=lambda x: x):
            out, (h, c) = keep(self.lstm(x))
            return self.head(out.mean(1) + h[0] + c[0])

    torch.manual_seed(0)
    model, x, y = Recurrent().double(), torch.randn(5, 6, 3).double(), torch.randint(2, (5,))
    kept = []
    loss = cross_entropy(model(x, lambda out: kept.extend((out[0], *out[1])) or out), y)
    right = sum((g * o).sum() for g, o in zip(torch.autograd.grad(loss, kept), kept, strict=True))
    with CostProbe(model, "lstm") as probe:
        cross_entropy(model(x), y).backward()
    close(probe.costs[0], right.detach())
    with pytest.raises(RuntimeError, match=r"lengths of 5 \(lstm\) and 1 \(lstm\)"):
        _ = probe.per_image


def test_numbers_and_complex_tensors_have_costs_too():
    class Wave(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x), x.sum()

    model = nn.Module()
    model.wave, model.forward = Wave(), lambda x: model.wave(x)
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    with CostProbe(model, "wave") as probe:
        wave, total = model(x)
        (wave.abs().square().sum() + 3 * total).backward()
    close(probe.costs[0], (2 * torch.fft.rfft(x).abs().square().sum() + 3 * x.sum()).detach())


def test_a_probe_keeps_no_tensor_of_the_model_alive():
    images, labels = batch()
    model, kept = Model(conv(), nn.Identity()), []
    for part in model.parts:
        part.register_forward_hook(lambda _, __, output: kept.append(weakref.ref(output)))
    with CostProbe(model, "parts.*") as probe:
        cross_entropy(model(images), labels).backward()
        assert [reference() for reference in kept] == [None, None]
        assert probe.costs.shape == (2,)
    case = Case(MINIMAL, seed=1)
    gates, _ = case.child()
    with GateProbe(case.supernet):
        hook = case.supernet.register_forward_pre_hook(lambda _, inputs: kept.append(weakref.ref(inputs[1].values)))
        cross_entropy(case.supernet(case.images, gates), case.labels).backward()
        hook.remove()
        assert kept[-1]() is None


def test_what_did_not_run_through_its_call_is_named():
    class Around(Model):
        def forward(self, x):
            return self.head(self.parts[0].forward(x).mean((2, 3)))

    images, labels = batch()
    with CostProbe(Around(conv(), conv()), "parts.*") as probe:
        cross_entropy(probe.model(images), labels).backward()
        with pytest.raises(RuntimeError, match=r"parts.0 \(Conv2d\) and 1 more: no call .*`forward`.*fused"):
            _ = probe.costs
    model = Model(conv())
    with CostProbe(model, "parts.*") as probe:
        cross_entropy(model.forward(images), labels).backward()
        with pytest.raises(RuntimeError, match="call the Model itself"):
            _ = probe.costs


def test_transforms_of_torch_func_are_refused_in_words_of_our_own():
    images, labels = batch()
    model = Model(conv())

    def loss(weights):
        return cross_entropy(torch.func.functional_call(model, weights, images), labels)

    with CostProbe(model, "parts.*") as probe:
        with pytest.raises(RuntimeError, match=r"torch\.func"):
            torch.func.grad(loss)(dict(model.named_parameters()))
        loss(dict(model.named_parameters())).backward()
    close(probe.per_image, expected(model, images, labels))


def test_several_patterns_and_names_are_measured_once_each_in_their_order():
    images, labels = batch()
    model = Model(conv(), conv())
    probe = measure(model, ["head", "parts.1", "parts.*"], images, labels)
    assert probe.names == ("head", "parts.1", "parts.0")
    close(probe.per_image[:, [2, 1]], expected(model, images, labels))


class Pair(nn.Module):
    def forward(self, x):
        return x.square(), {"halved": x / 2}


class Slice(nn.Module):
    def forward(self, x):
        return x[:, :]


PARTS = {
    "linear": lambda: nn.Linear(4, 4),
    "tanh": nn.Tanh,
    "identity": nn.Identity,
    "rectified in place": lambda: nn.ReLU(inplace=True),
    "pair": Pair,
    "slice": Slice,
}
HOW = ["plain", "plain", "changed in place", "detached", "without gradients", "checkpoint", "reentrant checkpoint"]


class Graph(nn.Module):
    """A random program: each step calls one of the parts with an earlier value, in one of the ways ``HOW``."""

    def __init__(self, seed, steps):
        super().__init__()
        torch.manual_seed(seed)
        self.parts = nn.ModuleList(make() for make in PARTS.values())
        self.head = nn.Linear(4, 3)
        self.steps = steps

    def forward(self, x, call=lambda _, part, x: part(x), may_checkpoint=True):
        values = [x.clone()]
        for kind, read, how, one_image in self.steps:
            part, name = self.parts[kind], f"parts.{kind}"
            x = values[read % len(values)]
            x = x.mean(0, keepdim=True) if one_image else x.clone()
            if "checkpoint" in how and may_checkpoint and isinstance(part, nn.Linear | nn.Tanh):
                x = checkpoint(partial(call, name, part), x, use_reentrant=how.startswith("reentrant"))
            else:
                with torch.set_grad_enabled(how != "without gradients"):
                    x = call(name, part, x)
            x = x[0] + x[1]["halved"] if isinstance(x, tuple) else x
            x = {"changed in place": torch.Tensor.sigmoid_, "detached": torch.Tensor.detach}.get(how, torch.clone)(x)
            values.append(x + values[-1])
        return self.head(values[-1])


STEPS = st.tuples(st.integers(0, len(PARTS) - 1), st.integers(0, 9), st.sampled_from(HOW), st.booleans())


@given(SEEDS, st.lists(STEPS, min_size=1, max_size=7), st.booleans())
@examples(150)
def test_a_random_programs_costs_are_autograds_or_none(seed, steps, frozen):
    model = Graph(seed, steps).double()
    model.parts.requires_grad_(not frozen)
    images, labels = torch.randn(5, 4, dtype=torch.float64), torch.randint(3, (5,))
    kept = []

    def keeping(name, part, x):
        if not torch.is_grad_enabled():
            return part(x)

        def keep(x):
            x = x if x.requires_grad else x.detach().requires_grad_()
            kept.append((name, x))
            return x.clone()

        return tree_map(keep, part(x))

    loss = cross_entropy(model(images, keeping, may_checkpoint=False), labels)
    wanted = {}
    if kept:
        found = torch.autograd.grad(loss, [x for _, x in kept], allow_unused=True, materialize_grads=True)
        for (name, x), gradient in zip(kept, found, strict=True):
            wanted[name] = wanted.get(name, 0.0) + (gradient * x).sum().item()
    with CostProbe(model, "parts.*") as probe:
        # A reentrant checkpoint is passed by unless its input has a gradient.
        cross_entropy(model(images.requires_grad_()), labels).backward()
        if not wanted:
            with pytest.raises(RuntimeError, match="no call"):
                _ = probe.costs
            return
    for name, cost in probe.by_name().items():
        assert cost == pytest.approx(wanted[name], rel=1e-9, abs=1e-12) if name in wanted else math.isnan(cost)


def test_an_input_that_is_changed_in_place_and_used_again_is_so_under_a_probe():
    class Reused(Model):
        def forward(self, x):
            h = self.parts[0](x)
            return self.head((h + self.parts[1](h)).mean((2, 3)))  # the second part rectifies h in place

    images, labels = batch()
    model = Reused(conv(), nn.Sequential(nn.ReLU(inplace=True), conv()))
    plain = cross_entropy(model(images), labels)
    weight = model.parts[0].weight
    (wanted,) = torch.autograd.grad(plain, weight)
    with CostProbe(model, "parts.*"):
        loss = cross_entropy(model(images), labels)
        loss.backward()
    close(loss, plain)
    close(weight.grad, wanted)


def test_a_star_stands_for_one_part_of_a_name():
    names = ["cells", "cells.0", "cells.0.edges", "cells.10", "cells.0.edges.1"]
    assert matching(names, "cells.*") == ["cells.0", "cells.10"]
    assert matching(names, "*.0.*.1") == ["cells.0.edges.1"]
