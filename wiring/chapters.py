"""The book's chapters, executed by papermill: one with other parameters, or all of them for the book.

papermill itself only warns of an unknown parameter and takes ``1e-4`` for a text; here both are checked first.
"""

import ast
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from pydantic import TypeAdapter, ValidationError
from traitlets.config import Config

from wiring import datasets
from wiring.search.experiments import DESCRIPTIONS, from_texts, preset
from wiring.search.records import write
from wiring.search.sweeps import combinations, cores

#: The source checkout's book; the chapters are its notebooks.
BOOK = Path(__file__).resolve().parent.parent / "book"
#: How many seconds each chapter took when its committed outputs were made.
EXECUTION = BOOK / "execution.json"
#: What a chapter's parameter may be typed with: an annotation, or, for what may be None, a type comment (papermill
#: reads no annotation with a bar).
TYPES: dict[str, Any] = {kind.__name__: kind for kind in (bool, int, float, str)}
TYPES |= {f"{name}|None": kind | None for name, kind in TYPES.items()}


class ChapterError(ValueError):
    """A chapter or parameter that does not exist or does not fit, or a chapter whose execution failed."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a chapter: its annotation, its default as written, and the comment behind it."""

    kind: str
    default: str
    help: str


def chapters() -> dict[str, Path]:
    """Name -> notebook."""
    return {path.stem: path for path in sorted(BOOK.glob("*.ipynb"))}


def chapter(name: str) -> Path:
    """The notebook of a chapter. Raises ChapterError, naming the chapters there are."""
    there = chapters()
    if name not in there:
        names = ", ".join(there) or f"none, as there is no source checkout at {BOOK.parent}"
        raise ChapterError(f"chapter {name!r}: no such chapter; allowed: {names}")
    return there[name]


def parameters(name: str) -> dict[str, Parameter]:
    """The parameters of a chapter, from its cell tagged ``parameters``."""
    path = str(chapter(name))
    try:
        found = papermill.inspect_notebook(path)
    except Exception as error:  # whatever a broken notebook makes nbformat and papermill raise
        raise ChapterError(f"chapter {name!r}: {path} is no readable notebook: {error}") from error
    return {
        key: Parameter(entry["inferred_type_name"], entry["default"], entry["help"]) for key, entry in found.items()
    }


def check(name: str, given: Mapping[str, str]) -> dict[str, Any]:
    """The parameters given as texts, as values of their annotated types.

    Raises
    ------
    ChapterError
        If the chapter has no such parameter, or the text is no value of its type.
    ValueError
        If the chapter's preset cannot take the values, or its data set is not there.
    """
    there, values = parameters(name), from_texts(given)
    for key, text in given.items():
        if key not in there:
            raise ChapterError(
                f"chapter {name!r} has no parameter {key!r}; allowed: {', '.join(there) or '(it takes none)'}"
            )
        kind = there[key].kind
        if kind not in TYPES:
            raise ChapterError(f"parameter {key} of chapter {name!r} is typed {kind}; allowed: {', '.join(TYPES)}")
        try:
            values[key] = TypeAdapter(TYPES[kind]).validate_python(values[key], strict=True)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise ChapterError(f"parameter {key} = {text!r} of chapter {name!r}: {reason} ({kind})") from error
        # Whole numbers are counts, of seeds, cells, images, epochs; the seed alone may be 0.
        least = int(key != "seed")
        if kind.startswith("int") and values[key] is not None and values[key] < least:
            raise ChapterError(f"parameter {key} = {text!r} of chapter {name!r}: must be at least {least}")
    if "preset" in there:
        # Parameters named like an experiment's fields are changes to the preset: refuse them here, in one line, and
        # not in a kernel. One image tells whether the data set is there.
        chosen = values.get("preset", ast.literal_eval(there["preset"].default))
        experiment = preset(chosen, **{key: value for key, value in values.items() if key in DESCRIPTIONS})
        datasets.load_dataset(experiment.data, experiment.image_size, images=1)
    return values


def rerun(name: str, given: Mapping[str, str], out: Path | None = None, timeout: int | None = None) -> Path:
    """Execute a chapter with other parameters and keep it as a notebook of its own.

    Parameters
    ----------
    name
        The chapter.
    given
        Parameters as texts.
    out
        The notebook to write; by default the first free ``reruns/NAME.ipynb``, ``reruns/NAME-2.ipynb``, ...
    timeout
        Seconds that a cell may take; ``None`` is no limit.

    Returns
    -------
    Path
        The notebook written.

    Raises
    ------
    ChapterError
        Before anything runs: as :func:`check`, or ``out`` exists. If a cell fails, takes too long or its kernel dies:
        naming it; the notebook, as far as it got, is kept as ``.partial.ipynb``.
    """
    values = check(name, given)
    if out is None:
        candidates = (Path("reruns") / f"{name}{suffix}.ipynb" for suffix in ("", *(f"-{k}" for k in range(2, 10_000))))
        out = next(path for path in candidates if not (path.exists() or _partial(path).exists()))
    elif out.exists():
        raise ChapterError(f"{out} exists; choose another file, nothing is overwritten")
    elif out.suffix != ".ipynb":
        raise ChapterError(f"out = {str(out)!r}: a notebook's name ends in .ipynb")
    check_timeout(timeout)
    _execute_whole(chapter(name), out, values, timeout)
    return out


def reruns(name: str, grid: Mapping[str, Sequence[str]], out: Path) -> tuple[int, dict[str, Callable[[], object]], int]:
    """A chapter's reruns: their number, the tasks of those not finished, how many kernels the machine has cores for.

    Parameters
    ----------
    name
        The chapter.
    grid
        For each parameter its values as texts; all combinations are run.
    out
        The tasks (:func:`wiring.sweep`) keep each there as ``NAME-<digest>.ipynb``; until it is whole, and if it
        fails, as ``.partial.ipynb``.

    Raises
    ------
    ValueError
        As :func:`check`, for any of them.
    """
    tasks: dict[str, Callable[[], object]] = {}
    chosen = combinations(grid)
    for given in chosen:
        values = check(name, given)
        path = out / f"{name}-{sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]}.ipynb"
        if not path.exists():
            tasks[str(path)] = partial(_execute_whole, chapter(name), path.resolve(), values)
    return len(chosen), tasks, cores()


def _partial(out: Path) -> Path:
    return out.with_suffix(".partial.ipynb")


def _execute_whole(source: Path, out: Path, values: dict[str, Any], timeout: int | None = None) -> None:
    """Execute a notebook; until it is whole, and if it fails, it is kept beside ``out`` as ``.partial.ipynb``."""
    unfinished = _partial(out)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
        _execute(source, unfinished, values, timeout)
    except ChapterError as error:
        raise ChapterError(f"{error}; kept in {unfinished}") from error
    unfinished.replace(out)


def execute_all(out: Path, timeout: int | None = None) -> None:
    """Copy the book to ``out`` with every chapter executed afresh at its own parameters; ``out`` may be the book.

    Parameters
    ----------
    out
        The folder to write.
    timeout
        Seconds that a cell may take; ``None`` is no limit.

    Raises
    ------
    ChapterError
        After all chapters have run, naming those that failed, each with its cell, and the folder where their notebooks
        are kept as far as they got; their files in ``out`` are as they were.
    """
    if not chapters():
        raise ChapterError(f"no chapters: there is no source checkout at {BOOK.parent}")
    check_timeout(timeout)
    if out.resolve() != BOOK:
        shutil.copytree(BOOK, out, dirs_exist_ok=True)
    failures, seconds = [], {}
    scratch = Path(tempfile.mkdtemp(prefix="wiring-chapters-"))
    for number, (name, path) in enumerate(chapters().items(), 1):
        print(f"chapter {number}/{len(chapters())}: {name}", flush=True)
        executed = scratch / path.name
        started = time.perf_counter()
        try:
            _execute(path, executed, {}, timeout)
        except ChapterError as error:
            failures.append(str(error))
            continue
        seconds[name] = round(time.perf_counter() - started, 1)
        write(out, path.name, _without_run_metadata(executed).encode())
        executed.unlink()
    write(out, EXECUTION.name, json.dumps(seconds, indent=1).encode() + b"\n")
    if failures:
        raise ChapterError(f"{'; '.join(failures)}; kept in {scratch}")
    scratch.rmdir()


def check_timeout(timeout: int | None) -> None:
    """Raise ChapterError where that is no number of seconds."""
    if timeout is not None and timeout < 1:
        raise ChapterError(f"timeout = {timeout}: must be at least 1 (seconds)")


def _execute(source: Path, out: Path, values: dict[str, Any], timeout: int | None = None) -> None:
    """Execute a notebook in a kernel of its own; ``out`` is written cell by cell."""
    # Sockets of its own, short enough for a socket's name: in the working folder two kernels would share them. Other
    # users of the machine cannot reach them; over TCP ipykernel warns that they could.
    with tempfile.TemporaryDirectory(prefix="wiring-", ignore_cleanup_errors=True) as sockets:
        try:
            papermill.execute_notebook(
                str(source),
                str(out),
                parameters=values,
                cwd=str(Path.cwd()),
                kernel_name="python3",
                progress_bar=sys.stderr.isatty(),
                execution_timeout=timeout,
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
        except PapermillExecutionError as error:
            raise ChapterError(
                f"chapter {source.stem!r}, cell {error.exec_count}: {error.ename}: {error.evalue}"
            ) from error
        except (DeadKernelError, CellTimeoutError) as error:
            reason = "its kernel died" if isinstance(error, DeadKernelError) else f"took more than {timeout} s"
            raise ChapterError(f"chapter {source.stem!r}, cell {_started(out)}: {reason}") from error


def _started(path: Path) -> int:
    """How many code cells of a notebook were started."""
    cells = nbformat.read(path, as_version=4).cells
    return sum(cell.cell_type == "code" and bool(cell.metadata.papermill.get("start_time")) for cell in cells)


def _without_run_metadata(path: Path) -> str:
    """The notebook without what differs from run to run (times, paths, versions of the kernel)."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec",) if key in notebook.metadata}
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
    text: str = nbformat.writes(notebook)
    return text + "\n"
