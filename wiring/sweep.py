"""Many runs: the seeds of an experiment side by side on the machine's cores."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from wiring.experiments import Experiment
from wiring.records import Record
from wiring.search import run


def run_seeds(experiment: Experiment, seeds: Iterable[int], folder: Path | str | None = None) -> list[Record]:
    """Run an experiment once per seed, as many at a time as there are cores for its threads.

    Parameters
    ----------
    experiment
        What to run; its own seed is replaced.
    seeds
        One run each.
    folder
        Each run is kept in ``folder/seed-N`` and resumed there (:func:`wiring.search.run`); ``None`` keeps nothing.

    Returns
    -------
    list of Record
        In the order of the seeds; each is what the same run alone would give.

    Raises
    ------
    ValueError
        If there is no seed, or one stands twice, and as :func:`wiring.search.run`.
    """
    experiments = [replace(experiment, seed=seed) for seed in seeds]
    if not experiments:
        raise ValueError("seeds: none given; at least one run is needed")
    if len(set(experiments)) < len(experiments):
        raise ValueError(f"seeds {[e.seed for e in experiments]}: a seed stands twice")
    folders = [None if folder is None else Path(folder) / f"seed-{e.seed}" for e in experiments]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    # One device takes one run at a time.
    workers = 1 if experiment.device == "cuda" else max(1, min(len(experiments), cores // experiment.threads))
    runs = Parallel(n_jobs=workers, return_as="generator")(
        delayed(run)(e, path) for e, path in zip(experiments, folders, strict=True)
    )
    return list(tqdm(runs, total=len(experiments), desc="seeds", disable=None))
