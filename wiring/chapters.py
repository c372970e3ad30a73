"""The book's chapters, executed by papermill with other parameters.

papermill itself only warns of an unknown parameter and takes ``1e-4`` for a text; here both are checked first.
"""

import ast
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import papermill
from joblib import cpu_count
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from pydantic import TypeAdapter, ValidationError
from traitlets.config import Config

from wiring.search.experiments import DESCRIPTIONS, preflight, preset
from wiring.search.signals import Stopped
from wiring.search.sweeps import Tasks, combinations, run_name

#: The source checkout's book; the chapters are its notebooks.
BOOK = Path(__file__).resolve().parent.parent / "book"
#: How the name of a notebook ends that is not executed to its end.
PARTIAL = ".partial.ipynb"
#: What a chapter's parameter may be typed with: an annotation, or, for what may be None, a type comment (papermill
#: reads no annotation with a bar).
TYPES: dict[str, Any] = {plain.__name__: plain for plain in (bool, int, float, str)}
TYPES |= {f"{name}|None": plain | None for name, plain in TYPES.items()}


class ChapterError(ValueError):
    """A chapter or parameter that does not exist or does not fit, or a chapter whose execution failed."""


class Parameter(NamedTuple):
    """A parameter of a chapter: its annotation, its default as written, and the comment behind it."""

    annotation: str
    default: str
    help: str


def chapters() -> dict[str, Path]:
    """Name -> notebook."""
    return {path.stem: path for path in sorted(BOOK.glob("*.ipynb"))}


def chapter(name: str) -> Path:
    """The notebook of a chapter. Raises ChapterError, naming the chapters there are."""
    notebooks = chapters()
    if name not in notebooks:
        names = ", ".join(notebooks) or f"none, as there is no source checkout at {BOOK.parent}"
        raise ChapterError(f"chapter {name!r}: no such chapter; allowed: {names}")
    return notebooks[name]


def parameters(name: str) -> dict[str, Parameter]:
    """The parameters of a chapter, from its cell tagged ``parameters``."""
    path = str(chapter(name))
    try:
        entries = papermill.inspect_notebook(path)
    except Exception as error:  # whatever a broken notebook makes nbformat and papermill raise
        raise ChapterError(f"chapter {name!r}: {path} is no readable notebook: {error}") from error
    return {
        key: Parameter(entry["inferred_type_name"], entry["default"], entry["help"]) for key, entry in entries.items()
    }


def check(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for a chapter's parameters, as its annotations have them: a whole number for a float is made one.

    Raises ChapterError if it has no such parameter or a value is not of its type; ValueError if its preset cannot take
    the values, or cannot run (:func:`wiring.search.experiments.preflight`).
    """
    declared, checked = parameters(name), dict[str, Any]()
    for key, value in values.items():
        if key not in declared:
            allowed = ", ".join(declared) or "(it takes none)"
            raise ChapterError(f"chapter {name!r} has no parameter {key!r}; allowed: {allowed}")
        if (annotation := declared[key].annotation) not in TYPES:
            allowed = ", ".join(TYPES)
            raise ChapterError(f"parameter {key} of chapter {name!r} is typed {annotation}; allowed: {allowed}")
        try:
            checked[key] = TypeAdapter(TYPES[annotation]).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise ChapterError(f"parameter {key} = {value!r} of chapter {name!r}: {reason} ({annotation})") from error
        if isinstance(value, str) and value.startswith("folder:"):  # so that the notebook runs in another folder, too
            checked[key] = f"folder:{Path(value.removeprefix('folder:')).expanduser().resolve()}"
        # Whole numbers are counts, of seeds, cells, images, epochs; the seed alone may be 0.
        least = int(key != "seed")
        if annotation.startswith("int") and value is not None and value < least:
            raise ChapterError(f"parameter {key} = {value!r} of chapter {name!r}: must be at least {least}")
    if "preset" in declared:
        # Parameters named like an experiment's fields change the preset: refuse them here, not in a kernel.
        chosen = checked.get("preset", ast.literal_eval(declared["preset"].default))
        preflight(preset(chosen, **{key: value for key, value in checked.items() if key in DESCRIPTIONS}))
    return checked


def rerun(name: str, values: Mapping[str, Any], out: Path | None = None, timeout: int | None = None) -> Path:
    """Execute a chapter with other parameters as a notebook of its own: ``out``, whose path is returned.

    By default that is the first free ``reruns/NAME.ipynb``, ``reruns/NAME-2.ipynb``, ... Raises ValueError before
    anything runs as :func:`check`, or if ``out`` exists; then as :func:`execute`.
    """
    values = check(name, values)
    if out is None:
        candidates = (Path("reruns") / f"{name}{suffix}.ipynb" for suffix in ("", *(f"-{k}" for k in range(2, 10_000))))
        out = next(path for path in candidates if not (path.exists() or path.with_suffix(PARTIAL).exists()))
    elif there := [path for path in (out, out.with_suffix(PARTIAL)) if path.exists()]:
        raise ChapterError(f"{there[0]} exists; choose another file, nothing is overwritten")
    elif out.suffix != ".ipynb":
        raise ChapterError(f"out = {str(out)!r}: a notebook's name ends in .ipynb")
    if timeout is not None and timeout < 1:
        raise ChapterError(f"timeout = {timeout}: must be at least 1 (seconds)")
    execute(chapter(name), out, values, timeout, progress=True)
    return out


def reruns(name: str, grid: Mapping[str, Iterable[Any]], out: Path) -> Tasks:
    """A chapter's reruns with every combination of these values of its parameters.

    Each is kept as ``NAME-<digest>.ipynb`` in the folder ``out``; as many are run at a time as there are cores. Raises
    ValueError as :func:`check`, for any of them.
    """
    choices, left = [check(name, choice) for choice in combinations(grid)], dict[str, Callable[[], None]]()
    for values in choices:
        path = out / f"{run_name(name, json.dumps(values, sort_keys=True))}.ipynb"
        if not path.exists():
            left[str(path)] = partial(execute, chapter(name), path.resolve(), values)
    return Tasks(len(choices), left, cpu_count(), cpu_count())


def execute(path: Path, out: Path, values: dict[str, Any], timeout: int | None = None, progress: bool = False) -> None:
    """Execute a notebook with these parameters in a kernel of its own, from the working folder.

    A cell may take ``timeout`` seconds. Progress is shown on the standard error: a bar on a terminal, else a line for
    each cell. Raises ChapterError, naming the cell, if one fails, takes too long or its kernel dies; as far as it got,
    the notebook is kept beside ``out`` as ``.partial.ipynb``.
    """
    unfinished, bar = out.with_suffix(PARTIAL), progress and sys.stderr.isatty()

    def say(cell_index: int, **which: object) -> None:
        print(f"{path.stem}: cell {cell_index + 1} is done", file=sys.stderr, flush=True)

    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Sockets of its own, short enough for a socket's name: in the working folder two kernels would share them.
        # Other users of the machine cannot reach them; over TCP ipykernel warns that they could.
        with tempfile.TemporaryDirectory(prefix="wiring-", ignore_cleanup_errors=True) as sockets:
            config = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
            # At its end a kernel is interrupted, which it may call an error; what cells raise comes another way.
            config.NotebookClient.extra_arguments = ["--log-level=CRITICAL"]
            if progress and not bar:
                config.NotebookClient.on_cell_executed = say
            options = {"cwd": str(Path.cwd()), "kernel_name": "python3", "execution_timeout": timeout}
            options["coalesce_streams"] = True  # what a cell prints is one output, whenever it was flushed
            papermill.execute_notebook(str(path), str(unfinished), values, config=config, progress_bar=bar, **options)
    except Stopped:
        logging.getLogger("asyncio").disabled = True  # it would print what became of the cell, which nobody awaits
        raise
    except (PapermillExecutionError, DeadKernelError, CellTimeoutError) as error:
        if isinstance(error, PapermillExecutionError):
            cell, reason = error.exec_count, f"{error.ename}: {error.evalue}"
        else:
            code = [cell for cell in nbformat.read(unfinished, as_version=4).cells if cell.cell_type == "code"]
            cell = sum(cell.metadata.papermill.get("start_time") is not None for cell in code)
            reason = "its kernel died" if isinstance(error, DeadKernelError) else f"took more than {timeout} s"
        raise ChapterError(f"chapter {path.stem!r}, cell {cell}: {reason}; kept in {unfinished}") from error
    unfinished.replace(out)
