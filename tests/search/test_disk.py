"""A full disk stops a run in one line, leaves no part of a file, and the run goes on when there is room."""

import os
import resource
import shutil
import signal
import subprocess
import sys

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
    assert without_progress(done.stderr).count("\n") == 1
    assert "No space left on device" in done.stderr
    assert "partial" not in (tmp_path / "left").read_text()
    assert same_results(tmp_path, folders / "finished-0")
