"""Formulas as MathML, and fonts with the glyphs that pages need."""

import pytest
from fontTools.ttLib import TTFont
from math_core import LatexError
from wiring_book.typeset import formula_characters, icon_characters, keep_together, mathml, package_data, write_font


def test_a_formula_becomes_mathml_in_line_and_on_its_own():
    assert mathml("L - H") == "<math><mi>L</mi><mo>−</mo><mi>H</mi></math>"
    assert mathml("L - H", block=True).startswith('<math display="block">')
    assert "&lt;" in mathml("i < j")


def test_a_formula_with_a_misspelt_command_is_refused():
    with pytest.raises(LatexError):
        mathml(r"\frak{1}{2} \nosuchcommand")


def test_punctuation_stays_with_its_formula():
    formula = mathml("x")
    assert keep_together(f"<p>a {formula} b</p>") == f"<p>a {formula} b</p>"
    assert keep_together(f"<p>a ({formula}), b</p>") == f'<p>a <span class="wiring-whole">({formula}),</span> b</p>'


def test_a_font_keeps_the_glyphs_of_formulas_what_they_imply_and_its_licence(tmp_path):
    page = f"<p>ω</p>{mathml('x < ∑')}<p>{mathml('α', block=True)}"
    assert set("x<∑α") < set(formula_characters([page]))
    source = package_data("ziamath", "fonts", "STIXTwoMath-Regular.ttf")
    write_font(source, tmp_path / "math.woff2", formula_characters([page]))
    assert (tmp_path / "math.woff2").stat().st_size < source.stat().st_size / 10
    with TTFont(tmp_path / "math.woff2") as font:
        assert set(map(ord, "x<∑α𝑥𝛼√")) <= set(font.getBestCmap())
        assert ord("ω") not in font.getBestCmap()
        assert "MATH" in font
        assert "Open Font License" in font["name"].getDebugName(13)


def test_icons_are_those_that_pages_name_and_those_of_other_rules():
    sheet = (
        '.fa-bars:before,.fa-menu:before{content:"\\f0c9"}.fa-bell:before{content:"\\f0f3"}.x:after{content:"\\f107"}'
    )
    assert icon_characters(sheet + ":root{--icon:'\uf0eb'}", ['<i class="fa-solid fa-menu">']) == "\uf0c9\uf107\uf0eb"
