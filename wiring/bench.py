"""Measure the supernet's step: against the textbook implementation, against its bare kernels, and as it grows.

Everything is measured in one run, the two sides of a comparison in turns, and reported as the median of their ratios.
"""

import json
import math
import os
import platform
import tempfile
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
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from wiring.costs.probe import CostProbe, Statistics
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
SMALL = replace(DSNAS, channels=8, batch=64)

#: Between these lines of a readme stands the table.
MARKS = "<!-- bench: written by `make bench` -->", "<!-- /bench -->"

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
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def bench(repeats: int, file: Path | None = None, readme: Path | None = None) -> bool:
    """Measure all rows, print them as a table, write them to ``file`` as JSON; True if every bound is met.

    The table also replaces what stands in ``readme`` between the lines of :data:`MARKS`.

    Raises
    ------
    ValueError
        If there are no repeats, the file exists, or the readme has no such lines.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats}: give 1 or more")
    if file is not None and file.exists():
        raise ValueError(f"json = '{file}': exists; nothing is overwritten, choose another file")
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"json = '{file}': no folder {file.parent}")
    if readme is not None:
        with_table(readme, "")
    torch.set_num_threads(THREADS)
    keep_memory()  # both sides gain from what a search sets
    measures: list[Callable[[], Row]] = [
        lambda: faster(3.5, DARTS, 32, repeats),
        lambda: faster(3.5, DARTS_CELLS, 32, repeats),
        lambda: faster(2.5, DSNAS, 32, 4 * repeats),
        lambda: faster(1.5, SMALL, 8, 8 * repeats),
        lambda: cost_recording(8 * repeats),
        lambda: probing(repeats),
        lambda: bare_kernels(DARTS, 32, 1.2, repeats),
        lambda: bare_kernels(DSNAS, 32, 1.2, 4 * repeats),
        lambda: bare_kernels(SMALL, 8, None, 8 * repeats),
        *(
            partial(growth, what, field, sizes, bound, repeats)
            for field, sizes, bound in (
                ("cells", (2, 4, 8, 16), 1.05),
                ("channels", (8, 16, 32), None),
                ("batch", (16, 32, 64), None),
            )
            for what in ("time", "memory")
        ),
        lambda: memory(repeats),
        workers,
        lambda: share("data pipeline", data_pipeline, 0.02, repeats),
        lambda: share("statistics of costs", statistics, None, repeats),
    ]
    rows = [measure() for measure in tqdm(measures, disable=None, unit="row")]
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    machine = f"{os.cpu_count()} cores ({processor}), {THREADS} threads, float32, torch {torch.__version__}"
    content = {"machine": machine, "rows": [asdict(row) | {"met": row.met} for row in rows]}
    print(table(content))
    if file is not None:
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if readme is not None:
        readme.write_text(with_table(readme, table(content)))
    return all(row.met for row in rows)


def table(content: dict[str, Any]) -> str:
    """The JSON's content as a Markdown table."""
    lines = [f"Measured on {content['machine']}.", ""]
    lines += ["| row | measured | bound | absolute; over rounds |", "|---|--:|--:|---|"]
    for row in content["rows"]:
        bound = "none" if row["bound"] is None else f"{'≥' if row['at_least'] else '≤'} {row['bound']:.4g}"
        missed = "" if row["met"] else ", **missed**"
        lines.append(f"| {row['name']} | {row['value']:.3g} | {bound}{missed} | {row['detail']} |")
    return "\n".join(lines)


def with_table(readme: Path, text: str) -> str:
    """What the readme is to hold: ``text`` between its marks."""
    parts = readme.read_text().split(MARKS[0] + "\n") if readme.is_file() else []
    if len(parts) != 2 or MARKS[1] not in parts[1]:
        raise ValueError(f"readme = '{readme}': no file with the lines {MARKS[0]} and {MARKS[1]}")
    return f"{parts[0]}{MARKS[0]}\n{text}\n{MARKS[1]}{parts[1].split(MARKS[1], 1)[1]}"


def faster(bound: float, e: Experiment, size: int, repeats: int) -> Row:
    """A whole step with cost recording against the textbook's without: NCHW, one ReLU each, ``sum(w * op(x))``."""
    return _ratio(
        f"{workload(e, size)}: textbook / ours", bound, True, textbook_step(e, size), our_step(e, size), repeats
    )


def workload(e: Experiment, size: int) -> str:
    """What a step works on."""
    kind = "DARTS" if e.topology == TOPOLOGIES["darts"] else "minimal"
    network = f"{e.cells} {kind} cells, {e.channels} channels"
    return f"{e.searcher.upper()} step, {network}, {size}x{size}, batch {e.batch}"


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
    plain = PlainSupernet(e.topology, e.cells, e.channels, 10)
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
    search = Search(e, noise(e, size))
    plain = PlainSupernet(e.topology, e.cells, e.channels, 10)
    drawn = search.searcher.draw(generator(0, "kernels"))
    gates = replace(drawn, values=drawn.values.detach())
    calls: Counter[tuple[nn.Module, tuple[int, ...]]] = Counter()
    alone: dict[str, nn.Module] = {}

    def count(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        calls[alone.setdefault(repr(module), module), tuple(inputs[0].shape)] += 1

    leaves = [module for module in plain.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves if not isinstance(leaf, nn.Linear | nn.Identity)]
    (loader,) = search.loaders.values()
    images, _ = next(iter(loader))
    with torch.no_grad():
        plain(images, gates)
    for handle in handles:
        handle.remove()
    outputs = int(gates.active[..., 1:].sum())
    shape = (e.batch, e.channels, *images.shape[2:])
    kernels = [(_forward_and_backward(_fast(module), at), number) for (module, at), number in calls.items()]
    kernels.append((partial(_gated_sum, *torch.randn(3, *shape).unbind()), outputs))

    # The kernels draw no architectures; the step is measured on the very one whose kernels were counted.
    search.searcher.draw = lambda *_: gates  # type: ignore[method-assign]

    def bare() -> None:
        for kernel, number in kernels:
            for _ in range(number):
                kernel()

    name = f"{workload(e, size)}: ours / its bare kernels"
    return _ratio(name, bound, False, _endless(search.run_epoch), bare, repeats)


def growth(what: str, field: str, sizes: Sequence[int], bound: float | None, repeats: int) -> Row:
    """The exponent of a DARTS step's time or peak memory in a field of the experiment: the slope in logarithms.

    Of the time it is the median over rounds, so that a machine that changes its pace between them does not bend it.
    """
    base = replace(DARTS, batch=32, cells=4)
    fields: list[dict[str, Any]] = [{field: size} for size in sizes]
    steps = [our_step(replace(base, **own), 32) for own in fields]
    for step in steps:
        step()
    measured, shown, often = {"time": (_seconds, _time, repeats), "memory": (_peak, _mib, 1)}[what]
    rounds = [[measured(step) for step in steps] for _ in range(often)]
    scale = [math.log(size) for size in sizes]
    slope = median(linear_regression(scale, list(map(math.log, values))).slope for values in rounds)
    detail = ", ".join(shown(median(values)) for values in zip(*rounds, strict=True))
    name = f"DARTS step: {what} grows as {field} ({', '.join(map(str, sizes))}) to the power"
    return Row(name, slope, bound, False, detail)


def memory(repeats: int) -> Row:
    """Peak memory of a DSNAS step (the median over draws) against that of a DARTS step."""
    step = our_step(DSNAS, 32)
    dsnas = median(_peak(step) for _ in range(2 * repeats + 1))
    darts = _peak(our_step(replace(DSNAS, searcher="darts"), 32))
    detail = f"{_mib(dsnas)} against {_mib(darts)}"
    return Row("peak memory, 8 minimal cells, batch 96: DSNAS / DARTS", dsnas / darts, 0.25, False, detail)


def share(name: str, part: Callable[[Search], Step], bound: float | None, repeats: int) -> Row:
    """What a part of the step takes of a whole DSNAS step."""
    search = Search(DSNAS, noise(DSNAS, 32))
    whole = our_step(DSNAS, 32)
    return _ratio(f"{workload(DSNAS, 32)}: {name} / whole", bound, False, part(search), whole, 4 * repeats)


def workers() -> Row:
    """Four runs in one worker process and in two, each with its start; a thread a run."""
    runs = {str(seed): partial(search_run, preset("p1-quick", seed=seed)) for seed in range(4)}

    def swept(processes: int) -> None:
        if failures := run_tasks(runs, processes):
            raise RuntimeError(f"runs of the sweep failed: {failures}")

    one, two = (_seconds(partial(swept, processes)) for processes in (1, 2))
    name = "four runs of p1-quick: 1 worker / 2 workers"
    return Row(name, one / two, 1.7, True, f"{_time(one)} against {_time(two)}")


def data_pipeline(search: Search) -> Step:
    """A batch: crop, flip, normalise; in a round out of many, shuffle."""
    (loader,) = search.loaders.values()
    return _endless(lambda: loader)


def statistics(search: Search) -> Step:
    """What is kept of a step: the costs of all edges and cells."""
    costs = torch.randn(search.supernet.shape)
    of_edges, of_cells = Statistics(search.supernet.shape), Statistics(search.supernet.shape[:1])

    def update() -> None:
        of_edges.update(costs)
        of_cells.update(costs.sum((1, 2)))

    return update


def noise(e: Experiment, size: int) -> Dataset:
    """Random images, enough for an epoch of 16 steps."""
    draws = generator(0, "bench")
    images = 16 * e.batch
    pixels = torch.randint(256, (images, size, size, 3), generator=draws, dtype=torch.uint8)
    return Dataset("noise", tuple("0123456789"), pixels, torch.randint(10, (images,), generator=draws))


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
    plain = PlainSupernet(e.topology, e.cells, e.channels, 10).copy_weights(search.supernet.parameters())
    return _step_without_costs(search, plain)


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
    pairs = []
    for repeat in range(repeats + 1):
        pair = _seconds(above), _seconds(below)
        if repeat:  # the first warms up
            pairs.append(pair)
    ratios = [a / b for a, b in pairs]
    sides = " against ".join(_time(median(side)) for side in zip(*pairs, strict=True))
    return Row(name, median(ratios), bound, at_least, f"{sides}; {min(ratios):.3g} to {max(ratios):.3g}")


def _fast(module: nn.Module) -> nn.Module:
    """The module itself, or our depthwise convolution in its place."""
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return Depthwise(module.in_channels, module.kernel_size[0], dilation=module.dilation[0])
    return module


def _forward_and_backward(module: nn.Module, shape: tuple[int, ...]) -> Step:
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    module = module.to(memory_format=torch.channels_last)
    direction = torch.randn_like(module(x)).contiguous(memory_format=torch.channels_last)
    return lambda: torch.autograd.grad(module(x), [x, *module.parameters()], direction)


def _gated_sum(x: Float[Tensor, "..."], total: Float[Tensor, "..."], gradient: Float[Tensor, "..."]) -> None:
    """One output's product with its gate, its place in the sum, the way back, and its cost."""
    total + 0.5 * x
    0.5 * gradient
    image_dot(gradient, x)


def _peak(step: Step) -> float:
    """Bytes: the largest sum of tensors alive at once during the step, by the allocator's own record."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return float(max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]"))


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"


def _mib(value: float) -> str:
    return f"{value / 2**20:.0f} MiB"
