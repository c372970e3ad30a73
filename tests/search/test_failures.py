"""A device that fails and a loss that is no number are said in one line, and leave the last checkpoint."""

import pytest
import torch
from command import call
from short_run import RUN, same_results, without_progress

from wiring.search import loop as search
from wiring.search import records
from wiring.search.loop import Search


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
    err = without_progress(capsys.readouterr().err)
    assert err.count("\n") == 1
    assert [part for part in parts if part not in err] == []
    assert records.load_checkpoint(tmp_path / "run")["epoch"] == 1
    assert call(*RUN, "--out", str(tmp_path / "run")) == 0
    assert same_results(tmp_path / "run", folders / "finished-0")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("step", [1, 3])
def test_first_step_that_is_not_finite_is_named(tmp_path, capsys, bad, step):
    update, done = search._Measured.update, []

    def poisoned(self, logits, labels, losses, probe):
        done.append(len(losses))
        if len(done) >= 4 + step:
            losses = losses.clone().index_fill_(0, torch.tensor(0), bad)
        update(self, logits, labels, losses, probe)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search._Measured, "update", poisoned)
        assert call(*RUN, "--out", str(tmp_path / "run")) == 2
    assert f"epoch 2, step {step} of 4" in capsys.readouterr().err
    assert records.load_checkpoint(tmp_path / "run")["epoch"] == 1
