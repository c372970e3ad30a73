"""Measure the supernet's step: against the textbook implementation, against its bare kernels, and as it grows.

Everything is measured in one run, the two sides of a comparison in turns, and reported as the median of their ratios.
"""

import json
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.profiler import ProfilerActivity, profile, record_function

from wiring.costs.probe import CostProbe
from wiring.datasets import Dataset
from wiring.search.experiments import Experiment, preset
from wiring.search.loop import Search, generator, keep_memory
from wiring.search.loop import run as search_run
from wiring.search.sweeps import run_tasks
from wiring.supernet.gates import Gates, image_dot
from wiring.supernet.operations import Depthwise
from wiring.supernet.textbook import PlainSupernet
from wiring.supernet.topology import TOPOLOGIES

THREADS = 2
#: The paper's setting: 8 minimal cells, 16 channels, 32x32 images, 96 a batch. α stays where it is, so that both sides
#: of a comparison draw the same architectures.
DSNAS = Experiment(alpha_lr=0.0, threads=THREADS, crop=4)
DARTS = replace(DSNAS, searcher="darts", batch=64)
DARTS_CELLS = replace(DARTS, topology=TOPOLOGIES["darts"], cells=4, batch=32)
#: With DARTS' two reduction cells, a third and two thirds of the way.
REDUCED = replace(DARTS, reductions=(2, 5))
SMALL = replace(DSNAS, channels=8, batch=64)

#: The head of the table.
HEAD = "\n| row | measured | bound | absolute; over rounds |\n|---|--:|--:|---|"

Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One measured number and, if it is held to one, its bound."""

    name: str
    value: float
    bound: float | None
    at_least: bool
    detail: str

    @property
    def met(self) -> bool:
        """Whether the value keeps its bound; without one it does."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        """The row of the Markdown table."""
        bound = "none" if self.bound is None else f"{'≥' if self.at_least else '≤'} {self.bound:.4g}"
        return f"| {self.name} | {self.value:.3g} | {bound}{'' if self.met else ', **missed**'} | {self.detail} |"


def bench(repeats: int, file: Path | None = None) -> bool:
    """Measure all rows, print each as it is measured, write them to ``file`` as JSON; True if every bound is met.

    Raises
    ------
    ValueError
        If there are no repeats, or the file exists or has no folder.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats}: give 1 or more")
    if file is not None and file.exists():
        raise ValueError(f"json = '{file}': exists; nothing is overwritten, choose another file")
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"json = '{file}': no folder {file.parent}")
    torch.set_num_threads(THREADS)
    keep_memory()  # both sides gain from what a search sets
    cpu = f"{os.cpu_count()} cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
    machine = f"{cpu}, {THREADS} threads, float32, torch {torch.__version__}"
    print(f"Measured on {machine}.", HEAD, sep="\n", flush=True)
    rows = []
    for measure in _measures(repeats):
        rows.append(measure())
        print(rows[-1], flush=True)
    if file is not None:
        content = {"machine": machine, "rows": [asdict(row) | {"met": row.met} for row in rows]}
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return all(row.met for row in rows)


def _measures(repeats: int) -> list[Callable[[], Row]]:
    scalings = [("cells", (2, 4, 8, 16), 1.05), ("channels", (8, 16, 32), None), ("batch", (16, 32, 64), None)]
    return [
        partial(faster, 3.5, DARTS, 32, repeats),
        partial(faster, 3.5, DARTS_CELLS, 32, repeats),
        partial(faster, None, REDUCED, 32, repeats),
        partial(faster, 2.5, DSNAS, 32, 4 * repeats),
        partial(faster, 1.5, SMALL, 8, 8 * repeats),
        partial(cost_recording, 8 * repeats),
        partial(probing, repeats),
        partial(bare_kernels, DARTS, 32, 1.2, repeats),
        partial(bare_kernels, DSNAS, 32, 1.2, 4 * repeats),
        partial(bare_kernels, SMALL, 8, None, 8 * repeats),
        *(partial(scaling, what, *of, repeats) for of in scalings for what in ("time", "memory")),
        partial(memory, repeats),
        workers,
        partial(data_pipeline, repeats),
    ]


def table(content: dict[str, Any]) -> str:
    """The JSON's content as a Markdown table."""
    rows = [Row(**{key: value for key, value in row.items() if key != "met"}) for row in content["rows"]]
    return "\n".join([f"Measured on {content['machine']}.", HEAD, *map(str, rows)])


def faster(bound: float | None, e: Experiment, size: int, repeats: int) -> Row:
    """A whole step with cost recording against the textbook's without: NCHW, one ReLU each, ``sum(w * op(x))``."""
    sides = textbook_step(e, size), our_step(e, size)
    return _ratio(f"{workload(e, size)}: textbook / ours", bound, True, *sides, repeats)


def workload(e: Experiment, size: int) -> str:
    """What a step works on."""
    cells = f"{e.cells} {'DARTS' if e.topology == TOPOLOGIES['darts'] else 'minimal'} cells"
    cells += f", {len(e.reductions)} of them reductions" if e.reductions else ""
    return f"{e.searcher.upper()} step, {cells}, {e.channels} channels, {size}x{size}, batch {e.batch}"


def cost_recording(repeats: int) -> Row:
    """A search's step against the same supernet's without costs: neither probe nor statistics."""
    search = Search(DSNAS, noise(DSNAS, 32))
    off = _step_without_costs(search, search.supernet)
    return _ratio(f"{workload(DSNAS, 32)}: costs on / off", 1.03, False, our_step(DSNAS, 32), off, repeats)


def probing(repeats: int) -> Row:
    """Both passes of the textbook's supernet with a probe at every operation, as in any foreign model, and without."""
    e = replace(DARTS, cells=4, batch=32)
    (loader,) = Search(e, noise(e, 32)).loaders.values()
    images, labels = next(iter(loader))
    plain = textbook(e)
    active = e.topology.allowed().expand(e.cells, -1, -1)
    gates = Gates(active.float().mul(1 / 8), active)

    def off() -> None:
        plain.zero_grad(set_to_none=True)
        F.cross_entropy(plain(images.contiguous(), gates), labels).backward()

    def on() -> None:
        with CostProbe(plain, "cells.*.edges.*.*"):
            off()

    name = f"textbook's passes, {e.cells} minimal cells, batch {e.batch}: with a probe at every operation / without"
    return _ratio(name, 1.1, False, on, off, 2 * repeats)


def bare_kernels(e: Experiment, size: int, bound: float | None, repeats: int) -> Row:
    """A step against the kernels that the textbook calls in it, alone, again and again on the same tensors.

    Convolutions (depthwise ones by our module), normalisations, pools, ReLUs, and for every output its product with the
    gate, the sum and the cost, forward and backward in channels_last. A step may be faster: it fuses some of them.
    """
    search, plain = Search(e, noise(e, size)), textbook(e)
    drawn = search.searcher.draw(generator(0, "kernels"))
    gates = replace(drawn, values=drawn.values.detach())
    calls: Counter[tuple[str, tuple[int, ...]]] = Counter()
    modules: dict[str, nn.Module] = {}

    def count(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        modules[repr(module)] = module
        calls[repr(module), tuple(inputs[0].shape)] += 1

    for module in plain.modules():
        if not (list(module.children()) or isinstance(module, nn.Linear | nn.Identity)):
            module.register_forward_hook(count)
    (loader,) = search.loaders.values()
    images, _ = next(iter(loader))
    with torch.no_grad():
        plain(images, gates)
    kernels = [(_forward_and_backward(modules[name], shape), number) for (name, shape), number in calls.items()]
    sample = torch.randn(3, e.batch, e.channels, *images.shape[2:])
    kernels.append((partial(_gated_sum, *sample.unbind()), int(gates.active[..., 1:].sum())))

    # The kernels draw no architectures; the step is measured on the very one whose kernels were counted.
    search.searcher.draw = lambda *_: gates  # type: ignore[method-assign]

    def bare() -> None:
        for kernel, number in kernels:
            for _ in range(number):
                kernel()

    name = f"{workload(e, size)}: ours / its bare kernels"
    return _ratio(name, bound, False, _endless(search.run_epoch), bare, repeats)


def scaling(what: str, field: str, sizes: Sequence[int], bound: float | None, repeats: int) -> Row:
    """The exponent of a DARTS step's time or peak memory in a field of the experiment: the slope in logarithms.

    Of the time it is the median over rounds, so that a machine that changes its pace between them does not bend it.
    """
    fields: list[dict[str, Any]] = [{field: size} for size in sizes]
    build = [partial(our_step, replace(DARTS, **({"batch": 32, "cells": 4} | changes)), 32) for changes in fields]
    if what == "time":
        steps = [new() for new in build]
        rounds = [[_seconds(step) for step in steps] for _ in range(repeats + 1)][1:]  # the first warms up
    else:
        rounds = [[_peaks(new, 1)[0] for new in build]]
    shown = {"time": _time, "memory": _mib}[what]
    scale = [math.log(size) for size in sizes]
    slope = median(linear_regression(scale, list(map(math.log, values))).slope for values in rounds)
    detail = ", ".join(shown(median(values)) for values in zip(*rounds, strict=True))
    name = f"DARTS step: {what} grows as {field} ({', '.join(map(str, sizes))}) to the power"
    return Row(name, slope, bound, False, detail)


def memory(repeats: int) -> Row:
    """Peak memory of a DSNAS step (the median over draws) against that of a DARTS step."""
    dsnas = median(_peaks(partial(our_step, DSNAS, 32), 2 * repeats + 1))
    (darts,) = _peaks(partial(our_step, replace(DSNAS, searcher="darts"), 32), 1)
    detail = f"{_mib(dsnas)} against {_mib(darts)}"
    return Row("peak memory, 8 minimal cells, batch 96: DSNAS / DARTS", dsnas / darts, 0.25, False, detail)


def workers() -> Row:
    """Four runs in one worker process and in two, each with its start; a thread a run."""
    runs = {str(seed): partial(search_run, preset("p1-quick", seed=seed)) for seed in range(4)}

    def swept(processes: int) -> None:
        if failures := run_tasks(runs, processes):
            raise RuntimeError(f"runs of the sweep failed: {failures}")

    one, two = (_seconds(partial(swept, processes)) for processes in (1, 2))
    name = "four runs of p1-quick: 1 worker / 2 workers"
    return Row(name, one / two, 1.7, True, f"{_time(one)} against {_time(two)}")


def data_pipeline(repeats: int) -> Row:
    """What a batch takes of a whole DSNAS step: crop, flip, normalise; in a round out of many, shuffle."""
    (loader,) = Search(DSNAS, noise(DSNAS, 32)).loaders.values()
    sides = _endless(lambda: loader), our_step(DSNAS, 32)
    return _ratio(f"{workload(DSNAS, 32)}: data pipeline / whole", 0.02, False, *sides, 4 * repeats)


def noise(e: Experiment, size: int) -> Dataset:
    """Random images, enough for an epoch of 16 steps."""
    draws = generator(0, "bench")
    images = 16 * e.batch
    pixels = torch.randint(256, (images, size, size, 3), generator=draws, dtype=torch.uint8)
    return Dataset("noise", tuple("0123456789"), pixels, torch.randint(10, (images,), generator=draws))


def textbook(e: Experiment) -> PlainSupernet:
    """The textbook's supernet of an experiment."""
    return PlainSupernet(e.topology, e.cells, e.channels, 10, reductions=e.reductions)


def our_step(e: Experiment, size: int) -> Step:
    """The search's own step: data, gates, forward, backward, clip, both optimisers, costs and their statistics."""
    return _endless(Search(e, noise(e, size)).run_epoch)


def _endless(epoch: Callable[[], Iterable[object]]) -> Step:
    """The next step of one epoch after another; what an epoch begins and ends with falls into few of them."""
    steps = chain.from_iterable(epoch() for _ in count())
    return lambda: next(steps)


def textbook_step(e: Experiment, size: int) -> Step:
    """The same step of the plain supernet, from the same weights and with the same draws; no costs."""
    search = Search(e, noise(e, size))
    return _step_without_costs(search, textbook(e).copy_weights(search.supernet.parameters()))


def _step_without_costs(search: Search, network: nn.Module) -> Step:
    e, searcher, draws = search.experiment, search.searcher, search.generators["architectures"]
    weights = list(network.parameters())
    theta = torch.optim.SGD(weights, lr=e.theta_lr, momentum=e.theta_momentum, weight_decay=e.theta_weight_decay)
    alpha = torch.optim.Adam([searcher.alpha], lr=e.alpha_lr, betas=e.alpha_betas)
    (loader,) = search.loaders.values()

    def epoch() -> Iterator[None]:
        for images, labels in loader:
            theta.zero_grad(set_to_none=True)
            alpha.zero_grad(set_to_none=True)
            gates = searcher.draw(draws)
            F.cross_entropy(network(images.contiguous(), gates), labels).backward()
            clip_grad_norm_(weights, e.clip)
            theta.step()
            alpha.step()
            yield

    return _endless(epoch)


def _ratio(name: str, bound: float | None, at_least: bool, above: Step, below: Step, repeats: int) -> Row:
    pairs = [(_seconds(above), _seconds(below)) for _ in range(repeats + 1)][1:]  # the first warms up
    ratios = [a / b for a, b in pairs]
    sides = " against ".join(_time(median(side)) for side in zip(*pairs, strict=True))
    return Row(name, median(ratios), bound, at_least, f"{sides}; {min(ratios):.3g} to {max(ratios):.3g}")


def _forward_and_backward(module: nn.Module, shape: tuple[int, ...]) -> Step:
    """Both passes of a module on one tensor; of a depthwise convolution those of ours in its place."""
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        module = Depthwise(module.in_channels, module.kernel_size[0], module.stride[0], module.dilation[0])
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    module = module.to(memory_format=torch.channels_last)
    direction = torch.randn_like(module(x)).contiguous(memory_format=torch.channels_last)
    return lambda: torch.autograd.grad(module(x), [x, *module.parameters()], direction)


def _gated_sum(x: Float[Tensor, "..."], total: Float[Tensor, "..."], gradient: Float[Tensor, "..."]) -> None:
    """One output's product with its gate, its place in the sum, the way back, and its cost."""
    total + 0.5 * x
    0.5 * gradient
    image_dot(gradient, x)


def _peaks(build: Callable[[], Step], steps: int) -> list[float]:
    """Bytes: for each of so many steps, the most that it adds to the tensors alive, by the allocator's own record."""
    # The profiler's C++ prints what it does unless told otherwise before it first runs. And it warns when a tensor is
    # freed that it has not seen made: so it watches from the start, and the first step, which warms up.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step = build()
        for _ in range(steps + 1):
            with record_function("step"):
                step()
    events = record.profiler.kineto_results.events()
    alive, before, peaks = 0.0, 0.0, list[float]()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "step":
            before = alive
            peaks.append(0.0)
        elif event.name() == "[memory]":
            alive += event.nbytes()
            peaks[-1:] = [max(most, alive - before) for most in peaks[-1:]]
    return peaks[1:]


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"


def _mib(value: float) -> str:
    return f"{value / 2**20:.0f} MiB"
