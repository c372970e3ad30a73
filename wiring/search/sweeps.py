"""Many runs: the seeds of an experiment, or a grid of its fields, on the machine's cores or on a Dask cluster.

>>> table = sweep("p1-quick", {"seed": range(10), "level": ["single", "bi"]}, "sweeps/mine")
"""

import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
from joblib import cpu_count
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from wiring.search.experiments import Experiment, preflight, preset, to_dict, to_json, with_fields
from wiring.search.loop import DeviceFailed, finished, keep_memory, log_epochs, run
from wiring.search.records import Record, check_run, is_done, load
from wiring.search.searchers import SEARCHERS, Searcher

#: How often a run's local worker may die before the run is given up; what Dask allows a task by default.
DEATHS = 3
#: Seconds after which a local worker that has nothing to do ends.
IDLE = 10
#: Seconds to wait for a cluster's scheduler.
CONNECT = 10
#: A sweep's table, of what :func:`gather` returns.
TABLE = "results.csv"
Task = Callable[[], object]
LOG = logging.getLogger(__name__)


class Tasks(NamedTuple):
    """What a sweep comes to: the number of its runs, how to do those left, how many fit at a time, and usually do."""

    total: int
    left: Mapping[str, Task]
    room: int
    usual: int

    def run(self, workers: int | None, cluster: str | None, retries: int) -> dict[str, str]:
        """Do what is left, by default as many at a time as usual; as :func:`run_tasks`."""
        if cluster is None and workers is not None and not 1 <= workers <= self.room:
            allowed = f"1 to {self.room}, as many as there are cores for their threads"
            raise ValueError(f"workers = {workers}: allowed: {allowed}")
        return run_tasks(self.left, workers or min(self.usual, max(1, len(self.left))), cluster, retries)


def sweep(
    experiment: str | Experiment,
    grid: Mapping[str, Iterable[Any]],
    folder: Path | str | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    retries: int = 0,
) -> pd.DataFrame:
    """Run an experiment, or a preset, with every combination of the given values, each run in a process of its own.

    The ``grid`` has for each field the values it takes, as in :func:`wiring.preset`. Each run has a folder in
    ``folder``: what is finished there is skipped, what is unfinished resumed; ``None`` keeps nothing. By default as
    many ``workers`` run at a time as there are cores for the runs' threads; see :func:`run_tasks`.

    Returns :func:`gather`'s table of the folder. Raises ValueError before anything runs, as :func:`runs`, or for
    ``workers``, ``cluster`` or ``retries``; RuntimeError after all runs, naming those that failed.
    """
    with TemporaryDirectory() as scratch:
        out = Path(scratch if folder is None else folder)
        failures = runs(experiment, grid, out, device=cluster is None).run(workers, cluster, retries)
        table = gather(out)
    if failures:
        raise RuntimeError("; ".join(f"{name}: {error}" for name, error in failures.items()))
    return table


def run_seeds(experiment: Experiment, seeds: Iterable[int], folder: Path | str | None = None) -> list[Record]:
    """Run an experiment once per seed, instead of its own, as many at a time as there are cores for its threads.

    Each run is kept in ``folder/seed-N`` and resumed there (:func:`wiring.run`); ``None`` keeps nothing. Its record, in
    the order of the seeds, is what the same run alone would give.

    Raises ValueError if there is no seed, or one stands twice, and as :func:`wiring.run`, which may raise more.
    """
    return run_each({"": experiment}, seeds, folder)[""]


def run_each(
    experiments: Mapping[str, Experiment], seeds: Iterable[int], folder: Path | str | None = None
) -> dict[str, list[Record]]:
    """As :func:`run_seeds`, for several experiments side by side, in ``folder/name/seed-N``; their records by name."""
    seeds = list(seeds)
    if not seeds:
        raise ValueError("seeds: none given; at least one run is needed")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {seeds}: a seed stands twice")
    root = None if folder is None else Path(folder).resolve()
    tasks = {
        (name, seed): _task(replace(e, seed=seed), root and root / name / f"seed-{seed}")
        for name, e in experiments.items()
        for seed in seeds
    }
    with closing(done(tasks, min(len(tasks), *map(usual, experiments.values())), "runs")) as ended:
        records = {key: future.result() for key, future in ended}
    return {name: [records[name, seed] for seed in seeds] for name in experiments}


def _task(experiment: Experiment, folder: Path | None) -> Task:
    """The run as a task for another process, which gets the class of its searcher too, should that be a user's own."""
    return partial(_run, SEARCHERS[experiment.searcher], experiment, folder)


def _run(searcher: type[Searcher], experiment: Experiment, folder: Path | None) -> Record:
    SEARCHERS[experiment.searcher] = searcher  # a worker may have met another of that name before
    return run(experiment, folder)


def places(experiment: Experiment) -> int:
    """How many such runs the machine has room for at a time: cores for their threads."""
    return max(1, cpu_count() // experiment.threads)


def usual(experiment: Experiment) -> int:
    """How many run at a time unless more are asked for: of a GPU one may need all the memory."""
    return places(experiment) if experiment.device == "cpu" else 1


def run_name(name: str, fields: str) -> str:
    """The name of what a run leaves: the preset's or chapter's, and a digest of its fields as JSON."""
    return f"{name}-{sha256(fields.encode()).hexdigest()[:8]}"


def combinations(grid: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """Every choice of one value for each field."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def runs(experiment: str | Experiment, grid: Mapping[str, Iterable[Any]], out: Path, device: bool = True) -> Tasks:
    """The runs of a sweep: every combination of the given values, each in a folder of its own in ``out``.

    Without ``device``, device and data need not be there; a cluster's workers have their own. Raises ValueError if
    there is no such preset, a value does not fit (pydantic.ValidationError), two runs are the same, one cannot run
    (:func:`wiring.search.experiments.preflight`), or a folder holds something else.
    """
    name, base = (experiment, preset(experiment)) if isinstance(experiment, str) else ("run", experiment)
    chosen = [with_fields(base, choice) for choice in combinations(grid)]
    folders = {out / run_name(name, to_json(e)): e for e in chosen}
    if len(folders) < len(chosen):
        raise ValueError(f"grid = {dict(grid)}: two of its {len(chosen)} runs are the same; give each value once")
    for e in dict.fromkeys(replace(e, seed=0) for e in chosen):  # whatever the seed
        preflight(e, device=device)
    for folder, e in folders.items():
        check_run(folder, e)
    for folder, e in islice(((folder, e) for folder, e in folders.items() if is_done(folder)), 1):
        finished(folder, e)  # of a sweep's runs, all on the same data, one is held against it
    # A worker has a working folder of its own.
    left = {str(folder): _task(e, folder.resolve()) for folder, e in folders.items() if not is_done(folder)}
    return Tasks(len(chosen), left, min(map(places, chosen)), min(map(usual, chosen)))


def run_tasks(tasks: Mapping[str, Task], workers: int, cluster: str | None = None, retries: int = 0) -> dict[str, str]:
    """Do every task, each in one of several processes; progress is a bar on a terminal, else lines in the log.

    Without ``cluster``, ``workers`` tasks at a time on this machine; else on the workers of the Dask scheduler at that
    address, ``tcp://host:8786``, where each must find its files. A task that fails is tried ``retries`` times more, at
    once; a worker that dies fails none, another goes on with it. Returns the errors of the tasks that failed, by name.
    Raises ValueError if ``retries`` is negative, there is no such cluster, or the extra ``cluster`` is not installed.
    """
    if retries < 0:
        raise ValueError(f"retries = {retries}: must be at least 0")
    errors = {name: future.exception() for name, future in done(tasks, workers, "runs", cluster, retries)}
    return {name: " ".join(f"{type(error).__name__}: {error}".split()) for name, error in errors.items() if error}


def gather(folder: Path) -> pd.DataFrame:
    """The scalars of every finished run in a folder (:class:`wiring.search.records.Record`), one under the other.

    In front stand the run's folder and the fields in which the runs differ. Raises RecordError if one is damaged.
    """
    records = {path.parent.name: load(path.parent) for path in sorted(folder.glob("*/done.json"))}
    if not records:
        return pd.DataFrame()
    fields = pd.DataFrame({name: to_dict(record.experiment) for name, record in records.items()}, dtype=object).T
    varied = [name for name in fields if fields[name].map(str).nunique() > 1]
    rows = pd.concat({name: record.scalars for name, record in records.items()}, names=["run", None])
    return fields[varied].rename_axis("run").reset_index().merge(rows.reset_index("run"), on="run")


def check_table(folder: Path) -> None:
    """Raise ValueError where a sweep's table would overwrite a file that is none."""
    path = folder / TABLE
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out = '{folder}': is a file; choose a folder")
    if path.exists() and not path.read_bytes().startswith(b"run,"):
        raise ValueError(f"{path} is no table of runs; move it away or choose another folder")


def done(
    tasks: Mapping[Any, Task], workers: int, unit: str, cluster: str | None = None, retries: int = 0
) -> Generator[tuple[Any, Future[Any]], None, None]:
    """Do every task in a process; yields its name, and what it returned or raised at last.

    A local worker that dies breaks its pool off. What killed it is one of the tasks that ran: each of them goes on by
    itself, at the end, and is given up where it kills its own worker too.
    """
    left, died, failed = dict(tasks), Counter[Any](), 0
    attempt = partial(_attempt, retries=retries, log=LOG.isEnabledFor(logging.INFO))
    given_up = Future[Any]()
    given_up.set_exception(DeviceFailed(f"its worker died, {1 + DEATHS} times; is there enough memory?"))
    with tqdm(total=len(tasks), desc=unit, disable=None) as bar:

        def finish(name: Any, future: Future[Any]) -> tuple[Any, Future[Any]]:
            nonlocal failed
            del left[name]
            failed += future.exception() is not None
            bar.set_postfix(failed=failed)
            bar.update()
            LOG.info("%d/%d %s, %d failed", len(tasks) - len(left), len(tasks), unit, failed)
            return name, future

        while left:
            names = [name for name in left if not died[name]]
            names, at_once = (names, workers) if names else (list(left)[:1], 1)
            with processes(at_once, cluster) as pool, suppress(BrokenExecutor):
                futures = {pool.submit(attempt, left[name]): name for name in names}
                for future in as_completed(futures):
                    if not isinstance(future.exception(), BrokenExecutor):
                        yield finish(futures[future], future)
            for name in [name for name in names if name in left][:at_once]:  # they were begun in this order
                died[name] += 1
                if died[name] > DEATHS:
                    yield finish(name, given_up)


def _attempt(task: Task, retries: int, log: bool) -> object:
    """Do a task, in a worker; raises what the last try raised."""
    keep_memory()
    if log:
        log_epochs()
    for _ in range(retries):
        with suppress(Exception):  # whatever it is, it may go well the next time
            return task()
    return task()


@contextmanager
def processes(workers: int, cluster: str | None) -> Iterator[Executor]:
    """Processes that tasks can be submitted to: this machine's, or a Dask cluster's."""
    if cluster is None:
        # What the tasks compute outside a run, which sets its own, must not take more threads than there are cores, and
        # a chapter's own searches no more workers. Workers take seconds to start, so they stay for what may come next,
        # in the same folder and environment. Ctrl-C reaches them too: a run handles it, an idle one leaves it to this
        # process.
        share = str(max(1, cpu_count() // workers))
        env = {**os.environ, "PWD": str(Path.cwd()), "OMP_NUM_THREADS": share, "LOKY_MAX_CPU_COUNT": share}
        deaf = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
        pool = get_reusable_executor(workers, timeout=IDLE, env=env, **deaf)
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, kill_workers=True)
            raise
        return
    try:
        from distributed import Client

        client = Client(cluster, timeout=CONNECT, set_as_default=False)
    except ImportError as error:
        raise ValueError(f"cluster = {cluster!r}: needs Dask, which the extra installs: wiring[cluster]") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cluster = {cluster!r}: no Dask scheduler answers there") from error
    with client:
        pool = client.get_executor()
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)
