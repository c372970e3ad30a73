"""Measure the supernet's step against the textbook implementation, side by side in one run."""

import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from wiring.datasets import Dataset
from wiring.experiments import Experiment
from wiring.plain import PlainSupernet
from wiring.search import Search, generator

#: The setting of the paper's searches: 8 minimal cells, 16 channels, 32x32 images, 96 a batch. α stays where it
#: is, so that both sides draw the same architectures.
SETTING = Experiment(alpha_lr=0.0, threads=2)


@dataclass(frozen=True)
class Row:
    """One measured number; ``met`` is whether it is at most ``bound``."""

    name: str
    value: float
    bound: float
    detail: str

    @property
    def met(self) -> bool:
        return self.value <= self.bound


def bench(repeats: int, file: Path | None = None) -> bool:
    """Measure all rows, print them as a table, write them to ``file`` as JSON; True if every bound is met.

    Raises
    ------
    ValueError
        If there are no repeats, or the file exists.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats}: give 1 or more")
    if file is not None and file.exists():
        raise ValueError(f"json = '{file}': exists; nothing is overwritten, choose another file")
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"json = '{file}': no folder {file.parent}")
    # Memory first: a process inherits the peak of the one that started it, which is small now.
    rows = [memory_row(), step_row(repeats)]
    machine = (
        f"{os.cpu_count()} cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}), "
        f"{SETTING.threads} threads, torch {torch.__version__}"
    )
    print(machine)
    width = max(len(row.name) for row in rows)
    for row in rows:
        bound = f"at most {row.bound:.2f}{'' if row.met else ', MISSED'}"
        print(f"{row.name:{width}}  {row.value:5.2f}  ({bound})  {row.detail}")
    if file is not None:
        content = {"machine": machine, "rows": [asdict(row) | {"met": row.met} for row in rows]}
        file.write_text(json.dumps(content, indent=1) + "\n")
    return all(row.met for row in rows)


def step_row(repeats: int) -> Row:
    """A whole DSNAS step with cost recording against a straight channels_last single-path step without."""
    torch.set_num_threads(SETTING.threads)
    ours, plain = _our_step(SETTING), _plain_step(SETTING)
    pairs = []
    for repeat in tqdm(range(repeats + 2), desc="step", disable=None):
        pair = _seconds(ours), _seconds(plain)
        if repeat >= 2:  # the first two warm up
            pairs.append(pair)
    # Both sides of a pair ran the same architecture.
    ratio = median(a / b for a, b in pairs)
    mine, theirs = (1000 * median(side) for side in zip(*pairs, strict=True))
    return Row("DSNAS step / plain single-path step", ratio, 1.0, f"{mine:.0f} ms against {theirs:.0f} ms")


def memory_row() -> Row:
    """Peak memory of a DSNAS step against that of a DARTS step, each in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        dsnas, darts = pool.map(_peak, [SETTING, replace(SETTING, searcher="darts")], chunksize=1)
    detail = f"{dsnas / 2**20:.0f} MiB against {darts / 2**20:.0f} MiB"
    return Row("DSNAS step's peak memory / DARTS step's", dsnas / darts, 1 / 3, detail)


def _peak(experiment: Experiment) -> int:
    torch.set_num_threads(experiment.threads)
    step = _our_step(experiment)
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3 if experiment.searcher == "dsnas" else 1):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _batch(experiment: Experiment) -> Dataset:
    noise = generator(0, "bench")
    pixels = torch.randint(256, (experiment.batch, 32, 32, 3), generator=noise, dtype=torch.uint8)
    labels = torch.randint(10, (experiment.batch,), generator=noise)
    return Dataset("noise", tuple("0123456789"), pixels, labels)


def _our_step(experiment: Experiment) -> Callable[[], object]:
    """The search's own step: data, gates, forward, backward, clip, both optimisers, costs and their statistics."""
    search = Search(experiment, _batch(experiment))
    return lambda: list(search.run_epoch())


def _plain_step(experiment: Experiment) -> Callable[[], object]:
    search = Search(experiment, _batch(experiment))
    e = experiment
    plain = PlainSupernet(e.topology, e.cells, e.channels, 10).copy_weights(search.supernet.parameters())
    plain = plain.to(memory_format=torch.channels_last)
    distribution, draws = search.distribution, search.generators["architectures"]
    theta = torch.optim.SGD(
        plain.parameters(), lr=e.theta_lr, momentum=e.theta_momentum, weight_decay=e.theta_weight_decay
    )
    alpha = torch.optim.Adam([distribution.alpha], lr=e.alpha_lr, betas=e.alpha_betas)
    (loader,) = search.loaders.values()

    def step() -> None:
        for images, labels in loader:
            theta.zero_grad(set_to_none=True)
            gates = distribution.draw(draws)
            F.cross_entropy(plain(images, gates), labels).backward()
            distribution.alpha.grad = torch.zeros_like(distribution.alpha)
            clip_grad_norm_(plain.parameters(), e.clip)
            theta.step()
            alpha.step()

    return step
