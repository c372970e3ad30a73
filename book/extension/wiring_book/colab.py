"""The chapters as Colab runs them: with a first cell that installs there, and only there, what they need.

The workflow puts them on a branch of their own, to which the book's Colab buttons lead::

    python book/extension/wiring_book/colab.py https://github.com/OWNER/NAME FOLDER

Only the standard library is imported, so that nothing has to be installed for that.
"""

import json
import sys
from pathlib import Path
from typing import Any

#: The branch that holds these notebooks and nothing else.
BRANCH = "colab"
BOOK = Path(__file__).resolve().parents[2]


def setup_cell(url: str) -> str:
    """Gets a checkout, which has the recorded runs as well, and what the package and its chapters need."""
    return (
        "# On Colab only: the package from a checkout of the book's source, which has the recorded runs, too.\n"
        f"!git clone -q --depth 1 {url} /content/wiring\n"
        '%pip install -q -e "/content/wiring[book]"\n'
        "import sys\n\n"
        'sys.path.insert(0, "/content/wiring")  # this kernel has started before it was installed'
    )


def with_setup(notebook: dict[str, Any], url: str) -> dict[str, Any]:
    """The notebook with that cell before all others."""
    cell: dict[str, Any] = {"cell_type": "code", "id": "colab", "metadata": {}, "execution_count": None, "outputs": []}
    return notebook | {"cells": [cell | {"source": setup_cell(url).splitlines(keepends=True)}, *notebook["cells"]]}


def write(url: str, folder: Path) -> None:
    """Write every chapter for the repository at ``url``."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in BOOK.glob("*.ipynb"):
        notebook = with_setup(json.loads(path.read_text()), url)
        (folder / path.name).write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
