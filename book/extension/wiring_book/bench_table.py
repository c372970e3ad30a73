"""Write the table of ``data/bench.json`` into the README: ``make bench`` does so once it has measured."""

import json
from pathlib import Path
from typing import Any

from wiring.bench import HEAD, Row

ROOT = Path(__file__).parents[3]
#: Between these lines of the README stands the table.
MARKS = "<!-- bench: written by `make bench` -->", "<!-- /bench -->"


def table(content: dict[str, Any]) -> str:
    """The JSON's content as a Markdown table."""
    rows = [Row(**{key: value for key, value in row.items() if key != "met"}) for row in content["rows"]]
    return "\n".join([f"Measured on {content['machine']}.", HEAD, *map(str, rows)])


def with_table(text: str, rows: str) -> str:
    """The README's text with these rows between its marks.

    Raises
    ------
    ValueError
        If it has no such lines.
    """
    before, first, rest = text.partition(MARKS[0] + "\n")
    _, last, after = rest.partition(MARKS[1])
    if not (first and last):
        raise ValueError(f"README.md: no lines {MARKS[0]} and {MARKS[1]}")
    return f"{before}{first}{rows}\n{last}{after}"


if __name__ == "__main__":
    content = json.loads((ROOT / "data" / "bench.json").read_text())
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(), table(content)))
