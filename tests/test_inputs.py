"""A bad value for every field, by the command line and through the chapters, is refused in one line, status 2."""

from itertools import product

import pytest
from command import call, notebook, snapshot

from wiring import chapters
from wiring.search import sweeps
from wiring.search.experiments import DESCRIPTIONS, Experiment, to_dict

#: Field -> a value that it does not take; tests/search/test_experiments.py tries all their bounds.
BAD = {
    **dict.fromkeys(["cells", "channels", "partial", "image_size", "images", "epochs", "batch", "threads"], "0"),
    **dict.fromkeys(["theta_lr", "theta_lr_min", "theta_weight_decay", "alpha_lr", "alpha_weight_decay"], "-1"),
    **dict.fromkeys(["clip", "temperature", "final_temperature"], "0"),
    **dict.fromkeys(["label_noise", "theta_momentum"], "1.01"),
    **dict.fromkeys(["measuring_epochs", "course_every"], "-1"),
    "early_stop": "-1.01",
    **dict.fromkeys(["searcher", "level", "device", "topology", "undrawn"], "DARTS"),
    **dict.fromkeys(["flip", "bf16", "graphs", "alpha_decoupled"], "yes"),
    **{"alpha_mean": "NaN", "alpha_std": "1e999", "alpha_betas": "[0.5]", "reductions": "[-1]", "crop": "0.5"},
    **{"seed": "9223372036854775808", "data": "folder:nowhere"},
}
#: What a field named in a chapter is typed there.
TYPES = {"topology": "str", "alpha_betas": "str", "reductions": "str"}
SWEEPS = [
    ["nothing"],
    [],
    ["p1-quick", "--seeds", "3..1"],
    ["p1-quick", "--seeds", "0..99999999"],
    ["p1-quick", "--seeds", "a..b"],
    ["p1-quick", "--seeds", "-1..3"],
    ["p1-quick", "--seeds", ""],
    ["p1-quick", "--seeds", "0,0"],
    ["p1-quick", "--seeds", "0", "--grid", "seed=1"],
    ["p1-quick", "--grid", "epochs"],
    ["p1-quick", "--grid", "epochs="],
    ["p1-quick", "--grid", "=1"],
    ["p1-quick", "--grid", "epochs=1,2,1"],
    ["p1-quick", "--grid", "epocs=1,2"],
    ["p1-quick", "--grid", "epochs=1,0"],
    ["p1-quick", "--grid", "epochs=1", "--grid", "epochs=2"],
    ["p1-quick", "--grid", "level=single,three"],
    ["p1-quick", "--grid", "reductions=[],[7]"],
    ["p1-quick", "--workers", "0"],
    ["p1-quick", "--workers", "-1"],
    ["p1-quick", "--workers", "9999"],
    ["p1-quick", "--workers", "two"],
    ["p1-quick", "--retries", "-1"],
    ["p1-quick", "--retries", "x"],
    ["p1-quick", "--workers", "1", "--cluster", "tcp://127.0.0.1:1"],
    ["p1-quick", "--cluster", "nowhere"],
    ["p1-quick", "--cluster", "tcp://127.0.0.1:1"],
    ["p1-quick", "--out", "file"],
    ["p1-quick", "--out", "foreign"],
    ["all", "--grid", "nothing=1"],
    ["all", "--grid", "epochs=1,x"],
    ["all", "--seeds", "x"],
]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A chapter with a parameter for each field of an experiment, and a folder with what is foreign to a sweep."""
    root = tmp_path_factory.mktemp("inputs")
    fields = to_dict(Experiment())
    lines = [
        f"{name} = None  # type: {TYPES.get(name, type_of(fields[name]))}|None {meaning}"
        for name, meaning in DESCRIPTIONS.items()
    ]
    notebook(root / "book/all.ipynb", "\n".join(["preset: str = 'p1-quick'  # which", *lines]))
    (root / "file").write_text("mine")
    (root / "foreign").mkdir()
    (root / "foreign/results.csv").write_text("my own results")
    return root


def type_of(value):
    return "int" if value is None else type(value).__name__


@pytest.fixture
def here(book, monkeypatch):
    monkeypatch.chdir(book)
    monkeypatch.setattr(chapters, "BOOK", book / "book")
    monkeypatch.setattr(chapters, "execute", None)  # a call would fail
    monkeypatch.setattr(sweeps, "CONNECT", 1)
    return book


def refused(here, capsys, *arguments):
    """The one line that says why."""
    before = snapshot(here)
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert snapshot(here) == before
    assert out == ""
    assert err.startswith("wiring: ")
    assert err.count("\n") == 1
    return err


def test_every_field_is_tried():
    assert BAD.keys() == DESCRIPTIONS.keys()


@pytest.mark.parametrize(("field", "value"), BAD.items())
def test_run_refuses_the_value_by_the_fields_name(here, capsys, field, value):
    assert field in refused(here, capsys, "run", "p1-quick", f"--{field}={value}")


@pytest.mark.parametrize(("field", "value"), BAD.items())
def test_chapter_refuses_the_value_by_the_parameters_name_before_a_kernel_starts(here, capsys, field, value):
    assert field in refused(here, capsys, "rerun", "all", "-p", field, value)


@pytest.mark.parametrize("arguments", SWEEPS, ids=" ".join)
def test_sweep_refuses_before_anything_runs(here, capsys, arguments):
    refused(here, capsys, "sweep", *arguments)


@pytest.mark.parametrize(("images", "batch"), list(product(["7", "1797"], ["1798", "99999"])))
def test_batch_larger_than_the_images_is_refused(here, capsys, images, batch):
    assert "batch" in refused(here, capsys, "run", "p1-quick", f"--images={images}", f"--batch={batch}")
