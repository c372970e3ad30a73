"""Execute every chapter for the book, each at its own parameters: ``make book`` into a copy, ``make outputs`` in place.

The folder ``extension`` is not copied: Jupyter Book finds it from the root of the checkout (``_config.yml``).
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import nbformat
from joblib import cpu_count
from wiring.chapters import BOOK, ChapterError, chapters, execute
from wiring.search.loop import log_epochs
from wiring.search.records import write
from wiring.search.signals import Stopped, raised
from wiring.search.sweeps import done

#: How many seconds each chapter took, beside others, when its committed outputs were made.
EXECUTION = BOOK / "execution.json"


def execute_all(out: Path) -> None:
    """Copy the book to ``out``, which may be the book, with every chapter executed afresh, one on each core at a time.

    Raises
    ------
    ChapterError
        After all chapters have run, naming those that failed, each with its cell and where its notebook is kept as far
        as it got; their files in ``out`` are as they were.
    """
    out = out.resolve()  # a worker has a working folder of its own
    if out != BOOK:
        shutil.copytree(BOOK, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("extension"))
    scratch = Path(tempfile.mkdtemp(prefix="wiring-chapters-"))
    tasks = {name: partial(_execute, path, scratch / path.name, out) for name, path in chapters().items()}
    with closing(done(tasks, cpu_count(), "chapters")) as ended:
        futures = dict(ended)
    errors = [f"{name}: {error}" for name, future in futures.items() if (error := future.exception())]
    seconds = {name: futures[name].result() for name in tasks if not futures[name].exception()}
    write(out, EXECUTION.name, json.dumps(seconds, indent=1).encode() + b"\n")
    if errors:
        raise ChapterError("; ".join(errors))
    scratch.rmdir()


def _execute(path: Path, executed: Path, out: Path) -> float:
    """A chapter executed, in a worker, and written to ``out``; the seconds it took. Raises ChapterError."""
    started = time.perf_counter()
    execute(path, executed, {})
    seconds = round(time.perf_counter() - started, 1)
    write(out, path.name, _without_run_metadata(executed).encode())
    executed.unlink()
    return seconds


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 (a chapter failed), 130 (Ctrl-C) or 143 (SIGTERM)."""
    parser = argparse.ArgumentParser(prog="wiring_book.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the executed book goes")
    out = parser.parse_args(arguments).out
    log_epochs()
    try:
        with raised():
            execute_all(out)
    except (ChapterError, OSError) as error:
        print(f"wiring_book.build: {error}", file=sys.stderr)
        return 1
    except Stopped as stop:
        return stop.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
