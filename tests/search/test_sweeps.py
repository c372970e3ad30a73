"""A sweep gives what its runs alone give, here and on a Dask cluster that loses a worker; failures are said."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import Thread

import pandas as pd
import psutil
import pytest
from command import call, notebook, snapshot

from wiring import chapters
from wiring.search import records, sweeps
from wiring.search.experiments import preset
from wiring.search.sweeps import combinations, gather, run_tasks, sweep

GRID = ["--grid", "images=32", "--grid", "batch=16", "--grid", "channels=2", "--grid", "cells=1"]
SMALL = ["sweep", "p1-quick", *GRID]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two worker processes on the loopback interface."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs="CRITICAL"
    ) as cluster:
        yield cluster


def results(folder):
    """What each run found, by its name; the seconds that it took are left out."""
    return {
        path.parent.name: [
            (path.parent / name).read_bytes() for name in ("experiment.json", "scalars.csv", "arrays.npz")
        ]
        for path in folder.glob("*/done.json")
    }


def failing():
    raise ArithmeticError("it is\nnot finite")


def dying():
    os.kill(os.getpid(), signal.SIGKILL)


def dying_after(file):
    """Not before the other has begun to die, which it would take along."""
    while not file.exists():
        time.sleep(0.01)
    dying()


class Once:
    """A task that does something the first time only."""

    def __init__(self, task, file):
        self.task, self.file = task, file

    def __call__(self):
        if not self.file.exists():
            self.file.touch()
            self.task()


def test_local_sweep_is_the_single_runs_and_skips_what_is_finished(here, capsys):
    assert call(*SMALL, "--seeds", "0..1", "--grid", "epochs=1,2", "--workers", "1", "--out", "all") == 0
    assert "4 finished (0 before), 0 failed" in capsys.readouterr().out
    table, before = pd.read_csv("all/results.csv"), snapshot(here)
    assert set(table.columns) >= {"run", "seed", "epochs", "epoch", "split", "group", "loss"}
    for name, run in table.groupby("run"):
        fields = [f"--{field}={run[field].iloc[0]}" for field in ("seed", "epochs")]
        fixed = [f"--{field}" for field in ("images=32", "batch=16", "channels=2", "cells=1")]
        assert call("run", "p1-quick", *fields, *fixed, "--out", f"alone/{name}") == 0
        pd.testing.assert_frame_equal(
            run[records.load(here / "alone" / name).scalars.columns].reset_index(drop=True),
            records.load(here / "alone" / name).scalars,
        )
    assert results(here / "all") == results(here / "alone")
    capsys.readouterr()
    assert call(*SMALL, "--seeds", "0,1", "--grid", "epochs=1,2", "--workers", "1", "--out", "all") == 0
    assert "4 finished (4 before), 0 failed" in capsys.readouterr().out
    assert {name: content for name, content in snapshot(here).items() if not name.startswith("alone")} == before


def test_sweep_on_dask_loses_nothing_when_a_worker_is_killed(here, cluster, capsys, request):
    sweeping = [*SMALL, "--seeds", "0..3", "--grid", "epochs=12"]
    victim = next(iter(cluster.workers.values())).pid
    killed = []

    def kill():
        """When the runs are in the middle of their work."""
        while len(list(Path("dask").glob("*/checkpoint.pt"))) < 2:
            time.sleep(0.01)
        psutil.Process(victim).kill()
        killed.append(len(list(Path("dask").glob("*/done.json"))))

    thread = Thread(target=kill)
    thread.start()
    status = call(*sweeping, "--cluster", cluster.scheduler_address, "--out", "dask")
    thread.join()
    assert (status, capsys.readouterr().err.splitlines()[-1]) == (0, "4/4 runs, 0 failed")
    assert killed[0] < 4
    request.getfixturevalue("one_thread")
    assert call(*sweeping, "--workers", "1", "--out", "serial") == 0
    assert len(results(here / "dask")) == 4
    assert results(here / "dask") == results(here / "serial")
    pd.testing.assert_frame_equal(gather(here / "dask"), gather(here / "serial"))


def test_failing_run_is_said_with_its_error_and_the_same_command_tries_it_again(here, one_thread, capsys):
    sweeping = [*SMALL, "--grid", "epochs=1", "--grid", "theta_lr=0.01,1000", "--grid", "theta_weight_decay=1000"]
    assert call(*sweeping, "--grid", "images=64", "--out", "mine") == 2  # images stands there twice
    capsys.readouterr()
    sweeping[sweeping.index("epochs=1")] = "epochs=3"
    for before in (0, 1):
        assert call(*sweeping, "--out", "mine") == 1
        out, err = capsys.readouterr()
        assert f"1 finished ({before} before), 1 failed" in out
        *_, progress, last = err.splitlines()
        assert "1 failed" in progress
        assert "Diverged: loss or cost is not finite in epoch" in last
    assert gather(here / "mine").run.nunique() == 1


def test_tasks_that_fail_or_kill_their_worker_do_not_take_the_others_along(here, monkeypatch):
    monkeypatch.setattr(sweeps, "DEATHS", 1)  # each costs a worker, which takes seconds to start
    tasks = {"once": Once(dying, here / "died"), "failing": failing}
    tasks |= {f"fine-{k}": (here / f"fine-{k}").touch for k in range(9)}
    tasks["dying"] = partial(dying_after, here / "died")
    assert run_tasks(tasks, workers=2) == {
        "failing": "ArithmeticError: it is not finite",
        "dying": "DeviceFailed: its worker died, 2 times; is there enough memory?",
    }
    assert len(list(here.glob("fine-*"))) == 9


def test_failing_task_is_tried_again_on_request(here, one_thread):
    assert list(run_tasks({"once": Once(failing, here / "failed")}, workers=1)) == ["once"]
    (here / "failed").unlink()
    assert run_tasks({"once": Once(failing, here / "failed")}, workers=1, retries=1) == {}


def test_a_pool_that_takes_no_more_tasks_is_one_whose_worker_died(monkeypatch):
    class Broken:
        def submit(self, *arguments):
            raise BrokenExecutor

    monkeypatch.setattr(sweeps, "processes", lambda *arguments: nullcontext(Broken()))
    assert "worker died, 4 times" in run_tasks({"fine": print}, workers=1)["fine"]


def test_chapter_is_swept_like_a_preset(here, one_thread, capsys, monkeypatch):
    notebook(here / "book/tiny.ipynb", "epochs: int = 2", "assert epochs < 4", "print(epochs)")
    monkeypatch.setattr(chapters, "BOOK", here / "book")
    assert call("sweep", "tiny", "--grid", "epochs=3,4", "--workers", "1") == 1
    out, err = capsys.readouterr()
    assert "1 finished (0 before), 1 failed" in out
    assert all(part in err.splitlines()[-1] for part in ("'tiny'", "AssertionError"))
    assert sorted(
        path.suffixes[-2] == ".partial" for path in (here / "sweeps/tiny").iterdir() if path.suffixes[1:]
    ) == [True]
    assert call("sweep", "tiny", "--grid", "epochs=3") == 0
    assert "1 finished (1 before)" in capsys.readouterr().out


OWN = """
import os
from wiring import DSNAS, SEARCHERS, preset, run, run_seeds
from wiring.search.sweeps import done, processes

def pool():
    with processes(1, None) as found:
        return found

def worker():
    ((_, future),) = done({0: os.getpid}, 1, "tasks")
    return future.result()

e = preset("p1-quick", images=32, batch=16, channels=2, epochs=1)
seen = {run(e, seed=3).arrays["alpha"].tobytes()}
for value in (1e-9, 1e-3):  # what the name means changes while the worker lives

    class Mine(DSNAS):
        clamp = value

    SEARCHERS["mine"] = Mine
    mine = preset(e, searcher="mine")
    (apart,) = run_seeds(mine, [3])
    assert (apart.arrays["alpha"] == run(mine, seed=3).arrays["alpha"]).all()
    seen.add(apart.arrays["alpha"].tobytes())
assert len(seen) == 3
before = worker(), pool()
assert (worker(), pool()) == before
os.environ["WIRING_DATA"] = "elsewhere"
assert pool() is not before[1]
"""


def test_workers_know_a_searcher_of_ones_own_and_stay_as_long_as_nothing_around_them_changes():
    subprocess.run([sys.executable, "-c", OWN], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)


def test_every_combination_is_there_once():
    choices = combinations({"a": range(2), "b": ["x"], "c": [3, 4]})
    assert choices == [{"a": a, "b": "x", "c": c} for a in (0, 1) for c in (3, 4)]


def test_sweep_in_python_gives_the_table_of_the_command(here, one_thread, capsys):
    assert call(*SMALL, "--seeds", "0,1", "--grid", "epochs=1", "--grid", "flip=true,false", "--out", "mine") == 0
    assert capsys.readouterr().err.splitlines()[-1] == "4/4 runs, 0 failed"
    small = preset("p1-quick", images=32, batch=16, channels=2, cells=1, epochs=1)
    before = snapshot(here)
    table = sweep(small, {"seed": range(2), "flip": [True, False]}, workers=1)
    assert len(table) == 2 * 2 * 3
    pd.testing.assert_frame_equal(table.drop(columns="run"), gather(here / "mine").drop(columns="run"))
    assert snapshot(here) == before


def test_sweep_in_python_says_what_failed_and_keeps_the_rest(here, one_thread):
    small = preset("p1-quick", images=32, batch=16, channels=2, cells=1, epochs=3, theta_weight_decay=1000)
    with pytest.raises(RuntimeError, match=r"run-.*Diverged: loss or cost is not finite"):
        sweep(small, {"theta_lr": [0.01, 1000]}, here / "mine")
    assert gather(here / "mine").run.nunique() == 1


def test_sweep_with_a_value_that_does_not_fit_is_refused_before_anything_runs(here):
    with pytest.raises(ValueError, match="epochs"):
        sweep("p1-quick", {"epochs": [1, 0]}, here / "mine")
    with pytest.raises(ValueError, match="retries = -1"):
        sweep("p1-quick", {"seed": range(2)}, here / "mine", retries=-1)
    assert not (here / "mine").exists()


def test_on_a_gpu_one_run_at_a_time_is_started_unless_more_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "cpu_count", lambda: 6)
    seen = []
    monkeypatch.setattr(sweeps, "run_tasks", lambda left, workers, *_: seen.append(workers) or {})
    for device in ("cpu", "cuda"):
        grid = {"seed": range(9), "threads": [2], "device": [device]}
        tasks = sweeps.runs(preset("p1-quick"), grid, tmp_path / device, device=False)
        for workers in (None, 3):
            tasks.run(workers, None, 0)
        with pytest.raises(ValueError, match="workers = 4: allowed: 1 to 3"):
            tasks.run(4, None, 0)
    assert seen == [3, 3, 1, 3]


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.setattr(sweeps, "cpu_count", lambda: 6)
    tasks = {name: partial(os.getenv, name) for name in ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT")}
    assert [future.result() for _, future in sweeps.done(tasks, 2, "tasks")] == ["3", "3"]
