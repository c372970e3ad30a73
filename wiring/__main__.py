"""The command line: ``wiring COMMAND ...``, or ``python -m wiring COMMAND ...``.

What takes seconds to import is imported by the command that needs it.
"""

import argparse
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage; raises BrokenPipeError where nobody reads the help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"wiring: {message}\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        sys.stdout.flush()
        super().exit(status, message)


class Command(NamedTuple):
    """The module that a command needs, what it does with its arguments, and its help."""

    module: str
    call: Callable[[argparse.Namespace], int | None]
    help: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0, 1 (a bench row missed its bound, or a run of a sweep failed), 2 (bad input, or a run, a chapter or its device
    failed), 130 (Ctrl-C), 141 (nobody reads what is printed), 143 (SIGTERM).
    """
    # Outside the command's own work, as while modules are imported, Ctrl-C ends the program at once and says nothing.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        options = _options(sys.argv[1:] if arguments is None else arguments)
        import_module(COMMANDS[options.command].module)
        status = _called(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # What is left of the output goes nowhere, so that Python does not complain of it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        signal.signal(signal.SIGINT, before)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="wiring", description="Why differentiable architecture search wires networks as it does.")
    parser.add_argument("--version", action="version", version=f"wiring {version('wiring')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{','.join(COMMANDS)}}}")
    for name, command in COMMANDS.items():
        added = commands.add_parser(name, allow_abbrev=False, help=command.help, description=command.call.__doc__)
        if name in arguments:  # what its arguments say may take seconds to import
            _add_arguments(name, added)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        actions = commands.choices[options.command]._actions
        allowed = " ".join(option for action in actions for option in action.option_strings)
        allowed += "; a field as --grid FIELD=A,B,C" * (options.command == "sweep")
        parser.error(f"{options.command} has no option {unknown[0]!r}; allowed: {allowed}")
    return options


def _add_arguments(command: str, parser: Parser) -> None:
    add = parser.add_argument
    match command:
        case "run" | "derive":
            from wiring.search.discrete import RULES
            from wiring.search.experiments import DESCRIPTIONS, PRESETS, Experiment, settings

            if command == "run":
                add("preset", help=f"one of {', '.join(PRESETS)}")
                add("--out", type=Path, metavar="FOLDER", help="default: runs/PRESET-<digest of the experiment>")
            else:
                add("run", type=Path, help="the folder of a finished search")
                add("--rule", default="argmax", help="; ".join(f"{rule}: {kept}" for rule, kept in RULES.items()))
                add("--out", type=Path, metavar="FOLDER", help="default: RUN-RULE, beside it")
            authors = settings(Experiment())
            for name, meaning in DESCRIPTIONS.items():
                about = f"{meaning} (authors: {json.dumps(authors[name])})".replace('"', "")
                add(f"--{name}", type=from_text, default=argparse.SUPPRESS, metavar="VALUE", help=about)
        case "sweep":
            add("name", help="a preset, or a chapter of the book")
            grid: Any = {"dest": "grid", "action": "append", "default": []}
            add("--seeds", type="seed={}".format, metavar="SEEDS", help="0..9, or 0,3,7", **grid)
            values = "values of a field (run --help) or of a chapter's parameter; may be given several times"
            add("--grid", metavar="FIELD=A,B,C", help=values, **grid)
            add_where = parser.add_mutually_exclusive_group().add_argument
            add_where("--workers", type=int, metavar="N", help="runs at a time (default: as many as cores allow)")
            add_where("--cluster", metavar="ADDRESS", help="a Dask scheduler, as tcp://host:8786")
            add("--retries", type=int, default=0, metavar="N", help="try what fails again at once (default 0)")
            add("--out", type=Path, metavar="FOLDER", help="default: sweeps/NAME")
        case "rerun":
            add("chapter", help="a notebook of the book, as p1")
            pair, several = ("NAME", "VALUE"), "a parameter; may be given several times"
            add("-p", dest="parameters", nargs=2, action="append", default=[], metavar=pair, help=several)
            add("--out", type=Path, metavar="NOTEBOOK", help="default: reruns/CHAPTER.ipynb, or -2, -3, ...")
            add("--timeout", type=int, metavar="SECONDS", help="longest time of a cell (default: no limit)")
        case "presets":
            add("name", nargs="?", metavar="NAME", help="a preset, to see all its settings")
        case "verdicts":
            add("--json", type=Path, metavar="FILE", help="also write them as JSON")
        case "bench":
            add("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
            add("--repeats", type=int, default=3, help="rounds of a row; short steps get more (default 3)")
            add("--device", default="cpu", help="cpu, cuda or cuda:N, whose rows are others (default cpu)")


def _called(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from wiring.search import experiments, loop, signals

    try:
        with signals.raised():
            return COMMANDS[options.command].call(options) or 0
    except BrokenPipeError:
        raise
    except (ValueError, ArithmeticError, loop.DeviceFailed, OSError) as error:
        status, message = 2, experiments.explain(error) if isinstance(error, ValidationError) else str(error)
        if isinstance(error, OSError) and error.filename:
            message = f"{error.filename}: {error.strerror}"
    except signals.Stopped as stop:
        resumed = options.command in ("run", "derive", "sweep")
        resumes = "; the same command resumes where it was saved" if resumed else ""
        status, message = stop.status, f"interrupted{resumes}"
    print(f"wiring: {' '.join(message.split())}", file=sys.stderr)
    return status


def from_text(text: str) -> Any:
    """A value on the command line: what is JSON is read as JSON, anything else is a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _run(options: argparse.Namespace) -> None:
    """Run the experiment of a preset, each field of which can be changed.

    An unfinished run in the same folder is resumed, a finished one is left as it is.
    """
    from wiring.search import experiments, loop, records, sweeps

    experiment = experiments.with_fields(experiments.preset(options.preset), _changes(options))
    folder = options.out or Path("runs") / sweeps.run_name(options.preset, experiments.to_json(experiment))
    before = "finished before, " if records.is_done(folder) else ""
    loop.keep_memory()
    loop.log_epochs()
    record = loop.run(experiment, folder)
    took = "{seconds} s on {data}".format_map(record.provenance)
    last = record.scalars.query("group == 'all'").iloc[-1]
    print(f"{folder}: {before}{experiment.epochs} epochs in {took}")
    print(f"last epoch: loss {last.loss:.3f}, accuracy {last.accuracy:.3f}, cost L - H {last.cost:.3f}")


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    from wiring.search.experiments import DESCRIPTIONS

    return {name: value for name, value in vars(options).items() if name in DESCRIPTIONS}


def _derive(options: argparse.Namespace) -> None:
    """Choose the cell that a finished search ends in, and train it alone; each field of that training can be changed.

    It learns from the half of the images that trained a bi-level search's weights; its accuracy is that on the others.
    An unfinished training in the same folder is resumed, a finished one is left as it is.
    """
    from wiring.search import experiments, loop, records
    from wiring.search.discrete import alone, closing, derive

    searched = records.load(options.run)
    table = closing(options.run) if options.rule == "perturbation" else None
    cell = derive(searched, options.rule, table)
    experiment = experiments.with_fields(alone(searched.experiment, cell), _changes(options))
    for edge, (operation,) in zip(cell.edges, cell.candidates, strict=True):
        print(f"{edge}: {operation}")
    folder = options.out or options.run.with_name(f"{options.run.resolve().name}-{options.rule}")
    loop.keep_memory()
    loop.log_epochs()
    record = loop.run(experiment, folder)
    last = record.scalars.query("group == 'all'").groupby("split").last()
    images = record.provenance["images"]["search"]
    print(f"{folder}: accuracy {last.accuracy['search']:.3f} on {images} images that it did not learn from")


def _sweep(options: argparse.Namespace) -> int:
    """Run every combination of the given values.

    What is finished is skipped, what is unfinished resumed; what failed is said at the end, and tried again by the same
    command.
    """
    from wiring.chapters import chapters, reruns
    from wiring.search import PRESETS, loop, records, sweeps

    name, grid = options.name, _grid(options.grid)
    out = options.out or Path("sweeps") / name
    sweeps.check_table(out)
    if name not in {**PRESETS, **chapters()}:
        raise ValueError(f"{name!r}: no such preset or chapter; allowed: {', '.join([*PRESETS, *chapters()])}")
    tasks = sweeps.runs(name, grid, out, options.cluster is None) if name in PRESETS else reruns(name, grid, out)
    loop.log_epochs()
    failures = tasks.run(options.workers, options.cluster, options.retries)
    for run, error in failures.items():
        print(f"wiring: {run} failed: {error}", file=sys.stderr)
    finished, before = tasks.total - len(failures), tasks.total - len(tasks.left)
    print(f"{out}: {finished} finished ({before} before), {len(failures)} failed")
    if not (table := sweeps.gather(out)).empty:
        records.write(out, sweeps.TABLE, table.to_csv(index=False, lineterminator="\n").encode())
        print(f"{out}/{sweeps.TABLE}: the scalars of {table['run'].nunique()} runs")
    return 1 if failures else 0


def _grid(fields: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each field, which are given as FIELD=A,B,C or FIELD=FIRST..LAST."""
    grid: dict[str, list[Any]] = {}
    for field in fields:
        name, _, values = field.partition("=")
        if not name or not values:
            raise ValueError(f"grid = {field!r}: allowed: FIELD=A,B,C or FIELD=FIRST..LAST")
        if name in grid:
            raise ValueError(f"grid = {field!r}: {name} is given twice")
        if bounds := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", values):
            first, last = map(int, bounds.groups())
            if not 0 <= last - first < 10_000:
                raise ValueError(f"grid = {field!r}: allowed: FIRST..LAST, at most 10000 of them")
            grid[name] = list(range(first, last + 1))
        else:
            # A comma within brackets belongs to a value.
            grid[name] = [from_text(value) for value in re.split(r",(?![^\[]*\])", values)]
    return grid


def _rerun(options: argparse.Namespace) -> None:
    """Execute a chapter through papermill. Names and types of the parameters are checked first."""
    from wiring.chapters import rerun

    values = {name: from_text(text) for name, text in options.parameters}
    path = rerun(options.chapter, values, options.out, options.timeout)
    print(f"wrote {path}; to open it: jupyter lab {path} (JupyterLab: pip install jupyterlab)")


def _presets(options: argparse.Namespace) -> None:
    from wiring.search.experiments import PURPOSES, Experiment, preset, settings

    if options.name is None:
        width = max(map(len, PURPOSES))
        print("\n".join(f"{name:{width}}  {purpose}" for name, purpose in PURPOSES.items()))
        return
    experiment, authors = preset(options.name), settings(Experiment())
    print(f"{options.name}: {PURPOSES[options.name]}")
    for field, value in settings(experiment).items():
        print(f"  {field} = {value}{f'  (authors: {authors[field]})' if value != authors[field] else ''}")


def _verdicts(options: argparse.Namespace) -> None:
    """Print every claim with its estimate, 95 % interval, number of seeds and verdict, from the runs in data/reference;
    identities are checked on random supernets.
    """
    import torch

    from wiring.evidence.verdicts import judge_all
    from wiring.search.records import check_new

    check_new("json", options.json)
    torch.set_num_threads(1)  # the identities' supernets are small: threads would wait, three times as long in all
    rows = []
    for verdict in judge_all():
        source = ", ".join(filter(None, (verdict.claim.runs, verdict.setting)))
        print(verdict, f"({f'records: {source}' if source else 'checked now'})", flush=True)
        rows.append(verdict.to_dict())
    tally = Counter(row["verdict"] for row in rows)
    print(f"{tally['holds']} hold, {tally['fails']} fail, {tally['undecided']} undecided")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def _bench(options: argparse.Namespace) -> int:
    from wiring.bench import bench

    return 0 if bench(options.repeats, options.json, options.device) else 1


COMMANDS = {
    "run": Command("wiring.search", _run, "run one search and keep its records"),
    "derive": Command("wiring.search", _derive, "choose the cell that a search ends in, and train it alone"),
    "sweep": Command("wiring.chapters", _sweep, "run many searches, or a chapter many times"),
    "rerun": Command("wiring.chapters", _rerun, "execute a chapter of the book with other parameters"),
    "presets": Command("wiring.search", _presets, "say what each preset is for, or all settings of one"),
    "verdicts": Command("wiring.evidence.verdicts", _verdicts, "judge every claim by the recorded runs"),
    "bench": Command("wiring.bench", _bench, "measure step time and memory, and hold them to their bounds"),
}

if __name__ == "__main__":
    sys.exit(main())
