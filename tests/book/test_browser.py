"""The built book in a browser, opened from disk with no network: what a reader sees, hears and can reach."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from fontTools.ttLib import TTFont
from playwright.sync_api import sync_playwright
from wiring_book import explorer
from wiring_book.verdicts import UNRECORDED, rounded

from wiring.chapters import chapters
from wiring.evidence import CLAIMS, judge, recorded
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

    def visit(name, fragment="", **options):
        context = browser.new_context(**{"offline": True, "viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if options.get("java_script_enabled", True):
            page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.on("request", lambda request: visit.requested.append(request.url))
        page.on("request", lambda request: outside(request.url) and complaints.append(f"outside: {request.url}"))
        page.goto((book / f"{name}.html").as_uri() + fragment)
        if options.get("java_script_enabled", True) and page.locator(".wiring-player").count():
            page.locator(".wiring-player[data-ready]").wait_for()
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


@cache
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


#: Axe's rules of colours, which take longer than all its others.
COLOURS = ["color-contrast", "link-in-text-block"]
#: Marks the first element of every look: its own colours, and those that it stands on, in or beside. An element of few
#: letters is none, since axe does not judge what may be an icon, and nor is one that lies off the page, for skip links.
MARK = r"""() => {
    document.querySelectorAll('[data-look]').forEach(element => element.removeAttribute('data-look'));
    const elements = new Set(document.querySelectorAll('input, select')), looks = new Set();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) if (/\w.*\w/s.test(texts.currentNode.data)) elements.add(texts.currentNode.parentElement);
    for (const element of elements) {
        const { right, bottom, width, height } = element.getBoundingClientRect();
        if (!element.checkVisibility({ visibilityProperty: true }) || Math.min(right, bottom + scrollY) < 0
            || Math.min(width, height) < 2 || element.matches('option, :disabled')) continue;
        const style = getComputedStyle(element), behind = [], link = element.closest('a');
        const look = [style.color, style.fontSize, style.fontWeight, style.textShadow, style.textDecorationLine];
        let opacity = 1, covered = false, block = link;
        for (let up = element; up; up = up.parentElement) {
            const own = getComputedStyle(up);
            opacity *= own.opacity;
            if (!covered) behind.push(own.backgroundColor, own.backgroundImage);
            covered ||= own.backgroundColor.startsWith('rgb(');
        }
        if (link) {
            while (getComputedStyle(block).display.startsWith('inline')) block = block.parentElement;
            const linked = [...block.querySelectorAll('a')].reduce((sum, { innerText }) => sum + innerText.length, 0);
            const around = getComputedStyle(block), inText = block.innerText.length > 2 * linked;
            look.push(inText, around.color, around.fontWeight, getComputedStyle(link).textDecorationLine);
        }
        const key = [...look, opacity, ...behind.filter(own => !/^none$|, 0\)$/.test(own))].join();
        if (!looks.has(key)) (link ?? element).dataset.look = looks.add(key).size;
    }
    return looks.size; }"""


def faults(page, context=None, **options):
    """What axe finds. Preloading style sheets would take requests that a page from disk may not make."""
    found = Axe().run(page, context, {"preload": False, "resultTypes": ["violations"]} | options).response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found]


def colour_faults(page):
    """What axe finds of the colours that a page shows now, each seen once."""
    assert page.evaluate(MARK) > 5
    return faults(page, {"include": [["[data-look]"]]}, runOnly={"type": "rule", "values": COLOURS})


def turn_dark(page):
    """As the reader's system does in the evening."""
    page.emulate_media(color_scheme="dark")
    # Some colours take their time to change, and meanwhile are others.
    page.wait_for_function("""document.documentElement.dataset.theme === 'dark'
        && document.getAnimations().every(({ playState }) => playState === 'finished')""")


def rows(page, table=0):
    """A player's table, row by row."""
    read = "table => [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.innerText))"
    return page.locator(".wiring-table table").nth(table).evaluate(read)


def control(page, label):
    return page.locator(".wiring-controls").get_by_label(label).first


def shows(page, caption, table=0):
    """Wait until a player's table says so."""
    page.locator(".wiring-table caption").nth(table).filter(has_text=caption).wait_for()


def panels(page, view=0):
    """What is drawn in a view's panels, read off their axes: of every line its values by epoch, and their precision."""
    read = """svg => [...svg.querySelectorAll('.wiring-panel')].map(panel => [
        [...panel.querySelectorAll('.wiring-tick')].map(tick => [tick.textContent, tick.getAttribute('y') - 4]),
        [...panel.querySelectorAll('.wiring-curve polyline')].map(line => [...line.points].map(({ y }) => y)),
    ])"""
    for ticks, lines in page.locator(".wiring-curves").nth(view).evaluate(read):
        scale, zero = np.polyfit([y for _, y in ticks], [number(text) for text, _ in ticks], 1)
        yield [scale * np.array(line) + zero for line in lines], abs(scale) * 0.1


def number(text):
    return float(text.replace("−", "-").replace("not measured", "nan"))


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
    assert any("/players/" in path for path in loaded) == has_player
    assert sum(map(wire_size, loaded)) < 1e6
    shown = page.evaluate(
        "[...document.querySelectorAll('[class*=fa-]')].map(i => getComputedStyle(i, '::before').content)"
    )
    assert len(shown) > 3
    assert icons(book).issuperset(character for text in shown for character in text.strip('"') if text != "none")
    assert page.evaluate("[...document.fonts].filter(f => f.family === 'Formulas').every(f => f.status !== 'error')")
    assert page.evaluate(UNNAMED) == []
    # Faults of colour that depend on where a word stands are looked for on two pages, which have most of what there is.
    whole = name in ("index", "p2")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert faults(page, rules={} if whole else {rule: {"enabled": False} for rule in COLOURS}) == []
    assert whole or colour_faults(page) == []
    page.set_viewport_size({"width": 768, "height": 740})
    turn_dark(page)
    assert (faults(page) if whole else colour_faults(page)) == []
    if name in ("index", "paper", *chapters()):  # the first screen holds the result
        page.set_viewport_size({"width": 1400, "height": 900})
        page.evaluate("scrollTo(0, 0)")
        box = page.locator(".wiring-result, .wiring-tally").first.bounding_box()
        assert box["y"] > 0
        assert box["y"] + box["height"] < 900


def test_a_faint_word_or_a_link_like_its_text_would_be_found(visit):
    page = visit("cite")
    page.locator("article p").last.evaluate("""p => p.innerHTML =
        'A sentence of some length, with a <b class="faint">faint word</b> in it and <a href="#"><i>a link</i></a>.'""")
    rule = "html[data-theme={}] p {{ .faint {{ color: {}; }} a {{ color: {}; text-decoration: none !important; }} }}"
    for scheme, faint, near in (("light", "#999", "#444"), ("dark", "#666", "#aaa")):
        if scheme == "dark":
            turn_dark(page)
        planted = page.add_style_tag(content=rule.format(scheme, faint, f"{near} !important"))
        assert [name for name, *_ in colour_faults(page)] == COLOURS
        planted.evaluate("style => style.remove()")
        assert colour_faults(page) == []


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
            anchor = anchor.partition("=")[0]  # what follows is the state of a player with that id
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
        shows(page, f"seed {seed}, epoch {epoch} of {epochs}")
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
        said = page.locator("output").first.inner_text()
        assert re.search(r"(?:edges?|no edge) ?(.*?) (?:is|are) dropped", said)[1] == ", ".join(dropped)
        cost = record.scalars.query("epoch == @epoch and group == 'all'").iloc[0].cost
        assert f"L − H is {cost:+.3f} nats".replace("-", "−") in said


def test_what_is_drawn_is_what_was_recorded_in_two_searches_side_by_side(visit):
    page = visit("p3")
    look = """svg => [...svg.querySelectorAll('g[data-edge] > g')].map((edge, k) => {
        const line = edge.querySelector('polyline'), costs = svg.querySelector(`.costs[data-edge="${k}"]`);
        return [line.getAttribute('stroke-width'), edge.getAttribute('opacity'),
            line.getAttribute('stroke-dasharray') !== '', costs !== null]; })"""
    for epoch in (40, 1):
        control(page, "Epoch").fill(str(epoch))
        for view, name in enumerate(("p3-reference", "p3-single-reference")):
            record = load_reference(name)[0]
            shows(page, f"{record.experiment.level}-level DARTS", view)
            p, scalars = record.arrays["probability"][:, 0], record.scalars.query("group == 'all'")
            costs = np.nansum(record.arrays["cost_mean"][:, 0] * p[1:, None], axis=(1, 3))
            splits = ["search", "training"] if record.experiment.level == "bi" else ["training"]
            quantities = [[scalars[scalars.split == split][key] for split in splits] for key in ("cost", "accuracy")]
            for (lines, precision), values in zip(panels(page, view), [p[..., 0].T, costs.T, *quantities], strict=True):
                for line, own in zip(lines, values, strict=True):
                    assert line == pytest.approx(np.array(own), abs=precision + 1e-4)
            seen = page.locator(".wiring-graph").nth(view).evaluate(look)
            assert [float(own[0]) for own in seen] == pytest.approx((1.5 + 9 * p[epoch].max(-1)).tolist(), abs=1e-2)
            assert [float(own[1]) for own in seen] == pytest.approx((1 - 0.75 * p[epoch, :, 0]).tolist(), abs=1e-2)
            assert [own[2] for own in seen] == (p[epoch].argmax(-1) == 0).tolist()
            assert [own[3] for own in seen] == (costs[epoch - 1] > 0).tolist()
            assert f"epoch {epoch} of 40" in page.locator(".wiring-graph").nth(view).get_attribute("aria-label")


def test_the_player_works_by_keyboard_alone_and_keeps_epoch_and_play_when_the_search_changes(visit):
    page = visit("index")
    control(page, "Epoch").focus()
    page.keyboard.press("Home")
    shows(page, "epoch 0 of 30")
    page.keyboard.press("ArrowRight")
    shows(page, "epoch 1 of 30")
    control(page, "Search 1").focus()
    page.keyboard.press("ArrowDown")
    shows(page, "bi-level DARTS, 8 minimal cells, 5 000 images of CIFAR-10, seed 0, epoch 1 of 40")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    shows(page, "seed 1, epoch 1 of 40")
    page.get_by_role("button", name="Play").press("Enter")
    control(page, "Search 1").select_option(index=2)
    shows(page, "p3-single")
    shown = page.locator("caption").inner_text()
    assert "seed 1" in shown
    page.get_by_role("button", name="Pause").wait_for()
    epoch = "document.querySelector('caption').textContent.match(/epoch (\\d+)/)[1]"
    page.wait_for_function(f"shown => +{epoch} > shown", arg=int(re.findall(r"epoch (\d+)", shown)[0]))
    control(page, "Speed").select_option("20/s")
    page.get_by_role("button", name="Play").wait_for()  # at the end it stops
    shows(page, "seed 1, epoch 40 of 40")


def test_a_curve_is_read_by_mouse_by_finger_and_by_key(visit):
    page = visit("p1", has_touch=True, viewport={"width": 768, "height": 900})
    record, chart = load_reference("p1-reference")[0], page.locator(".wiring-curves")
    p, reading = record.arrays["probability"][:, 0, :, 0], page.locator(".wiring-reading")
    find = """([epoch, edge]) => {
        const svg = document.querySelector('.wiring-curves'), box = svg.getBoundingClientRect();
        const { x, y } = svg.querySelector(`[data-edge="${edge}"] polyline`).points[epoch], scale = box.width / 360;
        return [box.x + x * scale, box.y + y * scale]; }"""
    chart.scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(find, [20, 4]))
    assert reading.inner_text() == f"Edge 4 (2 → 3), epoch 20: p(None) {p[20, 4]:.3f}"
    assert page.locator(".wiring-graph .wiring-faint").count() == 8  # the other four edges and their labels
    page.mouse.move(0, 0)
    assert "Point at" in reading.inner_text()
    page.touchscreen.tap(*page.evaluate(find, [12, 1]))
    assert reading.inner_text() == f"Edge 1 (1 → 2), epoch 12: p(None) {p[12, 1]:.3f}"
    shows(page, "epoch 12 of 30")  # where one points, there one goes
    for key in ("ArrowLeft", "ArrowDown"):
        chart.press(key)
    assert chart.get_attribute("aria-valuetext") == f"Edge 2 (0 → 3), epoch 11: p(None) {p[11, 2]:.3f}"
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "End"):
        chart.press(key)
    accuracy = record.scalars.query("group == 'all'").accuracy.iloc[-1]
    assert chart.get_attribute("aria-valuetext") == f"All training images, epoch 30: accuracy {accuracy:.3f}"
    chart.press("Enter")
    shows(page, "epoch 30 of 30")
    page.locator('.wiring-graph .wiring-label[data-edge="3"]').hover()
    assert reading.inner_text() == f"Edge 3 (1 → 3), epoch 30: p(None) {p[30, 3]:.3f}"


def test_a_view_can_be_linked_and_its_data_kept(visit):
    page = visit("p1")
    page.get_by_role("button", name="Compare").click()
    shows(page, "seed 1, epoch 30 of 30", table=1)
    control(page, "Search 2").select_option(index=1)
    control(page, "Epoch").fill("9")
    shows(page, "p3: bi-level DARTS, 8 minimal cells, 5 000 images of CIFAR-10, seed 1, epoch 9 of 40", table=1)
    again = visit("p1", fragment=page.url.partition("#")[1] + page.url.partition("#")[2])
    shows(again, "p3: bi-level DARTS, 8 minimal cells, 5 000 images of CIFAR-10, seed 1, epoch 9 of 40", table=1)
    assert [rows(again, table) for table in (0, 1)] == [rows(page, table) for table in (0, 1)]
    assert again.evaluate("scrollY") > 1000
    with again.expect_download() as download:
        again.get_by_role("button", name="Save CSV").click()
    table = pd.read_csv(download.value.path())
    for name, seed in (("p1-reference", 0), ("p3-reference", 1)):
        record, own = load_reference(name)[seed], table.query("search == @name and seed == @seed")
        assert np.allclose(own[list(NAMES)], record.arrays["probability"][:, 0].reshape(-1, len(NAMES)), atol=1e-6)
        accuracy = record.scalars.query("group == 'all' and split == 'training'").accuracy
        assert np.allclose(own.query("edge == 0 and epoch > 0")["accuracy on training split"], accuracy, atol=1e-4)
    again.get_by_role("button", name="Show one").click()
    assert again.locator(".wiring-table").count() == 1
    elsewhere = visit("p1", fragment="#shorter-runs")
    assert elsewhere.evaluate("location.hash") == "#shorter-runs"
    assert abs(elsewhere.evaluate("document.getElementById('shorter-runs').getBoundingClientRect().top")) < 200
    shows(elsewhere, "epoch 30 of 30")


def test_the_explorer_shows_the_costs_of_what_is_chosen_before_and_after_training(visit):
    page = visit("explorer")
    stored = {state: costs.astype(int) for state, costs in explorer.load_costs().items()}
    outputs = {state: costs[-2] - costs[-1] for state, costs in stored.items()}

    operations = "table => [...table.tBodies[0].rows].map(row => row.cells[1].innerText).join()"
    all_show = (
        f"names => [...document.querySelectorAll('.wiring-table table')].map({operations}).every(own => own === names)"
    )

    def check(*chosen):
        names = ",".join(NAMES[operation] for operation in chosen)
        page.wait_for_function(all_show, arg=names)  # a link changes the address before the page hears of it
        assert page.url.endswith(f"#explorer={names}")
        for table, (state, costs) in enumerate(stored.items()):
            value = dict(zip(explorer.QUANTITIES, costs[:, *chosen] * explorer.STEP, strict=True))
            shown, direct = rows(page, table), [value[f"direct {edge}"] for edge in range(5)]
            assert [row[1] for row in shown] == [NAMES[operation] for operation in chosen]
            assert [number(row[2]) for row in shown] == pytest.approx(direct, abs=1e-9)
            through = [value["through 0"], value["through 1"]]
            assert [number(row[3]) for row in shown[:2]] == pytest.approx(through, abs=1e-9)
            said = page.locator(".wiring-view output").nth(table).inner_text()
            output = number(re.search(r"L − H is (\S+) nats", said)[1])
            assert output == pytest.approx(outputs[state][*chosen] * explorer.STEP, abs=1e-9)
            assert output == pytest.approx(sum(direct), abs=5e-4)  # Theorem 2, to the digits that are stored
        assert ("is not normalised" in page.locator("output").first.inner_text()) == (chosen[4] == 1)

    for chosen in ((1, 7, 0, 2, 1), (3, 2, 5, 6, 3)):
        for edge, operation in enumerate(chosen):
            control(page, f"Edge {edge}").select_option(NAMES[operation])
        check(*chosen)
    labels = page.locator(".wiring-graph").first.locator(".wiring-label").all_text_contents()
    assert labels[0].startswith("0: avg pool")
    assert labels[3].startswith("3: dil 5×5")
    for view, output in enumerate(outputs.values()):
        for name, end in (("Max", output.argmax()), ("Min", output.argmin())):
            page.locator(".wiring-view").nth(view).get_by_role("button", name=name).click()
            check(*map(int, np.unravel_index(end, output.shape)))
    page.get_by_role("button", name="Random").click()
    check(*(NAMES.index(name) for name in page.url.partition("=")[2].split(",")))
    page.get_by_role("button", name="Reset").click()
    check(4, 4, 4, 4, 4)
    page.get_by_role("link", name="Start from None on every edge").click()
    check(0, 0, 0, 0, 0)
    page.go_back()
    check(4, 4, 4, 4, 4)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert pd.read_csv(download.value.path()).cost.round(4).tolist() == [
        number(row[4]) for k in (0, 1) for row in rows(page, k)
    ]


@pytest.mark.parametrize("name", ["p2", "p3", "explorer"])
def test_no_label_covers_another_and_pictures_follow_the_page(visit, name):
    page = visit(name)
    read = """player => [...player.querySelectorAll('.wiring-view svg')].map(svg => [
        [svg, ...svg.querySelectorAll('.wiring-label')].map(own => own.getBoundingClientRect())
            .map(box => [[box.left, box.top], [box.right, box.bottom]]),
        [...svg.querySelectorAll('.wiring-panel')].map(panel =>
            [...panel.querySelectorAll('.wiring-curve text')].map(tag => Number(tag.getAttribute('y')))),
    ])"""
    for width, media in ((1400, "screen"), (768, "screen"), (360, "screen"), (720, "print")):
        page.emulate_media(media=media)
        page.set_viewport_size({"width": width, "height": 900})
        frame = page.locator(".wiring-player").bounding_box()
        for ((left, right), *labels), tags in page.locator(".wiring-player").evaluate(read):
            assert frame["x"] <= left[0] < right[0] <= frame["x"] + frame["width"]
            pairs = combinations(np.array(labels), 2)
            assert not [pair for pair in pairs if (np.max(pair, axis=0)[0] < np.min(pair, axis=0)[1]).all()]
            assert all(np.diff(sorted(places)).min() > 10.5 for places in tags if places)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("name", ["index", "p1", "p2", "p3", "explorer"])
def test_a_page_with_a_player_is_light_and_nothing_on_it_moves(visit, name, capsys):
    page = visit(name)
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
    page.add_init_script("""
        const moves = [], height = () => document.querySelector(".wiring-player").offsetHeight;
        new PerformanceObserver(list => moves.push(...list.getEntries())).observe({ type: "layout-shift" });
        addEventListener("DOMContentLoaded", () => { window.first = height(); });
        new MutationObserver((_, observer) => {
            if (!document.querySelector(".wiring-player[data-ready]")) return;
            window.usable = performance.now();
            observer.disconnect();
        }).observe(document, { childList: true, subtree: true, attributes: true });
        window.measured = () => [usable / 1000, moves.reduce((sum, { value }) => sum + value, 0), height() - first];""")
    visit.requested.clear()
    page.reload()
    page.wait_for_timeout(300)
    scripts = {unquote(url.removeprefix("file://")).partition("?")[0] for url in visit.requested if ".js" in url}
    weight = sum(Path(script).stat().st_size for script in scripts)
    usable, moved, grown = page.evaluate("measured()")
    with capsys.disabled():
        print(f"\n{name}: {weight / 1000:.0f} kB of script, usable after {usable:.2f} s, layout moved by {moved:.3f}")
    assert weight < 400e3
    assert moved < 0.05
    assert grown == 0


def test_dark_mode_recolours_page_and_pictures(visit):
    ink = "getComputedStyle(document.querySelector('.wiring-graph text')).fill"
    light = visit("index", color_scheme="light")
    bright = light.evaluate(ink)
    page = visit("index", color_scheme="dark")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    dark = page.evaluate(ink)
    assert dark != bright
    light.evaluate("document.documentElement.dataset.theme = 'dark'")
    light.wait_for_function(f"{ink} === {json.dumps(dark)}")


def test_a_figure_opens_larger_on_its_page_and_in_its_colours(visit):
    page = visit("p1", viewport={"width": 360, "height": 740}, color_scheme="dark")
    image, opened = page.locator("article figure img").first, page.locator("dialog img")
    image.click()
    look = "image => getComputedStyle(image).filter"
    assert opened.evaluate(look) == image.evaluate(look) != "none"
    assert opened.get_attribute("alt") == image.get_attribute("alt")
    assert opened.bounding_box()["width"] > 1.5 * image.bounding_box()["width"]
    page.keyboard.press("Escape")
    assert opened.count() == 0
    with page.context.expect_page() as tab:  # who wants the file gets it
        image.click(modifiers=["Control"])
    assert tab.value.url.endswith(".png")
    assert opened.count() == 0


def test_a_search_is_named_in_full_where_its_menu_cuts_the_name(visit):
    for width, cut in ((360, True), (1400, False)):
        page = visit("p1", viewport={"width": width, "height": 900})
        menu, whole = page.locator("select[aria-label='Search 1']"), page.locator(".wiring-whole-title")
        assert whole.is_visible() == cut
        menu.select_option(index=6)
        chosen = menu.locator("option:checked").text_content()
        page.locator(".wiring-whole-title", has_text=chosen).wait_for(state="attached")


def test_without_scripts_the_tables_tell_the_story(visit):
    page = visit("p3", java_script_enabled=False)
    for table, name in enumerate(("p3-reference", "p3-single-reference")):
        probability = load_reference(name)[0].arrays["probability"][-1, 0]
        shown = rows(page, table)
        assert [row[1] for row in shown] == [NAMES[best] for best in probability.argmax(-1)]
        assert [number(row[3]) for row in shown] == pytest.approx(probability[:, 0].tolist(), abs=6e-4)
    page = visit("explorer", java_script_enabled=False)
    for table, costs in enumerate(explorer.load_costs().values()):
        assert [number(row[2]) for row in rows(page, table)] == pytest.approx(
            (costs[:5, 4, 4, 4, 4, 4] * explorer.STEP).tolist()
        )


def test_pages_say_of_a_claim_what_the_records_say(visit, book):
    judged = {claim.id: judge(claim, recorded(claim)) for claim in CLAIMS.values() if claim.reference}
    for chapter in {verdict.claim.chapter for verdict in judged.values()}:
        page = BeautifulSoup((book / f"{chapter}.html").read_text(), "html.parser")
        for name, verdict in judged.items():
            if verdict.claim.chapter == chapter:
                said = " ".join(page.select_one(f"p#claim-{name.lower()}").get_text().replace("’", "'").split())
                shown = [*rounded(verdict.estimate, verdict.low, verdict.high)] if verdict.seeds > 1 else []
                word = verdict.verdict if verdict.seeds else UNRECORDED
                assert all(part in said for part in (name, word, verdict.claim.statement, *shown))
    page = visit("summary")
    tally = page.locator(".wiring-tally").inner_text()
    assert f"holds {sum(v.verdict == 'holds' for v in judged.values() if v.claim.id[0] in 'XR')}" in tally
    advice = BeautifulSoup((book / "practitioners.html").read_text(), "html.parser")
    links = advice.select(".wiring-verdicts td:first-child a")
    assert {link.get_text() for link in links} == {name for name in CLAIMS if name[0] == "R"}
    for place in (".wiring-tally a", ".wiring-verdicts td:first-child a"):
        links = page.locator(place)
        assert set(links.all_inner_texts()) == set(CLAIMS)
        for name, target in links.evaluate_all("all => all.map(link => [link.innerText, link.getAttribute('href')])"):
            assert target == f"{CLAIMS[name].chapter}.html#claim-{name.lower()}"


def test_a_table_of_sentences_is_paragraphs_on_a_phone(visit):
    page = visit("practitioners", viewport={"width": 360, "height": 740})
    table = page.locator(".wiring-sentences table")
    head, lines = table.locator("thead"), table.locator("tbody tr")
    read = """row => [...row.cells].map(cell => {
        const { left, right, top, bottom } = cell.getBoundingClientRect();
        return [getComputedStyle(cell, '::before').content, left, right, top, bottom]; })"""
    assert lines.count() > 5
    assert not head.is_visible()
    for line in lines.all():
        labels, left, right, top, bottom = zip(*line.evaluate(read), strict=True)
        assert labels == ("none", '"It means: "', '"Look at next: "')
        assert 0 <= min(left) == max(left) < max(right) <= 360
        assert all(np.array(top[1:]) >= np.array(bottom[:-1]) - 0.1)
    wider = """table => { const found = [];
        for (let up = table; up; up = up.parentElement) if (up.scrollWidth > up.clientWidth) found.push(up.className);
        return found; }"""
    assert table.evaluate(wider) == []
    page.set_viewport_size({"width": 1400, "height": 900})
    assert head.is_visible()
    for line in lines.all():
        labels, left, right, top, _ = zip(*line.evaluate(read), strict=True)
        assert set(labels) == {"none"}
        assert len(set(top)) == 1
        assert left[1:] == pytest.approx(right[:-1], abs=2)


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


def test_statements_are_indexed_by_kind_and_title(visit):
    listed = visit("prf-prf").locator("table.indextable").inner_text()
    assert all(
        title in listed for title in ("Zero sum", "P3, catastrophic failure", "An operation passes on its degree")
    )
    assert "thm-one" not in listed


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
FOUND |= {"width preference": "p2", "OLES": "remedies"}


def test_search_finds_what_readers_may_call_it(visit):
    results = visit("search")
    again = "query => { document.getElementById('search-results').replaceChildren(); Search.performSearch(query); }"
    for number, (query, page) in enumerate(FOUND.items()):
        if number < 2:  # typed; each loads the page again
            results.locator("input[name=q]").last.fill(query)
            results.locator("input[name=q]").last.press("Enter")
        else:
            results.evaluate(again, query)
        results.wait_for_selector("#search-results > p:has-text('matching')")
        links = results.locator("#search-results li a")
        first = links.evaluate_all("all => all.slice(0, 3).map(link => link.href)")
        assert any(f"/{page}.html" in link for link in first), (query, first)


def test_every_chapter_links_words_of_the_glossary_each_once(book):
    for name in ("index", *chapters()):
        links = re.findall(r'href="glossary.html#(term-[^"]+)"', (book / f"{name}.html").read_text())
        assert len(links) == len(set(links)) > 3, name


def test_nothing_is_live_without_a_repository(book):
    text = (book / "p1.html").read_text()
    assert "mybinder" not in text
    assert "launchThebe" not in text
    assert "sphinx-thebe.js" not in text
    assert "_sources/p1.ipynb" in text


def test_one_variable_makes_the_book_live_and_a_second_build_reads_no_page_again(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text("# A page\n\n```{source}\n```\n")
    (source / "references.bib").touch()
    shutil.copytree(ROOT / "book" / "_static", source / "_static")
    # A small notebook: what it needs of the records is to depend on them, and the real one has every claim judged.
    text = nbformat.v4.new_markdown_cell("# A notebook\n\n```{provenance} p1-reference\n```", id="text")
    nbformat.write(nbformat.v4.new_notebook(cells=[text]), source / "summary.ipynb")
    (source / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: summary}]\n")
    live = partial(build, tmp_path, source, strict=False, WIRING_REPOSITORY="https://github.com/owner/wiring")
    out = live()
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

    def read():
        return {path.name: path.stat().st_mtime_ns for path in (out.parent / ".doctrees").glob("*.doctree")}

    before = read()
    assert before.keys() == {"index.doctree", "summary.doctree"}
    live()
    assert read() == before
