"""The built book in a browser, opened from disk with no network: what a reader sees, hears and can reach."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from fontTools.ttLib import TTFont
from playwright.sync_api import sync_playwright
from wiring_book import explorer
from wiring_book.verdicts import UNRECORDED, rounded

from wiring.chapters import chapters
from wiring.evidence import CLAIMS, judge_all
from wiring.search.records import load_reference
from wiring.supernet.operations import NAMES

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
PAGES = [path.stem for path in sorted((ROOT / "book").glob("*.md")) + sorted((ROOT / "book").glob("*.ipynb"))]


def build(out, source=ROOT / "book", strict=True, **environment):
    """Build the book from its committed outputs, or another source."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(source), "--config", "_config.yml"]
    command += ["--path-output", str(out), "-q", *(["-W", "-n", "--keep-going"] if strict else [])]
    environment = os.environ | {"WIRING_REPOSITORY": ""} | environment
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "_build" / "html"


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    return build(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(book, browser):
    """Open a page; whatever it logs as an error or asks for in vain, or from elsewhere, fails the test in the end."""
    complaints, contexts = [], []

    def visit(name, **options):
        context = browser.new_context(**{"offline": True, "viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if options.get("java_script_enabled", True):
            page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.on("request", lambda request: visit.requested.append(request.url))
        page.on("request", lambda request: outside(request.url) and complaints.append(f"outside: {request.url}"))
        page.goto((book / f"{name}.html").as_uri())
        if options.get("java_script_enabled", True) and page.locator(".wiring-player").count():
            page.wait_for_selector(".wiring-player[data-ready]")
        return page

    def outside(url):
        return not url.startswith((book.as_uri(), "data:", "blob:"))

    visit.requested = []
    yield visit
    for context in contexts:
        context.close()
    assert not complaints


def wire_size(path):
    """Bytes that a reader with nothing in the cache loads: a server sends text compressed, the rest as it lies."""
    content = Path(path).read_bytes()
    return len(gzip.compress(content)) if Path(path).suffix in {".html", ".css", ".js", ".svg"} else len(content)


def icons(book):
    """The characters that the icon fonts have."""
    characters = set()
    for path in (book / "_static" / "vendor" / "fontawesome" / "webfonts").glob("*.woff2"):
        with TTFont(path) as font:
            characters |= set(map(chr, font.getBestCmap()))
    return characters


#: What scrolls sideways within the text and has no name for a screen reader.
UNNAMED = """[...document.querySelectorAll('article *')].filter(e => /auto|scroll/.test(getComputedStyle(e).overflowX)
    && e.scrollWidth > e.clientWidth + 1 && !e.closest('a') && !e.ariaLabel).map(e => e.outerHTML.slice(0, 200))"""


def rows(page):
    return [row.locator("td").all_inner_texts() for row in page.locator(".wiring-player tbody tr").all()]


def control(page, label):
    return page.locator(".wiring-controls label", has_text=label).locator("select, input")


def number(text):
    return float(text.replace("−", "-"))


@pytest.mark.parametrize("width", [360, 1400])
def test_no_part_of_a_figure_is_off_the_page_and_none_is_larger_than_its_text_needs(visit, width):
    page = visit("p2", viewport={"width": width, "height": 740})
    images = page.locator("article figure img")
    assert images.count() > 3
    for image in images.all():
        box = image.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["width"] == (560 if width > 560 else pytest.approx(312, abs=20))
        assert image.evaluate("image => image.parentElement.scrollWidth <= image.parentElement.clientWidth")


@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole_light_accessible_and_as_wide_as_a_phone(visit, book, name):
    page = visit(name, viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ends = "[...document.querySelectorAll('article p math')].map(formula => formula.getBoundingClientRect().right)"
    assert max(page.evaluate(ends), default=0) <= 360
    assert len(page.title().split("—")[0].strip()) > 3
    for image in page.locator("article img").all():
        alt = image.get_attribute("alt") or ""
        assert len(alt) > 20, alt
        assert not alt.endswith(".png")
    assert page.locator('meta[property="og:title"]').count() == 1
    assert (book / page.locator('meta[property="og:image"]').get_attribute("content")).exists()
    loaded = {
        unquote(url.removeprefix("file://")).partition("?")[0] for url in visit.requested if url.startswith("file:")
    }
    assert len(loaded) > 10
    has_player = page.locator(".wiring-player").count() > 0
    assert any("plotly" in path for path in loaded) == has_player
    assert has_player or sum(map(wire_size, loaded)) < 1e6
    shown = page.evaluate(
        "[...document.querySelectorAll('[class*=fa-]')].map(i => getComputedStyle(i, '::before').content)"
    )
    assert len(shown) > 3
    assert icons(book).issuperset(character for text in shown for character in text.strip('"') if text != "none")
    assert page.evaluate("[...document.fonts].filter(f => f.family === 'Formulas').every(f => f.status !== 'error')")
    # Preloading style sheets would take requests that a page from disk may not make.
    found = Axe().run(page, options={"preload": False, "resultTypes": ["violations"]}).response["violations"]
    assert not [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found]
    assert page.evaluate(UNNAMED) == []


def test_every_internal_link_and_anchor_resolves(book):
    pages = {path.name: path.read_text() for path in book.glob("*.html")}
    anchors = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in pages.items()}
    assert len(pages) > len(PAGES)
    broken = []
    for name, text in pages.items():
        for link in re.findall(r'<a\s[^>]*?href="([^"]+)"', text):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            path = book / (target or name)
            if not path.exists() or (anchor and path.suffix == ".html" and anchor not in anchors[path.name]):
                broken.append(f"{name}: {link}")
    assert not broken


@pytest.mark.parametrize("name", ["p1-reference", "p3-reference"])
def test_the_slider_shows_what_the_records_hold(visit, name):
    page = visit(name.partition("-")[0])
    for seed, epoch in ((0, None), (2, 7), (1, 0)):
        record = load_reference(name)[seed]
        control(page, "Seed").select_option(label=str(seed))
        epochs = record.experiment.epochs
        if epoch is not None:
            control(page, "Epoch").fill(str(epoch))
        epoch = epochs if epoch is None else epoch
        assert f"seed {seed}, epoch {epoch} of {epochs}" in page.locator(".wiring-player caption").inner_text()
        shown = rows(page)
        probability = record.arrays["probability"][epoch, 0]
        assert [row[1] for row in shown] == [NAMES[best] for best in probability.argmax(-1)]
        assert [number(row[2]) for row in shown] == pytest.approx(probability.max(-1).tolist(), abs=6e-4)
        assert [number(row[3]) for row in shown] == pytest.approx(probability[:, 0].tolist(), abs=6e-4)
        if epoch == 0:
            assert {row[4] for row in shown} == {"not measured"}
            continue
        mean = record.arrays["cost_mean"][epoch - 1, 0]
        costs = np.nansum(mean * probability, axis=(0, 2))
        assert [number(row[4]) for row in shown] == pytest.approx(costs.tolist(), abs=2e-4)
        dropped = [str(k) for k in np.flatnonzero(probability.argmax(-1) == 0)]
        said = page.locator("output").inner_text()
        assert re.search(r"(?:edges?|no edge) ?(.*?) (?:is|are) dropped", said)[1] == ", ".join(dropped)
        cost = record.scalars.query("epoch == @epoch and group == 'all'").iloc[0].cost
        assert f"L − H is {cost:+.3f} nats".replace("-", "−") in said


def test_the_picture_is_in_step_with_the_slider(visit):
    page = visit("p3")
    graph, curves = page.locator(".wiring-graph"), page.locator(".wiring-curves")
    look = "plot => plot.data.slice(2, 7).map(t => [t.line.width, t.opacity, t.line.dash, t.line.color])"
    before = graph.evaluate(look)
    control(page, "Epoch").fill("1")
    after = graph.evaluate(look)
    record = load_reference("p3-reference")[0]
    for epoch, seen in ((40, before), (1, after)):
        p = record.arrays["probability"][epoch, 0]
        assert [own[0] for own in seen] == pytest.approx((1.5 + 9 * p.max(-1)).tolist(), abs=1e-2)
        assert [own[1] for own in seen] == pytest.approx((1 - 0.75 * p[:, 0]).tolist(), abs=1e-2)
        assert [own[2] == "dot" for own in seen] == (p.argmax(-1) == 0).tolist()
        costs = np.nansum(record.arrays["cost_mean"][epoch - 1, 0] * p, axis=(0, 2))
        assert len({(own[3], cost > 0) for own, cost in zip(seen, costs, strict=True)}) == len(set(costs > 0))
    assert curves.evaluate("plot => plot.layout.shapes[0].x0") == 1
    assert "epoch 1 of 40" in graph.get_attribute("aria-label")
    drawn = curves.evaluate("plot => plot.data[0].y")
    assert drawn == pytest.approx(record.arrays["probability"][:, 0, 0, 0].tolist(), abs=1e-4)


def test_the_players_work_by_keyboard_alone(visit):
    page = visit("index")
    control(page, "Search").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.querySelector('.wiring-player caption').textContent.includes('cells, bi-level')")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert "seed 1" in page.locator("caption").inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Play"
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.wiring-slider input').value > 2")
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement.textContent") == "Play"
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    assert "epoch 0 of 40" in page.locator("caption").inner_text()
    page.keyboard.press("ArrowRight")
    assert "epoch 1 of 40" in page.locator("caption").inner_text()


def test_the_explorer_shows_the_costs_of_what_is_chosen(visit):
    page = visit("explorer")
    stored = explorer.load_costs()
    for state, chosen in (("trained", (4, 4, 4, 4, 4)), ("initial", (1, 7, 0, 2, 1)), ("trained", (3, 2, 5, 6, 1))):
        control(page, "Weights").select_option(state)
        for edge, operation in enumerate(chosen):
            control(page, f"Edge {edge}").select_option(NAMES[operation])
        value = dict(zip(explorer.QUANTITIES, stored[state][:, *chosen] * explorer.STEP, strict=True))
        page.wait_for_function(f"document.querySelector('caption').textContent.includes('{explorer.STATES[state]}')")
        shown = rows(page)
        assert [row[1] for row in shown] == [NAMES[operation] for operation in chosen]
        direct = [value[f"direct {edge}"] for edge in range(5)]
        assert [number(row[2]) for row in shown] == pytest.approx(direct, abs=1e-9)
        assert [number(row[3]) for row in shown[:2]] == pytest.approx(
            [value["through 0"], value["through 1"]], abs=1e-9
        )
        said = page.locator("output").inner_text()
        output = number(re.search(r"L − H is (\S+) nats", said)[1])
        assert output == pytest.approx(sum(direct), abs=5e-4)  # Theorem 2, to the digits that are stored
        assert ("is not normalised" in said) == (chosen[4] == 1)


def test_dark_mode_recolours_page_and_pictures(visit):
    ink = "document.querySelector('.wiring-curves').layout.font.color"
    light = visit("index", color_scheme="light")
    bright = light.evaluate(ink)
    page = visit("index", color_scheme="dark")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    dark = page.evaluate(ink)
    assert dark != bright
    light.evaluate("document.documentElement.dataset.theme = 'dark'")
    light.wait_for_function(f"{ink} === {json.dumps(dark)}")


def test_without_scripts_the_table_tells_the_story(visit):
    page = visit("index", java_script_enabled=False)
    record = load_reference("p1-reference")[0]
    probability = record.arrays["probability"][-1, 0]
    shown = rows(page)
    assert [row[1] for row in shown] == [NAMES[best] for best in probability.argmax(-1)]
    assert [number(row[3]) for row in shown] == pytest.approx(probability[:, 0].tolist(), abs=6e-4)


def test_the_first_screen_holds_the_result(visit):
    for name in ("index", "paper", *chapters()):
        page = visit(name, viewport={"width": 1400, "height": 900})
        box = page.locator(".wiring-result, .wiring-tally").first.bounding_box()
        assert box["y"] > 0, name
        assert box["y"] + box["height"] < 900, name
        page.context.close()


def test_pages_say_of_a_claim_what_the_records_say(visit):
    recorded = {verdict.claim.id: verdict for verdict in judge_all() if verdict.claim.reference}
    for chapter in {verdict.claim.chapter for verdict in recorded.values()}:
        page = visit(chapter)
        for name, verdict in recorded.items():
            if verdict.claim.chapter == chapter:
                said = page.locator(f"p#claim-{name.lower()}").inner_text().replace("’", "'")
                shown = [*rounded(verdict.estimate, verdict.low, verdict.high)] if verdict.seeds else []
                word = verdict.verdict if verdict.seeds else UNRECORDED
                assert all(part in said for part in (name, word, verdict.claim.statement, *shown))
    page = visit("summary")
    tally = page.locator(".wiring-tally").inner_text()
    assert f"holds {sum(v.verdict == 'holds' for v in recorded.values() if v.claim.id[0] == 'X')}" in tally
    for place in (".wiring-tally a", ".wiring-verdicts td:first-child a"):
        links = page.locator(place)
        assert {link.inner_text() for link in links.all()} == set(CLAIMS)
        for link in links.all():
            claim = CLAIMS[link.inner_text()]
            assert link.get_attribute("href") == f"{claim.chapter}.html#claim-{claim.id.lower()}"


def test_a_words_meaning_shows_on_focus_and_on_hover(visit):
    page = visit("p1")
    word = page.locator('article a[href$="#term-dropped"]').first
    word.focus()
    tip = page.locator("[role=tooltip]")
    tip.wait_for()
    assert "None is strictly its most probable operation" in tip.inner_text()
    assert word.get_attribute("aria-describedby") == tip.get_attribute("id")
    page.keyboard.press("Tab")
    tip.wait_for(state="detached")
    word.hover()
    tip.wait_for()


def test_the_package_is_one_page_that_can_be_read_and_unfolds_at_a_link(visit):
    page = visit("api", viewport={"width": 1400, "height": 900})
    assert page.evaluate("document.documentElement.scrollHeight") < 8000
    member = page.locator("[id='wiring.Supernet.forward']")
    assert not member.is_visible()
    page.evaluate("location.hash = 'wiring.Supernet.forward'")
    assert member.is_visible()


FOUND = {
    "Theorem 1": "theorem1",
    "theorem 2": "theorem2",
    "skip connect": "search-space",
    "GPU": "scale",
    "install": "index",
}
FOUND |= {"collapse": "p3", "recommendation": "threshold", "GDAS": "your-supernet", "H1": "cost-means", "B1": "p3"}
FOUND |= {"D1": "intermediate-edges", "X1": "p2", "search split": "p3", "degree": "theorem1", "type 1": "search-space"}
FOUND |= {"width preference": "p2"}


def test_search_finds_what_readers_may_call_it(visit):
    results = visit("search")
    for query, page in FOUND.items():
        results.locator("input[name=q]").last.fill(query)
        results.locator("input[name=q]").last.press("Enter")
        results.wait_for_selector("#search-results > p:has-text('matching')")
        links = results.locator("#search-results li a")
        first = links.evaluate_all("all => all.slice(0, 3).map(link => link.href)")
        assert any(f"/{page}.html" in link for link in first), (query, first)


def test_every_chapter_links_words_of_the_glossary_each_once(book):
    for name in ("index", *chapters()):
        links = re.findall(r'href="glossary.html#(term-[^"]+)"', (book / f"{name}.html").read_text())
        assert len(links) == len(set(links)) > 3, name


def test_a_second_build_reads_no_page_again(book):
    def read():
        return {path.name: path.stat().st_mtime_ns for path in (book.parent / ".doctrees").glob("*.doctree")}

    before = read()
    assert len(before) == len(PAGES)
    build(book.parents[2])
    assert read() == before


def test_nothing_is_live_without_a_repository(book):
    text = (book / "p1.html").read_text()
    assert "mybinder" not in text
    assert "launchThebe" not in text
    assert "sphinx-thebe.js" not in text
    assert "_sources/p1.ipynb" in text


def test_one_variable_makes_the_book_live(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text("# A page\n\n```{source}\n```\n")
    (source / "references.bib").touch()
    shutil.copytree(ROOT / "book" / "_static", source / "_static")
    shutil.copy(ROOT / "book" / "summary.ipynb", source)
    (source / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: summary}]\n")
    out = build(tmp_path, source, strict=False, WIRING_REPOSITORY="https://github.com/owner/wiring")
    text = (out / "summary.html").read_text()
    for place in (
        "https://mybinder.org/v2/gh/owner/wiring/main?urlpath=tree/book/summary.ipynb",
        "https://colab.research.google.com/github/owner/wiring/blob/colab/summary.ipynb",
        'repo: "owner/wiring"',
        '<meta property="og:image" content="https://owner.github.io/wiring/_static/card.png" />',
        '<meta property="og:url" content="https://owner.github.io/wiring/summary.html" />',
        "initThebeSBT",
    ):
        assert place in text
    assert "git clone https://github.com/owner/wiring" in re.sub("<[^>]*>", "", (out / "index.html").read_text())
