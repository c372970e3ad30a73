"""A run that is killed again and again ends in the files of a run that is left alone, to the last bit."""

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import cycle
from pathlib import Path

import pytest

from wiring.search import records

KILLING = Path(__file__).parents[1] / "shared" / "killing.py"
FIELDS = {
    "epochs": 8,
    "measuring_epochs": 2,
    "course_every": 3,
    "images": 64,
    "batch": 8,
    "channels": 2,
    "alpha_lr": 0.05,
    "final_temperature": 0.5,
}
KILLS = 9
#: Those that differ in what a checkpoint must hold or in how gates are drawn.
SEARCHERS = ("snas", "dsnas", "darts-edges", "uniform")


def command(**fields):
    return ["run", "p1-quick", *(f"--{name}={json.dumps(value)}" for name, value in {**FIELDS, **fields}.items())]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The searchers, on one level and the other by turns, through kills: what happened, and the folders."""
    root = tmp_path_factory.mktemp("killed")
    fields = cycle([{"level": "single", "undrawn": "decay"}, {"level": "bi", "flip": True}])
    runs = {name: [command(searcher=name, **next(fields)), KILLS] for name in SEARCHERS}
    runs["writes"] = [command(searcher="snas", level="bi", epochs=2, measuring_epochs=1), 0]
    done = subprocess.run(
        [sys.executable, str(KILLING), str(root)],
        input=json.dumps(runs),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return root, [json.loads(line) for line in done.stdout.splitlines()]


def test_run_killed_at_random_ends_bit_for_bit_as_if_left_alone(killed):
    root, events = killed
    names = {name for name, *_ in events}
    assert len(names) == len(SEARCHERS) + 1
    for name in names:
        assert records.load(root / name).experiment == records.load(root / f"{name}-whole").experiment
        for file in ("scalars.csv", "arrays.npz"):
            assert (root / name / file).read_bytes() == (root / f"{name}-whole" / file).read_bytes(), name


def test_kills_were_many_and_in_the_middle_of_the_work(killed):
    _, events = killed
    hows = Counter(how for _, how, status, _ in events if status != 0)
    assert hows["SIGKILL"] + hows["SIGTERM"] + hows["SIGINT"] + hows["write"] >= 36, hows
    assert all(hows[how] > 5 for how in ("SIGKILL", "SIGTERM", "SIGINT", "write")), hows


def test_each_signal_has_its_exit_status_and_ctrl_c_says_in_one_line_how_to_go_on(killed):
    _, events = killed
    expected = {"SIGKILL": -9, "write": -9, "SIGTERM": 143, "SIGINT": 130, "finished": 0}
    for name, how, status, errors in events:
        # A signal that came before the first line of the program or after its last ended the process as any other.
        assert status in (0, expected[how], {"SIGTERM": -15, "SIGINT": -2}.get(how)), (name, how, errors)
        assert errors in ("", "wiring: interrupted; the same command resumes where it was saved\n"), (name, how)
        assert errors or status != expected[how] or how not in ("SIGTERM", "SIGINT"), (name, how)
