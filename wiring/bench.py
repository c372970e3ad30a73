"""Measure the supernet's step: against the textbook implementation, against its bare kernels, and as it grows.

Everything is measured in one run, the two sides of a comparison in turns, and reported as the median of their ratios.
"""

import gc
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial, partialmethod
from itertools import accumulate, chain, count
from pathlib import Path
from statistics import linear_regression, median
from timeit import timeit
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn, profiler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wiring.costs import CostProbe
from wiring.datasets import Dataset
from wiring.search import Experiment, Search, generator, preset
from wiring.search.experiments import preflight
from wiring.search.loop import adam, keep_memory
from wiring.search.records import check_new
from wiring.supernet import TOPOLOGIES, PlainSupernet, image_dot
from wiring.supernet.operations import Depthwise

THREADS = 2
#: The paper's setting: 8 minimal cells, 16 channels, 32x32 images, 96 a batch. α stays where it is, so that both sides
#: of a comparison draw the same architectures.
DSNAS = Experiment(alpha_lr=0.0, threads=THREADS, crop=4, undrawn="rest")
DARTS = replace(DSNAS, searcher="darts", batch=64)
SHORT = replace(DARTS, cells=4, batch=32)
SMALL = replace(DSNAS, channels=8, batch=64)

HEAD = "\n| row | measured | bound | absolute; over rounds |\n|---|--:|--:|---|"  # of the table

Step = Callable[[], object]
Sides = Callable[[Experiment, int], tuple[Step, Step]]


@dataclass(frozen=True)
class Row:
    """One measured number, and the bound that it is held to."""

    name: str
    value: float
    bound: float
    at_least: bool
    detail: str

    @property
    def met(self) -> bool:
        """Whether the value keeps its bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        """The row of the Markdown table."""
        bound = f"{'≥' if self.at_least else '≤'} {self.bound:.4g}{'' if self.met else ', **missed**'}"
        return f"| {self.name} | {self.value:.3g} | {bound} | {self.detail} |"


def bench(repeats: int, file: Path | None = None, device: str = "cpu") -> bool:
    """Measure all rows, print each as it is measured, write them to ``file`` as JSON; True if every bound is met.

    Raises ValueError if there are no repeats, the device is not there, or the file exists or has no folder.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats}: give 1 or more")
    check_new("json", file)
    preflight(preset(DSNAS, device=device), dataset=noise(DSNAS, 8))
    torch.set_num_threads(THREADS)
    keep_memory()  # both sides gain from what a search sets
    machine = f"{os.cpu_count()} cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
    if torch.device(device).type == "cuda":
        machine = f"{torch.cuda.get_device_name(device)} beside {machine}"
    machine = f"{machine}, {THREADS} threads, float32, torch {torch.__version__}"
    print(f"Measured on {machine}.", HEAD, sep="\n", flush=True)
    rows = []
    for row in _measured(repeats) if device == "cpu" else _measured_on_gpu(repeats, device):
        rows.append(row)
        print(row, flush=True)
    if file is not None:
        content = {"machine": machine, "rows": [asdict(row) | {"met": row.met} for row in rows]}
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return all(row.met for row in rows)


def _measured(n: int) -> Iterator[Row]:
    faster = partial(ratio, "{}: textbook / ours", textbook_and_ours, True)
    kernels = partial(ratio, "{}: ours / its bare kernels", ours_and_kernels, False)
    yield faster(3.5, DARTS, 32, n)
    yield faster(3.5, replace(SHORT, topology=TOPOLOGIES["darts"]), 32, n)
    yield faster(2.5, DSNAS, 32, 4 * n)
    yield faster(4.0, replace(SHORT, topology=TOPOLOGIES["darts"], reductions=(1, 2)), 32, n)
    yield faster(1.1, SMALL, 8, 8 * n)
    yield ratio("{}: costs on / off", with_and_without_costs, False, 1.03, DSNAS, 32, 8 * n)
    yield ratio("{}: textbook, probed / not probed", with_and_without_probe, False, 1.1, SHORT, 32, 2 * n)
    yield kernels(1.2, DARTS, 32, n)
    yield kernels(1.2, DSNAS, 32, 4 * n)
    for what in ("time", "memory"):
        yield scaling(what, "cells", (2, 4, 8, 16), 1.05, n)
    yield dispatched(1.2, DSNAS)
    yield dispatched(0.8, DARTS)
    yield memory(n)
    yield ratio("{}: data pipeline / whole", data_and_whole, False, 0.02, DSNAS, 32, 4 * n)


def _measured_on_gpu(n: int, device: str) -> Iterator[Row]:
    dsnas, darts, short = (replace(e, device=device) for e in (DSNAS, DARTS, SHORT))
    short = replace(short, topology=TOPOLOGIES["darts"])
    faster = partial(ratio, "{}: textbook / ours", textbook_and_ours, True)
    costs = partial(ratio, "{}: costs on / off", with_and_without_costs, False, 1.05)
    yield duration(8.0, dsnas, n)
    yield duration(30.0, darts, n)
    yield faster(0.85, dsnas, 32, n)
    yield faster(1.25, darts, 32, n)
    yield faster(1.25, short, 32, n)
    yield faster(1.25, replace(short, reductions=(1, 2)), 32, n)
    yield costs(dsnas, 32, n)
    yield costs(darts, 32, n)
    yield above_traffic(3.0, dsnas, n)
    yield above_traffic(3.0, darts, n)


def duration(bound: float, e: Experiment, repeats: int) -> Row:
    """The milliseconds of a search's step on 32x32 images."""
    times = [1000 * seconds for (seconds,) in _rounds([our_step(e, 32)], repeats, e.device)]
    detail = f"{min(times):.3g} to {max(times):.3g}"
    return Row(f"{_step_of(e)}, {e.channels} channels, batch {e.batch}: ms", median(times), bound, False, detail)


def above_traffic(bound: float, e: Experiment, repeats: int) -> Row:
    """A step's time divided by what the device takes to copy as many bytes as the step's kernels read and write."""
    device = torch.device(e.device)
    source = torch.randn(2**28, device=device)
    target = torch.empty_like(source)
    copied = median(s for (s,) in _rounds([lambda: target.copy_(source)], 4 * repeats, e.device))
    rate = 2 * source.nbytes / copied
    step = median(s for (s,) in _rounds([our_step(e, 32)], repeats, e.device))
    moved = _kernels(_endless(_on_meta(replace(e, device="cpu")).run_epoch)).bytes
    detail = f"{_time(step)}; {moved / 1e9:.3g} GB, copied at {rate / 1e12:.3g} TB/s"
    return Row(f"{_step_of(e)}: time / that of its bytes", step * rate / moved, bound, False, detail)


def ratio(name: str, sides: Sides, at_least: bool, bound: float, e: Experiment, size: int, repeats: int) -> Row:
    """The time of a comparison's first side divided by its second's; ``{}`` in the name is the workload."""
    workload = f"{_step_of(e)}, {e.channels} channels, {size}x{size}, batch {e.batch}"
    rounds = _rounds(sides(e, size), repeats, e.device)
    ratios = [above / below for above, below in rounds]
    times = " against ".join(_time(median(side)) for side in zip(*rounds, strict=True))
    spread = f"{min(ratios):.3g} to {max(ratios):.3g}"
    return Row(name.format(workload), median(ratios), bound, at_least, f"{times}; {spread}")


def _step_of(e: Experiment) -> str:
    """The searcher's step and its cells, in words."""
    cells = f"{e.cells} {'DARTS' if e.topology == TOPOLOGIES['darts'] else 'minimal'} cells"
    reductions = f", {len(e.reductions)} of them reductions" if e.reductions else ""
    return f"{e.searcher.upper()} step, {cells}{reductions}"


def textbook_and_ours(e: Experiment, size: int) -> tuple[Step, Step]:
    """A whole step of the plain supernet, without costs, and the search's, with: equal weights and equal draws."""
    search = Search(e, noise(e, size))
    return _step_without_costs(search, textbook(e).copy_weights(search.supernet.parameters())), our_step(e, size)


def with_and_without_costs(e: Experiment, size: int) -> tuple[Step, Step]:
    """A search's step, and the same supernet's with neither probe nor statistics."""
    search = Search(e, noise(e, size))
    return our_step(e, size), _step_without_costs(search, search.supernet)


def with_and_without_probe(e: Experiment, size: int) -> tuple[Step, Step]:
    """The textbook's step with a probe at every operation, as in any foreign model, and without."""
    step = _step_without_costs(Search(e, noise(e, size)), plain := textbook(e))

    def probed() -> None:
        with CostProbe(plain, "cells.*.edges.*.*"):
            step()

    return probed, step


def ours_and_kernels(e: Experiment, size: int) -> tuple[Step, Step]:
    """A step, and the kernels that the textbook calls in it, alone, again and again on the same tensors.

    Convolutions (depthwise ones by our module), normalisations, pools, ReLUs, and for every output its product with the
    gate, the sum and the cost, forward and backward in channels_last. A step may be faster: it fuses some of them.
    """
    search, plain = Search(e, noise(e, size)), textbook(e)
    drawn = search.searcher.draw(generator(0, "kernels"))
    gates = replace(drawn, values=drawn.values.detach())
    calls: dict[tuple[str, torch.Size], list[nn.Module]] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        calls.setdefault((repr(module), inputs[0].shape), []).append(module)

    for module in plain.modules():
        if not (list(module.children()) or isinstance(module, nn.Linear | nn.Identity)):
            module.register_forward_hook(keep)
    with torch.no_grad():
        plain(torch.randn(e.batch, 3, size, size), gates)
    # The kernels draw no architectures; the step is measured on the very one whose kernels were counted.
    search.searcher.draw = lambda *_: gates  # type: ignore[method-assign]
    kernels: list[Step] = []
    for (_, shape), alike in calls.items():
        kernels += [_forward_and_backward(alike[0], shape)] * len(alike)
    outputs = int(gates.active[..., 1:].sum())
    x, total, gradient = torch.randn(3, e.batch, e.channels, size, size).unbind()

    def bare() -> None:
        for kernel in kernels:
            kernel()
        for _ in range(outputs):  # each one's product with its gate, its place in the sum, the way back, and its cost
            total + 0.5 * x
            0.5 * gradient
            image_dot(gradient, x)

    return _endless(search.run_epoch), bare


def data_and_whole(e: Experiment, size: int) -> tuple[Step, Step]:
    """A batch (crop, flip, normalise; in a round out of many, shuffle), and the whole step."""
    (loader,) = Search(e, noise(e, size)).loaders.values()
    return _endless(lambda: loader), our_step(e, size)


def dispatched(bound: float, e: Experiment, steps: int = 4) -> Row:
    """The kernels of a search's step with costs against those of the textbook's without, in the form that a GPU runs.

    They are counted on the meta device, where they compute nothing: the number does not depend on the machine. Left out
    is what launches nothing: views and new memory, and what stays on the CPU.
    """
    ours, search = (_on_meta(e) for _ in range(2))
    both = _endless(ours.run_epoch), _step_without_costs(search, textbook(e).to("meta"))
    counts = [_kernels(step, steps).count for step in both]
    name = f"{_step_of(e)}, on a GPU: kernels of ours / of the textbook"
    return Row(name, counts[0] / counts[1], bound, False, f"{counts[0]:.0f} against {counts[1]:.0f}")


def _on_meta(e: Experiment) -> Search:
    """A search all of whose tensors are on the meta device, but for those that a search on a GPU keeps on the CPU."""
    search = Search(e, noise(e, 32))
    batches: Any = {split: tuple(x.to("meta") for x in next(iter(loader))) for split, loader in search.loaders.items()}
    search.loaders = {split: [batch] * search.steps for split, batch in batches.items()}  # type: ignore[misc]
    search.device = torch.device("meta")
    search.measured.to("meta")
    search.theta = list(search.supernet.to("meta").parameters())
    as_there = search.optimisers["theta"].defaults | {"foreach": True}  # as on a GPU by default
    search.optimisers |= {"theta": torch.optim.SGD(search.theta, **as_there)}
    if search.searcher.drawn_on_cpu:
        search.searcher.add_gradient = lambda *_: None  # type: ignore[method-assign]  # the costs would have to come down
    else:
        search.optimisers |= {"alpha": adam(e, search.searcher.to("meta"))}
        search.course.to("meta")
    return search


def _kernels(step: Step, steps: int = 4) -> "_Dispatched":
    """The mean number of kernels that a step calls on the meta device, and of the bytes that they read and write."""
    tolist = Tensor.tolist
    with ExitStack() as stack:
        # Autocast knows no such device, and the textbook asks which gates are one: relaxed ones are not.
        stack.enter_context(patch.object(torch, "autocast", lambda *_, **__: nullcontext()))
        of_cpu = partialmethod(lambda x: tolist(torch.zeros_like(x, device="cpu") if x.is_meta else x))
        stack.enter_context(patch.object(Tensor, "tolist", of_cpu))
        # On a GPU all weights are clipped at once.
        stack.enter_context(patch("torch.nn.utils.clip_grad._has_foreach_support", lambda *_: True))
        step()
        with _Dispatched() as seen:  # type: ignore[no-untyped-call]
            for _ in range(steps):
                step()
    seen.count, seen.bytes = seen.count / steps, seen.bytes / steps
    return seen


class _Dispatched(TorchDispatchMode):
    """Counts what is dispatched to the meta device, but for views and new memory."""

    count = bytes = 0.0

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = f(*args, **(kwargs or {}))
        there = {id(x): x.nbytes for x in tree_leaves((args, result)) if isinstance(x, Tensor) and x.is_meta}
        if there and not f.is_view and "empty" not in str(f) and "promote_types" not in str(f):
            self.count += 1
            self.bytes += sum(there.values())
        return result


def scaling(what: str, field: str, sizes: Sequence[int], bound: float, repeats: int) -> Row:
    """The exponent of a DARTS step's time or peak memory in a field of the experiment: the slope in logarithms.

    Of the time it is the median over rounds, so that a machine that changes its pace between them does not bend it.
    """
    build = [partial(our_step, preset(SHORT, **{field: size}), 32) for size in sizes]
    shown = {"time": _time, "memory": _mib}[what]
    rounds = _rounds([new() for new in build], repeats) if what == "time" else [list(map(_peak, build))]
    scale = [math.log(size) for size in sizes]
    slope = median(linear_regression(scale, list(map(math.log, values))).slope for values in rounds)
    detail = ", ".join(shown(median(values)) for values in zip(*rounds, strict=True))
    name = f"DARTS step: {what} grows as {field} ({', '.join(map(str, sizes))}) to the power"
    return Row(name, slope, bound, False, detail)


def memory(repeats: int) -> Row:
    """Peak memory of a DSNAS step (the median over draws) against that of a DARTS step."""
    dsnas = median(_peak(partial(our_step, replace(DSNAS, seed=seed), 32)) for seed in range(5 * repeats))
    darts = _peak(partial(our_step, replace(DSNAS, searcher="darts"), 32))
    detail = f"{_mib(dsnas)} against {_mib(darts)}"
    return Row("peak memory, 8 minimal cells, batch 96: DSNAS / DARTS", dsnas / darts, 0.25, False, detail)


def noise(e: Experiment, size: int) -> Dataset:
    """Random images, enough for an epoch of 16 steps."""
    draws, images = generator(0, "bench"), 16 * e.batch
    pixels = torch.randint(256, (images, size, size, 3), generator=draws, dtype=torch.uint8)
    return Dataset("noise", tuple("0123456789"), pixels, torch.randint(10, (images,), generator=draws))


def textbook(e: Experiment) -> PlainSupernet:
    return PlainSupernet(e.topology, e.cells, e.channels, 10, reductions=e.reductions, partial=e.partial).to(e.device)


def our_step(e: Experiment, size: int) -> Step:
    """The search's own step: data, gates, forward, backward, clip, both optimisers, costs and their statistics."""
    return _endless(Search(e, noise(e, size)).run_epoch)


def _endless(epoch: Callable[[], Iterable[object]]) -> Step:
    """The next step of one epoch after another; what an epoch begins and ends with falls into few of them."""
    steps = chain.from_iterable(epoch() for _ in count())
    return lambda: next(steps)


def _step_without_costs(search: Search, network: nn.Module) -> Step:
    weights, alpha = list(network.parameters()), search.optimisers["alpha"]
    theta = torch.optim.SGD(weights, **search.optimisers["theta"].defaults)
    (loader,) = search.loaders.values()

    def epoch() -> Iterator[None]:
        for images, labels in loader:
            theta.zero_grad()
            alpha.zero_grad()
            gates = search.searcher.draw(search.generators["architectures"])
            nn.functional.cross_entropy(network(images.contiguous(), gates), labels).backward()
            nn.utils.clip_grad_norm_(weights, search.experiment.clip)
            theta.step()
            alpha.step()
            yield

    return _endless(epoch)


def _forward_and_backward(module: nn.Module, shape: tuple[int, ...]) -> Step:
    """Both passes of a module on one tensor; of a depthwise convolution those of ours in its place."""
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        module = Depthwise(module.in_channels, module.kernel_size[0], module.stride[0], module.dilation[0])
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    module = module.to(memory_format=torch.channels_last)
    direction = torch.randn_like(module(x)).contiguous(memory_format=torch.channels_last)
    return lambda: torch.autograd.grad(module(x), [x, *module.parameters()], direction)


def _peak(build: Callable[[], Step]) -> float:
    """Bytes: the most that a step adds to the tensors alive, by the allocator's own record; one before warms up."""
    # The profiler's C++ prints what it does unless told otherwise before it first runs. And it warns when a tensor is
    # freed that it has not seen made: so what is left of other rows goes first, and it watches from the start.
    gc.collect()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        step = build()
        step()
        with profiler.record_function("measured"):
            step()
    events = sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    names = [event.name() for event in events]
    alive = accumulate(event.nbytes() if event.name() == "[memory]" else 0 for event in events)
    before, *during = list(alive)[names.index("measured") :]
    return float(max(before, *during) - before)


def _rounds(steps: Sequence[Step], repeats: int, device: str = "cpu") -> list[list[float]]:
    """The seconds of each step, in turns; a round before the first warms up. A GPU is given several to queue."""
    number = 1 if device == "cpu" else 8

    def several(step: Step) -> None:
        for _ in range(number):
            step()
        torch.cuda.synchronize(device)

    timed = steps if number == 1 else [partial(several, step) for step in steps]
    return [[timeit(step, number=1) / number for step in timed] for _ in range(repeats + 1)][1:]


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"


def _mib(value: float) -> str:
    return f"{value / 2**20:.0f} MiB"
