"""Mathematics as MathML, made while the book is built, and fonts with only the glyphs that its pages show.

Browsers and screen readers know MathML by themselves: a page needs no script for its formulas, and shows them at once.
"""

import re
from collections.abc import Iterable
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from fontTools import subset
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger
from sphinx.util.math import get_node_equation_number

#: The theme makes what has this class a stop of the Tab key while it is wider than the page and scrolls.
SCROLLS = "pst-scrollable-table-container"
_LATEX = LatexToMathML(fancy_error=False)
_LOGGER = getLogger(__name__)
#: What a browser shows and MathML does not spell: roots, and italics, Latin and Greek, for a variable of one letter.
_UNSPELT = "√ℎ" + "".join(map(chr, [*range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C)]))


def mathml(latex: str, block: bool = False) -> str:
    """A formula as MathML."""
    return _LATEX.convert_with_local_state(latex.strip(), displaystyle=block)


def _append(translator: Any, node: nodes.Element, block: bool) -> None:
    try:
        translator.body.append(mathml(node.astext(), block))
    except LatexError as error:
        _LOGGER.warning("%s", error, location=node)
        translator.body.append(f"<code>{translator.encode(node.astext())}</code>")


def _visit_inline(translator: Any, node: nodes.math) -> None:
    _append(translator, node, block=False)
    raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(
        translator.starttag(node, "div", CLASS=f"math {SCROLLS}", role="group", **{"aria-label": "Formula"})
    )
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    _append(translator, node, block=True)
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def keep_together(page: str) -> str:
    """Let no line break part a formula from the punctuation beside it, as browsers would."""
    return re.sub(
        r"([^\s<>]*)(<math>.*?</math>)([^\s<]*)",
        lambda match: f'<span class="wiring-whole">{match[0]}</span>' if match[1] or match[3] else match[0],
        page,
        flags=re.DOTALL,
    )


def package_data(package: str, *path: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*path)


def formula_characters(pages: Iterable[str]) -> str:
    """All characters that formulas on these pages are set in."""
    formulas = [formula for page in pages for formula in re.findall(r"<math.*?</math>", page, re.DOTALL)]
    return unescape(re.sub(r"<[^>]*>", "", "".join(formulas))) + _UNSPELT


def icon_characters(sheets: str, pages: Iterable[str]) -> str:
    """All characters of the icon font that these pages and style sheets ask for."""
    names = {name for page in pages for name in re.findall(r"\bfa-[\w-]+", page)}

    def if_used(rule: re.Match[str]) -> str:
        return rule[0] if names & set(re.findall(r"fa-[\w-]+", rule[0])) else ""

    used = re.sub(r'(?:\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}', if_used, sheets)
    escaped = "".join(chr(int(code, 16)) for code in re.findall(r'"\\([\da-f]{2,4})\s?"', used))
    return escaped + "".join(re.findall(r"[\ue000-\uf8ff]", used))


def write_font(source: Path, target: Path, characters: str) -> None:
    """A font with these characters alone, and all that it says of its licence."""
    options = subset.Options(
        flavor="woff2", layout_features=["ssty", "dtls", "flac"], name_IDs=["*"], notdef_outline=True
    )
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=characters)
    with subset.load_font(str(source), options) as font:
        subsetter.subset(font)
        subset.save_font(font, str(target), options)


def _write_fonts(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    pages = [path.read_text() for path in Path(app.outdir).glob("*.html")]
    write_font(
        package_data("ziamath", "fonts", "STIXTwoMath-Regular.ttf"), static / "math.woff2", formula_characters(pages)
    )
    sheets = "".join(path.read_text() for path in static.rglob("*.css"))
    scripts = [path.read_text() for path in (static / "scripts").glob("*.js")]
    icons = icon_characters(sheets, [*pages, *scripts])
    for path in (static / "vendor" / "fontawesome" / "webfonts").glob("*.woff2"):
        write_font(path.with_suffix(".ttf"), path, icons)


def setup(app: Sphinx) -> None:
    """Tell Sphinx of the writer of formulas and the fonts."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    app.connect("build-finished", _write_fonts)
