"""What a run leaves on disk, and how it is read back.

A run's folder holds::

    experiment.json          what was asked for; written first
    checkpoint.pt            the whole state of the search after its last epoch, or where it was stopped
    checkpoint.previous.pt   the checkpoint before, should the last one be damaged
    scalars.csv              one row per epoch, split and group of images          } written when
    arrays.npz               α, probabilities and costs, first axis the epoch      } the search
    done.json                provenance and all checksums; written last            } ends
    .lock                    held by the process that runs it; empty

Every file is written under a temporary name, flushed to the disk and renamed, so that it is whole or not there. What
is read is a plain file of that folder, of a bounded size and with the right checksum; nothing is read with pickle.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError

from wiring.search.experiments import (
    LEVELS,
    PRESETS,
    Experiment,
    anywhere,
    explain,
    from_json,
    preset,
    to_dict,
    to_json,
)
from wiring.supernet import NAMES

#: Raised by one whenever an older record would be misread; format 1, read too, has no checksum of the provenance.
FORMAT = 2
#: A checkpoint is this line, torch's archive, and the SHA-256 of both; its number is raised like ``FORMAT``.
CHECKPOINT = b"wiring checkpoint 2\n"
#: The newest first.
CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
#: No file of a run is ever larger, in bytes; one that is larger is not read.
LARGEST = {".json": 2**20, ".csv": 2**28, ".npz": 2**32, ".pt": 2**34}
#: The groups of images that scalars are given for: all, and split by whether the logits' maximum is the label.
GROUPS = ("all", "correct", "wrong")
#: The rows of α, by :attr:`wiring.Supernet.cell_types`.
CELL_TYPES = ("normal", "reduction")
#: The operations of the records and checkpoints that do not name theirs.
OPERATIONS_BEFORE_NAMES = ["none", "skip_connect", "max_pool_3x3", "avg_pool_3x3"]
OPERATIONS_BEFORE_NAMES += ["sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5", "sep_conv_5x5"]
#: The records that the book shows.
REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"


class RecordError(ValueError):
    """A run folder that cannot be used; the message names it and says why."""


class Damaged(RecordError):
    """A file that is not, to the last bit, what was written."""


@dataclass(frozen=True)
class Record:
    """One finished search."""

    experiment: Experiment
    """What was run."""
    scalars: pd.DataFrame
    """One row per ``epoch`` (from 1), ``split`` ("training", "search") and ``group`` (see ``GROUPS``): number of
    ``images``, and their mean ``accuracy``, ``loss`` L, output ``entropy`` H and ``cost`` at the output of the last
    cell; the three in nats. They are taken from the epoch's own steps; the epochs after ``experiment.epochs`` are those
    in which nothing learns (``measuring_epochs``), here and in the arrays."""
    arrays: Mapping[str, np.ndarray]
    """``alpha`` and ``probability``, shape (1 + epochs, cell types, edges, operations), row 0 before the first step;
    ``cost_mean``, ``cost_min``, ``cost_max``, ``cost_count``, shape (epochs, splits, cells, edges, operations), NaN
    where an operation was never sampled; ``cell_cost_*``, shape (epochs, splits, cells). Where asked for
    (``course_every``), ``course_alpha``, ``course_count``, ``course_cost``, ``course_square``, shape (times, cell
    types, edges, operations): α each time so many steps were done, and of the steps since the time before in how many
    an operation was sampled and the means of its cost, summed over the cells, and of that cost's square."""
    provenance: Mapping[str, Any]
    """Names of the operations, data set and its fingerprint, versions, device (several, if it was resumed
    on another), threads, wall time in seconds."""

    def table(self, name: str) -> pd.DataFrame:
        """One of the arrays as a tidy table: a row per entry, a column per axis, and its value under its name.

        The axes are ``epoch`` (from 1; for α and probabilities from 0, the start) or, of a course, ``step``,
        ``split``, ``cell`` or ``cell_type``, ``edge`` (as "(0, 2)") and ``operation`` (its name). Raises ValueError if
        there is no such array.
        """
        if name not in self.arrays:
            raise ValueError(f"{name!r}: no such array; allowed: {', '.join(self.arrays)}")
        array, of_steps = self.arrays[name], name.startswith("course")
        is_cost = "cost" in name and not of_steps
        axes: dict[str, Any] = {"epoch": range(is_cost, len(array) + is_cost)}
        if of_steps:
            axes = {"step": self.experiment.course_every * np.arange(1, len(array) + 1)}
        if is_cost:
            axes |= {"split": [split for split, _ in LEVELS[self.experiment.level]], "cell": range(array.shape[2])}
        else:
            axes["cell_type"] = CELL_TYPES[: array.shape[1]]
        if not name.startswith("cell_cost"):
            axes |= {"edge": list(map(str, self.experiment.topology.edges)), "operation": NAMES}
        rows = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
        return pd.DataFrame({name: array.ravel()}, rows).reset_index()

    def architecture(self) -> pd.DataFrame:
        """The name of the most probable operation at the end, by ``edge`` (rows) and type of cell (columns)."""
        last = self.table("probability").query("epoch == epoch.max()")
        best = last.loc[last.groupby(["cell_type", "edge"], sort=False)["probability"].idxmax()]
        return best.pivot(index="edge", columns="cell_type", values="operation").loc[last["edge"].unique()]


def check_new(option: str, file: Path | None) -> None:
    """Raise ValueError where a file that an option names is there, or has no folder."""
    if file is not None and file.exists():
        raise ValueError(f"{option} = '{file}': exists; nothing is overwritten, choose another file")
    if file is not None and not file.parent.is_dir():
        raise ValueError(f"{option} = '{file}': no folder {file.parent}")


def write(folder: Path, name: str, content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError, which names the file; what was there before then stays."""
    temporary = folder / f".{name}.partial"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / name)
        _flush(folder)
    except OSError as error:
        # A full disk does not say which file it had no room for.
        raise OSError(error.errno, error.strerror, str(folder / name)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def locked(folder: Path) -> AbstractContextManager[object]:
    """Keep other processes off a run's folder, which is made. Raises RecordError if another process runs there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout as error:
        raise RecordError(f"{folder} is in use: another process runs there; wait for it or choose another") from error


def check_run(folder: Path, experiment: Experiment) -> None:
    """Raise RecordError unless a folder holds this experiment, wherever it ran, or nothing; writes nothing."""
    if (folder / "experiment.json").exists():
        kept = to_dict(anywhere(_experiment(folder)))
        for name, value in to_dict(anywhere(experiment)).items():
            if kept[name] != value:
                difference = f"{name} = {kept[name]!r} there, {value!r} here"
                raise RecordError(f"{folder} holds another experiment: {difference}; choose another folder")
    elif folder.exists():
        leftovers = {".lock", ".experiment.json.partial"}  # of a process that was killed before its first file
        if not folder.is_dir() or any(path.name not in leftovers for path in folder.iterdir()):
            raise RecordError(f"{folder} is not a run folder (no experiment.json) and not empty; choose another folder")


def open_run(folder: Path, experiment: Experiment) -> None:
    """Make the folder of a run, or make sure that it is this experiment's. Raises as :func:`check_run`."""
    check_run(folder, experiment)
    if not (folder / "experiment.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, "experiment.json", to_json(experiment).encode())


def check_operations(said: Mapping[str, Any]) -> None:
    """Raise ValueError where the axes of a record, or of a checkpoint, are not today's operations; it says which."""
    names = said.get("operations", OPERATIONS_BEFORE_NAMES)
    for number, (kept, today) in enumerate(zip_longest(names, NAMES, fillvalue="missing"), 1):
        if kept != today:
            raise ValueError(f"operation {number} is {kept} there, {today} in this version of wiring")


def is_done(folder: Path) -> bool:
    """Whether the folder holds a finished run."""
    return (folder / "done.json").exists()


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint and keep the one before, which goes only when this one has been read back."""
    buffer = io.BytesIO()
    buffer.write(CHECKPOINT)
    torch.save(state, buffer)
    content = buffer.getvalue() + hashlib.sha256(buffer.getbuffer()).digest()
    newest, previous, unchecked = (folder / name for name in (*CHECKPOINTS, "checkpoint.new.pt"))
    write(folder, unchecked.name, content)
    if _read(unchecked) != content:
        raise Damaged(f"{unchecked} is damaged")
    if newest.exists():
        newest.replace(previous)
    unchecked.replace(newest)
    _flush(folder)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The last undamaged checkpoint, on the CPU, or None if there is none at all; a damaged one is then set aside.

    Raises RecordError if all are damaged, or the newest is of another format.
    """
    paths = [path for name in CHECKPOINTS if (path := folder / name).exists()]
    for number, path in enumerate(paths):
        with suppress(Damaged):
            state = _checkpoint(path)
            for damaged in paths[:number]:
                digest = hashlib.sha256(damaged.read_bytes()).hexdigest()
                aside = damaged.replace(damaged.with_name(f"checkpoint.damaged-{digest[:8]}.pt"))
                said = "wiring: %s is damaged; it is kept as %s, and the run goes on from the checkpoint before"
                logging.getLogger(__name__).warning(said, damaged, aside.name)
            return state
    if paths:
        them = " and ".join(["it", *(path.name for path in paths[1:])])
        raise Damaged(f"{paths[0]} is damaged or of format 1: delete {them} to start this run again, or restore it")
    return None


def _checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint. Raises RecordError: damaged, or of another format."""
    content = _read(path)
    if hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise Damaged(f"{path} is damaged")
    if not content.startswith(CHECKPOINT):
        known = CHECKPOINT.decode().strip()
        raise RecordError(f"{path} is no checkpoint that this version of wiring reads ({known!r} is)")
    archive = content[len(CHECKPOINT) : -32]
    try:
        _opened(archive)  # only to be checked
        return torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken archive makes zipfile or torch raise
        raise Damaged(f"{path} is damaged: {type(error).__name__}") from error


def _read(path: Path) -> bytes:
    """The content of a plain file of a run's folder. Raises RecordError: missing, or nothing that a run wrote."""
    try:
        if not path.is_file() or path.resolve().parent != path.parent.resolve():
            raise RecordError(f"{path} is {'no plain file of its folder' if path.exists() else 'missing'}")
        if path.stat().st_size > (largest := LARGEST[path.suffix]):
            raise RecordError(f"{path} is larger than {largest} bytes, which no run writes")
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error


def _opened(content: bytes) -> ZipFile:
    """A zip archive. Raises ValueError where it would unpack to more than its own size, as none that we write does."""
    archive = ZipFile(io.BytesIO(content))
    if any(member.compress_type != ZIP_STORED for member in archive.infolist()):
        raise ValueError("a member is compressed")
    if sum(member.file_size for member in archive.infolist()) > len(content):
        raise ValueError("its members are larger than it")
    return archive


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an npz archive. Raises ValueError, also where a header says more or less than its member holds."""
    archive = _opened(content)
    arrays: dict[str, np.ndarray] = {}
    for name in archive.namelist():
        member = io.BytesIO(archive.read(name))
        np.lib.format.read_magic(member)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
        entries = np.frombuffer(bytearray(member.read()), dtype)
        arrays[name.removesuffix(".npy")] = entries.reshape(shape, order="F" if is_fortran else "C")
    return arrays


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
    done = {"format": FORMAT, "provenance": dict(record.provenance), "sha256": _checksums(contents, record.provenance)}
    write(folder, "done.json", json.dumps(done, indent=1).encode())


def _checksums(contents: Mapping[str, bytes], provenance: Mapping[str, Any]) -> dict[str, str]:
    parts = {**contents, "provenance": json.dumps(dict(provenance), sort_keys=True).encode()}
    return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}


def load(folder: Path | str) -> Record:
    """Read a finished run. Raises RecordError if the folder holds none, or a file is damaged."""
    folder = Path(folder)
    experiment = _experiment(folder)
    if not is_done(folder):
        raise RecordError(f"{folder} holds an unfinished run; start the same experiment there to finish it")
    text = _read(folder / "done.json")
    try:
        done = json.loads(text)
        version, checksums, provenance = done["format"], dict(done["sha256"]), dict(done["provenance"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{folder / 'done.json'} is damaged") from error
    if version not in (1, FORMAT):
        raise RecordError(f"{folder} has format {version}; this version of wiring reads 1 to {FORMAT}")
    contents = {name: _read(folder / name) for name in ("experiment.json", "scalars.csv", "arrays.npz")}
    expected = _checksums(contents, provenance)
    if version == 1:
        del expected["provenance"]
    for name in checksums | expected:
        if checksums.get(name) != expected.get(name):
            damaged = name if name in contents else "done.json"
            raise Damaged(f"{folder / damaged} is damaged: it is not the file that the run wrote")
    try:
        check_operations(provenance)
        arrays = _arrays(contents["arrays.npz"])
        scalars = pd.read_csv(io.BytesIO(contents["scalars.csv"]))
    except (ValueError, BadZipFile) as error:
        raise RecordError(f"{folder} cannot be used: {error}") from error
    return Record(experiment, scalars, arrays, provenance)


def load_reference(name: str, **changes: Any) -> list[Record]:
    """The recorded runs of a preset in ``data/reference``, by seed; with ``changes`` of fields, those that have them.

    They lie below the preset's name, or that of another preset which says the same, and count wherever they ran, on
    whatever device. Raises ValueError as :func:`wiring.preset`.
    """
    wanted = anywhere(preset(name, **changes, seed=0))
    names = {name, *(other for other, same in PRESETS.items() if anywhere(same) == wanted)}
    folders = [path.parent for below in names for path in REFERENCE.glob(f"{below}/**/done.json")]
    own = (load(folder) for folder in folders if replace(anywhere(_experiment(folder)), seed=0) == wanted)
    return sorted(own, key=lambda record: record.experiment.seed)


def _experiment(folder: Path) -> Experiment:
    path = folder / "experiment.json"
    if not path.exists():
        raise RecordError(f"{folder} is not a run folder: it has no experiment.json")
    try:
        return from_json(_read(path))
    except ValidationError as error:
        raise RecordError(f"{path} is no experiment that this version of wiring reads: {explain(error)}") from error
