"""Hypothesis draws the same examples in every run, so that a commit passes or fails for good."""

import pytest
from hypothesis import settings

from wiring.supernet import normalise

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


#: The files that take longest come first, so that no worker is left alone with one at the end.
LONGEST = [
    "p3.ipynb",
    "test_browser.py",
    "p1.ipynb",
    "remedies.ipynb",
    "intermediate-edges.ipynb",
    "p2.ipynb",
    "cost-means.ipynb",
    "theorem2.ipynb",
    "test_sweeps.py",
    "test_bench.py",
    "threshold.ipynb",
    "test_loop.py",
    "test_cli.py",
    "corollary.ipynb",
    "test_resume.py",
    "test_day.py",
    "test_disk.py",
    "test_blame.py",
    "test_processes.py",
    "theorem1.ipynb",
]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="module", params=[0, 2**62], ids=["algebra", "library"])
def both_forms(request):
    """A module's tests, in both forms of the supernet: the algebra's own normalisation, and the library's kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalise, "SMALL", request.param)
        yield
