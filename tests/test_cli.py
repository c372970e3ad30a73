"""Every bad command line is refused in one line with status 2 and writes nothing; good ones say where the result is."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
import torch
from command import QUICK, call, notebook, snapshot
from PIL import Image
from short_run import without_progress

from wiring import chapters
from wiring.__main__ import from_text
from wiring.evidence import verdicts
from wiring.evidence.claims import CLAIMS
from wiring.search import records
from wiring.search.discrete import RULES
from wiring.search.experiments import DESCRIPTIONS, PRESETS, PURPOSES
from wiring.search.records import load
from wiring.supernet.topology import MINIMAL, TOPOLOGIES


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder beside a book of two chapters and data that is broken in every way."""
    notebook(
        tmp_path / "book/tiny.ipynb",
        "epochs: int = 2  # how long\nrate: float = 0.5\nname: str = 'x'\nsure: bool = True",
        "print(epochs, rate, name, sure)",
    )
    notebook(tmp_path / "book/broken.ipynb", "epochs: int = 2", "1 / 0", "print('never')")
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    for file in ("one/a/x.png", "broken/a/x.png", "broken/b/x.png", "hollow/a/x.png"):
        (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / file)
    (tmp_path / "data/broken/b/x.png").write_text("no image")
    (tmp_path / "data/hollow/empty").mkdir()
    (tmp_path / "data/foreign").mkdir()
    (tmp_path / "data/foreign/me.jpg").touch()
    (tmp_path / "there.ipynb").touch()
    (tmp_path / "there.json").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(here, capsys, arguments, *parts):
    before = snapshot(here)
    status = call(*arguments)
    out, err = capsys.readouterr()
    assert snapshot(here) == before
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert err.startswith("wiring: ")
    assert [part for part in parts if part not in err] == []


BAD = [
    # what there is to call
    ([], "{run,derive,sweep,rerun,presets,verdicts,bench}"),
    (["fly"], "'fly'", "run", "rerun", "presets"),
    (["--epochs", "3"], "run"),
    (["run"], "preset"),
    (["rerun"], "chapter"),
    # presets and fields
    (["run", "p1"], "'p1'", *PRESETS),
    (["run", "P1-QUICK"], "'P1-QUICK'", *PRESETS),
    (["run", "p1-quick", "--epoch", "3"], "--epoch", "--epochs"),
    (["run", "p1-quick", "--epocs=3"], "--epocs=3", "--epochs"),
    (["run", "p1-quick", "--nonsense"], "--nonsense", "--epochs"),
    (["run", "p1-quick", "p1-paper"], "p1-paper"),
    (["run", "p1-quick", "--epochs"], "--epochs", "one argument"),
    (["presets", "--all"], "--all"),
    (["sweep", "p1-quick", "--epochs", "3"], "--epochs", "--grid FIELD=A,B,C"),
    (["presets", "p1"], "'p1'", *PRESETS),
    # values
    ([*QUICK, "--epochs", "-3"], "epochs", "-3", "1"),
    ([*QUICK, "--epochs", "0"], "epochs", "0", "1"),
    ([*QUICK, "--epochs", "2.5"], "epochs", "2.5", "integer"),
    ([*QUICK, "--epochs", "1e3"], "epochs", "1000.0", "integer"),
    ([*QUICK, "--epochs", "many"], "epochs", "'many'", "integer"),
    ([*QUICK, "--epochs", "true"], "epochs", "True", "integer"),
    ([*QUICK, "--epochs", ""], "epochs", "''", "integer"),
    ([*QUICK, "--theta_lr", "-0.1"], "theta_lr", "-0.1", "0"),
    ([*QUICK, "--theta_lr", "NaN"], "theta_lr", "nan"),
    ([*QUICK, "--theta_lr", "Infinity"], "theta_lr", "inf"),
    ([*QUICK, "--theta_lr", "fast"], "theta_lr", "'fast'", "number"),
    ([*QUICK, "--label_noise", "1.5"], "label_noise", "1.5", "1"),
    ([*QUICK, "--flip", "yes"], "flip", "'yes'", "boolean"),
    ([*QUICK, "--alpha_betas", "[0.5]"], "alpha_betas"),
    ([*QUICK, "--alpha_betas", "0.5,0.9"], "alpha_betas", "'0.5,0.9'", "array"),
    ([*QUICK, "--reductions", "5"], "reductions", "5"),
    ([*QUICK, "--reductions", "[5]"], "reductions", "5", "1 cells"),
    ([*QUICK, "--topology", "big"], "topology", "'big'", *TOPOLOGIES),
    ([*QUICK, "--searcher", "enas"], "searcher", "'enas'", "darts", "snas", "dsnas", "uniform"),
    ([*QUICK, "--level", "two"], "level", "'two'", "single", "bi"),
    ([*QUICK, "--device", "tpu"], "device", "'tpu'", "cpu", "cuda"),
    (["bench", "--device", "tpu"], "device", "'tpu'", "cpu", "cuda"),
    ([*QUICK, "--seed", "-1"], "seed", "-1"),
    # data
    ([*QUICK, "--data", "mnist"], "'mnist'", "digits", "cifar10", "folder:PATH"),
    ([*QUICK, "--data", "3"], "data", "3", "string"),
    ([*QUICK, "--data", "folder:nowhere"], "nowhere", "no such folder"),
    ([*QUICK, "--data", "folder:data/one"], "data/one", "two or more"),
    ([*QUICK, "--data", "folder:data/hollow"], "data/hollow", "empty"),
    ([*QUICK, "--data", "folder:data/broken", "--images", "2", "--batch", "2"], "data/broken/b/x.png"),
    ([*QUICK, "--images", "99999"], "images", "99999", "1797"),
    ([*QUICK, "--batch", "33"], "batch", "33", "32"),
    # folders
    ([*QUICK, "--out", "data/foreign"], "data/foreign", "another folder"),
    ([*QUICK, "--out", "there.json"], "there.json", "another folder"),
    # what a search ends in
    (["derive"], "run"),
    (["derive", "nowhere"], "nowhere", "experiment.json"),
    # chapters and their parameters
    (["rerun", "p9"], "'p9'", "broken", "tiny"),
    (["rerun", "tiny.ipynb"], "'tiny.ipynb'", "broken", "tiny"),
    (["rerun", "../tiny"], "'../tiny'", "tiny"),
    (["rerun", "tiny", "-p", "epocs", "3"], "'epocs'", "epochs", "rate", "name", "sure"),
    (["rerun", "tiny", "-p", "epochs"], "-p", "2 arguments"),
    (["rerun", "tiny", "-p", "epochs", "three"], "epochs", "'three'", "int"),
    (["rerun", "tiny", "-p", "epochs", "1e3"], "epochs", "1000.0", "int"),
    (["rerun", "tiny", "-p", "epochs", "true"], "epochs", "True", "int"),
    (["rerun", "tiny", "-p", "epochs", "0"], "epochs", "= 0 ", "at least 1"),
    (["rerun", "tiny", "-p", "epochs", "-3"], "epochs", "-3", "at least 1"),
    (["rerun", "tiny", "-p", "rate", "fast"], "rate", "'fast'", "float"),
    (["rerun", "tiny", "-p", "name", "3"], "name", "= 3 ", "str"),
    (["rerun", "tiny", "-p", "sure", "yes"], "sure", "'yes'", "bool"),
    (["rerun", "tiny", "-p", "epochs", "3", "-p", "epocs", "3"], "'epocs'"),
    (["rerun", "tiny", "--out", "there.ipynb"], "there.ipynb", "exists"),
    (["rerun", "tiny", "--out", "new.txt"], "new.txt", ".ipynb"),
    (["rerun", "tiny", "--epochs", "3"], "--epochs", "-p"),
    (["rerun", "tiny", "--timeout", "0"], "timeout = 0", "at least 1"),
    # files
    (["verdicts", "--json", "nowhere/x.json"], "json = 'nowhere/x.json': no folder nowhere"),
    (["bench", "--json", "nowhere/x.json"], "json = 'nowhere/x.json': no folder nowhere"),
    # bench
    (["bench", "--repeats", "0"], "repeats", "0", "1"),
    (["bench", "--repeats", "few"], "--repeats", "'few'", "int"),
    (["bench", "--json", "there.json"], "there.json", "exists"),
]


@pytest.mark.parametrize(("arguments", "parts"), [(a, b) for a, *b in BAD], ids=[" ".join(a) or "-" for a, *_ in BAD])
def test_bad_command_line_is_refused_in_one_line_and_writes_nothing(here, capsys, arguments, parts):
    refused(here, capsys, arguments, *parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("preset", ["p1-paper", "p1-quick"])
def test_cuda_where_there_is_none_is_refused_with_what_there_is(here, capsys, preset):
    refused(here, capsys, ["run", preset, "--device", "cuda"], "device", "'cuda'", "cpu")
    refused(here, capsys, ["bench", "--device", "cuda"], "device", "'cuda'", "cpu")


def test_no_network_and_no_files_are_refused_in_one_line(here, capsys, monkeypatch):
    def no_network(*arguments, **options):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    monkeypatch.setenv("WIRING_DATA", str(here / "nothing"))
    refused(here, capsys, [*QUICK, "--data", "cifar10"], "cifar10", "WIRING_DATA", "name resolution")


def test_a_search_ends_in_a_cell_that_is_trained_alone(here, capsys):
    assert call(*QUICK, "--searcher", "darts", "--level", "bi", "--batch", "8", "--out", "mine") == 0
    capsys.readouterr()
    for rule in ("strongest", "perturbation"):
        assert call("derive", "mine", "--rule", rule, "--epochs", "2") == 0
        *cell, last = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[0] for line in cell] == ["(0, 2)", "(1, 2)", "(0, 3)", "(1, 3)", "(2, 3)"]
        assert not any(line.endswith("none") for line in cell)
        record = load(here / f"mine-{rule}")
        assert [
            f"{edge}: {name}"
            for edge, (name,) in zip(MINIMAL.edges, record.experiment.topology.candidates, strict=True)
        ] == cell
        accuracy = record.scalars.query("split == 'search' and group == 'all' and epoch == 2").accuracy.item()
        assert last == f"mine-{rule}: accuracy {accuracy:.3f} on 16 images that it did not learn from"
    refused(here, capsys, ["derive", "mine", "--rule", "best"], "rule", "'best'", *RULES)
    refused(here, capsys, ["derive", "mine", "--epochs", "0"], "epochs", "0", "1")


def test_folder_of_another_experiment_is_refused_with_both_values(here, capsys):
    assert call(*QUICK, "--out", "mine") == 0
    capsys.readouterr()
    refused(here, capsys, [*QUICK, "--out", "mine", "--seed", "4"], "mine", "seed", "0 there", "4 here")


def test_truncated_checkpoints_are_refused_with_what_to_do(here, capsys):
    assert call(*QUICK, "--out", "mine") == 0
    (here / "mine/done.json").unlink()
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        checkpoint = here / "mine" / name
        checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    capsys.readouterr()
    refused(here, capsys, [*QUICK, "--out", "mine"], "checkpoint.pt", "damaged", "delete it and checkpoint.previous.pt")


def test_damaged_record_is_refused_by_the_files_name(here, capsys):
    assert call(*QUICK, "--out", "mine") == 0
    (here / "mine/scalars.csv").write_text("epoch\n1\n")
    capsys.readouterr()
    refused(here, capsys, [*QUICK, "--out", "mine"], "scalars.csv", "damaged")


#: A program that runs the command line on another book.
BOOK_OF = """
import sys
from pathlib import Path
from wiring import chapters
from wiring.__main__ import main
chapters.BOOK = Path(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(chapters.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def python_m_wiring(folder, *arguments):
    command = [sys.executable, "-W", "error", "-m", "wiring", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_refusal_of_the_whole_program_is_one_line_too(here):
    before = snapshot(here)
    done = python_m_wiring(here, *QUICK, "--epochs", "-3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("wiring: ")
    assert done.stderr.count("\n") == 1
    assert snapshot(here) == before


def test_diverged_run_is_said_in_one_line(here, capsys):
    assert call(*QUICK, "--theta_lr", "1e30", "--theta_lr_min", "1e30", "--out", "mine") not in (0, None)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "theta_lr" in err


def test_interrupted_run_says_how_to_go_on_and_goes_on(here, capsys, monkeypatch):
    keep = records.save_checkpoint

    def interrupted(folder, state):
        keep(folder, state)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(records, "save_checkpoint", interrupted)
        assert call(*QUICK, "--out", "mine") == 130
    *_, last = capsys.readouterr().err.splitlines()  # a line an epoch before
    assert last == "wiring: interrupted; the same command resumes where it was saved"
    assert call(*QUICK, "--out", "mine") == 0
    assert call(*QUICK, "--out", "whole") == 0
    for name in ("scalars.csv", "arrays.npz"):
        assert (here / "mine" / name).read_bytes() == (here / "whole" / name).read_bytes()


@pytest.mark.parametrize("start", [["-m", "wiring"], ["-c", "from wiring.__main__ import main; main()"]])
def test_ctrl_c_while_modules_are_imported_leaves_no_traceback(here, start):
    with subprocess.Popen(
        [sys.executable, *start, "verdicts"], env=ENVIRONMENT, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        while b"libtorch" not in Path(f"/proc/{running.pid}/maps").read_bytes():
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        assert running.communicate() == (b"", b"")
    assert running.returncode == -signal.SIGINT


@pytest.mark.parametrize("arguments", [["presets"], ["--help"]])
def test_output_that_nobody_reads_ends_quietly(here, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "wiring", *arguments],
        env=ENVIRONMENT,
        cwd=here,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert done.returncode in (0, 141)  # argparse says nothing of what it could not print
    assert done.stderr == b""


def test_help_and_version_import_nothing_heavy(here):
    program = "import sys; from wiring.__main__ import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    for argument in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", program, argument], env=ENVIRONMENT, cwd=here, capture_output=True)
        assert not {b"torch", b"numpy", b"pydantic"} & set(done.stdout.split())


# what works


def test_command_line_texts_are_json_or_else_texts():
    texts = {"a": "3", "b": "1e-3", "c": "true", "d": "digits", "e": "[2,5]", "f": "folder:/x y", "g": "", "h": "True"}
    assert {name: from_text(text) for name, text in texts.items()} == {
        "a": 3,
        "b": 1e-3,
        "c": True,
        "d": "digits",
        "e": [2, 5],
        "f": "folder:/x y",
        "g": "",
        "h": "True",
    }


def test_run_says_where_its_records_are_and_a_second_run_that_it_was_finished_before(here, capsys):
    assert call(*QUICK) == 0
    first = capsys.readouterr()
    (folder,) = (here / "runs").iterdir()
    assert first.out.startswith(f"runs/{folder.name}: 2 epochs")
    data, first_epoch, _ = first.err.splitlines()
    assert "digits (scikit-learn): " in data
    assert " epoch 1/2, " in first_epoch  # a line an epoch
    before = snapshot(here)
    assert call(*QUICK) == 0
    assert "finished before" in capsys.readouterr().out
    assert snapshot(here) == before


def test_every_field_given_on_the_command_line_reaches_the_experiment(here):
    given = ["--searcher", "snas", "--alpha_betas", "[0.1,0.2]", "--crop", "2", "--flip", "true", "--theta_lr", "1e-3"]
    assert call(*QUICK, *given, "--topology", "simplified", "--out", "mine") == 0
    there = json.loads((here / "mine/experiment.json").read_text())
    expected = {"searcher": "snas", "alpha_betas": [0.1, 0.2], "crop": 2, "flip": True, "theta_lr": 1e-3, "epochs": 2}
    assert {name: there[name] for name in expected} == expected
    assert there["topology"]["inputs"] == [1]


def test_different_experiments_get_different_folders(here):
    assert call(*QUICK) == call(*QUICK, "--seed", "1") == 0
    assert len(list((here / "runs").iterdir())) == 2


def test_verdicts_are_printed_and_written_without_nan(here, capsys):
    assert call("verdicts", "--json", "verdicts.json") == 0
    printed = capsys.readouterr().out
    rows = json.loads((here / "verdicts.json").read_text(), parse_constant=pytest.fail)
    assert [row["claim"] for row in rows] == list(CLAIMS)
    for row in rows:
        assert f"{row['claim']} {row['verdict']}: {row['statement']}" in printed
        assert (row["estimate"] is None) == (row["seeds"] == 0)
    found = Counter(row["verdict"] for row in rows)
    tally = f"{found['holds']} hold, {found['fails']} fail, {found['undecided']} undecided"
    assert printed.splitlines()[-1] == tally
    refused(here, capsys, ["verdicts", "--json", "verdicts.json"], "json = 'verdicts.json': exists")


def test_verdicts_without_recorded_runs_are_refused_in_one_line(here, capsys, monkeypatch):
    for module in (records, verdicts):
        monkeypatch.setattr(module, "REFERENCE", here / "reference")
    refused(here, capsys, ["verdicts"], "no recorded runs", str(here / "reference"), "source checkout")


def test_each_preset_is_one_line_that_says_what_it_is_for(capsys):
    assert call("presets") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[0] for line in out.splitlines()] == list(PURPOSES)
    assert PURPOSES.keys() == PRESETS.keys()
    assert all(len(line) < 120 and line.split("  ", 1)[1].strip() for line in out.splitlines())


def test_a_preset_shows_all_its_settings_and_the_authors_where_they_differ(capsys):
    assert call("presets", "p1-reference") == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert PURPOSES["p1-reference"] in title
    assert [line.split(" = ")[0].strip() for line in lines] == list(DESCRIPTIONS)
    assert "  epochs = 30  (authors: 150)" in lines
    assert "  batch = 96" in lines


def test_version_is_the_installed_one(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out == f"wiring {version('wiring')}\n"


@pytest.mark.parametrize(
    "command", [[], ["run"], ["derive"], ["sweep"], ["rerun"], ["presets"], ["verdicts"], ["bench"]]
)
def test_help_goes_to_stdout(capsys, command):
    assert call(*command, "--help") == 0
    out, err = capsys.readouterr()
    assert "usage" in out
    assert err == ""


def test_whole_program_runs_without_a_warning(here):
    done = python_m_wiring(here, *QUICK)
    assert done.returncode == 0
    assert without_progress(done.stderr) == ""


def test_what_a_cell_prints_is_one_output_whenever_it_was_flushed(here):
    slowly = "import time\nfor k in range(3):\n    print(k, flush=True)\n    time.sleep(0.5)"
    notebook(here / "book/slow.ipynb", "epochs: int = 2", slowly)
    assert call("rerun", "slow") == 0
    *_, cell = nbformat.read(here / "reruns/slow.ipynb", as_version=4).cells
    assert [output["text"] for output in cell.outputs] == ["0\n1\n2\n"]


def test_rerun_executes_a_chapter_with_the_parameter(here, capsys):
    assert call("rerun", "tiny", "-p", "epochs", "3", "-p", "rate", "1e-4") == 0
    out, err = capsys.readouterr()
    assert "wrote reruns/tiny.ipynb" in out
    assert "jupyter lab reruns/tiny.ipynb" in out
    assert err.splitlines()[-1] == "tiny: cell 3 is done"
    executed = nbformat.read(here / "reruns/tiny.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "3 0.0001 x True\n"
    assert snapshot(here / "reruns").keys() == {"tiny.ipynb"}
    source = nbformat.read(here / "book/tiny.ipynb", as_version=4)
    assert source.cells[-1].outputs == []


def test_rerun_keeps_earlier_reruns(here, monkeypatch):
    def execute(source, out, values, *arguments, **options):
        out.parent.mkdir(exist_ok=True)
        out.write_text(str(values))

    monkeypatch.setattr(chapters, "execute", execute)
    for epochs in "345":
        assert call("rerun", "tiny", "-p", "epochs", epochs) == 0
    assert sorted(snapshot(here / "reruns")) == ["tiny-2.ipynb", "tiny-3.ipynb", "tiny.ipynb"]
    assert (here / "reruns/tiny-3.ipynb").read_text() == "{'epochs': 5}"


def test_failing_cell_is_named_with_its_chapter_in_one_line(here, capsys):
    assert call("rerun", "broken", "--out", "out.ipynb") not in (0, None)
    *_, last = capsys.readouterr().err.splitlines()  # papermill shows its progress before
    assert all(part in last for part in ("wiring: ", "'broken'", "cell 2", "ZeroDivisionError", "out.partial.ipynb"))
    assert (here / "out.partial.ipynb").exists()
    assert not (here / "out.ipynb").exists()


def test_a_rerun_keeps_what_an_earlier_one_left_unfinished(here, capsys):
    for k in ("broken", "broken-2"):
        assert call("rerun", "broken") == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(f"kept in reruns/{k}.partial.ipynb")
    assert sorted(snapshot(here / "reruns")) == ["broken-2.partial.ipynb", "broken.partial.ipynb"]


@pytest.mark.parametrize(
    ("cell", "timeout", "reason"),
    [("import os; os._exit(1)", (), "its kernel died"), ("while True: pass", ("--timeout", "2"), "took more than 2 s")],
)
def test_dead_kernel_and_endless_cell_are_named_and_the_notebook_is_kept(here, capsys, cell, timeout, reason):
    notebook(here / "book/bad.ipynb", "epochs: int = 2", "print(epochs)", cell, "print('never')")
    assert call("rerun", "bad", *timeout) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last == f"wiring: chapter 'bad', cell 3: {reason}; kept in reruns/bad.partial.ipynb"
    kept = nbformat.read(here / "reruns/bad.partial.ipynb", as_version=4)
    assert kept.cells[1].outputs[0].text == "2\n"
    assert kept.cells[3].outputs == []


def test_two_chapters_run_in_one_folder_at_the_same_time_and_leave_nothing_there(here):
    with ThreadPoolExecutor() as pool:
        command = [sys.executable, "-c", BOOK_OF, str(here / "book"), "rerun", "tiny", "--out"]
        runs = [pool.submit(subprocess.run, [*command, f"out/{k}.ipynb"], cwd=here, check=True) for k in range(2)]
    assert [run.result().returncode for run in runs] == [0, 0]
    assert sorted(snapshot(here / "out")) == ["0.ipynb", "1.ipynb"]
    assert [path for path in snapshot(here) if "kernel" in path or "ipc" in path] == []


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (("preset", "p1-fast"), ("p1-fast", "p1-quick")),
        (("epochs", "0"), ("epochs", "at least 1")),
        (("searcher", "DSNAS"), ("searcher = 'DSNAS'", "dsnas")),
        (("topology", "big"), ("topology = 'big'", "minimal")),
        (("data", "mnist"), ("data = 'mnist'", "digits, cifar10, folder:PATH")),
        (("data", "folder:nowhere"), ("data = 'folder:/", "nowhere", "no such folder")),
        (("theta_lr", "-1"), ("theta_lr = -1", "greater than or equal to 0")),
    ],
)
def test_rerun_refuses_what_the_preset_cannot_be_before_a_kernel_starts(here, capsys, monkeypatch, given, parts):
    types = {"epochs": "int", "searcher": "str", "topology": "str", "data": "str", "theta_lr": "float"}
    cell = "\n".join(f"{name} = None  # type: {kind}|None what" for name, kind in types.items())
    cell = "preset: str = 'p1-quick'  # which\n" + cell
    notebook(here / "book/search.ipynb", cell)
    monkeypatch.setattr(chapters, "execute", None)  # a call would fail
    refused(here, capsys, ["rerun", "search", "-p", *given], *parts)
