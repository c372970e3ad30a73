"""Faults planted in random cells: each is named where it breaks an identity, and no innocent module ever is."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples
from torch import nn

from wiring import verify
from wiring.costs import NO_EPS

WIDTH = 3


def norm(width=WIDTH):
    return nn.BatchNorm2d(width, affine=False, eps=NO_EPS)


def operation():
    return nn.Sequential(nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), norm())


def evaluating():
    part = operation()
    part[2] = nn.BatchNorm2d(WIDTH, eps=NO_EPS).eval()
    part[2].running_mean.fill_(0.5)
    return part


#: What may be wrong with an operation, and what the report says of it.
FAULTS = {
    "skip": (nn.Identity, "nothing in it normalises"),
    "not normalised": (lambda: operation()[:2], "nothing in it normalises"),
    "bias": (lambda: nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, bias=True), nn.LeakyReLU()), "nothing in it normalises"),
    "evaluation": (evaluating, "evaluation mode"),
    "curved": (lambda: nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.GELU()), "nothing in it normalises"),
}


class Total(nn.Module):
    def forward(self, *parts):
        return sum(parts)


class Mixed(nn.Module):
    def __init__(self, ops):
        super().__init__()
        self.ops = nn.ModuleList(ops)

    def forward(self, x, weights):
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))


class Cell(nn.Module):
    """Nodes 1 to ``nodes`` read all before them, node 0 what ``pre`` makes of the input; two operations an edge."""

    def __init__(self, width, nodes, style, shortcut):
        super().__init__()
        self.pre = nn.Sequential(nn.Conv2d(width, WIDTH, 1, bias=False), norm())
        self.edges = nn.ModuleDict(
            {f"{i}_{j}": Mixed([operation(), operation()]) for j in range(1, nodes + 1) for i in range(j)}
        )
        self.total, self.nodes, self.style, self.shortcut = Total(), nodes, style, shortcut

    def forward(self, x):
        states = [self.pre(x)]
        for j in range(1, self.nodes + 1):
            read = [x[:, :] if self.style == "views" else x for x in states]
            parts = [self.edges[f"{i}_{j}"](x, torch.tensor([0.7, 1.3])) for i, x in enumerate(read)]
            states.append(self.total(*parts) if self.style == "a module sums" else sum(parts))
        out = torch.cat(states[1:], 1)
        return out + self.shortcut * states[0].repeat(1, self.nodes, 1, 1)


class Net(nn.Module):
    def __init__(self, cells, nodes, style, shortcuts):
        super().__init__()
        widths = [2, *([nodes * WIDTH] * cells)]
        self.cells = nn.ModuleList(
            Cell(width, nodes, style, 0.5 * (number in shortcuts)) for number, width in enumerate(widths[:-1])
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4, bias=False))

    def forward(self, x):
        for cell in self.cells:
            x = cell(x)
        return self.head(x)


HEADS = {
    "head.2": lambda width: nn.Linear(width, 4, bias=True),
    "head.1": lambda width: nn.Sequential(nn.Flatten(), nn.LayerNorm(width, elementwise_affine=False, eps=NO_EPS)),
}


STYLES = "plain", "views", "a module sums"
OTHERS = "head.1", "head.2", "shortcut", "pre"


@st.composite
def plans(draw):
    cells, nodes = draw(st.integers(2, 3)), draw(st.integers(2, 3))
    edges = [(i, j) for j in range(1, nodes + 1) for i in range(j)]
    places = st.tuples(st.integers(0, cells - 1), st.sampled_from(edges), st.integers(0, 1))
    operations = draw(st.dictionaries(places, st.sampled_from(list(FAULTS)), max_size=2))
    others = draw(st.sets(st.sampled_from(OTHERS), max_size=3 - len(operations)))
    style = draw(st.sampled_from(STYLES))
    return cells, nodes, style, operations, others, draw(st.integers(0, cells - 2)), draw(SEEDS)


def check(plan):
    """That the report on a network with these faults names them all and no innocent module."""
    cells, nodes, style, operations, others, place, seed = plan
    torch.manual_seed(seed)
    model = Net(cells, nodes, style, {place} if "shortcut" in others else set()).double()
    names = {}
    for (cell, (i, j), k), fault in operations.items():
        model.cells[cell].edges[f"{i}_{j}"].ops[k] = FAULTS[fault][0]().double()
        names[f"cells.{cell}.edges.{i}_{j}.ops.{k}"] = (cell, i, fault)
    if "pre" in others:
        model.cells[place + 1].pre[1] = nn.Identity()
    heads = sorted(others & HEADS.keys())
    for name in heads:
        setattr(model.head, name.rpartition(".")[2], HEADS[name](nodes * WIDTH).double())
    images, labels = torch.randn(6, 2, 5, 5).double(), torch.randint(4, (6,))
    report = verify(model, images, labels, operations="cells.*.edges.*.ops.*", cells="cells.*", tolerance=1e-9)

    inner = {name for name, (_, i, _) in names.items() if i > 0}
    # Skips and what is not normalised at an input node pass their cost to it, and so on if it is not normalised.
    passing = {name for name, (cell, i, _) in names.items() if i == 0 and cell == place + 1}
    readers = {f"cells.{place + 1}.pre"} if "pre" in others and passing else set()
    assert set(report["T1"].modules) == set(names)
    for name, (_, _, fault) in names.items():
        if len(names) == 1:
            assert FAULTS[fault][1] in report["T1"].why, (name, report["T1"].why)
    assert set(report["CA"].modules) == inner
    before = {name for name in inner if names[name][0] < cells - 1}
    assert set(report["CO"].modules) == before | readers
    innermost = {"head.1": "head.1.1", "head.2": "head.2"}
    assert set(report["T2a"].modules) == {innermost[name] for name in heads}
    assert report["T1"].holds == (not names)
    assert report["T2a"].holds == (not heads)
    function = "what is no named module"
    assert (function in report["CA"].why) == ("shortcut" in others)
    assert report["CA"].holds == (not inner and "shortcut" not in others)
    for finding in report.findings.values():
        assert finding.holds == (not finding.reasons) == (not finding.remedies)
    assert max(map(len, str(report).splitlines())) <= 70


def test_every_planted_fault_is_named_and_no_innocent_module():
    planted = set()

    @given(plans())
    @examples(80)
    def plant(plan):
        _, _, style, operations, others, *_ = plan
        planted.update([style, *operations.values(), *others])
        check(plan)

    plant()
    assert planted == {*FAULTS, *STYLES, *OTHERS}
