"""Hypothesis draws the same examples in every run, so that a commit passes or fails for good."""

import pytest
from hypothesis import settings

from wiring.supernet import normalise

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="module", params=[0, 2**62], ids=["algebra", "library"])
def both_forms(request):
    """A module's tests, in both forms of the supernet: the algebra's own normalisation, and the library's kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalise, "SMALL", request.param)
        yield
