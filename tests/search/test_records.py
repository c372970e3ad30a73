"""A run's folder gives back what was saved bit for bit, or says in one line why not; nothing in it is ever executed."""

import hashlib
import io
import json
import pickle
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wiring.search import records
from wiring.search.experiments import Experiment, to_json
from wiring.search.loop import run
from wiring.search.records import (
    CHECKPOINT,
    FORMAT,
    Record,
    RecordError,
    is_done,
    load,
    load_checkpoint,
    open_run,
    save,
    save_checkpoint,
    write,
)

EXPERIMENT = Experiment(data="digits", epochs=3, seed=7)
STATE = {"epoch": 2, "weights": torch.arange(6.0).reshape(2, 3), "history": {"alpha": [torch.tensor([0.1])]}}
#: The operations of the records that do not name theirs.
EIGHT = ("none", "skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "dil_conv_3x3")
EIGHT += ("dil_conv_5x5", "sep_conv_5x5")
FILES = ["experiment.json", "scalars.csv", "arrays.npz", "done.json"]


def record(seed=0):
    rng = np.random.default_rng(seed)
    scalars = pd.DataFrame(
        {
            "epoch": [1, 1, 2],
            "split": ["training", "search", "training"],
            "group": ["all", "correct", "wrong"],
            "images": [0, 96, 2**40],
            "accuracy": [np.nan, 1.0, 0.0],
            "loss": rng.standard_normal(3) * [1e-300, 1, 1e300],
            "entropy": [0.1, 1 / 3, 2**-1074],
            "cost": [-0.0, np.pi, -1e-17],
        }
    )
    arrays = {"alpha": rng.standard_normal((4, 1, 5, 8)), "cost_mean": np.full((3, 2), np.nan, np.float32)}
    arrays["alpha"][0, 0, 0, :3] = [np.inf, -np.inf, np.nan]
    return Record(EXPERIMENT, scalars, arrays, {"data": "digits", "seconds": 0.1, "versions": {"ümlaut": "1"}})


@pytest.fixture
def folder(tmp_path):
    """A finished run."""
    folder = tmp_path / "run"
    open_run(folder, EXPERIMENT)
    save_checkpoint(folder, STATE)
    save(folder, record())
    return folder


def snapshot(folder):
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else None) for path in folder.rglob("*")
    }


def refusal(folder, call=load, *arguments):
    """The refusal's message; it is one line, and no file in the folder has changed."""
    before = snapshot(folder)
    with pytest.raises(RecordError) as caught:
        call(folder, *arguments)
    assert snapshot(folder) == before
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_load_gives_back_what_was_saved_bit_for_bit(folder):
    saved, loaded = record(), load(folder)
    assert loaded.experiment == EXPERIMENT
    assert loaded.provenance == saved.provenance
    assert set(loaded.arrays) == set(saved.arrays)
    for name, array in saved.arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].shape == array.shape
        assert loaded.arrays[name].tobytes() == array.tobytes()
    pd.testing.assert_frame_equal(loaded.scalars, saved.scalars, check_exact=True)
    for name in ("loss", "entropy", "cost"):
        assert loaded.scalars[name].to_numpy().tobytes() == saved.scalars[name].to_numpy().tobytes()


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_every_float_survives_the_csv(tmp_path, numbers):
    folder = tmp_path / "run"
    open_run(folder, EXPERIMENT)
    scalars = pd.DataFrame({"epoch": range(len(numbers)), "loss": numbers})
    save(folder, replace(record(), scalars=scalars))
    assert load(folder).scalars.loss.to_numpy().tobytes() == scalars.loss.to_numpy().tobytes()


def test_saving_the_same_record_twice_writes_the_same_bytes(folder):
    before = snapshot(folder)
    save(folder, record())
    assert snapshot(folder) == before


def test_load_takes_a_path_as_text(folder):
    assert load(str(folder)).experiment == EXPERIMENT


def test_no_partial_file_is_left(folder):
    assert sorted(snapshot(folder)) == sorted([*FILES, "checkpoint.pt"])


def test_crash_while_writing_keeps_the_old_file(folder, monkeypatch):
    before = snapshot(folder)

    def crash(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, STATE | {"epoch": 3})
    assert {name: content for name, content in snapshot(folder).items() if not name.endswith(".partial")} == before
    assert load_checkpoint(folder)["epoch"] == 2


def test_write_replaces_the_whole_file(tmp_path):
    write(tmp_path, "x", b"long content")
    write(tmp_path, "x", b"short")
    assert snapshot(tmp_path) == {"x": b"short"}


# opening a run


def test_open_run_makes_the_folder_and_its_parents_and_may_be_repeated(tmp_path):
    folder = tmp_path / "a/b/c"
    for _ in range(2):
        open_run(folder, EXPERIMENT)
    assert snapshot(folder) == {"experiment.json": to_json(EXPERIMENT).encode()}
    assert not is_done(folder)


@pytest.mark.parametrize(
    ("change", "there", "here"),
    [
        ({"seed": 8}, "seed = 7", "8 here"),
        ({"epochs": 4}, "epochs = 3", "4 here"),
        ({"images": 5}, "images = None", "5 here"),
        ({"searcher": "darts"}, "searcher = 'dsnas'", "'darts' here"),
        ({"theta_lr": 0.1}, "theta_lr = 0.025", "0.1 here"),
    ],
)
def test_folder_of_another_experiment_is_refused_with_the_field_and_both_values(folder, change, there, here):
    message = refusal(folder, open_run, replace(EXPERIMENT, **change))
    assert there in message
    assert here in message


def test_folder_of_another_topology_is_refused(folder):
    control = EXPERIMENT.topology.without_edges((0, 2))
    assert "topology" in refusal(folder, open_run, replace(EXPERIMENT, topology=control))


def test_foreign_folder_is_refused(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "me.jpg").write_bytes(b"x")
    refusal(folder, open_run, EXPERIMENT)
    refusal(folder)


def test_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordError, match="file is not a run folder"):
        open_run(tmp_path / "file", EXPERIMENT)
    assert (tmp_path / "file").read_text() == "x"


# reading a run


def test_missing_folder_is_refused_and_not_made(tmp_path):
    with pytest.raises(RecordError, match="nothing is not a run folder"):
        load(tmp_path / "nothing")
    assert snapshot(tmp_path) == {}


def test_empty_folder_is_refused(tmp_path):
    refusal(tmp_path)


def test_unfinished_run_is_refused_with_what_to_do(folder):
    (folder / "done.json").unlink()
    assert "unfinished" in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    refusal(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.99])
def test_truncated_file_is_refused(folder, name, kept):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(kept * len(content)) if kept != 1 else 1])
    refusal(folder)


@pytest.mark.parametrize("name", ["scalars.csv", "arrays.npz"])
@pytest.mark.parametrize("place", [0, 0.3, 0.7, -1])
@pytest.mark.parametrize("bit", [0, 7])
def test_flipped_bit_is_refused_by_the_files_name(folder, name, place, bit):
    content = bytearray((folder / name).read_bytes())
    content[int(place * len(content)) if place >= 0 else -1] ^= 1 << bit
    (folder / name).write_bytes(content)
    assert f"{name} is damaged" in refusal(folder)


@pytest.mark.parametrize("name", ["experiment.json", "done.json"])
@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b'"x"', b"\xff\xfe", b"\x00" * 9, b'{"a": 1}', b"{"])
def test_json_file_of_something_else_is_refused(folder, name, content):
    (folder / name).write_bytes(content)
    refusal(folder)


def test_file_of_another_run_is_refused(folder, tmp_path):
    other = tmp_path / "other"
    open_run(other, EXPERIMENT)
    save(other, record(seed=1))
    (folder / "arrays.npz").write_bytes((other / "arrays.npz").read_bytes())
    assert "arrays.npz" in refusal(folder)


@pytest.mark.parametrize("version", [FORMAT + 1, 99, 0, "1", None])
def test_other_format_is_refused(folder, version):
    done = json.loads((folder / "done.json").read_text())
    (folder / "done.json").write_text(json.dumps(done | {"format": version}))
    assert "format" in refusal(folder)


def rewritten(folder, version, **provenance):
    """The run's done.json with that format, and more said of its provenance, by the formats' own rules."""
    done = json.loads((folder / "done.json").read_text())
    done |= {"format": version, "provenance": done["provenance"] | provenance}
    text = json.dumps(done["provenance"], sort_keys=True)
    done["sha256"]["provenance"] = hashlib.sha256(text.encode()).hexdigest()
    if version == 1:
        del done["sha256"]["provenance"]
    (folder / "done.json").write_text(json.dumps(done))


def test_record_of_format_1_is_read_as_it_is(folder):
    before = load(folder)
    rewritten(folder, version=1)
    written = snapshot(folder)
    after = load(folder)
    assert after.provenance == before.provenance
    pd.testing.assert_frame_equal(after.scalars, before.scalars, check_exact=True)
    assert all(array.tobytes() == before.arrays[name].tobytes() for name, array in after.arrays.items())
    assert snapshot(folder) == written


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((*EIGHT, "conv_7x7"), "operation 9 is conv_7x7 there, missing in"),
        (EIGHT[:7], "operation 8 is missing there, sep_conv_5x5 in"),
        ((EIGHT[1], EIGHT[0], *EIGHT[2:]), "operation 1 is skip_connect there, none in"),
    ],
)
def test_record_of_other_operations_is_refused_with_the_first_that_differs(folder, names, said):
    rewritten(folder, version=2, operations=names)
    assert said in refusal(folder)


def test_record_that_names_todays_operations_or_none_is_read(folder):
    assert "operations" not in load(folder).provenance
    rewritten(folder, version=2, operations=EIGHT)
    assert load(folder).provenance["operations"] == list(EIGHT)


def test_records_without_names_are_refused_once_there_is_another_operation(folder, monkeypatch):
    monkeypatch.setattr(records, "NAMES", (*EIGHT, "conv_7x7"))
    assert "operation 9 is missing there, conv_7x7 in" in refusal(folder)


# what a record shows


def test_every_array_is_a_table_with_named_axes():
    e = Experiment(data="digits", images=64, batch=16, cells=2, reductions=(1,), channels=1, epochs=2, level="bi")
    shown, (splits, edges) = run(e), (["search", "training"], e.topology.edges)
    types, from_start, from_one = ["normal", "reduction"], range(3), range(1, 3)
    for name, array in shown.arrays.items():
        axes = {"epoch": from_one, "split": splits, "cell": range(2)}
        if name in ("alpha", "probability"):
            axes = {"epoch": from_start, "cell_type": types}
        if not name.startswith("cell_cost"):
            axes |= {"edge": list(map(str, edges)), "operation": EIGHT}
        table = shown.table(name)
        assert list(table.columns) == [*axes, name]
        expected = {
            labels: array[at] for labels, at in zip(product(*axes.values()), np.ndindex(array.shape), strict=True)
        }
        assert len(expected) == len(table)
        for *labels, value in table.itertuples(index=False):
            np.testing.assert_equal(value, expected[tuple(labels)])
    with pytest.raises(ValueError, match="'cost': no such array; allowed: alpha, probability, cost_count"):
        shown.table("cost")

    architecture = shown.architecture()
    assert list(architecture.columns) == types
    assert list(architecture.index) == list(map(str, edges))
    for row, kind in enumerate(types):
        best = shown.arrays["probability"][-1, row].argmax(-1)
        assert architecture[kind].tolist() == [EIGHT[k] for k in best]


# checkpoints


def test_checkpoint_comes_back_bit_for_bit(folder):
    state = load_checkpoint(folder)
    assert state["epoch"] == 2
    assert torch.equal(state["weights"], STATE["weights"])
    assert torch.equal(state["history"]["alpha"][0], STATE["history"]["alpha"][0])


def test_run_without_checkpoint_has_none(tmp_path):
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("share", [0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_truncated_checkpoint_is_refused_with_what_to_do(folder, share):
    content = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes(content[: int(share * len(content))])
    assert "delete it" in refusal(folder, load_checkpoint)


@pytest.mark.parametrize("content", [b"\x00" * 999, b"PK\x03\x04junk", b"\x80\x02K\x01.", b"text\n", b"\xff"])
def test_checkpoint_of_something_else_is_refused(folder, content):
    (folder / "checkpoint.pt").write_bytes(content)
    refusal(folder, load_checkpoint)


def test_checkpoint_of_a_newer_format_is_refused(folder):
    content = (folder / "checkpoint.pt").read_bytes()[:-32].replace(CHECKPOINT, b"wiring checkpoint 3\n")
    (folder / "checkpoint.pt").write_bytes(content + hashlib.sha256(content).digest())
    assert "'wiring checkpoint 2'" in refusal(folder, load_checkpoint)


def test_checkpoint_of_the_older_format_is_refused(folder):
    torch.save({"format": 1, **STATE}, folder / "checkpoint.pt")
    assert "is damaged or of format 1: delete it" in refusal(folder, load_checkpoint)


# nothing is executed


class Bomb:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def archive_of(bomb):
    buffer = io.BytesIO()
    np.savez(buffer, alpha=np.array([bomb], dtype=object))
    return buffer.getvalue()


def torch_zip_of(bomb):
    buffer = io.BytesIO()
    torch.save({"state": bomb}, buffer)
    content = CHECKPOINT + buffer.getvalue()
    return content + hashlib.sha256(content).digest()


def test_the_bomb_does_explode_where_pickle_reads_it(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


def pickle_of(bomb):
    return pickle.dumps(bomb, protocol=2)  # of another protocol torch warns, too


@pytest.mark.parametrize("pack", [pickle_of, torch_zip_of])
def test_pickle_bomb_as_checkpoint_is_not_executed(folder, tmp_path, pack):
    (folder / "checkpoint.pt").write_bytes(pack(Bomb(tmp_path / "exploded")))
    refusal(folder, load_checkpoint)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("pack", [pickle.dumps, archive_of])
@pytest.mark.parametrize("forged", [False, True])
def test_pickle_bomb_as_arrays_is_not_executed_even_with_a_forged_checksum(folder, tmp_path, pack, forged):
    content = pack(Bomb(tmp_path / "exploded"))
    (folder / "arrays.npz").write_bytes(content)
    if forged:
        done = json.loads((folder / "done.json").read_text())
        done["sha256"]["arrays.npz"] = hashlib.sha256(content).hexdigest()
        (folder / "done.json").write_text(json.dumps(done))
    refusal(folder)
    assert not (tmp_path / "exploded").exists()


def test_arrays_of_objects_are_not_saved(tmp_path):
    open_run(tmp_path / "run", EXPERIMENT)
    with pytest.raises(ValueError, match="allow_pickle"):
        save(tmp_path / "run", replace(record(), arrays={"alpha": np.array([object()])}))
    assert not is_done(tmp_path / "run")
