"""What a run leaves on disk, and how it is read back.

A run's folder holds::

    experiment.json   what was asked for; written first
    checkpoint.pt     the whole state of the search after its last finished epoch
    scalars.csv       one row per epoch, split and group of images          } written when
    arrays.npz        α, probabilities and costs, first axis the epoch      } the search
    done.json         provenance and all three checksums; written last      } ends

Every file is written under a temporary name and renamed, so that it is whole or not there. Nothing is ever read
with pickle.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError

from wiring.experiments import Experiment, explain, from_json, to_dict, to_json

#: Raised by one whenever a folder of an older format would be misread.
FORMAT = 1
#: The groups of images that scalars are given for: all, and split by whether the logits' maximum is the label.
GROUPS = ("all", "correct", "wrong")

#: The records that the book shows.
REFERENCE = Path(__file__).resolve().parent.parent / "data" / "reference"


class RecordError(ValueError):
    """A run folder that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Record:
    """One finished search.

    Parameters
    ----------
    experiment
        What was run.
    scalars
        One row per ``epoch`` (from 1), ``split`` ("training", "search") and ``group`` (see ``GROUPS``): number of
        ``images``, and their mean ``accuracy``, ``loss`` L, output ``entropy`` H and ``cost`` at the output of
        the last cell; the three in nats. They are taken from the epoch's own training steps.
    arrays
        ``alpha`` and ``probability``, shape (1 + epochs, kinds, edges, operations), row 0 before the first step;
        ``cost_mean``, ``cost_min``, ``cost_max``, ``cost_count``, shape (epochs, splits, cells, edges,
        operations), NaN where an operation was never sampled; ``cell_cost_*``, shape (epochs, splits, cells).
    provenance
        Data set, versions, device, threads, wall time.
    """

    experiment: Experiment
    scalars: pd.DataFrame
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]


def write(folder: Path, name: str, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = folder / f".{name}.partial"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)


def open_run(folder: Path, experiment: Experiment) -> None:
    """Make the folder of a run, or make sure that it is this experiment's.

    Raises
    ------
    RecordError
        If it holds another experiment or something else.
    """
    if (folder / "experiment.json").exists():
        there, here = to_dict(_experiment(folder)), to_dict(experiment)
        if different := [name for name in here if there[name] != here[name]]:
            name = different[0]
            raise RecordError(
                f"{folder} holds another experiment: {name} = {there[name]!r} there, {here[name]!r} here; "
                "choose another folder"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecordError(f"{folder} is not a run folder (no experiment.json) and not empty; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, "experiment.json", to_json(experiment).encode())


def is_done(folder: Path) -> bool:
    return (folder / "done.json").exists()


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write(folder, "checkpoint.pt", buffer.getvalue())


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint, on the CPU, or None if there is none.

    Raises
    ------
    RecordError
        If it is damaged or of another format.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    damaged = f"{path} is damaged: delete it to start this run again, or restore it"
    try:
        # A checkpoint is a zip archive; torch writes the checksums of its members but does not compare them.
        with ZipFile(path) as archive:
            intact = archive.testzip() is None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = state["format"]
    except Exception as error:  # whatever a broken archive makes zipfile, torch or a mapping raise
        raise RecordError(damaged) from error
    if not intact:
        raise RecordError(damaged)
    if version != FORMAT:
        raise RecordError(f"{path} has format {version}; this version of wiring reads {FORMAT}")
    return state


def save(folder: Path, record: Record) -> None:
    """Write a finished run; :func:`open_run` made its folder."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **record.arrays)
    contents = {
        "experiment.json": (folder / "experiment.json").read_bytes(),
        # repr's shortest form of a float is read back as the same float.
        "scalars.csv": record.scalars.to_csv(index=False, lineterminator="\n").encode(),
        "arrays.npz": buffer.getvalue(),
    }
    for name in ("scalars.csv", "arrays.npz"):
        write(folder, name, contents[name])
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    done = {"format": FORMAT, "provenance": dict(record.provenance), "sha256": checksums}
    write(folder, "done.json", json.dumps(done, indent=1).encode())


def load(folder: Path | str) -> Record:
    """Read a finished run.

    Raises
    ------
    RecordError
        If the folder holds no finished run, or a file is damaged.
    """
    folder = Path(folder)
    experiment = _experiment(folder)
    if not is_done(folder):
        raise RecordError(f"{folder} holds an unfinished run; start the same experiment there to finish it")
    try:
        done = json.loads((folder / "done.json").read_bytes())
        version, checksums, provenance = done["format"], dict(done["sha256"]), dict(done["provenance"])
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise RecordError(f"{folder / 'done.json'} is damaged") from error
    if version != FORMAT:
        raise RecordError(f"{folder} has format {version}; this version of wiring reads {FORMAT}")
    contents = {}
    for name in ("experiment.json", "scalars.csv", "arrays.npz"):
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            raise RecordError(f"{folder / name} is missing") from error
        if hashlib.sha256(contents[name]).hexdigest() != checksums.get(name):
            raise RecordError(f"{folder / name} is damaged: it is not the file that the run wrote")
    try:
        with np.load(io.BytesIO(contents["arrays.npz"]), allow_pickle=False) as archive:
            arrays = dict(archive)
        scalars = pd.read_csv(io.BytesIO(contents["scalars.csv"]))
    except (ValueError, BadZipFile) as error:
        raise RecordError(f"{folder} is damaged: {error}") from error
    return Record(experiment, scalars, arrays, provenance)


def load_reference(name: str) -> list[Record]:
    """The recorded runs of a preset in ``data/reference``, in the order of their seeds; empty if there are none."""
    records = [load(path) for path in REFERENCE.glob(f"{name}/seed-*")]
    return sorted(records, key=lambda record: record.experiment.seed)


def _experiment(folder: Path) -> Experiment:
    path = folder / "experiment.json"
    try:
        return from_json(path.read_bytes())
    except FileNotFoundError as error:
        raise RecordError(f"{folder} is not a run folder: it has no experiment.json") from error
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise RecordError(f"{path} is damaged: {explain(error)}") from error
