"""The book's Sphinx extension: players, provenance, notes on rerunning, the status page, and the live buttons.

Everything is generated while the book is built, from the records and the notebooks; nothing is executed. Directives::

    player [PRESET ...]     the recorded search that is shown first, or two side by side; else the first there is
    explorer                the cost explorer
    provenance PRESET [FIELD=VALUE ...] ...   how the records of a figure were made
    rerun CHAPTER           how to run a chapter with other parameters; put at the end of every chapter
    source                  how to get and install the source
    status                  reference records, execution times, versions
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective
from sphinx_proof.domain import ProofDomain, ProofIndex
from wiring.__main__ import from_text
from wiring.chapters import chapters, parameters
from wiring.search.experiments import anywhere, changed, preset
from wiring.search.records import REFERENCE, Record, load, load_reference
from wiring.supernet.operations import NAMES, NONE

from wiring_book import colab, explorer, glossary, players, typeset
from wiring_book.build import EXECUTION

#: How what may be wider than the page starts, and what a screen reader calls it.
SCROLLED = {
    "<pre>": "Code or text",
    '<div class="output text_html">': "Table",
    f'<div class="{typeset.SCROLLS}">': "Table",
}
#: The one variable that makes the book live: the address of its repository.
REPOSITORY = "WIRING_REPOSITORY"


def repository() -> str:
    """The address of the book's repository, empty where it is not known."""
    return os.environ.get(REPOSITORY, "").rstrip("/")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The table of a player as it stands before, or without, its script; a narrow page scrolls it."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    caption = escape(caption)
    return (
        f'<div class="wiring-table" tabindex="0" role="region" aria-label="{caption}"><table class="table">'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, content: Sequence[nodes.Node]) -> list[nodes.Node]:
    """What is there to be unfolded, by those who ask."""
    start, end = f"<details><summary>{escape(summary)}</summary>", "</details>"
    return [nodes.raw("", start, format="html"), *content, nodes.raw("", end, format="html")]


class Generated(SphinxDirective):
    """A directive whose content is generated from the recorded runs."""

    final_argument_whitespace = True
    optional_arguments = 1

    def depend_on(self, *folders: Path) -> None:
        """Have Sphinx read the page again when a file in these folders, or what generates it, has changed."""
        for folder in (*folders, Path(__file__)):
            for path in folder.rglob("*") if folder.is_dir() else [folder]:
                if path.is_file():  # Sphinx takes a folder for a missing file, and would always read the page again
                    self.env.note_dependency(str(path))

    def markdown(self, text: str) -> list[nodes.Node]:
        """What the text says, parsed as the page is."""
        parsed = nodes.container()
        self.state.nested_parse(StringList(text.splitlines(), source=self.env.docname), self.content_offset, parsed)
        return list(parsed.children)

    def records(self, name: str, **changes: Any) -> list[Record]:
        """The recorded runs of a preset, or with other fields, on which the page then depends."""
        if not (records := load_reference(name, **changes)):
            raise self.error(f"{name} {changes or ''}: no such reference records")
        self.depend_on(REFERENCE / name)
        return records


class _Live(Generated):
    """A player: tables, which its script draws."""

    def player(self, kind: str, shown: str, tables: Iterable[str], scripts: Iterable[str]) -> list[nodes.Node]:
        """The element, its tables, and before it the scripts with the data that it shows first.

        ``shown`` is what the element's address says after ``#ID=`` when a reader has chosen the same.
        """
        number = self.env.new_serialno(kind)
        loaded = "".join(f'<script src="_static/players/{name}.js"></script>' for name in ("common", *scripts))
        note = "<noscript><p>With JavaScript these tables are pictures to play with.</p></noscript>"
        opening = f'<wiring-{kind} class="wiring-player" id="{kind}{number or ""}" data-shown="{shown}">'
        html = f'{loaded}{opening}<div class="wiring-row wiring-tables">{"".join(tables)}</div>{note}</wiring-{kind}>'
        return [nodes.raw("", html, format="html")]


class Player(_Live):
    """Recorded searches, played epoch by epoch: one, or two side by side."""

    def run(self) -> list[nodes.Node]:
        """The tables of the first runs' last epoch."""
        self.depend_on(REFERENCE)  # whose searches the reader can choose
        titles = players.captions()
        names = self.arguments[0].split() if self.arguments else list(titles)[:1]
        if len(names) > 2 or not titles.keys() >= set(names):
            raise self.error(f"player {' '.join(names)}: allowed: one or two of {', '.join(titles)}")
        tables = [_search_table(titles[name], self.records(name)[0]) for name in names]
        return self.player("player", "+".join(f"{name}/0" for name in names), tables, [f"{name}-0" for name in names])


def _search_table(title: str, record: Record) -> str:
    """Of every edge after the last epoch: its most probable operation, this one's p, None's, and the edge's cost."""
    run, epoch = players.runs(record)[0], record.experiment.epochs
    rows = []
    for number, (i, j) in enumerate(record.experiment.topology.edges):
        p = run["probability"][-1][number]
        best = NAMES[p.index(max(p))]
        cost = _signed(run["cost"][-1][number])
        rows.append((f"{number}: {i} → {j}", best, f"{max(p):.3f}", f"{p[NONE]:.3f}", cost))
    header = ("edge", "most probable", "its p", "p(None)", "cost (nats)")
    return html_table(f"{title}, seed {run['seed']}, epoch {epoch} of {epoch}", header, rows)


class Explorer(_Live):
    """The cost explorer, on the architecture that it opens with."""

    #: Separable convolutions: what comes back through edge 4 is not zero on edges 0 and 1, and in sum is.
    chosen = (4, 4, 4, 4, 4)

    def run(self) -> list[nodes.Node]:
        """The tables of the first architecture, in both states of the weights."""
        self.depend_on(explorer.PATH)
        tables = [self._table(state, costs) for state, costs in explorer.load_costs().items()]
        shown = ",".join(NAMES[operation] for operation in self.chosen)
        return self.player("explorer", shown, tables, ["costs-{3}{4}".format(*self.chosen)])

    def _table(self, state: str, costs: explorer.Costs) -> str:
        values = dict(zip(explorer.QUANTITIES, costs[:, *self.chosen] * explorer.STEP, strict=True))
        rows = []
        for edge, operation in enumerate(self.chosen):
            direct, through = values[f"direct {edge}"], values.get(f"through {edge}", 0.0)
            other = _signed(through) if edge < 2 else "none"
            rows.append((edge, NAMES[operation], _signed(direct), other, _signed(direct + through)))
        header = ("edge", "operation", "direct path", "through edge 4", "cost (nats)")
        return html_table(
            f"One minimal cell {explorer.STATES[state]}, {explorer.IMAGES} images of digits", header, rows
        )


def _signed(value: float) -> str:
    text = f"{value:+.4f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


class Provenance(Generated):
    """Which records, command, seeds, date and versions are behind a figure."""

    def run(self) -> list[nodes.Node]:
        """A sentence a preset, small, under the figure."""
        kinds = list[tuple[str, dict[str, Any]]]()
        for word in self.arguments[0].split():
            field, equals, value = word.partition("=")
            if equals:
                kinds[-1][1][field] = from_text(value)
            else:
                kinds.append((word, {}))
        texts = (provenance(name, self.records(name, **changes)) for name, changes in kinds)
        names = dict.fromkeys(name for name, _ in kinds)
        folded = details(f"How it was recorded: {', '.join(names)}", self.markdown("\n\n".join(texts)))
        return [nodes.container("", *folded, classes=["wiring-provenance"])]


def provenance(name: str, records: Sequence[Record]) -> str:
    """One sentence on how recorded runs were made, in Markdown."""
    made = [record.provenance for record in records]
    seeds = [record.experiment.seed for record in records]
    words = in_words(changed(anywhere(records[0].experiment), anywhere(preset(name))))
    folder = "/".join(filter(None, (name, ",".join(map("=".join, words.items())))))
    data, devices = (sorted({str(run[key]) for run in made}) for key in ("data", "device"))
    dates = sorted({str(run["finished"]) for run in made})
    versions = sorted({f"{key} {number}" for run in made for key, number in run["versions"].items()})
    return (
        f"Records: `data/reference/{folder}`, seeds {min(seeds)} to {max(seeds)} ({len(seeds)} runs), each made by "
        f"`{command(name, words)}` on {', '.join(data)}, {' and '.join(devices)}; "
        f"finished {' to '.join(dict.fromkeys((dates[0], dates[-1])))} with {', '.join(versions)}."
    )


def in_words(fields: Mapping[str, Any]) -> dict[str, str]:
    """An experiment's fields as the command line has them."""
    return {field: json.dumps(value).strip('"') for field, value in sorted(fields.items())}


def command(name: str, words: Mapping[str, str]) -> str:
    """What makes a run of a preset with other fields."""
    return f"wiring run {name} --seed N" + "".join(f" --{field} {value}" for field, value in words.items())


class Source(Generated):
    """How to get the source."""

    def run(self) -> list[nodes.Node]:
        """The commands; where no repository is known, those in a checkout."""
        if url := repository():
            name = url.rpartition("/")[2]
            return self.markdown(
                f"Install it, with Python 3.11 or newer:\n\n```bash\ngit clone {url}\ncd {name} && make setup\n```\n"
            )
        return self.markdown("Install it, in a checkout of the source, with Python 3.11 or newer: `make setup`.")


class Rerun(Generated):
    """The command that runs a chapter with other parameters, and what these are."""

    def run(self) -> list[nodes.Node]:
        """Two commands, and the chapter's parameters as a table."""
        name = self.arguments[0]
        self.depend_on(chapters()[name])
        declared = parameters(name)
        rows = [(f"`{key}`", f"`{value.default}`", value.help) for key, value in declared.items()]
        example = next(key for key, value in declared.items() if value.annotation == "int")
        changed = f"-p {example} {int(declared[example].default) + 1}"
        buttons = "The rocket's buttons run it on Binder or Colab, or in this page. " if repository() else ""
        text = (
            f"{buttons}The button with an arrow down, at the top, downloads this chapter as a notebook. It needs a "
            "kernel in which this package is installed from a checkout of the source (`make setup`), where the "
            "recorded runs lie. In a checkout\n\n"
            f"```bash\nwiring rerun {name} {changed}\n"
            f"papermill book/{name}.ipynb {name}-again.ipynb {changed}\n```\n\n"
            f"run it with {example} changed, and so with any of its parameters:\n\n"
            f"{table(('parameter', 'default', 'meaning'), rows)}\n"
        )
        return self.markdown(text)


class Status(Generated):
    """What the book was built from."""

    def run(self) -> list[nodes.Node]:
        """Three tables: records, times, versions."""
        names = sorted(path.name for path in REFERENCE.iterdir() if path.is_dir())
        rows = []
        for name in names:
            self.depend_on(REFERENCE / name)
            made = [load(path.parent).provenance for path in REFERENCE.glob(f"{name}/**/done.json")]
            seconds = [run["seconds"] for run in made]
            dates = sorted(run["finished"] for run in made)
            data = ", ".join(sorted({run["data"] for run in made}))
            rows.append((f"`{name}`", len(made), data, f"{min(seconds):.0f} to {max(seconds):.0f}", dates[-1]))
        records = table(("preset", "runs", "data", "seconds a run", "finished"), rows)
        self.depend_on(EXECUTION)
        times = json.loads(EXECUTION.read_text()) if EXECUTION.exists() else {}
        times = table(("chapter", "seconds"), [(f"{{doc}}`{name}`", f"{value:.0f}") for name, value in times.items()])
        packages = ("wiring", "torch", "torchvision", "numpy", "scikit-learn", "matplotlib", "jupyter-book")
        versions = table(("package", "version"), [(name, version(name)) for name in packages])
        return self.markdown(
            f"**Reference records**\n\n{records}\n\n**Execution times**, one chapter beside another\n\n{times}\n\n"
            f"**Versions**\n\n{versions}\n"
        )


def _add_rerun(app: Sphinx, name: str, source: list[str]) -> None:
    """End every chapter with a note on running it again."""
    if name in chapters():
        notebook = nbformat.reads(source[0], as_version=4)
        note = nbformat.v4.new_markdown_cell(f"## Run this chapter again\n\n```{{rerun}} {name}\n```", id="rerun")
        notebook.cells.append(note)
        source[0] = nbformat.writes(notebook)


def _go_live(app: Sphinx, config: Config) -> None:
    """Launch buttons, Thebe, links to the source and the book's own address, if the repository is known."""
    if not (url := repository()):
        return
    live = {"repository_url": url, "repository_branch": "main", "path_to_docs": "book"}
    config.html_theme_options |= live | {
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "thebe": True,
        },
    }
    config.thebe_config = live
    owner, name = url.split("/")[-2:]
    config.ogp_site_url = f"https://{owner}.github.io/{name}/"  # cards of links need a picture's whole address


def _mend_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Mend what the theme, Docutils and pandas leave.

    Colab's button leads to the notebooks for Colab. No script is loaded twice, which Thebe's cannot bear, and Thebe's
    not at all where it has no server to ask. What scrolls has a name.

    Docutils calls its citations a list, whose items screen readers then do not find.
    """
    body = context.get("body", "").replace('<div role="list" class="citation-list">', "<div>")
    body = body.replace(' role="doc-biblioentry"', "")  # which ARIA has given up
    body = glossary.tips(typeset.keep_together(body))
    for start, name in SCROLLED.items():
        body = body.replace(start, f'{start[:-1]} role="group" aria-label="{name}">')
    # A header that says nothing, above pandas' index, is none.
    context["body"] = body.replace("<th></th>", "<td></td>")
    live = bool(app.config.thebe_config.get("repository_url"))
    for button in context.get("header_buttons", []):
        for launch in button.get("buttons", []):
            if launch.get("text") == "Colab":
                launch["url"] = launch["url"].replace("/main/book/", f"/{colab.BRANCH}/")
    scripts = dict.fromkeys(context["script_files"])
    context["script_files"] = [script for script in scripts if live or "thebe" not in f"{script}{script.attributes}"]


def _write_assets(app: Sphinx, error: Exception | None) -> None:
    """Put the players' data where their script finds them.

    Our own style sheet and script, too: Sphinx copies them only when it writes a page.
    """
    if error or app.builder.format != "html":
        return
    shutil.copytree(Path(app.srcdir) / "_static", Path(app.outdir) / "_static", dirs_exist_ok=True)
    folder = Path(app.outdir) / "_static" / "players"
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier build put there, the searches may no longer have
    folder.mkdir(parents=True)
    for name, text in players.scripts().items():
        (folder / name).write_text(text)
    # The theme brings its icons twice, as a font and as a script of 1.5 MB; the font is enough.
    (Path(app.outdir) / "_static" / "scripts" / "fontawesome.js").write_text("")


class _Statements(ProofIndex):  # type: ignore[misc]  # sphinx_proof has no types
    """The index of definitions, theorems and the like, by kind and title instead of by label."""

    def generate(self, docnames: Iterable[str] | None = None) -> tuple[Any, bool]:
        """Of every kind its statements: title, and the page's name."""
        kinds: dict[str, list[Any]] = {}
        for anchor, said in sorted(getattr(self.domain.env, "proof_list", {}).items()):
            page = self.domain.env.titles[said["docname"]].astext()
            kinds.setdefault(said["realtype"], []).append((said["title"], 0, said["docname"], anchor, page, "", ""))
        return sorted(kinds.items()), False


def _keep_titles(app: Sphinx, document: nodes.document) -> None:
    statements: dict[str, Any] = getattr(app.env, "proof_list", {})
    for node in document.findall(nodes.Element):
        if (said := statements.get(node.get("label"))) and "realtype" in node:
            said["title"] = node["title"].strip(" ()")


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directives, and what to do when."""
    for directive in (Player, Explorer, Provenance, Source, Rerun, Status):
        app.add_directive(directive.__name__.lower(), directive)
    typeset.setup(app)
    glossary.setup(app)
    ProofDomain.indices = {_Statements}
    app.connect("doctree-read", _keep_titles)
    app.connect("source-read", _add_rerun)
    app.connect("config-inited", _go_live)
    app.connect("html-page-context", _mend_page, priority=900)
    app.connect("build-finished", _write_assets)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": version("wiring")}
