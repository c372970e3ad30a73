"""Verdicts on the book's pages, judged once a build, so that every page says the same.

No number, verdict or setting in what these directives show is typed: it comes from the claims, their recorded runs and
the presets. Directives::

    result CLAIM ...    what the paper says (first paragraph), what we find (computed), why (second paragraph)
    judged CLAIM ...    what we find, where the text about it stands; the result then has ``:tally:``
    tally               which claims hold and which do not
    verdicts [CLAIM ...]    every claim with its measure, or these
    beside CLAIM ...    what we find beside a figure of the paper, and in what our setting differs from the authors'
    settings            every preset by what differs from the authors' setting

and the role ``recorded`` PRESET: how many of its runs there are.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import Any, ClassVar

import torch
import wiring
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole
from wiring.evidence import CLAIMS, Claim, Verdict, judge_all
from wiring.evidence.verdicts import title
from wiring.search import PRESETS, Experiment, changed, load_reference, preset
from wiring.search.experiments import PURPOSES, settings, with_fields
from wiring.search.records import REFERENCE, Record

from wiring_book import players
from wiring_book.site import Generated, command, in_words, table

UNRECORDED = "not recorded yet"
#: What a verdict is marked with, beside its word: shape, not colour.
MARKS = {"holds": "✓", "fails": "✗", "undecided": "?", UNRECORDED: "…"}
#: Settings that say where a search runs and what it writes down, not what it does.
ASIDE = {"seed", "device", "graphs", "threads", "bf16", "course_every"}
#: What None stands for.
WHOLE = {"images": "all", "image_size": "as they are"}


@dataclass(frozen=True)
class Finding:
    """A claim's verdict, and one of the runs behind it, if any are recorded."""

    verdict: Verdict
    run: Record | None

    @property
    def claim(self) -> Claim:
        return self.verdict.claim

    @property
    def word(self) -> str:
        return self.verdict.verdict if self.verdict.seeds else UNRECORDED

    @property
    def badge(self) -> str:
        return badge(self.word)

    @property
    def link(self) -> str:
        """The claim's id, as a link to where it is judged."""
        return f"{{ref}}`{self.claim.id} <{anchor(self.claim)}>`"

    @property
    def measured(self) -> str:
        """Estimate and interval; of a claim without runs, how to make one."""
        claim, verdict = self.claim, self.verdict
        if not verdict.seeds:
            return f"`{command(claim.reference or '', in_words(claim.changes or {}))}` makes a run"
        estimate, *ends = rounded(verdict.estimate, verdict.low, verdict.high)
        interval = f"95 % interval {ends[0]} to {ends[1]}" if verdict.seeds > 1 else "one seed, no interval"
        return f"{estimate} ({interval}); holds {claim.side} {claim.threshold:.3g}"

    @property
    def setting(self) -> str:
        """The preset, what it searches with, the number of seeds and images, and how far the runs get."""
        verdict = self.verdict
        if self.claim.reference is None:
            return f"{verdict.seeds} random supernets in double precision, ε next to nothing"
        if self.run is None:
            return f"preset `{self.claim.reference}`"
        e, images = self.run.experiment, sum(self.run.provenance["images"].values())
        parts = [f"`{self.claim.reference}` ({title(e)}, {players.data_name(e)})"]
        parts += [f"{verdict.seeds} seed{'s' * (verdict.seeds != 1)}", f"{grouped(images)} images"]
        return ", ".join([*parts, verdict.setting])


@cache
def findings() -> dict[str, Finding]:
    """What the recorded runs say of every claim, by its id."""
    torch.set_num_threads(1)  # the identities' supernets are small: threads would wait
    found = {}
    for verdict in judge_all():
        claim, run = verdict.claim, None
        if claim.reference and verdict.seeds:
            run = load_reference(claim.reference, **dict(claim.changes or {}))[0]
        found[claim.id] = Finding(verdict, run)
    return found


def rounded(estimate: float, low: float, high: float) -> tuple[str, str, str]:
    """The three with as many decimals as show two digits of the interval's width."""
    width = high - low
    decimals = max(0, 1 - math.floor(math.log10(width))) if width > 0 else 2
    form = f".{decimals}f" if decimals <= 5 else ".1e"
    first, second, third = (format(value + 0.0, form).replace("-", "−") for value in (estimate, low, high))
    return first, second, third


def grouped(number: int) -> str:
    """12 345 for 12345, with a space that does not break."""
    return f"{number:,}".replace(",", "\N{NO-BREAK SPACE}")


def anchor(claim: Claim) -> str:
    """Where in the book a claim is judged."""
    return f"claim-{claim.id.lower()}"


def badge(word: str) -> str:
    """A verdict, as HTML in Markdown."""
    mark = f'<span aria-hidden="true">{MARKS[word]}</span>'
    return f'<span class="wiring-verdict wiring-{word.split()[0]}">{mark} {word}</span>'


def is_papers(claim: Claim) -> bool:
    """Whether the paper makes the claim. Ours are X1, X2, ..., and R1, ...."""
    return not claim.id.startswith(("X", "R"))


class _Verdicts(Generated):
    """A directive about some claims."""

    @property
    def chosen(self) -> list[Finding]:
        """What is found of the claims that the directive names."""
        names = self.arguments[0].split() if self.arguments else []
        if unknown := [name for name in names if name not in CLAIMS]:
            raise self.error(f"no such claims: {', '.join(unknown)}")
        return [findings()[name] for name in names]

    @property
    def judged(self) -> str:
        """Every chosen claim's verdict, with its anchor and its measure, small, and the settings that they share."""
        groups = [(setting, list(group)) for setting, group in groupby(self.chosen, lambda finding: finding.setting)]
        lines = [[*map(self.line, group), f"<small>From {setting}.</small>"] for setting, group in groups]
        return "\n\n".join(chain(*lines))

    @staticmethod
    def line(finding: Finding) -> str:
        """A verdict's line and, small, its measure."""
        claim = finding.claim
        return (
            f"({anchor(claim)})=\n**{claim.id}** {finding.badge} {claim.statement}<br>"
            f"<small>{claim.quantity}: {finding.measured}</small>"
        )

    @staticmethod
    def tallied(found: Iterable[Finding]) -> str:
        """An item for every verdict that there is."""
        groups = {word: [finding.link for finding in found if finding.word == word] for word in MARKS}
        return "\n".join(f"- {badge(word)} **{len(own)}**: {', '.join(own)}" for word, own in groups.items() if own)


class Result(_Verdicts):
    """What a chapter comes to, before anything else."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"tally": directives.flag}

    def run(self) -> list[nodes.Node]:
        """A list of three: the paper, we, why; every claim's verdict with its anchor.

        Where the chapter judges no claim, what we find is the second of three paragraphs. With ``tally`` it is how
        many claims hold, and which, each a link to where the chapter has it ``judged``.
        """
        paper, *said, why = "\n".join(self.content).split("\n\n")
        ours = self.tallied(self.chosen) if "tally" in self.options else self.judged or said[0]
        first = "The paper says" if all(is_papers(finding.claim) for finding in self.chosen) else "We claim"
        entries = [
            nodes.definition_list_item("", nodes.term("", label), nodes.definition("", *self.markdown(text)))
            for label, text in ((first, paper), ("We find", ours), ("Why", why))
        ]
        return [nodes.container("", nodes.definition_list("", *entries), classes=["wiring-result"])]


class Judged(_Verdicts):
    """What we find of some claims, in the text about them."""

    def run(self) -> list[nodes.Node]:
        """A paragraph a claim."""
        return [nodes.container("", *self.markdown(self.judged), classes=["wiring-judged"])]


class Tally(_Verdicts):
    """How many claims hold, and which do not."""

    def run(self) -> list[nodes.Node]:
        """A list of verdicts, each with its claims, for the paper's claims and for ours."""
        content: list[nodes.Node] = []
        for whose, own in (("the paper's", True), ("our own", False)):
            found = [finding for finding in findings().values() if is_papers(finding.claim) is own]
            lines = self.markdown(f"Of {whose} {len(found)} claims, in our runs:\n\n{self.tallied(found)}")
            content.append(nodes.container("", *lines))
        return [nodes.container("", *content, classes=["wiring-tally"])]


class Verdicts(_Verdicts):
    """Every claim, or those that are named."""

    def run(self) -> list[nodes.Node]:
        """A table of three columns, which fit on a phone."""
        rows = [
            (
                found.link,
                f"{found.badge} {found.claim.statement}<br><small>{found.claim.quantity}</small>",
                f"{found.measured}<br><small>{found.setting}</small>",
            )
            for found in self.chosen or findings().values()
        ]
        content = self.markdown(table(("claim", "verdict, statement and measure", "we find"), rows))
        return [nodes.container("", *content, classes=["wiring-verdicts"])]


class Beside(_Verdicts):
    """What we find beside a figure of the paper."""

    option_spec: ClassVar[dict[str, Any]] = {"authors": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """The verdicts and, for the runs behind them, how their setting differs from the ``authors``'.

        That is a preset, and behind it the fields in which the authors' setting differs from it, as JSON.
        """
        lines = [f"- {found.link} {found.badge} {found.claim.statement}: {found.measured}" for found in self.chosen]
        if authors := self.options.get("authors"):
            name, _, fields = authors.partition(" ")
            theirs = with_fields(preset(name), json.loads(fields or "{}"))
            references = dict.fromkeys(found.claim.reference for found in self.chosen if found.claim.reference)
            lines += [
                f"- Setting of `{own}`, theirs in brackets: {differences(preset(own), theirs)}" for own in references
            ]
        return [nodes.container("", *self.markdown("\n".join(lines)), classes=["wiring-beside"])]


def differences(ours: Experiment, theirs: Experiment) -> str:
    """The settings in which two experiments differ, the other's in brackets."""
    own, other = settings(ours), settings(theirs)
    differing = {
        name: f"{name} {written(name, own[name])} ({written(name, other[name])})"
        for name in own
        if own[name] != other[name] and name not in ASIDE
    }
    if ours.topology != theirs.topology:
        differing["topology"] = "candidate operations or edges"
    return ", ".join(differing.values()) or "the same"


def written(name: str, value: object) -> str:
    """A setting's value."""
    if value is None:
        return WHOLE.get(name, "none")
    return grouped(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


class Settings(Generated):
    """Every preset."""

    def run(self) -> list[nodes.Node]:
        """A table: what a preset is for, how many runs are recorded, and what differs from the authors' DSNAS."""
        rows = []
        for name, experiment in PRESETS.items():
            fields = {field: value for field, value in changed(experiment).items() if field not in ASIDE}
            own = ", ".join(f"{field} {written(field, value)}" for field, value in fields.items())
            rows.append((f"`{name}`", f"{PURPOSES[name]}<br><small>{own}</small>", runs(name) or ""))
        content = self.markdown(table(("preset", "purpose, and what differs from the authors' DSNAS", "runs"), rows))
        return [nodes.container("", *content, classes=["wiring-settings"])]


def runs(name: str) -> int:
    """How many runs of a preset, in all variations, are recorded."""
    return sum(1 for _ in REFERENCE.glob(f"{name}/**/done.json"))


class Recorded(SphinxRole):
    """How many runs of a preset are recorded."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """So many, or none yet."""
        made = runs(self.text)
        return [nodes.Text(f"{made} run{'s' * (made != 1)} recorded" if made else UNRECORDED)], []


def _sources() -> list[tuple[str, int]]:
    """What verdicts are taken from, each file with its time: records, claims, presets and this module."""
    package = Path(wiring.__file__).parent
    paths = [*REFERENCE.glob("**/done.json"), *package.glob("evidence/*.py"), package / "search" / "presets.toml"]
    return sorted((str(path), path.stat().st_mtime_ns) for path in [*paths, Path(__file__)])


def _read_again(app: Sphinx, env: BuildEnvironment, *changes: set[str]) -> list[str]:
    """Where one of these is new or has changed, every page may say something else."""
    before, env.wiring_sources = getattr(env, "wiring_sources", None), _sources()  # type: ignore[attr-defined]
    return [] if before == env.wiring_sources else sorted(env.found_docs)  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directives, and when pages are read again."""
    for directive in (Result, Judged, Tally, Verdicts, Beside, Settings):
        app.add_directive(directive.__name__.lower(), directive)
    app.add_role("recorded", Recorded())
    app.connect("env-get-outdated", _read_again)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
