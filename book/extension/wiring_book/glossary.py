"""The words of the glossary, linked where a page first uses them: no author marks them, a new word needs no edit.

A link says what its word means when the pointer or the focus is on it, and so does a link to a claim: the theme shows
what stands in ``data-bs-toggle="tooltip"`` (:func:`tips`).
"""

import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

from docutils import nodes
from sphinx.addnodes import literal_strong, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from wiring.evidence import CLAIMS

#: The page that holds the glossary.
PAGE = "glossary"
#: In these no word is linked: headings, links, code, formulas, names of parameters and claims.
_APART = (
    nodes.title,
    nodes.caption,
    nodes.thead,
    nodes.reference,
    nodes.strong,
    nodes.literal,
    nodes.math,
    literal_strong,
    pending_xref,
)


def first_uses(texts: list[str], terms: Collection[str]) -> Iterator[list[tuple[str, str | None]]]:
    """Each text in pieces, a piece with its term where it is the first use of one.

    A use may be in the plural or start a sentence; of two terms that begin alike it is the longer one's.
    """
    longest_first = sorted(map(re.escape, terms), key=len, reverse=True)
    either = "|".join(f"(?i:{term[0]}){term[1:]}" if term[0].islower() else term for term in longest_first)
    pattern, seen = re.compile(rf"(?<![\w-])({either})(?:e?s)?(?![\w-])"), set()
    for text in texts:
        pieces: list[tuple[str, str | None]] = []
        end = 0
        for match in pattern.finditer(text):
            term = match[1] if match[1] in terms else match[1][0].lower() + match[1][1:]
            if term not in seen:
                seen.add(term)
                pieces += (text[end : match.start()], None), (match[0], term)
                end = match.end()
        yield [*pieces, (text[end:], None)]


class LinkTerms(SphinxPostTransform):
    """Link the first use of each term in a page's paragraphs."""

    default_priority = 5  # before references are resolved

    def run(self, **options: Any) -> None:
        """Put the links into the page."""
        page = self.env.docname
        terms = {name for kind, name in self.env.get_domain("std").objects if kind == "term"}  # type: ignore[attr-defined]
        if page == PAGE or not terms:
            return
        paragraphs = self.document.findall(nodes.paragraph)
        texts = [text for paragraph in paragraphs for text in paragraph.findall(nodes.Text) if not _is_apart(text)]
        for text, pieces in zip(texts, first_uses(list(map(str, texts)), terms), strict=True):
            if len(pieces) > 1:
                new = [_link(piece, term, page) if term else nodes.Text(piece) for piece, term in pieces]
                text.parent.replace(text, new)


def _is_apart(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, _APART):
            return True
    return False


def _link(text: str, term: str, page: str) -> pending_xref:
    inner = nodes.inline(text, text, classes=["xref", "std", "std-term"])
    return pending_xref("", inner, refdomain="std", reftype="term", reftarget=term, refdoc=page, refwarn=True)


@cache
def definitions(env: BuildEnvironment) -> dict[str, str]:
    """What each word means, by its anchor, without where to read on."""
    found: dict[str, str] = {}
    for item in env.get_doctree(PAGE).findall(nodes.definition_list_item):
        meaning = item.children[-1].deepcopy()
        for link in list(meaning.findall(pending_xref)):
            if link["reftype"] != "term":
                link.parent.remove(link)
        text = re.sub(r"[;:,\s]+\.", ".", meaning.astext())
        found |= {f"#{term['ids'][0]}": text for term in item.findall(nodes.term)}
    return found


def _explain(app: Sphinx, page: nodes.document, name: str) -> None:
    """Have every link to a word or a claim say what it leads to."""
    meanings = {f"#claim-{claim.id.lower()}": claim.statement for claim in CLAIMS.values()}
    meanings |= definitions(app.env) if PAGE in app.env.found_docs else {}
    for link in page.findall(nodes.reference):
        target = f"#{link.get('refuri', link.get('refid', '')).rpartition('#')[2]}"
        if target in meanings:
            link["reftitle"] = meanings[target]


def tips(page: str) -> str:
    """The page, the explanations of its links shown by the theme, which shows them on focus, too."""
    return re.sub(r'(<a [^>]*#(?:term|claim)-[^>]*?)( title=")', r'\1 data-bs-toggle="tooltip"\2', page)


def _read_all_again(app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
    """Where the glossary has changed, any page may have other links."""
    if PAGE in pages:
        pages[:] = sorted(env.found_docs)


def setup(app: Sphinx) -> None:
    """Tell Sphinx of the links."""
    app.add_post_transform(LinkTerms)
    app.connect("env-before-read-docs", _read_all_again)
    app.connect("doctree-resolved", _explain)
