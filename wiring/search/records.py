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
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError

from wiring.search.experiments import LEVELS, PRESETS, Experiment, explain, from_json, to_dict, to_json
from wiring.supernet.operations import NAMES

#: Raised by one whenever a record of an older format would be misread. Format 1, which is read too, has no checksum of
#: the provenance.
FORMAT = 2
#: A checkpoint is this line, torch's archive, and the SHA-256 of both; its number is raised like ``FORMAT``.
CHECKPOINT = b"wiring checkpoint 2\n"
#: The newest first.
CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")
#: No file of a run is ever larger, in bytes; one that is larger is not read.
LARGEST = {
    "experiment.json": 2**20,
    "done.json": 2**20,
    "scalars.csv": 2**28,
    "arrays.npz": 2**32,
    **dict.fromkeys(CHECKPOINTS, 2**34),
}
#: The groups of images that scalars are given for: all, and split by whether the logits' maximum is the label.
GROUPS = ("all", "correct", "wrong")
#: The rows of α, by :attr:`wiring.Supernet.cell_types`.
CELL_TYPES = ("normal", "reduction")
#: The operations of the records and checkpoints that do not name theirs.
OPERATIONS_BEFORE_NAMES = (
    *("none", "skip_connect", "max_pool_3x3", "avg_pool_3x3"),
    *("sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5", "sep_conv_5x5"),
)

#: The records that the book shows.
REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"


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
        ``alpha`` and ``probability``, shape (1 + epochs, cell types, edges, operations), row 0 before the first step;
        ``cost_mean``, ``cost_min``, ``cost_max``, ``cost_count``, shape (epochs, splits, cells, edges,
        operations), NaN where an operation was never sampled; ``cell_cost_*``, shape (epochs, splits, cells).
    provenance
        Names of the operations, data set, versions, device, threads, wall time in seconds.
    """

    experiment: Experiment
    scalars: pd.DataFrame
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]

    def table(self, name: str) -> pd.DataFrame:
        """One of the arrays as a tidy table: a row per entry, a column per axis, and its value under its name.

        The axes are ``epoch`` (from 1; for α and probabilities from 0, the start), ``split``, ``cell`` (from 0) or
        ``cell_type`` ("normal", "reduction"), ``edge`` (as "(0, 2)") and ``operation`` (its name).

        Raises ValueError if there is no such array.
        """
        if name not in self.arrays:
            raise ValueError(f"{name!r}: no such array; allowed: {', '.join(self.arrays)}")
        array, topology = self.arrays[name], self.experiment.topology
        axes: dict[str, Sequence[Any]] = {"epoch": range("cost" in name, len(array) + ("cost" in name))}
        if "cost" in name:
            axes["split"] = [split for split, _ in LEVELS[self.experiment.level]]
            axes["cell"] = range(array.shape[2])
        else:
            axes["cell_type"] = CELL_TYPES[: array.shape[1]]
        if not name.startswith("cell_cost"):
            axes |= {"edge": list(map(str, topology.edges)), "operation": NAMES}
        rows = pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
        return pd.DataFrame({name: array.ravel()}, rows).reset_index()

    def architecture(self) -> pd.DataFrame:
        """The name of the most probable operation at the end, by ``edge`` (rows) and type of cell (columns)."""
        last = self.table("probability").query("epoch == epoch.max()")
        best = last.loc[last.groupby(["cell_type", "edge"], sort=False)["probability"].idxmax()]
        return best.pivot(index="edge", columns="cell_type", values="operation").loc[last["edge"].unique()]


class Damaged(RecordError):
    """A file that is not, to the last bit, what was written."""


def write(folder: Path, name: str, content: bytes) -> None:
    """Write a file whole or not at all. Raises OSError, which names the file; what was there before then stays."""
    temporary = folder / f".{name}.partial"
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        _flush(folder)
    except OSError as error:
        # A full disk does not say which file it had no room for.
        raise OSError(error.errno, error.strerror, str(folder / name)) from error


def _flush(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes off a run's folder, which is made; the system ends the lock with the process.

    Raises
    ------
    RecordError
        If another process runs there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise RecordError(f"{folder} is in use: another process runs there; wait for it or choose another") from error
    try:
        yield
    finally:
        lock.release()


def check_run(folder: Path, experiment: Experiment) -> None:
    """Make sure that a folder holds this experiment or nothing; writes nothing.

    Raises
    ------
    RecordError
        If it holds another experiment or something else.
    """
    if (folder / "experiment.json").exists():
        kept, wanted = to_dict(_experiment(folder)), to_dict(experiment)
        for name, value in wanted.items():
            if kept[name] != value:
                raise RecordError(
                    f"{folder} holds another experiment: {name} = {kept[name]!r} there, {value!r} here; "
                    "choose another folder"
                )
    elif folder.exists():
        # A process that was killed before its first file leaves these two.
        leftovers = {".lock", ".experiment.json.partial"}
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
    torch.save(state, buffer)
    content = CHECKPOINT + buffer.getvalue()
    newest, previous = (folder / name for name in CHECKPOINTS)
    write(folder, f"{newest.name}.new", content + hashlib.sha256(content).digest())
    _payload(folder / f"{newest.name}.new", LARGEST[newest.name])
    if newest.exists():
        newest.replace(previous)
    (folder / f"{newest.name}.new").replace(newest)
    _flush(folder)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The last checkpoint, on the CPU, or None if there is none.

    If the newest is damaged, it is set aside, as ``checkpoint.damaged-<digest>.pt``, and the one before is taken.

    Raises
    ------
    RecordError
        If there is no undamaged one, or the newest is of another format.
    """
    damaged: list[Path] = []
    for path in (folder / name for name in CHECKPOINTS):
        if path.exists():
            try:
                state = _checkpoint(path)
            except Damaged:
                damaged.append(path)
                continue
            for other in damaged:
                aside = other.with_name(f"checkpoint.damaged-{hashlib.sha256(other.read_bytes()).hexdigest()[:8]}.pt")
                other.replace(aside)
                logging.getLogger(__name__).warning(
                    "wiring: %s is damaged; it is kept as %s, and the run goes on from the checkpoint before",
                    *(other, aside.name),
                )
            return state
    if damaged:
        all_of_them = " and ".join(["it", *(path.name for path in damaged[1:])])
        raise Damaged(f"{damaged[0]} is damaged: delete {all_of_them} to start this run again, or restore it")
    return None


def _payload(path: Path, largest: int) -> bytes:
    """The archive in a checkpoint. Raises RecordError: damaged, or of another format."""
    content = _read(path, largest)
    head, _, archive = content.partition(b"\n")
    if hashlib.sha256(content[:-32]).digest() != content[-32:]:
        raise Damaged(f"{path} is damaged")
    if head + b"\n" != CHECKPOINT:
        raise RecordError(
            f"{path} is no checkpoint that this version of wiring reads ({CHECKPOINT.decode().strip()!r} is)"
        )
    return archive[:-32]


def _checkpoint(path: Path) -> dict[str, Any]:
    content = _payload(path, LARGEST[path.name])
    try:
        _check_archive(content)
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken archive makes zipfile or torch raise
        raise Damaged(f"{path} is damaged: {type(error).__name__}") from error
    return state


def _read(path: Path, largest: int) -> bytes:
    """The content of a plain file of a run's folder. Raises RecordError: missing, or nothing that a run wrote."""
    try:
        if not path.is_file() or path.resolve().parent != path.parent.resolve():
            raise RecordError(f"{path} is {'no plain file of its folder' if path.exists() else 'missing'}")
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > largest:
        raise RecordError(f"{path} is larger than {largest} bytes, which no run writes")
    return content


def _check_archive(content: bytes) -> None:
    """Raise ValueError where a zip archive would unpack to more than its own size, as none that we write does."""
    with ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if any(member.compress_type != ZIP_STORED for member in members):
            raise ValueError("a member is compressed")
        if sum(member.file_size for member in members) > len(content):
            raise ValueError("its members are larger than it")


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an npz archive. Raises ValueError, also where a header says more than its member holds."""
    _check_archive(content)
    with ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                    raise ValueError(f"{member.filename} is not as large as its header says")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


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
    path = folder / "done.json"
    try:
        done = json.loads(_read(path, LARGEST["done.json"]))
        version, checksums, provenance = done["format"], dict(done["sha256"]), dict(done["provenance"])
    except RecordError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} is damaged") from error
    if version not in (1, FORMAT):
        raise RecordError(f"{folder} has format {version}; this version of wiring reads 1 to {FORMAT}")
    contents = {name: _read(folder / name, LARGEST[name]) for name in ("experiment.json", "scalars.csv", "arrays.npz")}
    expected = _checksums(contents, provenance)
    if version == 1:
        del expected["provenance"]
    for name in checksums | expected:
        if checksums.get(name) != expected.get(name):
            damaged = name if name in contents else path.name
            raise Damaged(f"{folder / damaged} is damaged: it is not the file that the run wrote")
    try:
        check_operations(provenance)
    except ValueError as error:
        raise RecordError(f"{folder} has other operations: {error}") from error
    try:
        arrays = _arrays(contents["arrays.npz"])
        scalars = pd.read_csv(io.BytesIO(contents["scalars.csv"]))
    except (ValueError, BadZipFile) as error:
        raise Damaged(f"{folder} is damaged: {error}") from error
    return Record(experiment, scalars, arrays, provenance)


def load_reference(name: str) -> list[Record]:
    """The recorded runs of a preset in ``data/reference``, in the order of their seeds; empty if there are none.

    Raises ValueError if there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"{name!r}: no such preset; allowed: {', '.join(PRESETS)}")
    records = [load(path) for path in REFERENCE.glob(f"{name}/seed-*")]
    return sorted(records, key=lambda record: record.experiment.seed)


def _experiment(folder: Path) -> Experiment:
    path = folder / "experiment.json"
    if not path.exists():
        raise RecordError(f"{folder} is not a run folder: it has no experiment.json")
    try:
        return from_json(_read(path, LARGEST[path.name]))
    except ValidationError as error:
        raise Damaged(f"{path} is damaged: {explain(error)}") from error
