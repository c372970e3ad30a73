"""Many runs: the seeds of an experiment, or a grid of its fields, on the machine's cores or on a Dask cluster.

>>> records = run_seeds(PRESETS["p1-quick"], range(3))
>>> folders = experiments("p1-quick", {"seed": ["0", "1"], "level": ["single", "bi"]}, Path("mine"))
>>> failures = sweep(runs(folders), workers=2)
>>> gather(Path("mine"))
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from wiring.search.experiments import Experiment, from_texts, preset, to_dict, to_json, with_fields
from wiring.search.loop import run
from wiring.search.records import Record, check_run, is_done, load, write
from wiring.supernet.network import Supernet

#: How often a local worker may die before the runs that are left are given up; what Dask allows a task by default.
DEATHS = 3
#: Seconds to wait for a cluster's scheduler.
CONNECT = 10
#: The name of a sweep's table.
TABLE = "results.csv"


def run_seeds(experiment: Experiment, seeds: Iterable[int], folder: Path | str | None = None) -> list[Record]:
    """Run an experiment once per seed, as many at a time as there are cores for its threads.

    Parameters
    ----------
    experiment
        What to run; its own seed is replaced.
    seeds
        One run each.
    folder
        Each run is kept in ``folder/seed-N`` and resumed there (:func:`wiring.run`); ``None`` keeps nothing.

    Returns
    -------
    list of Record
        In the order of the seeds; each is what the same run alone would give.

    Raises
    ------
    ValueError
        If there is no seed, or one stands twice, and as :func:`wiring.search.loop.run`.
    """
    experiments = [replace(experiment, seed=seed) for seed in seeds]
    if not experiments:
        raise ValueError("seeds: none given; at least one run is needed")
    if len(set(experiments)) < len(experiments):
        raise ValueError(f"seeds {[e.seed for e in experiments]}: a seed stands twice")
    folders = [None if folder is None else Path(folder) / f"seed-{e.seed}" for e in experiments]
    workers = max(1, min(len(experiments), places(experiment)))
    records = Parallel(n_jobs=workers, return_as="generator")(
        delayed(run)(e, path) for e, path in zip(experiments, folders, strict=True)
    )
    return list(tqdm(records, total=len(experiments), desc="seeds", disable=None))


def cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def places(experiment: Experiment) -> int:
    """How many such runs the machine has room for at a time: cores for their threads; one device takes one run."""
    return 1 if experiment.device == "cuda" else max(1, cores() // experiment.threads)


def run_name(name: str, experiment: Experiment) -> str:
    """The name of a run's folder: the preset's, and a digest of every field."""
    return f"{name}-{sha256(to_json(experiment).encode()).hexdigest()[:8]}"


def combinations(grid: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every choice of one value for each field, as texts."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def experiments(name: str, grid: Mapping[str, Sequence[str]], out: Path) -> dict[Path, Experiment]:
    """The folder of each run of a sweep, and what it runs.

    Parameters
    ----------
    name
        A preset.
    grid
        For each field its values as texts, as on the command line; all combinations are run.
    out
        The folder of the sweep.

    Raises
    ------
    ValueError
        If there is no such preset, a value does not fit (pydantic.ValidationError), two runs are the same, or a folder
        holds something else.
    """
    base = preset(name)
    found = [with_fields(base, from_texts(texts)) for texts in combinations(grid)]
    folders = {out / run_name(name, e): e for e in found}
    if len(folders) < len(found):
        raise ValueError(f"grid = {dict(grid)}: two of its {len(found)} runs are the same; give each value once")
    for folder, e in folders.items():
        with torch.device("meta"):  # takes no memory
            Supernet(e.topology, e.cells, e.channels, classes=2, reductions=e.reductions)
        check_run(folder, e)
    return folders


def sweep(
    tasks: Mapping[str, Callable[[], object]], workers: int, cluster: str | None = None, retries: int = 0
) -> dict[str, str]:
    """Do every task, each in one of several processes, with live progress on a terminal.

    Parameters
    ----------
    tasks
        By name; a task is done on the machine of its worker, so that it must find its files there.
    workers
        How many at a time on this machine; its value does not matter on a cluster.
    cluster
        The address of a Dask scheduler, ``tcp://host:8786``; ``None`` is this machine.
    retries
        How often a task that fails is tried again at once.

    Returns
    -------
    dict
        Of the tasks that failed, by name: the error. A worker that dies fails no task; another goes on with it.

    Raises
    ------
    ValueError
        If there is no such cluster, or the extra ``cluster`` is not installed.
    """
    left, failures = dict(tasks), {}
    with tqdm(total=len(tasks), desc="runs", disable=None) as bar:
        for _ in range(1 + DEATHS):
            with _pool(workers, cluster) as pool:
                futures = {pool.submit(_attempt, task, retries): name for name, task in left.items()}
                for future in as_completed(futures):
                    name, error = futures[future], future.exception()
                    if isinstance(error, BrokenExecutor):
                        continue
                    said = future.result() if error is None else f"{type(error).__name__}: {error}"
                    if said is not None:
                        failures[name] = " ".join(said.split())
                    del left[name]
                    bar.set_postfix(failed=len(failures))
                    bar.update()
            if not left:
                break
    return failures | dict.fromkeys(left, f"its worker died, {1 + DEATHS} times; is there enough memory?")


def runs(folders: Mapping[Path, Experiment]) -> dict[str, Callable[[], object]]:
    """The tasks (:func:`sweep`) of the runs that are not finished."""
    # A worker has a working folder of its own.
    return {str(folder): partial(run, e, folder.resolve()) for folder, e in folders.items() if not is_done(folder)}


def gather(folder: Path) -> pd.DataFrame:
    """The scalars of every finished run in a folder (:class:`wiring.search.records.Record`), one under the other.

    In front stand the run's folder and the fields in which the runs differ. Raises RecordError if one is damaged.
    """
    found = {path.parent.name: load(path.parent) for path in sorted(folder.glob("*/done.json"))}
    if not found:
        return pd.DataFrame()
    fields = pd.DataFrame({name: to_dict(record.experiment) for name, record in found.items()}, dtype=object).T
    varied = [name for name in fields if fields[name].map(str).nunique() > 1]
    rows = pd.concat({name: record.scalars for name, record in found.items()}, names=["run", None])
    return fields[varied].rename_axis("run").reset_index().merge(rows.reset_index("run"), on="run")


def check_table(folder: Path) -> None:
    """Raise ValueError where :func:`write_table` would overwrite a file that is not its own."""
    path = folder / TABLE
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out = '{folder}': is a file; choose a folder")
    if path.exists() and not path.read_bytes().startswith(b"run,"):
        raise ValueError(f"{path} is no table of runs; move it away or choose another folder")


def write_table(folder: Path) -> int:
    """Write what :func:`gather` finds as ``results.csv`` into the folder; returns the number of runs in it."""
    table = gather(folder)
    if table.empty:
        return 0
    write(folder, TABLE, table.to_csv(index=False, lineterminator="\n").encode())
    return int(table["run"].nunique())


def _attempt(task: Callable[[], object], retries: int) -> str | None:
    """Do a task; returns the error of the last try, None if one went well."""
    said = None
    for _ in range(1 + retries):
        try:
            task()
        except Exception as error:  # whatever it is, the other runs go on
            said = f"{type(error).__name__}: {error}"
        else:
            return None
    return said


@contextmanager
def _pool(workers: int, cluster: str | None) -> Iterator[Executor]:
    """Processes that tasks can be submitted to: this machine's, or a Dask cluster's."""
    if cluster is None:
        # What the tasks compute outside a run, which sets its own, must not take more threads than there are cores.
        pool = get_reusable_executor(workers, env={"OMP_NUM_THREADS": str(max(1, cores() // workers))})
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, kill_workers=True)
            raise
        pool.shutdown(wait=True)
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError(f"cluster = {cluster!r}: needs Dask, which the extra installs: wiring[cluster]") from error
    try:
        client = Client(cluster, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"cluster = {cluster!r}: no Dask scheduler answers there") from error
    with client:
        pool = client.get_executor()
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)
