"""Whatever happens to a run's files, the next run refuses in one line or ends bit for bit where it should."""

import io
import json
import os
import shutil
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout

import pytest
from command import call
from hypothesis import given, settings
from hypothesis import strategies as st
from short_run import FILES, RUN, UNFINISHED, same_results, without_progress

from wiring.search import records
from wiring.search.records import CHECKPOINTS, RecordError

seen = Counter()


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
@settings(max_examples=130, deadline=None, derandomize=True)
def test_damaged_file_is_refused_and_kept_or_the_run_ends_exactly(folders, tmp_path_factory, chosen, damage, place):
    kind, name = chosen
    mine = tmp_path_factory.mktemp("case") / "run"
    shutil.copytree(folders / f"{kind}-0", mine)
    content, other = ((folders / f"{kind}-{seed}" / name).read_bytes() for seed in (0, 1))
    damaged = damage(content, place, other)
    (mine / name).write_bytes(damaged)
    status, errors = capture(lambda: call(*RUN, "--seed=0", "--out", str(mine)))
    if status == 2:
        assert errors.count("\n") == 1
        assert errors.startswith("wiring: ")
        assert str(mine) in errors
        assert (mine / name).read_bytes() == damaged
    else:
        assert status == 0
        assert same_results(mine, folders / "finished-0")
        assert name in CHECKPOINTS or json.loads(damaged) == json.loads(content)
        # What was damaged is still there, under a name of its own.
        aside = list(mine.glob("checkpoint.damaged-*.pt"))
        assert [path.read_bytes() for path in aside] == [damaged] * (name == "checkpoint.pt" and damaged != content)
    seen[status] += 1
    shutil.rmtree(mine.parent)


def test_cases_were_a_hundred_and_both_ends_came_up():
    assert sum(seen.values()) >= 100
    assert min(seen[0], seen[2]) > 10


def capture(function):
    """A call's exit status and what it wrote to the standard error; hypothesis and capsys do not go together."""
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()):
        return function(), without_progress(errors.getvalue())


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
