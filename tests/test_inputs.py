"""Some hundred bad inputs, by the command line and through the chapters: each is refused in one line, status 2."""

from itertools import product

import pytest
from command import call, notebook, snapshot

from wiring import chapters
from wiring.search import sweeps
from wiring.search.experiments import DESCRIPTIONS, Experiment, to_dict

#: Kind of field -> values that none of that kind takes.
NO_COUNT = ["0", "-1", "1.5", "one", "true", "[1]", "null1"]
NO_NUMBER = ["-1", "NaN", "Infinity", "-Infinity", "x", "[0.1]", "true", "1e999"]
NO_CHOICE = ["", "7", "DARTS", "true", "null"]
NO_FLAG = ["2", "yes", "null", "[]"]
NO_PAIR = ["0.5", "[0.5]", "[0.5,1]", "[0.1,0.2,0.3]", "x", "[-0.1,0.5]"]
BAD = {
    name: values
    for names, values in [
        (["cells", "channels", "image_size", "images", "epochs", "batch", "threads"], NO_COUNT),
        (["theta_lr", "theta_lr_min", "theta_weight_decay", "alpha_lr", "alpha_weight_decay", "alpha_std"], NO_NUMBER),
        (["clip", "temperature", "final_temperature"], ["0", *NO_NUMBER]),
        (["label_noise", "theta_momentum"], ["1.01", *NO_NUMBER]),
        (["searcher", "level", "device", "topology"], NO_CHOICE),
        (["flip", "bf16"], NO_FLAG),
        (["alpha_betas"], NO_PAIR),
        (["reductions"], ["1", "[1]", "[-1]", "[0.5]", "x"]),
        (["alpha_mean"], NO_NUMBER[1:]),
        (["crop"], ["-1", "0.5", "x"]),
        (["seed"], ["-1", "0.5", "x", "9223372036854775808"]),
        (["data"], ["3", "null", "mnist", "folder:", "folder:nowhere", "/etc", "digits2"]),
    ]
    for name in names
}
CASES = [(field, value) for field, values in BAD.items() for value in values]
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
        f"{name} = None  # type: {TYPES.get(name, kind(name, fields[name]))}|None {meaning}"
        for name, meaning in DESCRIPTIONS.items()
    ]
    notebook(root / "book/all.ipynb", "\n".join(["preset: str = 'p1-quick'  # which", *lines]))
    (root / "file").write_text("mine")
    (root / "foreign").mkdir()
    (root / "foreign/results.csv").write_text("my own results")
    return root


def kind(name, value):
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


def test_there_are_more_than_a_hundred_for_every_field():
    assert BAD.keys() == DESCRIPTIONS.keys()
    assert len(CASES) + len(SWEEPS) > 150


@pytest.mark.parametrize(("field", "value"), CASES)
def test_run_refuses_the_value_by_the_fields_name(here, capsys, field, value):
    assert field in refused(here, capsys, "run", "p1-quick", f"--{field}={value}")


@pytest.mark.parametrize(("field", "value"), [case for case in CASES if case[1] not in ("null", "-Infinity")])
def test_chapter_refuses_the_value_by_the_parameters_name_before_a_kernel_starts(here, capsys, field, value):
    assert field in refused(here, capsys, "rerun", "all", "-p", field, value)


@pytest.mark.parametrize("arguments", SWEEPS, ids=" ".join)
def test_sweep_refuses_before_anything_runs(here, capsys, arguments):
    refused(here, capsys, "sweep", *arguments)


@pytest.mark.parametrize(("images", "batch"), list(product(["7", "1797"], ["1798", "99999"])))
def test_batch_larger_than_the_images_is_refused(here, capsys, images, batch):
    assert "batch" in refused(here, capsys, "run", "p1-quick", f"--images={images}", f"--batch={batch}")
