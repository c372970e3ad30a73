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
from pathlib import Path

import nbformat
from wiring.chapters import BOOK, ChapterError, chapters, execute
from wiring.search.records import write
from wiring.search.signals import Stopped, raised

#: How many seconds each chapter took when its committed outputs were made.
EXECUTION = BOOK / "execution.json"


def execute_all(out: Path) -> None:
    """Copy the book to ``out``, which may be the book, with every chapter executed afresh.

    Raises
    ------
    ChapterError
        After all chapters have run, naming those that failed, each with its cell and where its notebook is kept as far
        as it got; their files in ``out`` are as they were.
    """
    if out.resolve() != BOOK:
        shutil.copytree(BOOK, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("extension"))
    failures, seconds = [], {}
    scratch = Path(tempfile.mkdtemp(prefix="wiring-chapters-"))
    for number, (name, path) in enumerate(chapters().items(), 1):
        print(f"chapter {number}/{len(chapters())}: {name}", flush=True)
        executed = scratch / path.name
        started = time.perf_counter()
        try:
            execute(path, executed, {}, progress=sys.stderr.isatty())
        except ChapterError as error:
            failures.append(str(error))
            continue
        seconds[name] = round(time.perf_counter() - started, 1)
        write(out, path.name, _without_run_metadata(executed).encode())
        executed.unlink()
    write(out, EXECUTION.name, json.dumps(seconds, indent=1).encode() + b"\n")
    if failures:
        raise ChapterError("; ".join(failures))
    scratch.rmdir()


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
    try:
        with raised():
            execute_all(parser.parse_args(arguments).out)
    except (ChapterError, OSError) as error:
        print(f"wiring_book.build: {error}", file=sys.stderr)
        return 1
    except Stopped as stop:
        return stop.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
