"""The page about the package, short enough to be read: all but each object's first paragraph unfolds."""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from wiring_book.site import details

#: The page whose objects are folded.
PAGE = "api"


def fold(app: Sphinx, page: nodes.document) -> None:
    """Leave of each function and class its signature and first paragraph, and fold the rest."""
    if app.env.docname != PAGE:
        return
    for entry in list(page.findall(addnodes.desc)):
        content = entry.children[-1]
        assert isinstance(content, addnodes.desc_content)
        if not isinstance(entry.parent, nodes.section) or len(content.children) < 2:
            continue
        first, *rest = content.children
        members = sum(isinstance(node, addnodes.desc) for node in rest)
        summary = f"More, and {members} members" if members else "More"
        content.children = []
        content += [first, *details(summary, rest)]


def setup(app: Sphinx) -> None:
    """Tell Sphinx to fold them."""
    app.connect("doctree-read", fold)
