"""Every way to install (make, conda, Binder) must give the one environment that requirements.lock records."""

import platform
import tomllib
from importlib.metadata import version
from itertools import chain
from pathlib import Path

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
    # A build for one device, torch 2.14.1+cpu, is the same release.
    assert {name: version(name).partition("+")[0] for name in LOCKED} == LOCKED


def test_conda_installs_the_lock_and_this_package():
    assert CONDA[1:] == ["pip", {"pip": ["-r requirements.lock", "-e ."]}]


def test_python_versions_agree():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert CONDA[0].removeprefix("python=") in supported
    assert platform.python_version() in supported
