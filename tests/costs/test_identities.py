"""The identities hold where the paper says so, fail where they should, and the right module is blamed."""

import copy
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, cases, examples, normalised_topologies
from torch import nn
from torch.utils.checkpoint import checkpoint

from wiring import MINIMAL, Gates, PlainSupernet, verify
from wiring.costs import NO_EPS, degree, loss_minus_entropy, random_supernet, set_eps, verify_random

OPERATIONS, CELLS = "cells.*.edges.*.*", "cells.*"
NORMALISED = MINIMAL.without_operations("skip_connect")


def network(topology=NORMALISED, cells=2):
    return random_supernet(topology, cells, 4, seed=0, classes=5, image_channels=2, kind=PlainSupernet)


def all_operations(model):
    active = model.topology.allowed().expand(len(model.cells), -1, -1)
    values = torch.rand(active.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return lambda model, images: model(images, Gates(values, active))


def batch():
    random = torch.Generator().manual_seed(2)
    return torch.randn(8, 2, 7, 6, generator=random, dtype=torch.float64), torch.randint(5, (8,), generator=random)


def check(model, images=None, labels=None, **options):
    if images is None:
        images, labels = batch()
    if "forward" not in options:
        options["forward"] = all_operations(model)
    return verify(model, images, labels, **{"operations": OPERATIONS, "cells": CELLS, "tolerance": 1e-10} | options)


@pytest.mark.parametrize(("dtype", "eps", "tolerance"), [(torch.float64, NO_EPS, 1e-10), (torch.float32, 1e-12, 1e-4)])
def test_identities_hold_wherever_every_operation_is_normalised(dtype, eps, tolerance):
    @given(cases(normalised_topologies()))
    @examples(40)
    def hold(case):
        case.dtype, case.batch, case.reductions = dtype, case.batch + 4, ()
        plain = PlainSupernet(case.topology, case.cells, case.channels, case.classes, case.image_channels).to(dtype)
        set_eps(plain.copy_weights(case.supernet.parameters()), eps)
        gates, _ = case.mixed()
        if not any(name != "none" for own in case.topology.candidates for name in own):
            return
        report = verify(
            plain,
            case.images,
            case.labels,
            operations=OPERATIONS,
            cells=CELLS,
            forward=lambda model, images: model(images, Gates(gates.values.detach(), gates.active)),
            tolerance=tolerance,
        )
        assert set(report.findings) == {"T1", "CA", "T2a"} | ({"CO"} if case.cells > 1 else set())
        assert all(finding.holds for finding in report.findings.values()), str(report)

    hold()


@pytest.mark.parametrize("identity", ["T1", "CA", "CO", "T2a"])
def test_each_identity_fails_under_a_wrong_gradient(identity):
    model = network()
    assert check(model)[identity].holds
    for part in [*(part for cell in model.cells for part in (*cell.inputs, *cell.edges.modules())), model.classifier]:
        if not isinstance(part, nn.ModuleList | nn.ModuleDict):
            part.register_full_backward_hook(lambda _, gradients, __: tuple(g.roll(1, 0) for g in gradients))
    assert not check(model)[identity].holds


def replaced(model, name, part):
    """The model with one of its parts exchanged."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, part)
    return model.double()


def evaluating():
    norm = nn.BatchNorm2d(4, eps=NO_EPS).eval()
    norm.running_mean.fill_(0.5)
    return norm


def trained(norm):
    """Its affine parameters as training might leave them."""
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return norm


class Shortcut(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


SEP, DIL, POOL = (f"cells.0.edges.4.{name}" for name in ("sep_conv_3x3", "dil_conv_3x3", "max_pool_3x3"))


@pytest.mark.parametrize(
    ("name", "part", "reason"),
    [
        (f"{DIL}.3", evaluating(), "BatchNorm2d with running statistics, in evaluation mode"),
        (f"{DIL}.3", nn.Identity(), "Sequential: nothing in it normalises"),
        (f"{DIL}.0", nn.GELU(), "GELU: not homogeneous"),
        (f"{DIL}.3", nn.BatchNorm2d(4, eps=0.1), "BatchNorm2d with eps = 0.1"),
        (f"{SEP}.1", nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), "Conv2d with a bias"),
        (POOL, nn.Identity(), "Identity: nothing in it normalises"),
        (POOL, Shortcut(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, eps=NO_EPS)), "Shortcut: cost passes beside"),
    ],
)
def test_the_module_that_breaks_theorem_1_is_named_with_what_is_wrong(name, part, reason):
    operation = name if name == POOL else name.rpartition(".")[0]
    report = check(replaced(network(), name, part))
    assert not report["T1"].holds
    assert "1 of 60 operations" in report["T1"].why
    assert f"{operation} ({reason}" in report["T1"].why
    assert not report["CA"].holds
    assert operation in report["CA"].why
    assert not report["CO"].holds
    assert operation in report["CO"].why
    assert report["T2a"].holds


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (f"{DIL}.3", trained(nn.BatchNorm2d(4, eps=NO_EPS))),
        (f"{SEP}.3", trained(nn.BatchNorm2d(4, eps=NO_EPS))),
        (f"{DIL}.3", trained(nn.GroupNorm(2, 4, eps=NO_EPS))),
        (f"{DIL}.3", trained(nn.LayerNorm([4, 7, 6], eps=NO_EPS))),
        (f"{DIL}.3", nn.Sequential(nn.BatchNorm2d(4, eps=NO_EPS), nn.Conv2d(4, 4, 1, bias=True))),
        (f"{DIL}.2", nn.Conv2d(4, 4, 1, bias=True)),  # batch normalisation takes its bias away again
        (f"{DIL}.0", nn.LeakyReLU()),
    ],
)
def test_what_stays_homogeneous_breaks_nothing(name, part):
    report = check(replaced(network(), name, part))
    assert all(report[identity].holds for identity in ("T1", "CA", "CO", "T2a")), str(report)


def test_a_skip_on_an_input_edge_leaves_the_sums_alone_and_one_between_intermediate_nodes_does_not():
    on_input = MINIMAL.without_operations("skip_connect", edge=(2, 3))
    report = check(network(on_input))
    assert not report["T1"].holds
    assert report["CA"].holds
    assert report["CO"].holds
    report = check(network(MINIMAL))
    assert "cells.0.edges.4.skip_connect" in report["CO"].why
    assert "edges.0.skip_connect" not in report["CO"].why


def test_an_input_node_that_is_not_normalised_matters_only_under_a_skip():
    reader = "cells.1.inputs.1.2"
    assert check(replaced(network(), reader, nn.Identity()))["CO"].holds
    skip = MINIMAL.without_operations("skip_connect", edge=(2, 3))
    report = check(replaced(network(skip), reader, nn.Identity()))
    assert not report["CO"].holds
    assert "cells.1.inputs.1 (Sequential: nothing in it normalises)" in report["CO"].why


def test_a_biased_classifier_breaks_theorem_2():
    report = check(replaced(network(), "classifier", nn.Linear(8, 5)))
    assert not report["T2a"].holds
    assert "classifier (Linear with a bias)" in report["T2a"].why
    assert report["T1"].holds


def test_one_cell_has_no_corollary():
    assert "CO" not in check(network(cells=1)).findings


def test_the_report_says_what_holds_and_below_it_why_and_what_to_do():
    text = str(check(replaced(network(), "classifier", nn.Linear(8, 5))))
    heads = [line.split(":")[0] for line in text.splitlines() if not line.startswith("  ")]
    assert heads == ["T1 holds", "CA holds", "CO holds", "T2a fails"]
    assert "classifier (Linear with a bias)" in " ".join(text.split())
    assert "what to do: build it with bias=False" in text
    assert max(map(len, text.splitlines())) <= 70


class Frozen(nn.Module):
    """As torchvision's FrozenBatchNorm2d: its statistics are constants in training, too."""

    def __init__(self, width):
        super().__init__()
        self.eps = NO_EPS
        self.running_mean, self.running_var = nn.Buffer(torch.full((width,), 0.5)), nn.Buffer(torch.ones(width))

    def forward(self, x):
        return (x - self.running_mean[:, None, None]) / (self.running_var[:, None, None] + self.eps).sqrt()


def test_statistics_that_are_constants_are_named_as_such():
    report = check(replaced(network(), f"{DIL}.3", Frozen(4)))
    assert set(report["T1"].modules) == {DIL}
    assert "Frozen with statistics of its own, not the batch's" in report["T1"].why


class OwnHead(nn.Linear):
    """A classifier with a part, which it calls."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.rectifier = nn.ReLU()

    def forward(self, x):
        return super().forward(self.rectifier(x))


HEADS = {
    "its own": lambda: nn.Linear(8, 5),
    "normalised weight": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 5)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 5)),
    "with a part": lambda: OwnHead(8, 5),
}


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_a_bias_in_the_head_is_named_however_the_head_is_built(make):
    report = check(replaced(network(), "classifier", make()))
    assert report["T2a"].modules == ("classifier",)
    assert "with a bias" in report["T2a"].why


def test_a_normalisation_behind_the_last_cell_is_named_for_its_degree_and_not_for_its_eps():
    head = nn.Sequential(nn.LayerNorm(8, elementwise_affine=False, eps=NO_EPS), nn.Linear(8, 5, bias=False))
    report = check(replaced(network(), "classifier", head))
    assert report["T2a"].modules == ("classifier.0",)
    assert "LayerNorm: normalises, so that no cost passes it" in report["T2a"].why


def block(*parts):
    return nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), *parts).double()


class Shifted(nn.Module):
    """A function that is not homogeneous in front of a normalisation, no module of its own."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=False, eps=NO_EPS)

    def forward(self, x):
        return self.norm(torch.relu(x + 0.3))


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (block(evaluating()), "BatchNorm2d with running statistics, in evaluation mode"),
        (block(), "Sequential: nothing in it normalises"),
        (block(nn.Tanh()), "Sequential: nothing in it normalises"),
        (Shifted(), "Shifted: what is in front of its normalisation is not homogeneous"),
        (Shortcut(block(nn.BatchNorm2d(4, eps=NO_EPS))), "Shortcut: cost passes beside what normalises"),
    ],
)
def test_of_several_things_that_are_wrong_the_one_that_matters_is_said(part, reason):
    report = check(replaced(network(), POOL, part))
    for identity in ("T1", "CA", "CO"):
        assert report[identity].modules == (POOL,)
        assert reason in report[identity].why


class Reaching(nn.Module):
    """Cells whose inputs are also added to their outputs, and logits that a head of the first cell adds to."""

    def __init__(self, shortcut, auxiliary):
        super().__init__()
        self.cells = nn.ModuleList(nn.ModuleList([block(nn.BatchNorm2d(4, eps=NO_EPS))]) for _ in range(3))
        self.outputs = nn.ModuleList(nn.Identity() for _ in range(3))
        self.head, self.auxiliary = nn.Linear(4, 5, bias=False), nn.Linear(4, 5, bias=False)
        self.shortcut, self.adds = shortcut, auxiliary

    def forward(self, x):
        x = x.repeat(1, 2, 1, 1)
        first = None
        for cell, output in zip(self.cells, self.outputs, strict=True):
            x = output(cell[0](x)) + (x if self.shortcut and first is not None else 0)
            first = x if first is None else first
        logits = self.head(x.mean((2, 3)))
        return logits + self.auxiliary(first.mean((2, 3))) if self.adds else logits


@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_what_leads_past_cells_is_named_as_that_and_the_head_never_is(shortcut, auxiliary):
    torch.manual_seed(0)
    model = Reaching(shortcut, auxiliary).double()
    report = check(model, operations="cells.*.0", cells="outputs.*", forward=None)
    assert report["CO"].modules == (("auxiliary",) if auxiliary else ())
    assert report["CO"].holds == (not shortcut and not auxiliary)
    assert ("leads to the logits past the cells behind" in report["CO"].why) == auxiliary
    assert ("no named module" in report["CO"].why) == shortcut


def test_in_place_changes_of_what_is_used_again_are_part_of_the_model():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.op = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1, bias=False))

        def forward(self, x):
            return self.op(x) + x  # which op has rectified

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks = nn.Conv2d(2, 4, 1, bias=False), nn.ModuleList([Block(), Block()])
            self.head = nn.Linear(4, 5, bias=False)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    model, (images, labels) = Net().double(), batch()
    with torch.no_grad():
        wanted = loss_minus_entropy(model(images), labels)
    report = check(model, images, labels, operations="blocks.*.op", cells="blocks.*", forward=None)
    assert f"L - H is {wanted:.4f}" in report["T2a"].what


def test_cells_that_no_gradient_joins_to_the_logits_are_refused_or_said():
    model = network()
    forward = all_operations(model)
    with pytest.raises(ValueError, match=r"cells: no path joins the output of 'cells\.1' to the logits"):
        check(model, forward=lambda model, x: forward(model, x).detach())
    for part in model.cells[1].inputs:
        part.register_forward_pre_hook(lambda _, inputs: tuple(x.detach() for x in inputs))
    assert "no path joins cells.0 to the logits" in check(model, forward=forward)["CO"].what


REFUSED = """
import torch
from torch import nn
from wiring import verify
model, images, labels = nn.Sequential(nn.Linear(2, 2)), torch.zeros(3, 2), torch.zeros(3).long()
for a, b, c, d in (
    (model, images, [0, 0, 0], "0"),
    (model, images.numpy(), labels, "0"),
    (len, images, labels, "0"),
    (model, images, labels, model),
    (model, images, labels, 5),
):
    try:
        verify(a, b, c, operations=d, cells="0")
    except ValueError as error:
        print(error)
"""


def test_what_is_no_model_tensor_or_pattern_is_refused():
    # In a process of its own: the type checker of these tests would refuse it first.
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True)
    said = [
        "labels: list;",
        "images: ndarray;",
        "function_or_method is no",
        "Sequential is no pattern",
        "int is no pattern",
    ]
    for line, part in zip(done.stdout.splitlines(), said, strict=True):
        assert part in line


class Rescaled(nn.Module):
    """A model in whose ``forward`` a function stands between its classifier and its logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, gates):
        return torch.tanh(self.model(images, gates))


def test_what_no_module_stands_for_is_blamed_on_none():
    model = network()
    forward = all_operations(model)
    names = {"operations": f"model.{OPERATIONS}", "cells": "model.cells.*"}
    report = check(Rescaled(model), forward=lambda model, images: torch.tanh(forward(model.model, images)), **names)
    assert report["T2a"].modules == ()
    assert "no named module" in report["T2a"].why


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_told_apart_from_structure(dtype):
    images, labels = batch()
    model = set_eps(network(), 1e-12).to(dtype)
    active = model.topology.allowed().expand(2, -1, -1)
    gates = Gates(torch.full(active.shape, 0.5, dtype=dtype), active)
    options = {"forward": lambda model, images: model(images, gates), "tolerance": 1e-9}
    report = check(model, images.to(dtype), labels, **options)
    for identity in ("T1", "CA", "CO"):
        assert not report[identity].holds
        assert report[identity].modules == ()
        assert f"what {str(dtype)[6:]} rounds off" in report[identity].why
    broken = check(replaced(model, POOL, nn.Identity()).to(dtype), images.to(dtype), labels, **options)
    for identity in ("T1", "CA", "CO"):
        assert broken[identity].modules == (POOL,)


def test_of_many_that_pass_a_little_none_is_named():
    model = network()
    for name in list(model.cells[0].edges[4]):
        model.cells[0].edges[4][name] = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(4, eps=1e-3)).double()
    residual = check(model)["CA"].residual
    report = check(model, tolerance=residual / 2)
    assert report["CA"].modules == ()
    assert "modules that pass on less than the tolerance each" in report["CA"].why
    assert len(check(model, tolerance=residual / 100)["CA"].modules) == 6


class Drawing(nn.Module):
    """One operation an edge, drawn from three generators that a search may use."""

    def __init__(self, draw):
        super().__init__()
        self.network, self.draw = network(), draw

    def forward(self, images):
        shape = self.network.topology.allowed().shape
        active = torch.zeros(2, *shape, dtype=torch.bool)
        for edges in active:
            for edge in edges:
                edge[1 + self.draw() % 6 if self.draw() % 8 else 0] = True
        active &= self.network.topology.allowed()
        return self.network(images, Gates(active.double(), active))


DRAWS = {
    "torch": lambda: int(torch.randint(1000, ())),
    "numpy": lambda: int(np.random.randint(1000)),  # noqa: NPY002
    "python": lambda: random.randrange(1000),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_model_that_draws_is_judged_as_drawn_and_its_generators_are_put_back(draw):
    model = Drawing(draw)
    names = {"operations": f"network.{OPERATIONS}", "cells": "network.cells.*", "forward": None}
    first = draw()
    for seed in range(6):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)  # noqa: NPY002
        first = draw()
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)  # noqa: NPY002
        report = check(model, **names)
        assert all(finding.holds for finding in report.findings.values()), str(report)
        if draw is not DRAWS["python"]:  # the type checker of these tests draws from it, too
            assert draw() == first


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_report_needs_no_gradients_to_be_on(context):
    model = network()
    forward = all_operations(model)
    wanted = str(check(model, forward=forward))
    with context():
        images, labels = batch()
        assert str(check(model, images, labels, forward=forward)) == wanted


def test_operations_and_cells_may_be_patterns_lists_or_mappings():
    model = network()
    wanted = check(model)
    lists = check(model, cells=["cells.0", "cells.1"], operations=["cells.0.edges.*.*", "cells.1.edges.*.*"])
    assert str(lists) == str(wanted)
    named = check(model, cells={"first": model.cells[0], "second": model.cells[1]})
    assert named["CA"].residual == wanted["CA"].residual
    assert "first" in named["CO"].what


def test_what_cannot_be_copied_can_be_verified():
    model = network()
    model.kept = torch.ones(3, requires_grad=True) * 2  # torch refuses to copy it
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    assert all(finding.holds for finding in check(model).findings.values())


def test_a_cell_that_runs_by_another_method_is_seen_at_an_identity_of_its_own():
    class Methods(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.outputs = model, nn.ModuleList(nn.Identity() for _ in model.cells)

        def forward(self, images):
            before = last = self.model.stem(images)
            active = self.model.topology.allowed()
            gates = torch.full(active.shape, 0.5, dtype=torch.float64)
            for cell, output in zip(self.model.cells, self.outputs, strict=True):
                before, last = last, output(cell.forward([before, last], gates, active.tolist()))
            return self.model.classifier(last.mean((2, 3)))

    model = Methods(network())
    where = {"operations": f"model.{OPERATIONS}", "forward": None}
    with pytest.raises(ValueError, match=r"cells: 'model.cells.0' and its like did not run.*nn.Identity"):
        check(model, cells="model.cells.*", **where)
    report = check(model, cells="outputs.*", **where)
    assert all(report[identity].holds for identity in ("T1", "CA", "CO", "T2a")), str(report)


def test_checkpointed_cells_are_measured_once():
    class Checkpointed(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part = part

        def forward(self, *inputs):
            return checkpoint(self.part, *inputs, use_reentrant=False)

    model = network()
    wanted = check(model)
    model.cells[0].edges[4]["sep_conv_3x3"] = Checkpointed(model.cells[0].edges[4]["sep_conv_3x3"])
    assert check(model)["CO"].residual == pytest.approx(wanted["CO"].residual, abs=1e-12)
    assert all(finding.holds for finding in check(model).findings.values())


def test_a_report_takes_one_pass_of_the_model():
    model, calls = network(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    check(replaced(model, POOL, nn.Identity()))
    assert len(calls) == 1


def test_the_model_is_left_as_it_was():
    model = replaced(network(), f"{DIL}.3", nn.BatchNorm2d(4))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": "cells.*.edge"}, "operations = 'cells.*.edge': fits no name"),
        ({"cells": "cell"}, "cells = 'cell': fits no name"),
        ({"operations": "cells.0.edges.*.*"}, "operations: none that feeds the output of the cell 'cells.1'"),
        ({"forward": lambda model, images: all_operations(model)(model, images)[:, None]}, "shape"),
        ({"tolerance": 0.0}, "tolerance = 0.0"),
        ({"forward": lambda model, images: (images, images)}, "returns a tuple, not logits"),
        ({"forward": lambda model, images: images.new_zeros(8, 5)}, "`forward` must call the model"),
        ({"forward": lambda model, images: images.new_full((8, 5), torch.nan)}, "not finite"),
        ({"images": batch()[0], "labels": torch.full((8,), 5)}, "labels: from 5 to 5, but .* classes 0 to 4"),
        ({"images": batch()[0], "labels": torch.full((8,), -100)}, "labels: from -100"),
        ({"images": batch()[0], "labels": torch.zeros(3).long()}, "labels: 3 for 8 images"),
        ({"images": batch()[0], "labels": torch.zeros(8)}, "labels: torch.float32 of shape .*; give the number"),
        ({"images": batch()[0], "labels": torch.zeros(8, 1).long()}, r"labels: torch.int64 of shape \(8, 1\)"),
        ({"images": batch()[0][:0], "labels": torch.zeros(0).long()}, "labels: 0 for 0 images"),
        ({"operations": "cells.*", "cells": OPERATIONS}, "none that feeds the output of the cell .* exchanged"),
        ({"operations": "cells.*.edges.*"}, "operations: 'cells.0.edges.0' is a ModuleDict, which never runs"),
        ({"images": batch()[0], "labels": torch.zeros(8) > 0}, "labels: torch.bool"),
        ({"cells": {"first": nn.Identity()}}, "cells: 'first' is no submodule"),
        ({"operations": []}, r"operations = \[\]: name at least one"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check(network(), **options)


def test_a_random_supernet_is_the_seeds_and_disturbs_no_generator():
    images, labels = batch()
    state = torch.get_rng_state()
    first, again, other = (verify_random(NORMALISED, 2, images, labels, seed) for seed in (3, 3, 4))
    assert str(first) == str(again) != str(other)
    assert all(finding.holds for finding in first.findings.values())
    assert not verify_random(MINIMAL, 2, images, labels, 3)["T1"].holds
    assert torch.equal(state, torch.get_rng_state())


def test_a_compiled_model_is_refused_before_it_runs():
    with pytest.raises(ValueError, match="is compiled"):
        check(torch.compile(network()), forward=None)


def test_an_operation_that_happens_to_cost_nothing_breaks_nothing():
    # Pooled over the image it is zero, so in the last cell it costs nothing.
    instance = nn.InstanceNorm2d(4, eps=NO_EPS)
    model = network(cells=1)
    for edge in model.cells[0].edges:
        edge["max_pool_3x3"] = nn.Sequential(nn.MaxPool2d(3, 1, 1), instance)
    assert check(model)["T1"].holds


def test_a_skip_passes_on_all_whatever_it_costs():
    report = check(network(MINIMAL))
    assert 0.9 < report["T1"].residual < 1 + 1e-9  # the images' costs have not all one sign
    assert len(report["T1"].modules) == 10  # every edge of both cells
    assert set(report["CO"].modules) == {"cells.0.edges.4.skip_connect"}


def test_modules_that_pass_a_little_are_not_blamed_for_the_sums():
    report = check(set_eps(network(MINIMAL), 1e-7), tolerance=1e-4)
    assert all("skip_connect" in name for name in (*report["CA"].modules, *report["CO"].modules))


def test_operations_that_also_take_weights_can_be_verified():
    class Weighed(nn.Module):
        def __init__(self, operation):
            super().__init__()
            self.inner = operation

        def forward(self, x, weights):
            return weights.sum() * self.inner(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            parts = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4, eps=NO_EPS, affine=False)
            self.cells = nn.ModuleList([Weighed(nn.Sequential(*parts))])
            self.edges = nn.Identity()
            self.head = nn.Linear(4, 5, bias=False)

        def forward(self, images):
            return self.head(self.cells[0](images, torch.ones(3)).mean((2, 3)))

    torch.manual_seed(0)
    images, labels = batch()
    report = verify(Net().double(), images, labels, operations="cells.*.inner", cells="cells.*", tolerance=1e-10)
    assert all(finding.holds for finding in report.findings.values()), str(report)


# degree


@given(SEEDS, st.sampled_from([1, 2, 3, -1]))
@examples(20)
def test_a_power_has_its_exponent_as_degree(seed, power):
    x = torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    assert degree(lambda x: x**power, x, seed) == pytest.approx(power, rel=1e-10)


@given(SEEDS, st.floats(1e-6, 10))
@examples(20)
def test_batch_normalisation_passes_on_eps_over_variance_plus_eps(seed, eps):
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    variance = x.var(unbiased=False).item()
    norm = nn.BatchNorm2d(1, eps=eps, affine=False, track_running_stats=False)
    assert degree(norm, x, seed) == pytest.approx(eps / (variance + eps), rel=1e-6)
