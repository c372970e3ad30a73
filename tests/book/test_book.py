"""The chapters as committed: what prints or draws has an output, figures have words, parameters have types."""

import ast
import json
import re
from collections import OrderedDict
from types import SimpleNamespace

import nbformat
import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import cross_entropy
from wiring_book import colab, site

from wiring.chapters import BOOK, TYPES, chapters, parameters

NOTEBOOKS = {name: nbformat.read(path, as_version=4) for name, path in chapters().items()}


def code_cells(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def shows_something(source):
    tree = ast.parse(source)
    prints = any(isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" for node in ast.walk(tree))
    return prints or isinstance(tree.body[-1], ast.Expr)


def test_every_chapter_is_in_the_table_of_contents():
    contents = yaml.safe_load((BOOK / "_toc.yml").read_text())
    assert NOTEBOOKS
    assert set(NOTEBOOKS) <= {entry["file"] for part in contents["parts"] for entry in part["chapters"]}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_that_prints_or_draws_stores_an_output_and_none_an_error(name):
    for number, cell in enumerate(code_cells(name), 1):
        assert cell.execution_count == number
        assert bool(cell.outputs) == shows_something(cell.source), cell.source
        assert {output.output_type for output in cell.outputs} <= {"stream", "execute_result", "display_data"}
        assert all(output.get("name") != "stderr" for output in cell.outputs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_figure_has_a_name_a_caption_and_an_alternative_text(name):
    for cell in code_cells(name):
        if any("image/png" in output.get("data", {}) for output in cell.outputs):
            figure, image = cell.metadata.mystnb.figure, cell.metadata.mystnb.image
            assert figure.name.startswith("fig-")
            assert len(figure.caption) > 40
            assert len(image.alt) > 40


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameters_come_first_typed_and_explained(name):
    assert code_cells(name)[0].metadata.tags == ["parameters"]
    found = parameters(name)
    assert found
    for parameter in found.values():
        assert parameter.annotation in TYPES
        assert parameter.help


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_nothing_that_differs_from_run_to_run_is_stored(name):
    assert set(NOTEBOOKS[name].metadata) <= {"kernelspec", "language_info"}
    for cell in NOTEBOOKS[name].cells:
        assert not {"papermill", "execution"} & set(cell.metadata)


def test_a_build_takes_a_changed_style_sheet_over_although_no_page_has_changed(monkeypatch, tmp_path):
    monkeypatch.setattr(site.players, "scripts", dict)
    (tmp_path / "_static" / "scripts").mkdir(parents=True)
    (tmp_path / "_static" / "wiring.css").write_text("the one before")
    site._write_assets(SimpleNamespace(builder=SimpleNamespace(format="html"), srcdir=BOOK, outdir=tmp_path), None)
    assert (tmp_path / "_static" / "wiring.css").read_text() == (BOOK / "_static" / "wiring.css").read_text()


def test_the_lines_that_log_a_search_log_its_three_numbers():
    (block,) = re.findall(r"```python\n(.*?)```", (BOOK / "practitioners.md").read_text(), flags=re.S)
    edge = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)]
    model = nn.Sequential(OrderedDict(cells=nn.ModuleDict({"0": nn.ModuleDict({"edges": nn.Sequential(*edge)})})))
    model.forward = lambda images: edge[1](edge[0](images)).mean((2, 3))
    images, labels, alpha = torch.randn(8, 1, 5, 5), torch.arange(8) % 4, torch.randn(2, 3)
    seen = {}
    log = SimpleNamespace(
        add_scalar=lambda name, value, step: seen.update({name: value.item()}),
        add_scalars=lambda name, values, step: seen.update({name: {key: float(x) for key, x in values.items()}}),
    )
    exec(block, {"model": model, "images": images, "labels": labels, "alpha": alpha, "none": 0, "log": log, "step": 1})
    logits = model(images)
    p = logits.softmax(1)
    loss = cross_entropy(logits, labels)
    assert seen["L - H"] == pytest.approx((loss + (p * p.log()).sum(1).mean()).item(), abs=1e-6)
    assert list(seen["p(None)"].values()) == pytest.approx(
        (alpha.exp() / alpha.exp().sum(1, keepdim=True))[:, 0].tolist()
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    assert seen["cost"]["cells.0.edges.1"] == pytest.approx((gradient * logits).sum().item(), abs=1e-6)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_that_only_set_up_are_folded(name):
    for cell in code_cells(name):
        if all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(cell.source).body):
            assert "hide-input" in cell.metadata.tags


def test_on_colab_a_first_cell_gets_what_the_chapter_needs_and_the_rest_is_the_chapter(tmp_path):
    colab.write("https://github.com/owner/wiring", tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(NOTEBOOKS)
    for name, own in NOTEBOOKS.items():
        first, *rest = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4).cells
        assert rest == own.cells
        assert "git clone -q --depth 1 https://github.com/owner/wiring /content/wiring\n" in first.source
        assert "/content" not in json.dumps(own)
