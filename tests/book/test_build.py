"""What executes the book's chapters: all of them are tried, and what fails is kept and said."""

import nbformat
import pytest
from command import notebook, snapshot
from wiring_book import build

from wiring import chapters


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of a chapter that can be executed and one that cannot, with its extension beside them."""
    book = tmp_path / "book"
    notebook(book / "tiny.ipynb", "epochs: int = 2  # how long", "print(epochs)")
    notebook(book / "broken.ipynb", "epochs: int = 2", "1 / 0", "print('never')")
    (book / "extension").mkdir()
    (book / "extension/code.py").touch()
    (tmp_path / "temporary").mkdir()
    for module in (chapters, build):
        monkeypatch.setattr(module, "BOOK", book)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return book


def test_failing_chapter_fails_the_book_and_its_file_stays(book, tmp_path, capsys):
    before = snapshot(book)
    assert build.main(["--out", str(tmp_path / "fresh")]) == 1
    err = capsys.readouterr().err
    (kept,) = (tmp_path / "temporary").glob("*/*.ipynb")
    assert all(part in err for part in ("'broken'", "cell 2", "ZeroDivisionError", str(kept)))
    assert "'tiny'" not in err
    assert nbformat.read(kept, as_version=4).cells[-2].outputs[-1].ename == "ZeroDivisionError"
    fresh = snapshot(tmp_path / "fresh")
    assert snapshot(book) == before
    assert fresh["broken.ipynb"] == before["broken.ipynb"]
    executed = nbformat.reads(fresh["tiny.ipynb"].decode(), as_version=4)
    assert executed.cells[-1].outputs[0].text == "2\n"
    assert {*fresh, "extension", "extension/code.py"} == {*before, "execution.json"}


def test_the_book_can_be_executed_in_place(book, tmp_path, capsys):
    (book / "broken.ipynb").unlink()
    assert build.main(["--out", str(book)]) == 0
    assert "1/1 chapters, 0 failed" in capsys.readouterr().err
    assert nbformat.read(book / "tiny.ipynb", as_version=4).cells[-1].outputs[0].text == "2\n"
    assert list((tmp_path / "temporary").iterdir()) == []
