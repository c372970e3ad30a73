"""On a CUDA device the same numbers as on the CPU, and no waiting; what needs no second device runs on the CPU too."""

from copy import deepcopy
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from strategies import cases, examples
from torch.nn.functional import cross_entropy

from wiring import Experiment, GateProbe, run
from wiring.bench import noise
from wiring.search import Search
from wiring.search.searchers import SEARCHERS
from wiring.supernet.gates import Gates, moved

HAS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
CUDA = pytest.param("cuda", marks=[pytest.mark.cuda, HAS_CUDA])
TINY = Experiment(data="digits", cells=2, channels=4, batch=64, epochs=2, images=256, crop=1, flip=False)


def measure(case, gates, device):
    """Logits, costs of operations and cells, and the gradients of weights and gates, computed on the device."""
    supernet = deepcopy(case.supernet).to(device)
    values = gates.values.detach().clone().requires_grad_()
    with GateProbe(supernet) as probe:
        logits = supernet(case.images.to(device), Gates(values, gates.active))
        cross_entropy(logits, case.labels.to(device)).backward()
    gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in (values, *supernet.parameters())]
    return [x.cpu() for x in (logits.detach(), probe.per_image, probe.cell_costs, *gradients)]


@pytest.mark.parametrize("device", [CUDA])
@given(case=cases())
@examples(40)
def test_a_supernet_computes_the_same_on_every_device(device, case):
    for gates in (case.child()[0], case.mixed()[0]):
        for there, here in zip(measure(case, gates, device), measure(case, gates, "cpu"), strict=True):
            torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("level", ["single", "bi"])
@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("device", [CUDA])
def test_a_search_starts_the_same_on_every_device(device, searcher, level):
    # Weights, images and architectures are drawn on the CPU; α moves too little in an epoch to change what is drawn.
    e = replace(TINY, searcher=searcher, level=level, epochs=1)
    there, here = (run(replace(e, device=where)).scalars for where in (device, "cpu"))
    for column in ("loss", "entropy", "cost"):
        np.testing.assert_allclose(there[column], here[column], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_search_goes_on_from_its_state(device):
    e = replace(TINY, device=device)
    whole, again = (Search(e, noise(e, 8)) for _ in range(2))
    for _ in whole.run_epoch():
        pass
    again.load_state_dict(deepcopy(whole.state_dict()))
    for search in (whole, again):
        for _ in search.run_epoch():
            pass
    assert again.epoch == whole.epoch == 2
    tolerance = 0 if device == "cpu" else 1e-3  # sums may be taken in another order there
    for there, here in zip([*again.theta, again.searcher.alpha], [*whole.theta, whole.searcher.alpha], strict=True):
        torch.testing.assert_close(there, here, rtol=tolerance, atol=tolerance)


@pytest.mark.cuda
@HAS_CUDA
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")  # torch says so at each use
@pytest.mark.parametrize("level", ["single", "bi"])
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_step_waits_for_the_device_only_where_alpha_is_drawn_on_the_cpu(searcher, level):
    e = replace(TINY, searcher=searcher, level=level, device="cuda")
    steps = (search := Search(e, noise(e, 8))).run_epoch()
    next(steps)
    if search.searcher.drawn_on_cpu:
        search.searcher.add_gradient = lambda *_: None  # takes the costs down
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@HAS_CUDA
@pytest.mark.parametrize("undrawn", ["rest", "decay"])
@pytest.mark.parametrize("level", ["single", "bi"])
@pytest.mark.parametrize("searcher", ["darts", "darts-sigmoid", "darts-smooth-max", "darts-edges"])
def test_a_graph_learns_what_its_step_does_called_kernel_by_kernel(searcher, level, undrawn, caplog):
    e = replace(TINY, searcher=searcher, level=level, undrawn=undrawn, device="cuda", course_every=3)
    images = noise(e, 8).at(torch.arange(256 if level == "single" else 512))
    searches = [Search(replace(e, graphs=graphs), images) for graphs in (True, False)]
    with patch.object(torch.cuda.CUDAGraph, "replay", autospec=True, side_effect=torch.cuda.CUDAGraph.replay) as replay:
        for search in searches:
            for _ in search.run_epoch():
                pass
    assert replay.call_count == 3 * len(searches[0].phases)  # of four steps; one is called in earnest
    assert not caplog.records
    there, here = searches
    for mine, theirs in zip([*there.theta, there.searcher.alpha], [*here.theta, here.searcher.alpha], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=2e-3)
    for name, epochs in there.history.items():
        for mine, theirs in zip(epochs, here.history[name], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=5e-2, atol=1e-2, equal_nan=True)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_what_is_moved_arrives(device):
    x = torch.arange(12.0).view(3, 4).T
    there = moved(x, torch.device(device))
    assert there.device.type == device
    assert torch.equal(there.cpu(), x)
    gate = torch.ones(2, requires_grad=True)
    moved(gate, torch.device(device)).sum().backward()
    assert torch.equal(gate.grad, torch.ones(2))
