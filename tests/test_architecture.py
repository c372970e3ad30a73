"""The architecture as the folders say it: wings that import only those before them, no circles, small parts."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import wiring

ROOT = Path(__file__).parents[1]
#: From the bottom up; those of one place do not import one another.
WINGS = [
    {"supernet"},
    {"costs", "folders"},
    {"datasets"},
    {"search"},
    {"evidence"},
    {"figures"},
    {"chapters", "bench"},
    {"__main__"},
]
PLACE = {wing: place for place, wings in enumerate(WINGS) for wing in wings}


def name_of(path, root):
    """The module's name, from the root of its package."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PACKAGE = {name_of(path, ROOT): path for path in (ROOT / "wiring").rglob("*.py")}
EXTENSION = {name_of(path, ROOT / "book/extension"): path for path in (ROOT / "book/extension").rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in (PACKAGE | EXTENSION).items()}


def imports(name):
    """The modules of ours that a module names in an import, wherever in the module that stands."""
    asked = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            asked |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are from the full path"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & TREES.keys()
            asked |= submodules
            if len(submodules) < len(node.names):
                asked.add(node.module)
    return {module for module in asked if module.partition(".")[0] in ("wiring", "wiring_book")}


IMPORTS = {name: imports(name) for name in TREES}


def wing(name):
    return name.split(".")[1]


def test_every_wing_has_its_place():
    assert {wing(name) for name in PACKAGE if name != "wiring"} == PLACE.keys()


@pytest.mark.parametrize("name", [name for name in PACKAGE if name != "wiring"])
def test_no_import_runs_back_up(name):
    for module in IMPORTS[name]:
        assert module.startswith("wiring."), f"{name} imports {module}"
        same_wing = wing(module) == wing(name)
        assert same_wing or PLACE[wing(module)] < PLACE[wing(name)], f"{name} imports {module}"


def test_no_modules_import_one_another_in_a_circle():
    order = list(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, naming them
    assert len(order) >= len(TREES)


def test_every_imported_module_of_ours_is_there():
    assert set().union(*IMPORTS.values()) <= TREES.keys()


@pytest.mark.parametrize("name", TREES)
def test_no_function_is_longer_than_a_screen(name):
    functions = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno >= 60} == {}


#: Five thousand held the house as it was moved; None's handicap came to it, its theory and its pairs of runs, and then
#: reports that name only the guilty, from one pass, data that a record knows again, and the form for a GPU; and the
#: remedies, with the cell that a search ends in; steps that a GPU replays, its bench, and runs that go on elsewhere.
LINES = 6976


def test_the_package_is_small():
    assert sum(len(path.read_text().splitlines()) for path in PACKAGE.values()) <= LINES


def test_the_cost_hooks_load_no_more_than_they_need():
    program = "import sys; from wiring import CostProbe; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = ("wiring.search", "wiring.evidence", "pandas", "sklearn", "matplotlib", "seaborn")
    assert [module for module in done.stdout.split() if f"{module}.".startswith(tuple(f"{h}." for h in heavy))] == []


@pytest.mark.parametrize("name", wiring.__all__)
def test_every_public_name_is_there(name):
    assert getattr(wiring, name) is not None
