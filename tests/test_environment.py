"""`make` gives the one environment that requirements.lock records; conda and Binder one that satisfies the package."""

import platform
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
PINS = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCKED = {canonicalize_name(name): release for name, _, release in (pin.partition("==") for pin in PINS)}


def test_lock_names_each_package_once_with_one_version():
    assert len(LOCKED) == len(PINS)
    assert all(str(Requirement(pin).specifier) == "==" + pin.partition("==")[2] for pin in PINS)


def test_lock_satisfies_every_requirement():
    required = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, required):
        assert LOCKED[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_installed_versions_are_the_locked_ones():
    ready = Path(sys.prefix) / "ready"
    chosen = ("torch", "torchvision") if ready.exists() and ready.read_text().strip() else ()
    # A build for one device, torch 2.14.1+cpu, is the same release.
    installed = {name: version(name).partition("+")[0] for name in LOCKED}
    assert {name: installed[name] for name in LOCKED if name not in chosen} == {
        name: release for name, release in LOCKED.items() if name not in chosen
    }
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert installed[canonicalize_name(requirement.name)] in requirement.specifier, requirement


@pytest.mark.parametrize(
    ("torch", "expected"),
    [
        ("", ["venv .venv", "pip install --no-compile -r requirements.lock"]),
        ("installed", ["venv --system-site-packages .venv", "import torchvision", "grep"]),
        (
            "torch torchvision --index-url URL",
            ["venv .venv", "pip install --no-compile torch torchvision --index-url URL", "grep"],
        ),
    ],
)
def test_setup_takes_another_torch_and_all_else_as_locked(tmp_path, torch, expected):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", "-n", "setup", f"TORCH={torch}", f"PYTHON={sys.executable}"]
    lines = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert all(any(part in line for line in lines) for part in expected)
    assert f"echo '{torch}' > .venv/ready" in lines
    for line in lines:
        if line.startswith("grep"):  # what is left of the lock
            kept = subprocess.run(["sh", "-c", line.partition("|")[0]], cwd=tmp_path, capture_output=True, text=True)
            left = [pin for pin in kept.stdout.splitlines() if not pin.startswith("#")]
            assert [pin for pin in PINS if pin not in left] == [
                f"{name}=={LOCKED[name]}" for name in ("torch", "torchvision")
            ]


def test_conda_takes_a_torch_without_cuda_which_satisfies_the_package():
    *packages, pip = CONDA
    required = {name.name: str(name.specifier) for name in map(Requirement, PROJECT["dependencies"])}
    torches = [f"pytorch-cpu{required['torch']}", f"torchvision{required['torchvision']}"]
    assert packages[1:] == [*torches, "pip"]
    assert pip == {"pip": ["-e .[book]"]}


def test_python_versions_agree():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert CONDA[0].removeprefix("python=") in supported
    assert platform.python_version() in supported
