"""Whatever happens to a run's folder, the next run refuses in one line or ends bit for bit where it should."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from command import call, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from wiring.search import loop as search
from wiring.search.loop import Search, records
from wiring.search.records import CHECKPOINTS, RecordError

FIELDS = ["--images=32", "--batch=8", "--cells=1", "--channels=1", "--epochs=3", "--topology=simplified"]
RUN = ["run", "p1-quick", *FIELDS]
FILES = ["experiment.json", "scalars.csv", "arrays.npz", "done.json"]
UNFINISHED = ["experiment.json", *CHECKPOINTS]
seen = Counter()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finished run and one stopped within its last epoch, each of two seeds."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        assert call(*RUN, f"--seed={seed}", "--out", str(root / f"finished-{seed}")) == 0
        stop_after(10, lambda seed=seed: call(*RUN, f"--seed={seed}", "--out", str(root / f"unfinished-{seed}")))
        assert sorted(path.name for path in (root / f"unfinished-{seed}").iterdir()) == sorted([*UNFINISHED, ".lock"])
    return root


def stop_after(steps, call):
    """Let SIGTERM arrive in that step of a run."""
    learn, done = Search._learn, []

    def stopping(self, *arguments):
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "_learn", stopping)
        assert call() == 143


def cut(content, place, other):
    return content[: int(place * len(content))]


def flip(content, place, other):
    at, changed = int(place * 8 * len(content)), bytearray(content)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def empty(content, place, other):
    return b""


def swap(content, place, other):
    return other


def extend(content, place, other):
    return content + other[: 1 + int(place * 99)]


@given(
    st.sampled_from([("finished", name) for name in FILES] + [("unfinished", name) for name in UNFINISHED]),
    st.sampled_from([cut, flip, flip, empty, swap, extend]),
    st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=260, deadline=None, derandomize=True)
def test_damaged_file_is_refused_and_kept_or_the_run_ends_exactly(folders, tmp_path_factory, chosen, damage, place):
    kind, name = chosen
    mine = tmp_path_factory.mktemp("case") / "run"
    shutil.copytree(folders / f"{kind}-0", mine)
    content, other = ((folders / f"{kind}-{seed}" / name).read_bytes() for seed in (0, 1))
    damaged = damage(content, place, other)
    (mine / name).write_bytes(damaged)
    errors = capture(lambda: call(*RUN, "--seed=0", "--out", str(mine)))
    if errors.status == 2:
        assert errors.text.count("\n") == 1
        assert errors.text.startswith("wiring: ")
        assert str(mine) in errors.text
        assert (mine / name).read_bytes() == damaged
    else:
        assert errors.status == 0
        for file in ("scalars.csv", "arrays.npz"):
            assert (mine / file).read_bytes() == (folders / "finished-0" / file).read_bytes()
        assert name in CHECKPOINTS or json.loads(damaged) == json.loads(content)
        # What was damaged is still there, under a name of its own.
        aside = list(mine.glob("checkpoint.damaged-*.pt"))
        assert [path.read_bytes() for path in aside] == [damaged] * (name == "checkpoint.pt" and damaged != content)
    seen[errors.status] += 1
    shutil.rmtree(mine.parent)


def test_cases_were_two_hundred_and_both_ends_came_up():
    assert sum(seen.values()) >= 200
    assert min(seen[0], seen[2]) > 20


class capture:
    """A call's exit status and what it wrote to the standard error; hypothesis and capsys do not go together."""

    def __init__(self, function):
        with pytest.MonkeyPatch.context() as patch:
            file = Lines()
            patch.setattr("sys.stderr", file)
            patch.setattr("sys.stdout", Lines())
            self.status = function()
        self.text = "".join(file)


class Lines(list):
    def write(self, text):
        self.append(text)

    def flush(self):
        pass

    def isatty(self):
        return False


# untrusted files


def test_file_that_points_out_of_the_folder_is_refused(folders, tmp_path):
    shutil.copytree(folders / "finished-0", tmp_path / "run")
    (tmp_path / "run/arrays.npz").rename(tmp_path / "arrays.npz")
    (tmp_path / "run/arrays.npz").symlink_to(tmp_path / "arrays.npz")
    with pytest.raises(RecordError, match=r"arrays\.npz is no plain file of its folder"):
        records.load(tmp_path / "run")


def test_pipe_is_refused_and_not_waited_for(folders, tmp_path):
    shutil.copytree(folders / "finished-0", tmp_path / "run")
    (tmp_path / "run/scalars.csv").unlink()
    os.mkfifo(tmp_path / "run/scalars.csv")
    with pytest.raises(RecordError, match="no plain file"):
        records.load(tmp_path / "run")


def test_file_larger_than_any_run_writes_is_not_read(folders, tmp_path):
    shutil.copytree(folders / "finished-0", tmp_path / "run")
    os.truncate(tmp_path / "run/done.json", 2**30)  # a hole: it takes no room
    with pytest.raises(RecordError, match=r"done\.json is larger than"):
        records.load(tmp_path / "run")


# full disks


@pytest.mark.parametrize("kilobytes", [0, 1, 4, 9, 16, 20])
def test_full_disk_leaves_no_part_of_a_file_and_the_run_goes_on_later(folders, tmp_path, capsys, kilobytes):
    """No file may be larger than the limit: the kernel writes a part and refuses the rest, as where a disk is full."""
    mine, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, before[1]))
    try:
        status = call(*RUN, "--out", str(mine))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    err = capsys.readouterr().err
    assert kilobytes * 1024 < max(path.stat().st_size for path in folders.glob("*/*"))
    assert status == 2
    assert err.count("\n") == 1
    assert str(mine) in err
    assert "too large" in err
    assert not any("partial" in name for name in snapshot(mine))
    assert call(*RUN, "--out", str(mine)) == 0
    for file in ("scalars.csv", "arrays.npz"):
        assert (mine / file).read_bytes() == (folders / "finished-0" / file).read_bytes()


# A disk of its own for one run: too small first, then large enough.
SMALL_DISK = """
disk=$1 kilobytes=$2; shift 2
mount -t tmpfs -o size=${kilobytes}k tmpfs "$disk" || exit 99
"$@" --out "$disk/run"; echo $? > status
ls -A "$disk/run" > left
mount -o remount,size=10m "$disk"
"$@" --out "$disk/run" && cp "$disk/run/scalars.csv" "$disk/run/arrays.npz" .
"""
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0,
    reason="this system lets no user mount a file system of their own",
)
@pytest.mark.parametrize("kilobytes", [4, 24, 44])
def test_run_that_filled_its_disk_goes_on_when_there_is_room(folders, tmp_path, kilobytes):
    """On a tmpfs, with room for nothing, for one checkpoint, or for two."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "wiring", *RUN]
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", SMALL_DISK, "sh", str(disk), str(kilobytes), *command],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "status").read_text() == "2\n", done
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr
    assert "partial" not in (tmp_path / "left").read_text()
    for file in ("scalars.csv", "arrays.npz"):
        assert (tmp_path / file).read_bytes() == (folders / "finished-0" / file).read_bytes()


# concurrency

STARTING = """
import json, sys
from pathlib import Path
import torch
from killing import child, status_of
torch.set_num_threads(1)
root, arguments = Path(sys.argv[1]), sys.argv[2:]
children = [child(arguments, root / f"errors-{k}", out=root / f"out-{k}") for k in range(8)]
print(json.dumps([status_of(number) for number in children]))
"""


def test_of_eight_processes_that_start_one_run_one_does_it_and_the_others_say_so(tmp_path):
    arguments = [*RUN, "--epochs=20", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", STARTING, str(tmp_path), *arguments],
        cwd=Path(__file__).parents[1] / "shared",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = json.loads(done.stdout)
    said = [((tmp_path / f"out-{k}").read_text(), (tmp_path / f"errors-{k}").read_text()) for k in range(8)]
    did = [k for k, (out, _) in enumerate(said) if out and "finished before" not in out]
    assert len(did) == 1, said
    assert sum(status == 2 for status in statuses) >= 1, said
    for status, (out, err) in zip(statuses, said, strict=True):
        assert status in (0, 2)
        assert err.count("\n") == (status == 2)
        assert (status == 2) == ("another process runs there" in err)
        assert (status == 0) == bool(out)
    assert call(*RUN, "--epochs=20", "--out", str(tmp_path / "alone")) == 0
    for file in ("scalars.csv", "arrays.npz"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()


# guards


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            ["batch (8)", "channels (1)", "cells (1)"],
        ),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: not enough memory"), ["batch (8)"]),
        (MemoryError(), ["batch (8)"]),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), ["unspecified launch failure", "resumes"]),
    ],
)
def test_failing_device_is_said_in_one_line_and_leaves_a_checkpoint(folders, tmp_path, capsys, error, parts):
    learn, done = Search._learn, []

    def failing(self, *arguments):
        done.append(1)
        if len(done) == 6:
            raise error
        return learn(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "_learn", failing)
        assert call(*RUN, "--out", str(tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert [part for part in parts if part not in err] == []
    assert records.load_checkpoint(tmp_path / "run")["epoch"] == 1
    assert call(*RUN, "--out", str(tmp_path / "run")) == 0
    assert (tmp_path / "run/arrays.npz").read_bytes() == (folders / "finished-0/arrays.npz").read_bytes()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("step", [1, 3])
def test_first_step_that_is_not_finite_is_named(tmp_path, capsys, bad, step):
    update, done = search._Measured.update, []

    def poisoned(self, number, sums, costs, cell_costs):
        done.append(number)
        if len(done) >= 4 + step:
            sums = sums.clone().index_fill_(1, torch.tensor(2), bad)
        update(self, number, sums, costs, cell_costs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search._Measured, "update", poisoned)
        assert call(*RUN, "--out", str(tmp_path / "run")) == 2
    assert f"epoch 2, step {step} of 4" in capsys.readouterr().err
    assert records.load_checkpoint(tmp_path / "run")["epoch"] == 1
