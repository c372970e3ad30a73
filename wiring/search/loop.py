"""The search: θ and α trained together, on the same images (single-level) or on two halves (bi-level).

>>> record = run("p1-quick", seed=1)           # in memory
>>> record = run("p1-reference", "runs/p1")    # on disk, and resumed where it stopped, to the same bits
"""

import ctypes
import hashlib
import inspect
import logging
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from wiring.costs.probe import GateProbe, Statistics
from wiring.datasets import LOG, DataError, Dataset, Labels, Loader, difference, load_dataset
from wiring.search import graphs, records, signals
from wiring.search.bilevel import EarlyStopping, look_ahead
from wiring.search.experiments import LEVELS, Experiment, anywhere, from_json, preflight, preset, to_json
from wiring.search.records import GROUPS, Record, RecordError
from wiring.search.searchers import SEARCHERS, Searcher, dropped
from wiring.supernet import NAMES, Gates, Images, Supernet

Logits = Float[Tensor, "image class"]
Losses = Float[Tensor, " image"]
Batch = tuple[Images, Labels]

#: What is summed over the images of a group, and the columns of the scalars; ``images`` sums ones.
QUANTITIES = ["images", "accuracy", "loss", "entropy", "cost"]

#: Says a line an epoch; who wants it elsewhere than where :func:`log_epochs` sends it handles this logger.
_LOG = logging.getLogger("wiring")
#: Where the weights are drawn: torch's global generator, which the threads of a process share.
_WEIGHTS = threading.Lock()
_ELSEWHERE = "choose another folder, or restore the data"


class Diverged(ArithmeticError):
    """The loss or a cost is no longer a number."""


class DeviceFailed(RuntimeError):
    """Out of memory, or the device is lost; the last checkpoint stays."""


def generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator of its own for every purpose, so that one searcher's draws do not shift another's images."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def _written(device: torch.device) -> str:
    is_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_gpu else torch.backends.cpu.get_cpu_capability()
    return f"{device.type} ({name})"


def _uncompiled(kind: type[optim.Optimizer]) -> Any:
    """The optimiser without what torch puts around its methods for torch.compile, which it imports then: 2 seconds."""
    names = ("step", "zero_grad", "add_param_group", "state_dict", "load_state_dict")
    own = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), own | {"step": torch.no_grad()(own["step"])})


def adam(experiment: Experiment, searcher: Searcher) -> optim.Optimizer:
    """The optimiser of α, and of what else the searcher learns: Adam, whose decay is an L2 penalty, or AdamW."""
    e = experiment
    kind = _uncompiled(optim.AdamW if e.alpha_decoupled else optim.Adam)
    on_gpu = searcher.alpha.device.type == "cuda"
    return kind(searcher.parameters(), e.alpha_lr, e.alpha_betas, weight_decay=e.alpha_weight_decay, capturable=on_gpu)


class Search:
    """An experiment on its images, between two steps: everything that :meth:`state_dict` must hold to go on exactly."""

    def __init__(self, experiment: Experiment, dataset: Dataset) -> None:
        self.experiment = e = experiment
        self.device = torch.device(e.device)
        #: Where it has run: one, unless it was resumed elsewhere.
        self.devices = [_written(self.device)]
        self.data_name, self.fingerprint = dataset.name, dataset.fingerprint()
        dataset = dataset.with_label_noise(e.label_noise, generator(e.seed, "labels")).to(self.device)

        self.generators = {name: generator(e.seed, name) for name in ("batches", "architectures")}
        moments = dataset.moments()
        self.phases = LEVELS[e.level]
        order = torch.randperm(len(dataset), generator=generator(e.seed, "split")).to(self.device)
        parts = order.split(-(-len(dataset) // len(self.phases)))
        self.loaders = {
            split: Loader(dataset.at(part), moments, e.batch, e.crop, e.flip, self.generators["batches"])
            for (split, _), part in zip(self.phases, parts, strict=True)
        }

        with _WEIGHTS, torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reach the caller's CUDA generators too.
            torch.default_generator.manual_seed(generator(e.seed, "weights").initial_seed())
            sizes = e.cells, e.channels, len(dataset.classes), dataset.pixels.shape[-1]
            supernet = Supernet(e.topology, *sizes, e.reductions, e.partial)
        self.supernet = supernet.to(self.device)
        start = e.alpha_mean, e.alpha_std, generator(e.seed, "alpha")
        searcher = SEARCHERS[e.searcher](e.topology, supernet.cell_types, *start)
        self.searcher = searcher.to("cpu" if searcher.drawn_on_cpu else self.device)
        self.theta = list(self.supernet.parameters())  # collected anew each step they would cost a tenth of a small one
        sgd = _uncompiled(optim.SGD)(self.theta, e.theta_lr, e.theta_momentum, weight_decay=e.theta_weight_decay)
        self.optimisers: dict[str, optim.Optimizer] = {"theta": sgd}
        if self.searcher.alpha.requires_grad:
            self.optimisers |= {"alpha": adam(e, self.searcher)}
        self.schedule = optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=e.epochs, eta_min=e.theta_lr_min)
        self.epoch, self.seconds = 0, 0.0
        self.steps = min(map(len, self.loaders.values()))
        self.history: dict[str, list[Tensor]] = {}
        self.stopping = EarlyStopping(self.supernet, e.early_stop).to(self.device) if e.early_stop > -1 else None
        course = [Statistics(tuple(self.searcher.alpha.shape)) for _ in range(2)]
        self.course: Any = nn.ModuleList(course).to(self.searcher.alpha.device)
        self._begin_epoch()
        graphed = self.device.type == "cuda" and self.stopping is None and e.level != "unrolled"
        #: Whether its steps, if they draw nothing, become CUDA graphs: nothing in them may ask for a number.
        self.graphed = e.graphs and graphed and not self.searcher.drawn_on_cpu

    def run_epoch(self) -> Iterator[None]:
        """The epoch, or what is left of it, step by step; raises Diverged at its end (:meth:`check_finite`)."""
        e = self.experiment
        progress = self.searcher.progress = min(1.0, self.epoch / max(1, e.epochs - 1))
        self.searcher.anneal(e.temperature * (e.final_temperature / e.temperature) ** progress)
        # The steps that are done already draw their order, crops and flips again.
        self.generators["batches"].set_state(self.shuffle)
        with GateProbe(self.supernet) as probe:
            learn: list[Callable[[tuple[Batch, ...]], None]]
            learn = [partial(self._learn, phase, probe) for phase in range(len(self.phases))]
            if self.graphed:
                # A graph of one epoch: learning rate, temperature and progress are the same in all its steps.
                draws = self.generators["architectures"]
                drawn_nothing = partial(lambda before: torch.equal(draws.get_state(), before), draws.get_state())
                learn = [graphs.Captured(f, drawn_nothing) for f in learn]
            for batches in islice(zip(*self.loaders.values(), strict=False), self.step, None):
                for each in learn:
                    each(batches)
                if e.course_every and self.epoch < e.epochs:
                    self._keep_course()
                self.step += 1
                yield
        self.check_finite()
        self.schedule.step()
        self.epoch += 1
        results = [measured.result() for measured in self.measured]
        self._begin_epoch(**{name: torch.stack([result[name] for result in results]) for name in results[0]})

    def check_finite(self) -> None:
        """Raise Diverged if a loss or cost of the epoch so far was not finite; waits for the device."""
        bad = ~torch.stack([measured.totals for measured in self.measured]).isfinite().all(0)
        if bad.any():
            e, first = self.experiment, int(bad.int().argmax()) + 1
            raise Diverged(
                f"loss or cost is not finite in epoch {self.epoch + 1}, step {first} of {len(bad)}; try a "
                f"smaller theta_lr ({e.theta_lr}), alpha_lr ({e.alpha_lr}) or clip ({e.clip})"
            )

    def _begin_epoch(self, **shown: Tensor) -> None:
        """Begin the first or the next epoch; α, its probabilities and what the last one has shown go to the history."""
        alpha, probability = self.searcher.alpha.detach(), self.searcher.probability().detach()
        for name, value in {"alpha": alpha.cpu().clone(), "probability": probability.cpu(), **shown}.items():
            self.history.setdefault(name, []).append(value)
        self.step, self.shuffle = 0, self.generators["batches"].get_state()
        measured = [_Measured(self.supernet.shape, self.steps) for _ in self.phases]
        self.measured: Any = nn.ModuleList(measured).to(self.device)

    def _learn(self, phase: int, probe: GateProbe, batches: tuple[Batch, ...]) -> None:
        """One forward and backward pass on a phase's batch, the updates of its learners, and what it has shown."""
        e, learners = self.experiment, self.phases[phase][1] if self.epoch < self.experiment.epochs else ()
        images, labels = batches[phase]
        ahead = self._look_ahead(batches) if e.level == "unrolled" and "alpha" in learners else []
        # Where θ does not learn, its gradient is not computed either, unless it is compared; the costs are.
        for parameter in self.theta:
            parameter.requires_grad_("theta" in learners or (self.stopping is not None and bool(learners)))
        if self.stopping is not None:
            self.stopping.rest()
        # SGD leaves out what has no gradient; with one of zero momentum and decay go on.
        self.optimisers["theta"].zero_grad(set_to_none=e.undrawn == "rest")
        self.searcher.zero_grad()
        gates = self.searcher.draw(self.generators["architectures"])
        logits = self._logits(images, gates)
        losses = F.cross_entropy(logits, labels, reduction="none")
        losses.mean().backward()
        for parameter, gradient in zip(self.searcher.parameters(), ahead, strict=False):
            parameter.grad = gradient
        self.searcher.add_gradient(gates, probe.costs)
        if self.stopping is not None and learners:
            step = self.epoch * self.steps + self.step + 1
            self.stopping.compare(step) if "theta" in learners else self.stopping.keep()
        if "theta" in learners:
            clip_grad_norm_(self.theta, e.clip)
        for name in learners:
            if name in self.optimisers:
                self.optimisers[name].step()
        if "alpha" in learners and e.course_every:
            self._note_course(probe.costs)
        self.measured[phase].update(logits.detach(), labels, losses.detach(), probe)

    def _logits(self, images: Images, gates: Gates) -> Logits:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.experiment.bf16):
            return self.supernet(images, gates).float()

    def _look_ahead(self, batches: tuple[Batch, ...]) -> list[Tensor]:
        """What the searcher's parameters learn from where θ's next step would lead."""

        random = self.generators["architectures"]
        before = random.get_state()

        def loss(batch: Batch) -> Tensor:
            gates = self.searcher.draw(random.set_state(before))
            return F.cross_entropy(self._logits(batch[0], gates), batch[1])

        for parameter in self.theta:
            parameter.requires_grad_(True)
        losses = [partial(loss, batch) for batch in batches]
        alphas = [parameter for parameter in self.searcher.parameters() if parameter.requires_grad]
        return look_ahead(losses[0], losses[1], self.theta, alphas, self.optimisers["theta"])

    def _note_course(self, costs: Tensor) -> None:
        """What operations cost in this step, summed over a type's cells, goes to the course."""
        alpha = self.searcher.alpha
        sums = torch.zeros_like(alpha).index_add_(0, self.searcher.types, costs.detach().to(alpha.device))
        for statistics, values in zip(self.course, (sums, sums.square()), strict=True):
            statistics.update(values)

    def _keep_course(self) -> None:
        """Where it is time, keep α and what the course has gathered, and gather anew."""
        if (self.epoch * self.steps + self.step + 1) % self.experiment.course_every:
            return
        cost, square = (statistics.result() for statistics in self.course)
        alpha = self.searcher.alpha.detach().cpu().clone()
        kept = {"alpha": alpha, "count": cost["count"], "cost": cost["mean"], "square": square["mean"]}
        for name, value in kept.items():
            self.history.setdefault(f"course_{name}", []).append(value)
        for statistics in self.course:
            statistics.reset()

    def record(self) -> Record:
        """What the epochs so far have shown."""
        arrays = {name: torch.stack(epochs).numpy() for name, epochs in self.history.items()}
        sums = arrays.pop("sums")
        axes = {"epoch": range(1, len(sums) + 1), "split": [split for split, _ in self.phases], "group": GROUPS}
        rows = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
        table = pd.DataFrame(sums.reshape(len(rows), -1), rows, QUANTITIES)
        means = table.iloc[:, 1:].div(table["images"], axis=0)  # of no images NaN
        scalars = means.assign(images=table["images"].astype(int))[QUANTITIES].reset_index()
        packages = {package: version(package) for package in ("wiring", "torch", "torchvision", "numpy")}
        provenance = {
            "operations": list(NAMES),
            "data": self.data_name,
            "fingerprint": self.fingerprint,
            "images": {split: len(loader.dataset) for split, loader in self.loaders.items()},
            "device": ", then ".join(self.devices),
            "threads": self.experiment.threads,
            "seconds": round(self.seconds, 1),
            "finished": time.strftime("%Y-%m-%d"),
            "versions": {"python": platform.python_version(), **packages},
        }
        return Record(self.experiment, scalars, arrays, provenance)

    def state_dict(self) -> dict[str, Any]:
        """The search's whole state, of tensors and plain values only."""
        generators = {name: random.get_state() for name, random in self.generators.items()}
        return {
            "experiment": to_json(self.experiment),
            "operations": list(NAMES),
            "data": self.fingerprint,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "devices": self.devices,
            "history": {name: torch.stack(values) for name, values in self.history.items()},  # few tensors save fast
            # The order, crops and flips of an epoch follow from where it began.
            "generators": generators | {"batches": self.shuffle},
            "supernet": self.supernet.state_dict(),
            "distribution": self.searcher.state_dict(),  # as it has always been called there
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "schedule": self.schedule.state_dict(),
            "measured": self.measured.state_dict(),
            "course": self.course.state_dict(),
        } | ({} if self.stopping is None else {"stopping": self.stopping.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises ValueError if it is another experiment's, or of other images or operations."""
        begun = from_json(state["experiment"])
        if anywhere(begun) != anywhere(self.experiment):
            raise ValueError("it belongs to another experiment")
        if differs := difference(state.get("data", {}), self.fingerprint):
            raise ValueError(f"it is of a run on other data: {differs}; {_ELSEWHERE}")
        records.check_operations(state)
        for name, random in self.generators.items():
            random.set_state(state["generators"][name])
        self.shuffle = state["generators"]["batches"]
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        before = state.get("devices", [begun.device] * (begun.device != self.experiment.device))
        self.devices = before + [name for name in self.devices if before[-1:] != [name]]
        self.history = {name: list(values) for name, values in state["history"].items()}
        self.supernet.load_state_dict(state["supernet"])
        self.searcher.load_state_dict(state["distribution"])
        for name, optimiser in self.optimisers.items():
            own = [group["capturable"] for group in optimiser.param_groups if "capturable" in group]
            optimiser.load_state_dict(state["optimisers"][name])
            for group, capturable in zip(optimiser.param_groups, own, strict=False):
                group["capturable"] = capturable  # of this device, not of the one before
        if self.experiment.undrawn == "decay":
            for parameter in self.optimisers["theta"].state:  # has been drawn, so it had a gradient
                parameter.grad = torch.zeros_like(parameter)
        self.schedule.load_state_dict(state["schedule"])
        self.measured.load_state_dict(state["measured"])
        for measured in self.measured:
            measured.steps.fill_(self.step)
        if self.stopping is not None:
            self.stopping.load_state_dict(state["stopping"])
        self.course.load_state_dict(state.get("course", self.course.state_dict()))  # format 2 began without it


def run(
    experiment: Experiment | str, folder: Path | str | None = None, *, dataset: Dataset | None = None, **changes: Any
) -> Record:
    """Run a search to its end, showing progress on a terminal: a preset or an experiment, with ``changes`` of fields.

    An unfinished run of the same experiment on the same images in ``folder`` is resumed where it was saved, after an
    epoch or after the step in which a signal stopped it, to the same bits on the same CPU, and with other last digits
    on another device or with other ``threads``; a finished one is read; ``None`` keeps nothing. A ``dataset``
    of images in memory is used in place of the experiment's ``data``, which becomes its name.

    Raises ValueError before anything is written: what ``preflight`` refuses, or the folder holds something else, a run
    on other images or a damaged one, or another process runs there (:class:`wiring.RecordError`). Later, and the last
    checkpoint stays: Diverged, if the loss or a cost stops being a number; DeviceFailed; OSError, if a file cannot be
    written, as on a full disk; :class:`wiring.search.signals.Stopped`, if Ctrl-C or SIGTERM stopped it, in the main
    thread, after the step in hand, which is saved.
    """
    e = preset(experiment, **changes)
    e = e if dataset is None else replace(e, data=dataset.name)
    path = None if folder is None else Path(folder)
    if path is not None:
        records.check_run(path, e)
        if records.is_done(path):
            return finished(path, e, dataset)
    preflight(e, dataset=dataset)
    with _computing(e):
        search = Search(e, source := _source(e, dataset))
        if path is None:
            _finish(search, source, None)
            return search.record()
        with records.locked(path):
            records.open_run(path, e)
            if records.is_done(path):  # another process has run it in the meantime
                return finished(path, e, dataset)
            _resume(search, path)
            _finish(search, source, path)
            records.save(path, search.record())
    return records.load(path)


def _source(e: Experiment, dataset: Dataset | None) -> Dataset:
    return load_dataset(e.data if dataset is None else dataset, e.image_size, e.images, e.seed)


def finished(folder: Path, e: Experiment, dataset: Dataset | None = None) -> Record:
    """The record of a finished run. Raises RecordError if it is damaged, or the images are there and are others."""
    record = records.load(folder)
    with suppress(DataError):
        there, here = record.provenance.get("fingerprint", {}), _source(e, dataset).fingerprint()
        if differs := difference(there, here):
            raise RecordError(f"{folder} holds a run on other data: {differs}; {_ELSEWHERE}")
    return record


def _resume(search: Search, folder: Path) -> None:
    """Go on from the folder's checkpoint, if it has one."""
    state = records.load_checkpoint(folder)
    try:
        if state is not None:
            search.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise RecordError(f"{folder}/{records.CHECKPOINTS[0]} does not fit its experiment: {error}") from error


def _finish(search: Search, source: Dataset, folder: Path | None) -> None:
    """Run the epochs that are left; a checkpoint goes to the folder after each, and where a signal arrives."""
    steps, started = search.steps, time.perf_counter() - search.seconds
    epochs = search.experiment.epochs + search.experiment.measuring_epochs
    done = search.epoch * steps + search.step
    LOG.info("%s", source)
    with signals.kept() as arrived, tqdm(total=epochs * steps, initial=done, disable=None, unit="step") as bar:
        while search.epoch < epochs and not arrived:
            bar.set_description(f"epoch {search.epoch + 1}/{epochs}")
            for _ in search.run_epoch():
                bar.update()
                if arrived and search.step < steps:  # after its last step an epoch is closed first
                    search.check_finite()
                    break
            search.seconds = time.perf_counter() - started
            if folder is not None:
                records.save_checkpoint(folder, search.state_dict())
            if search.step == 0:
                bar.set_postfix_str(summary := _summary(search))
                left = tqdm.format_interval(search.seconds / search.epoch * (epochs - search.epoch))
                name = folder.name if folder else "search"
                _LOG.info("%s: epoch %d/%d, %s, %s left", name, search.epoch, epochs, summary, left)
    if arrived:
        raise signals.Stopped(arrived[0])


@contextmanager
def _computing(e: Experiment) -> Iterator[None]:
    """Use the experiment's number of CPU threads inside the block, and say what to do where its device fails."""
    threads = torch.get_num_threads()
    torch.set_num_threads(e.threads)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch has a class of its own for CUDA's memory only, and for a lost device only in later versions.
        said = str(error)
        if isinstance(error, MemoryError) or "out of memory" in said or "not enough memory" in said:
            lower = f"lower batch ({e.batch}), channels ({e.channels}) or cells ({e.cells})"
            raise DeviceFailed(f"out of memory on {e.device}; {lower}") from error
        if "CUDA" in said:
            resumes = "the same command resumes from the last checkpoint"
            raise DeviceFailed(f"the device failed ({said.splitlines()[0]}); {resumes}") from error
        raise
    finally:
        torch.set_num_threads(threads)


class _Stderr(logging.Handler):
    """Writes to what is the standard error at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def log_epochs() -> None:
    """Let this process' searches say on stderr what their data are and, where no bar shows it, a line an epoch."""
    logger = LOG if sys.stderr.isatty() else _LOG
    if not logger.handlers:
        logger.addHandler(_Stderr())
        logger.setLevel(logging.INFO)


def keep_memory() -> bool:
    """Let glibc keep what a step frees for the next, until the process ends; False where there is no such setting.

    Faulting every page in again takes, on a CPU, a tenth of a step. :func:`run` leaves its caller's memory alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    trim_threshold, mmap_threshold = -1, -3
    # The largest values that it takes: what is freed is never given back, and only tensors above 32 MiB are mapped.
    return mallopt is not None and bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**25))


class _Measured(nn.Module):
    """What an epoch's steps have shown of one split so far."""

    def __init__(self, shape: tuple[int, int, int], steps: int) -> None:
        super().__init__()
        self.cost, self.cell_cost = Statistics(shape), Statistics(shape[:1])
        self.sums: Tensor = nn.Buffer(torch.zeros(len(GROUPS), len(QUANTITIES), dtype=torch.float64))
        #: Of every step a number that is finite as long as all losses and costs were.
        self.totals: Tensor = nn.Buffer(torch.zeros(steps, dtype=torch.float64))
        #: How many steps there were, on their device: what a GPU replays counts there.
        self.steps: Tensor = nn.Buffer(torch.zeros(1, dtype=torch.int64), persistent=False)

    def update(self, logits: Logits, labels: Labels, losses: Losses, probe: GateProbe) -> None:
        """Add one step's; nothing waits for the device."""
        log_p = logits.log_softmax(1)
        entropies = -(log_p.exp() * log_p).sum(1)
        correct = (logits.argmax(1) == labels).double()
        # The loss is the batch mean, so an image's share of the cost is 1/batch of its own.
        costs = probe.cell_per_image[:, -1].double() * len(labels)
        groups = torch.stack([torch.ones_like(correct), correct, 1 - correct])
        self.sums += groups @ torch.stack([groups[0], correct, losses, entropies, costs], dim=1)
        self.cost.update(probe.costs)
        self.cell_cost.update(probe.cell_costs)
        self.totals.index_copy_(0, self.steps, (self.sums.sum() + self.cost.total.sum())[None])
        self.steps += 1

    def result(self) -> dict[str, Tensor]:
        """What is remembered of the epoch, on the CPU."""
        costs = {"cost": self.cost.result(), "cell_cost": self.cell_cost.result()}
        return {f"{kind}_{name}": value for kind in costs for name, value in costs[kind].items()} | {
            "sums": self.sums.cpu()
        }


def _summary(search: Search) -> str:
    count, correct, loss, *_ = search.history["sums"][-1].sum(0)[0].tolist()
    edges = dropped(search.history["probability"][-1].numpy())
    return f"loss {loss / count:.3f}, accuracy {correct / count:.3f}, edges dropped {edges.sum()}/{edges.size}"
