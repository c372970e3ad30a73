"""The command line: ``python -m wiring {run,sweep,rerun,presets,verdicts,chapters,bench} ...``."""

import signal

if __name__ == "__main__":
    # What follows takes seconds to import; until `main` handles it, Ctrl-C ends the program without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from pydantic import ValidationError

from wiring.search.experiments import (
    DESCRIPTIONS,
    PRESETS,
    Experiment,
    changed,
    check_device,
    explain,
    from_texts,
    preset,
    to_dict,
    with_fields,
)
from wiring.search.loop import DeviceFailed, run
from wiring.search.records import is_done
from wiring.search.signals import Stopped, raised
from wiring.search.sweeps import check_table, experiments, places, run_name, runs, sweep, write_table

#: Seeds of a sweep.
MOST = 10_000

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"wiring: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0, 1 (a bench row missed its bound, or a run of a sweep failed), 2 (bad input, or a run, a chapter or its device
    failed), 130 (Ctrl-C), 143 (SIGTERM).
    """
    parser = Parser(prog="python -m wiring", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{run,sweep,rerun,presets,verdicts,chapters,bench}"
    )
    for add in (_add_run, _add_sweep, _add_rerun, _add_presets, _add_verdicts, _add_chapters, _add_bench):
        add(commands)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        own = commands.choices[options.command]
        allowed = " ".join(option for action in own._actions for option in action.option_strings)
        parser.error(f"{options.command} has no option {unknown[0]!r}; allowed: {allowed}")
    try:
        with raised():
            return int(options.call(options) or 0)
    except ValidationError as error:
        return _refuse(explain(error))
    except (ValueError, ArithmeticError, DeviceFailed) as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Stopped as stop:
        resumes = "; the same command resumes where it was saved" if options.command in ("run", "sweep") else ""
        print(f"wiring: interrupted{resumes}", file=sys.stderr)
        return stop.status


def _refuse(message: str) -> int:
    print(f"wiring: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _add_run(commands: Commands) -> None:
    parser = commands.add_parser(
        "run",
        allow_abbrev=False,
        help="run one search and keep its records",
        description="Run the experiment of a preset, each field of which can be changed. An unfinished run in the "
        "same folder is resumed, a finished one is left as it is.",
    )
    parser.add_argument("preset", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/PRESET-<digest of the experiment>")
    authors = to_dict(Experiment()) | {"topology": "minimal"}
    for name, meaning in DESCRIPTIONS.items():
        default = json.dumps(authors[name]).strip('"')
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"{meaning} (authors: {default})")
    parser.set_defaults(call=_run)


def _run(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in DESCRIPTIONS if getattr(options, name) is not None}
    experiment = with_fields(preset(options.preset), from_texts(given))
    folder = options.out or Path("runs") / run_name(options.preset, experiment)
    finished_before = is_done(folder)
    record = run(experiment, folder)
    last = record.scalars.query("group == 'all'").iloc[-1]
    provenance = record.provenance
    print(f"{folder}: {'finished before, ' if finished_before else ''}{experiment.epochs} epochs", end=" ")
    print(f"in {provenance['seconds']} s on {provenance['data']}")
    print(f"last epoch: loss {last.loss:.3f}, accuracy {last.accuracy:.3f}, cost L - H {last.cost:.3f}")


def _add_sweep(commands: Commands) -> None:
    parser = commands.add_parser(
        "sweep",
        allow_abbrev=False,
        help="run many searches, or a chapter many times, on this machine's cores or a Dask cluster",
        description="Run every combination of the given values. What is finished is skipped, what is unfinished "
        "resumed; what failed is said at the end, and tried again by the same command.",
    )
    parser.add_argument("name", help=f"a chapter of the book, or a preset: {', '.join(PRESETS)}")
    parser.add_argument("--seeds", metavar="SEEDS", help="0..9, or 0,3,7")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="FIELD=A,B,C",
        help="values of a field (run --help) or of a chapter's parameter; may be given several times",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="runs at a time (default: as many as cores allow)")
    where.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler, as tcp://host:8786")
    parser.add_argument("--retries", type=int, default=0, metavar="N", help="try what fails again at once (default 0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: sweeps/NAME")
    parser.set_defaults(call=_sweep)


def _sweep(options: argparse.Namespace) -> int:
    grid = _grid(options.seeds, options.grid)
    out = options.out or Path("sweeps") / options.name
    check_table(out)
    if options.retries < 0:
        raise ValueError(f"retries = {options.retries}: must be at least 0")
    if options.name in PRESETS:
        folders = experiments(options.name, grid, out)
        if options.cluster is None:  # its workers may have other devices
            for experiment in folders.values():
                check_device(experiment)
        total, tasks, room = len(folders), runs(folders), min(map(places, folders.values()))
    else:
        from wiring.chapters import chapters, reruns

        if options.name not in chapters():
            raise ValueError(
                f"{options.name!r}: no such preset or chapter; allowed: {', '.join([*PRESETS, *chapters()])}"
            )
        total, tasks, room = reruns(options.name, grid, out)
    workers = min(room, max(1, len(tasks))) if options.workers is None else options.workers
    if options.cluster is None and not 1 <= workers <= room:
        raise ValueError(f"workers = {workers}: allowed: 1 to {room}, as many as there are cores for their threads")
    failures = sweep(tasks, workers, options.cluster, options.retries)
    for name, error in failures.items():
        print(f"wiring: {name} failed: {error}", file=sys.stderr)
    print(f"{out}: {total - len(failures)} finished ({total - len(tasks)} before), {len(failures)} failed")
    if found := write_table(out):
        print(f"{out}/results.csv: the scalars of {found} runs")
    return 1 if failures else 0


def _grid(seeds: str | None, fields: Sequence[str]) -> dict[str, list[str]]:
    """The values of each field, as texts."""
    grid: dict[str, list[str]] = {}
    if seeds is not None:
        bounds = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", seeds)
        first, last = map(int, bounds.groups()) if bounds else (0, -1)
        if bounds and not 0 <= last - first < MOST:
            raise ValueError(f"seeds = {seeds!r}: allowed: FIRST..LAST, at most {MOST} of them, or 0,3,7")
        grid["seed"] = list(map(str, range(first, last + 1))) if bounds else seeds.split(",")
    for field in fields:
        name, equals, values = field.partition("=")
        if not equals or not name or not values:
            raise ValueError(f"grid = {field!r}: allowed: FIELD=A,B,C")
        if name in grid:
            raise ValueError(f"grid = {field!r}: {name} is given twice")
        grid[name] = re.split(r",(?![^\[]*\])", values)  # a comma within brackets belongs to a value
    return grid


def _add_rerun(commands: Commands) -> None:
    parser = commands.add_parser(
        "rerun",
        allow_abbrev=False,
        help="execute a chapter of the book with other parameters",
        description="Execute a chapter through papermill. Names and types of the parameters are checked first.",
    )
    parser.add_argument("chapter", help="a notebook of the book, as p1")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter; may be given several times",
    )
    parser.add_argument("--out", type=Path, metavar="NOTEBOOK", help="default: reruns/CHAPTER.ipynb, or -2, -3, ...")
    _add_timeout(parser)
    parser.set_defaults(call=_rerun)


def _rerun(options: argparse.Namespace) -> None:
    from wiring.chapters import rerun

    print(f"wrote {rerun(options.chapter, dict(options.parameters), options.out, options.timeout)}")


def _add_timeout(parser: Parser) -> None:
    parser.add_argument("--timeout", type=int, metavar="SECONDS", help="longest time of a cell (default: no limit)")


def _add_presets(commands: Commands) -> None:
    parser = commands.add_parser("presets", help="list the presets and where they differ from the authors' settings")
    parser.set_defaults(call=_presets)


def _presets(options: argparse.Namespace) -> None:
    print("where each preset differs from the authors' settings for DSNAS (the defaults in `run --help`)")
    for name, experiment in PRESETS.items():
        print(name)
        for field, value in changed(experiment).items():
            print(f"    {field} = {value}")


def _add_verdicts(commands: Commands) -> None:
    parser = commands.add_parser(
        "verdicts",
        allow_abbrev=False,
        help="judge every claim by the recorded runs",
        description="Print every claim with its estimate, 95 % interval, number of seeds and verdict, from the runs in "
        "data/reference; identities are checked on random supernets.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write them as JSON")
    parser.set_defaults(call=_verdicts)


def _verdicts(options: argparse.Namespace) -> None:
    from wiring.evidence.verdicts import judge_all

    if options.json is not None and options.json.exists():
        raise ValueError(f"json = '{options.json}': exists; nothing is overwritten, choose another file")
    rows = []
    for verdict in judge_all():
        source = verdict.claim.reference
        print(verdict, f"({f'records: {source}' if source else 'checked now'})", flush=True)
        rows.append(verdict.to_dict())
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def _add_chapters(commands: Commands) -> None:
    parser = commands.add_parser("chapters", help="execute every chapter (what `make book` does before it builds)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the executed book goes")
    _add_timeout(parser)
    parser.set_defaults(call=_chapters)


def _chapters(options: argparse.Namespace) -> None:
    from wiring.chapters import execute_all

    execute_all(options.out, options.timeout)


def _add_bench(commands: Commands) -> None:
    parser = commands.add_parser("bench", help="measure step time and memory, and hold them to their bounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="also put the table into this file")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of a row; short steps get more (default 3)")
    parser.set_defaults(call=_bench)


def _bench(options: argparse.Namespace) -> int:
    from wiring.bench import bench

    return 0 if bench(options.repeats, options.json, options.readme) else 1


if __name__ == "__main__":
    sys.exit(main())
