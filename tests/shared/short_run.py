"""A run of seconds through the command line, its files, and how it is compared and stopped: for all that goes wrong."""

import os
import re
import signal

import pytest

from wiring.search.loop import Search
from wiring.search.records import CHECKPOINTS

FIELDS = ["--images=32", "--batch=8", "--cells=1", "--channels=1", "--epochs=3", "--topology=simplified"]
RUN = ["run", "p1-quick", *FIELDS]
FILES = ["experiment.json", "scalars.csv", "arrays.npz", "done.json"]
UNFINISHED = ["experiment.json", *CHECKPOINTS]


def same_results(folder, other):
    """Whether two runs ended in the same numbers, to the last bit."""
    return all((folder / file).read_bytes() == (other / file).read_bytes() for file in ("scalars.csv", "arrays.npz"))


#: What is no error: what the data are, and how far the search is.
PROGRESS = re.compile(r"\S+: epoch \d+/\d+, loss |.+: \d+ images, \d+x\d+x\d+, of \d+ classes: ")


def without_progress(errors):
    """What a command wrote to the standard error, but for the lines that tell of its progress."""
    return "".join(line for line in errors.splitlines(True) if not PROGRESS.match(line))


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
