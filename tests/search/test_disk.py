"""A full disk stops a run in one line, leaves no part of a file, and the run goes on when there is room."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import call, snapshot
from short_run import RUN, same_results, without_progress


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
    err = without_progress(capsys.readouterr().err)
    assert kilobytes * 1024 < max(path.stat().st_size for path in folders.glob("*/*"))
    assert status == 2
    assert err.count("\n") == 1
    assert str(mine) in err
    assert "too large" in err
    assert not any("partial" in name for name in snapshot(mine))
    assert call(*RUN, "--out", str(mine)) == 0
    assert same_results(mine, folders / "finished-0")


# For each size a disk of its own for one run: too small first, then large enough.
SMALL_DISKS = """
import json, shutil, subprocess, sys
from pathlib import Path
import torch
from killing import child, status_of
torch.set_num_threads(1)
root, sizes, command = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
for kilobytes in sizes:
    folder = root / str(kilobytes)
    disk = folder / "disk"
    disk.mkdir(parents=True)
    run = disk / "run"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk], check=True)
    status = status_of(child([*command, "--out", str(run)], folder / "errors"))
    left = [path.name for path in run.glob("*")]
    subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
    later = status_of(child([*command, "--out", str(run)], folder / "later"))
    (folder / "said.json").write_text(json.dumps([status, left, later]))
    for name in ("scalars.csv", "arrays.npz"):
        shutil.copy(run / name, folder)
"""
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
SIZES = [4, 24, 44]  # room for nothing, for one checkpoint, or for two


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory):
    """What each size left, all from one process: its children need not import what a run needs."""
    root = tmp_path_factory.mktemp("disks")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", SMALL_DISKS, str(root), json.dumps(SIZES), *RUN],
        cwd=Path(__file__).parents[1] / "shared",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0,
    reason="this system lets no user mount a file system of their own",
)
@pytest.mark.parametrize("kilobytes", SIZES)
def test_run_that_filled_its_disk_goes_on_when_there_is_room(folders, small_disks, kilobytes):
    """On a tmpfs."""
    mine = small_disks / str(kilobytes)
    status, left, later = json.loads((mine / "said.json").read_text())
    assert (status, later) == (2, 0)
    errors, no_errors = (without_progress((mine / name).read_text()) for name in ("errors", "later"))
    assert errors.count("\n") == 1
    assert "No space left on device" in errors
    assert no_errors == ""
    assert not any("partial" in name for name in left)
    assert same_results(mine, folders / "finished-0")
