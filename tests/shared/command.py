"""The command line called in this process, and what it leaves: shared by all tests of commands."""

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from wiring.__main__ import main

QUICK = ["run", "p1-quick", "--images", "32", "--batch", "16", "--cells", "1", "--channels", "2", "--epochs", "2"]


def snapshot(folder):
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else None) for path in folder.rglob("*")
    }


def notebook(path, *cells):
    """A chapter of these cells; the first holds the parameters."""
    content = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    content.cells[0].metadata["tags"] = ["parameters"]
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(content, path)


def call(*arguments):
    """The exit status, whether main returns or exits."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        return leaving.code
