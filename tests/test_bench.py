"""The bench's rows: what meets a bound, what is printed, and that each measurement measures what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from wiring_book.bench_table import MARKS, table, with_table

from wiring import bench
from wiring.bench import DSNAS, Row
from wiring.search.searchers import SEARCHERS
from wiring.supernet import TOPOLOGIES

ROOT = Path(__file__).parent.parent
TINY = replace(DSNAS, cells=1, channels=2, batch=4)


@pytest.mark.parametrize(
    ("value", "bound", "at_least", "met"),
    [(2.0, 1.0, True, True), (1.0, 1.0, True, True), (0.9, 1.0, True, False), (0.9, 1.0, False, True)],
)
def test_a_bound_is_met_on_its_side(value, bound, at_least, met):
    assert Row("row", value, bound, at_least, "").met is met


def test_the_table_shows_bounds_and_misses():
    rows = [
        {"name": "a", "value": 2.0, "bound": 3.5, "at_least": True, "detail": "1 ms", "met": False},
        {"name": "b", "value": 0.123456, "bound": 1.0, "at_least": False, "detail": "2 ms", "met": True},
    ]
    lines = table({"machine": "2 cores", "rows": rows}).splitlines()
    assert lines[0] == "Measured on 2 cores."
    assert lines[-2:] == ["| a | 2 | ≥ 3.5, **missed** | 1 ms |", "| b | 0.123 | ≤ 1 | 2 ms |"]


def test_the_readmes_table_is_the_benchs():
    content = json.loads((ROOT / "data" / "bench.json").read_text())
    text = (ROOT / "README.md").read_text()
    assert with_table(text, table(content)) == text


def test_only_what_stands_between_the_marks_is_replaced():
    text = f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n"
    assert with_table(text, "new") == f"before\n{MARKS[0]}\nnew\n{MARKS[1]}\nafter\n"
    with pytest.raises(ValueError, match="no lines"):
        with_table("before\nafter\n", "new")


def test_peaks_count_what_a_step_has_alive_at_once_and_print_nothing(capfd):
    def build():
        kept = [torch.zeros(2**18)]

        def step():
            kept.append(torch.zeros(2**18))
            kept.append(torch.zeros(2**18))
            del kept[0]
            kept[0] = torch.zeros(2**17)
            del kept[1:], kept[0]
            kept.append(torch.zeros(2**18))

        return step

    assert bench._peak(build) == pytest.approx(2 * 2**20, rel=0.2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "changes", [{"searcher": "dsnas"}, {"searcher": "darts"}, {"searcher": "darts", "reductions": (1,)}]
)
def test_both_sides_of_a_comparison_compute_the_same(changes):
    e = replace(TINY, cells=2, **changes)
    search = bench.Search(e, bench.noise(e, 8))
    ours = search.supernet.double()
    plain = bench.textbook(e).double().copy_weights(ours.parameters())
    gates = search.searcher.draw(search.generators["architectures"])
    gates = replace(gates, values=gates.values.detach().double())
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    results = []
    for network in (ours, plain):
        logits = network(images, gates)
        gradients = torch.autograd.grad(
            cross_entropy(logits, labels), list(network.parameters()), allow_unused=True, materialize_grads=True
        )
        results.append([logits, *gradients])
    assert any(gradient.any() for gradient in results[0][1:])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("sides", "changes"),
    [
        (bench.textbook_and_ours, {}),
        (bench.textbook_and_ours, {"cells": 2, "reductions": (1,)}),
        (bench.ours_and_kernels, {}),
        (bench.ours_and_kernels, {"searcher": "darts"}),
        (bench.with_and_without_costs, {}),
        (bench.with_and_without_probe, {"searcher": "darts"}),
        (bench.data_and_whole, {}),
    ],
)
def test_a_measurement_is_a_positive_ratio_of_what_it_names(sides, changes):
    row = bench.ratio("{}: above / below", sides, False, 1.0, replace(TINY, **changes), 8, 1)
    assert row.name.startswith(f"{changes.get('searcher', 'dsnas').upper()} step, {changes.get('cells', 1)} minimal")
    assert row.name.endswith("2 channels, 8x8, batch 4: above / below")
    sides_shown = [part.split()[:2] for part in row.detail.split(" against ")]
    above, below = (float(number) * {"ms": 1, "s": 1000}[unit.rstrip(";")] for number, unit in sides_shown)
    assert row.value == pytest.approx(above / below, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"searcher": "dsnas"}, 1.2),
        ({"searcher": "dsnas", "cells": 4, "reductions": (1, 2), "topology": TOPOLOGIES["darts"]}, 1.2),
        ({"searcher": "darts", "cells": 1, "course_every": 1000}, 0.8),
        ({"searcher": "darts", "cells": 2, "reductions": (1,)}, 0.8),
        ({"searcher": "snas", "cells": 1, "topology": TOPOLOGIES["darts"]}, 0.8),
    ],
)
def test_on_a_gpu_a_step_calls_hardly_more_kernels_than_the_textbooks_or_far_fewer(changes, bound):
    # On the meta device, where an operation that mixes devices, or asks for a number, fails. With relaxed gates all
    # steps call the same kernels.
    steps = 4 if changes["searcher"] == "dsnas" else 1
    assert bench.dispatched(bound, replace(DSNAS, channels=2, batch=4, **changes), steps).met


@pytest.mark.parametrize(
    ("searcher", "level"), [*((name, "single") for name in SEARCHERS), ("darts", "bi"), ("dsnas", "bi")]
)
def test_no_step_waits_for_a_gpu(searcher, level):
    search = bench._on_meta(replace(TINY, cells=2, searcher=searcher, level=level))
    assert bench._kernels(bench._endless(search.run_epoch), 1).count > 0
    assert {weight.device.type for weight in search.theta} == {"meta"}
    assert search.searcher.alpha.device.type == ("cpu" if search.searcher.drawn_on_cpu else "meta")


def test_kernels_are_counted_without_views_and_new_memory():
    x = torch.zeros(2, 3, device="meta")

    def step():
        torch.empty(2, device="meta").add_(x.view(3, 2).T[:, 0])
        torch.ones(2) + torch.ones(2)  # not on that device
        (x * 2).relu()

    counted = bench._kernels(step)
    assert counted.count == 3
    # An added view is two floats twice (the new memory is read and written, as one tensor); then six to six, twice.
    assert counted.bytes == 4 * (2 + 2 + 12 + 12)


def test_exponents_are_slopes_in_logarithms(monkeypatch):
    monkeypatch.setattr(bench, "our_step", lambda e, size: lambda: e.cells)
    monkeypatch.setattr(bench, "timeit", lambda step, number: 3.0 * step() ** 1.5)
    assert bench.scaling("time", "cells", (2, 4, 8), 1.05, 3).value == pytest.approx(1.5)
