"""The book's logo and the card that shows where a page is linked: the minimal cell in the figures' colours."""

from pathlib import Path

from matplotlib.colors import to_hex
from matplotlib.figure import Figure as _MatplotlibFigure
from matplotlib.patches import FancyArrowPatch
from wiring.chapters import BOOK
from wiring.figures import ORIGINS, edge_origin, positions
from wiring.supernet.topology import MINIMAL

TITLE = "The Wiring of\nDifferentiable\nArchitecture Search"


def _lines() -> list[tuple[tuple[float, float], tuple[float, float], str]]:
    """Start, end and colour of the edges and of the way to the output."""
    places = positions(MINIMAL)
    edges = [(i, j, to_hex(ORIGINS[edge_origin(MINIMAL, k)])) for k, (i, j) in enumerate(MINIMAL.edges)]
    edges += [(j, MINIMAL.nodes, "#8c8c8c") for j in MINIMAL.output]
    return [(places[i], places[j], colour) for i, j, colour in edges]


def svg() -> str:
    """The logo, on a square that a dark or a light page shows through."""

    def at(place: tuple[float, float]) -> tuple[int, int]:
        return round(20 + 41 * place[0]), round(100 - 62 * place[1])

    lines = [
        f'<line x1="{at(a)[0]}" y1="{at(a)[1]}" x2="{at(b)[0]}" y2="{at(b)[1]}" stroke="{colour}"/>'
        for a, b, colour in _lines()
    ]
    circles = [f'<circle cx="{at(place)[0]}" cy="{at(place)[1]}" r="13"/>' for place in positions(MINIMAL)]
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 20 200 160" role="img" aria-label="a cell">',
            '<g stroke-width="8">',
            *lines,
            '</g><g fill="#f5f5f5" stroke="#555" stroke-width="5">',
            *circles,
            "</g></svg>\n",
        ]
    )


def card(path: Path) -> None:
    """Write the card, 1200 x 630 pixels."""
    figure = _MatplotlibFigure(figsize=(12, 6.3), facecolor="white")
    axes = figure.add_axes((0.52, 0.1, 0.45, 0.8))
    for start, end, colour in _lines():
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=30, shrinkA=22, shrinkB=24, lw=5, color=colour
        )
        axes.add_patch(arrow)
    for x, y in positions(MINIMAL):
        axes.plot(x, y, "o", ms=44, mfc="0.96", mec="0.3", mew=3)
    axes.set(xlim=(-0.4, 4.3), ylim=(-1.2, 1.2))
    axes.axis("off")
    figure.text(0.05, 0.5, TITLE, fontsize=40, va="center", linespacing=1.3)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def draw(folder: Path = BOOK / "_static") -> None:
    """Write both."""
    (folder / "logo.svg").write_text(svg())
    card(folder / "card.png")


if __name__ == "__main__":
    draw()
