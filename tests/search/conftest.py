"""What is run once for several files."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from command import call
from short_run import RUN, UNFINISHED, stop_after

from wiring.search import sweeps


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A finished run and one stopped within its last epoch, each of two seeds; only to be read."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        assert call(*RUN, f"--seed={seed}", "--out", str(root / f"finished-{seed}")) == 0
        stop_after(10, lambda seed=seed: call(*RUN, f"--seed={seed}", "--out", str(root / f"unfinished-{seed}")))
        assert sorted(path.name for path in (root / f"unfinished-{seed}").iterdir()) == sorted([*UNFINISHED, ".lock"])
    return root


@pytest.fixture
def one_thread(monkeypatch):
    """What needs no process of its own is done in a thread: a worker takes seconds to start."""

    @contextmanager
    def in_a_thread(*arguments):
        with ThreadPoolExecutor(1) as pool:
            yield pool

    monkeypatch.setattr(sweeps, "processes", in_a_thread)
