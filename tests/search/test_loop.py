"""A search repeats and resumes bit for bit, does the steps its papers define, and measures what Theorem 2 says."""

import hashlib
import logging
import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import islice
from math import cos, pi

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from wiring import datasets
from wiring.search import loop as search
from wiring.search.experiments import Experiment, preset, to_json
from wiring.search.loop import Diverged, Search, generator, records, run
from wiring.search.records import RecordError
from wiring.search.searchers import DSNAS, SEARCHERS
from wiring.search.sweeps import run_seeds

TINY = Experiment(data="digits", images=48, batch=16, cells=1, channels=2, epochs=3, crop=1, alpha_lr=0.05)
CASES = [(searcher, level) for searcher in ("dsnas", "snas", "darts", "uniform") for level in ("single", "bi")]
EXPERIMENTS = {
    f"{searcher}-{level}": replace(TINY, searcher=searcher, level=level, final_temperature=0.5)
    for searcher, level in CASES
}
#: What covers most of the rest: two kinds of cell, label noise, image size, another topology, measuring, a course.
EXPERIMENTS["all at once"] = replace(
    EXPERIMENTS["dsnas-bi"],
    cells=2,
    reductions=(1,),
    label_noise=0.3,
    image_size=6,
    seed=5,
    measuring_epochs=2,
    course_every=2,
    topology=TINY.topology.without_operations("skip_connect", edge=(2, 3)),
)
cases = pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)


def contents(record):
    """Everything that a record says of the search, as bytes."""
    arrays = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in record.arrays.items()}
    return record.scalars.to_csv(), arrays


def digest(record):
    return hashlib.sha256(repr(contents(record)).encode()).hexdigest()


def start(experiment):
    return Search(
        experiment, datasets.load_dataset(experiment.data, experiment.image_size, experiment.images, experiment.seed)
    )


@cache
def recorded(experiment):
    """The record of a whole run, for the tests that only read it."""
    return run(experiment)


# repetition


@cases
def test_same_seed_gives_the_same_record_bit_for_bit(experiment):
    assert contents(run(experiment)) == contents(recorded(experiment))


def test_same_seed_gives_the_same_record_in_another_process():
    chosen = [EXPERIMENTS[name] for name in ("dsnas-single", "snas-bi", "darts-bi", "uniform-single")]
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_loop import digest, run\n"
        "from wiring.search.experiments import from_json\n"
        "for text in sys.argv[2:]: print(digest(run(from_json(text))))"
    )
    arguments = [sys.executable, "-c", script, str(__file__).rpartition("/")[0], *map(to_json, chosen)]
    there = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    assert there == [digest(recorded(experiment)) for experiment in chosen]


@cases
def test_another_seed_gives_another_record(experiment):
    one, other = recorded(experiment), run(replace(experiment, epochs=1, seed=99))
    assert not one.scalars[one.scalars.epoch == 1].equals(other.scalars)
    if experiment.searcher != "uniform":
        assert not np.array_equal(one.arrays["alpha"][0], other.arrays["alpha"][0])


def test_searchers_see_the_same_images_and_start_from_the_same_weights():
    one, other = (start(EXPERIMENTS[name]) for name in ("dsnas-single", "darts-single"))
    for a, b in zip(one.supernet.parameters(), other.supernet.parameters(), strict=True):
        assert torch.equal(a, b)
    for _ in range(2):
        for (images, labels), (others, other_labels) in zip(
            one.loaders["training"], other.loaders["training"], strict=True
        ):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)
        # What an architecture draws shifts no image.
        one.searcher.draw(one.generators["architectures"])


@pytest.mark.parametrize("name", ["dsnas-single", "snas-bi", "darts-single"])
def test_run_leaves_torchs_and_numpys_generators_and_the_threads_as_they_were(name):
    torch.manual_seed(5)
    state, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads()
    run(replace(EXPERIMENTS[name], epochs=1, threads=threads + 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002
    assert torch.get_num_threads() == threads


def test_record_depends_on_neither_the_callers_generator_nor_its_threads():
    experiment, threads = EXPERIMENTS["snas-single"], torch.get_num_threads()
    torch.manual_seed(2)
    torch.set_num_threads(2)
    try:
        assert contents(run(experiment)) == contents(recorded(experiment))
    finally:
        torch.set_num_threads(threads)


def test_threads_are_restored_after_a_failure(monkeypatch):
    monkeypatch.setattr(search, "_finish", lambda *arguments: 1 / 0)
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        run(replace(TINY, threads=threads + 1))
    assert torch.get_num_threads() == threads


def test_generators_of_different_purposes_are_independent():
    draws = {tuple(torch.randint(99, (9,), generator=generator(s, p)).tolist()) for s in (0, 1) for p in "ab"}
    assert len(draws) == 4


# resuming


@cases
def test_interrupted_run_resumes_to_the_uninterrupted_record_bit_for_bit(tmp_path, monkeypatch, experiment):
    epoch, keep = 1 + (experiment.level == "bi"), records.save_checkpoint

    def interrupted(folder, state):
        keep(folder, state)
        if state["epoch"] == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(records, "save_checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, tmp_path)
    assert not records.is_done(tmp_path)
    assert contents(run(experiment, tmp_path)) == contents(recorded(experiment))
    assert contents(records.load(tmp_path)) == contents(recorded(experiment))


@pytest.mark.parametrize("name", ["dsnas-single", "snas-single"])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_run_interrupted_within_an_epoch_resumes_too(tmp_path, monkeypatch, name, step):
    experiment, learn, steps = EXPERIMENTS[name], Search._learn, []

    def interrupted(self, *arguments):
        steps.append(1)
        if len(steps) == step * len(self.phases):
            raise KeyboardInterrupt
        return learn(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_learn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, tmp_path / "run")
    assert contents(run(experiment, tmp_path / "run")) == contents(recorded(experiment))


def test_run_interrupted_before_done_is_finished_without_another_step(tmp_path, monkeypatch):
    whole = run(TINY, tmp_path / "run")
    (tmp_path / "run/done.json").unlink()
    monkeypatch.setattr(Search, "_learn", None)
    assert contents(run(TINY, tmp_path / "run")) == contents(whole)


def test_finished_run_is_read_and_not_repeated(tmp_path, monkeypatch):
    whole = run(TINY, tmp_path / "run")
    before = {file: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    monkeypatch.setattr(search, "Search", None)
    assert contents(run(TINY, tmp_path / "run")) == contents(whole)
    assert {file: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_record_in_memory_is_the_record_on_disk(tmp_path):
    kept = run(TINY, tmp_path / "run")
    assert contents(kept) == contents(recorded(TINY))
    assert contents(records.load(tmp_path / "run")) == contents(kept)


def test_run_folder_of_another_experiment_is_refused_and_unchanged(tmp_path):
    run(TINY, tmp_path / "run")
    before = {file: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with pytest.raises(RecordError, match=r"alpha_lr = 0\.05 there, 0\.1 here"):
        run(replace(TINY, alpha_lr=0.1), tmp_path / "run")
    assert {file: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("searcher", ["darts", "dsnas"])
def test_a_run_goes_on_elsewhere_and_says_where_it_was(tmp_path, searcher, monkeypatch):
    e = replace(TINY, searcher=searcher, epochs=2)
    for _ in (begun := start(e)).run_epoch():
        pass
    state = begun.state_dict() | {"devices": ["cuda (a GPU)"], "experiment": to_json(replace(e, device="cuda"))}
    if "alpha" in state["optimisers"]:  # as of an optimiser that is captured
        state["optimisers"]["alpha"]["param_groups"][0]["capturable"] = True
    folder = tmp_path / "run"
    records.open_run(folder, replace(e, device="cuda"))
    records.save_checkpoint(folder, state)
    record = run(replace(e, threads=2), folder)
    assert record.provenance["device"].startswith("cuda (a GPU), then cpu (")
    np.testing.assert_allclose(record.arrays["alpha"], run(e).arrays["alpha"], atol=1e-4)
    assert run(e, folder).provenance == record.provenance


def test_checkpoint_of_another_experiment_is_refused():
    state = start(TINY).state_dict()
    with pytest.raises(ValueError, match="another experiment"):
        start(replace(TINY, seed=1)).load_state_dict(state)


def test_checkpoint_of_other_operations_is_refused_and_one_that_does_not_name_them_is_of_todays():
    state = start(TINY).state_dict()
    other = state | {"operations": [*reversed(state["operations"])]}
    with pytest.raises(ValueError, match="operation 1 is sep_conv_5x5 there, none in"):
        start(TINY).load_state_dict(other)
    start(TINY).load_state_dict({name: value for name, value in state.items() if name != "operations"})


def test_nothing_is_written_where_the_data_is_missing(tmp_path):
    with pytest.raises(datasets.DataError):
        run(replace(TINY, data="folder:nowhere"), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


# steps


class Hand:
    """Single-level DSNAS by its formulas: SGD, clipping and Adam written out, α's gradient from plain autograd.

    Where what is not drawn decays, SGD is torch's, and what was drawn before and now is not has a gradient of zero.
    """

    def __init__(self, searcher):
        self.e = searcher.experiment
        self.supernet = deepcopy(searcher.supernet)
        self.theta = list(self.supernet.parameters())
        self.momentum = [torch.zeros_like(p) for p in self.theta]
        self.alpha = searcher.searcher.alpha.detach().clone()
        self.first, self.second, self.steps = torch.zeros_like(self.alpha), torch.zeros_like(self.alpha), 0

    def step(self, images, labels, gates):
        e, self.steps = self.e, self.steps + 1
        values = gates.values.clone().requires_grad_()
        loss = F.cross_entropy(self.supernet(images, replace(gates, values=values)), labels)
        # The gate's gradient is the cost of the operation it multiplies.
        *gradients, costs = torch.autograd.grad(loss, [*self.theta, values], allow_unused=True)
        self.learn_theta(gradients)
        chosen = gates.values[0]
        cost = (costs * gates.values).sum((0, 2)).clamp(-5, 5)
        gradient = cost[:, None] * (chosen - torch.softmax(self.alpha[0], -1))
        gradient = gradient[None] + e.alpha_weight_decay * self.alpha
        beta1, beta2 = e.alpha_betas
        self.first = beta1 * self.first + (1 - beta1) * gradient
        self.second = beta2 * self.second + (1 - beta2) * gradient**2
        unbiased = self.first / (1 - beta1**self.steps), self.second / (1 - beta2**self.steps)
        self.alpha = self.alpha - e.alpha_lr * unbiased[0] / (unbiased[1].sqrt() + 1e-8)

    @torch.no_grad()
    def learn_theta(self, gradients):
        e = self.e
        norm = sum(g.square().sum() for g in gradients if g is not None).sqrt()
        shrink = min(1.0, e.clip / (float(norm) + 1e-6))
        if e.undrawn == "decay":
            self.sgd = getattr(self, "sgd", None) or torch.optim.SGD(
                self.theta, e.theta_lr, e.theta_momentum, weight_decay=e.theta_weight_decay
            )
            for p, g in zip(self.theta, gradients, strict=True):
                if g is not None or p.grad is not None:
                    p.grad = torch.zeros_like(p) if g is None else shrink * g
            self.sgd.step()
            return
        for k, (p, g) in enumerate(zip(self.theta, gradients, strict=True)):
            if g is not None:  # what was not drawn neither decays nor moves on
                self.momentum[k] = e.theta_momentum * self.momentum[k] + shrink * g + e.theta_weight_decay * p
                p -= e.theta_lr * self.momentum[k]


@pytest.mark.parametrize("undrawn", ["rest", "decay"])
@pytest.mark.parametrize("clip", [0.05, 5.0])
def test_single_level_dsnas_does_the_hand_written_steps(clip, undrawn):
    experiment = replace(TINY, cells=2, images=96, clip=clip, theta_weight_decay=0.01, alpha_std=0.5, undrawn=undrawn)
    searcher, oracle = start(experiment), start(experiment)
    hand = Hand(oracle)
    steps = 5
    list(islice(searcher.run_epoch(), steps))
    for images, labels in islice(oracle.loaders["training"], steps):
        with torch.no_grad():  # the same draw from the α learnt by hand
            oracle.searcher.alpha.copy_(hand.alpha)
        hand.step(images, labels, oracle.searcher.draw(oracle.generators["architectures"]))
    for p, expected in zip(searcher.supernet.parameters(), hand.theta, strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(searcher.searcher.alpha, hand.alpha, rtol=1e-5, atol=1e-5)
    assert not torch.equal(hand.alpha, start(experiment).searcher.alpha)


def test_what_is_not_drawn_rests_or_decays_and_that_differs():
    ends = [run_to_its_end(replace(TINY, theta_weight_decay=0.1, undrawn=undrawn)) for undrawn in ("rest", "decay")]
    differ = [not torch.equal(p, q) for p, q in zip(*(end.theta for end in ends), strict=True)]
    assert any(differ)


def test_a_resumed_search_lets_decay_what_was_drawn_before_and_nothing_else():
    whole = start(TINY)
    for _ in whole.run_epoch():
        pass
    resumed = start(TINY)
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    for p, q in zip(whole.theta, resumed.theta, strict=True):
        assert (p.grad is None) == (q.grad is None)


def test_alpha_decays_on_its_own_where_it_is_decoupled():
    experiment = replace(TINY, searcher="darts", alpha_weight_decay=0.1, alpha_mean=2.0, alpha_std=0.5)
    coupled, decoupled = (start(replace(experiment, alpha_decoupled=on)) for on in (False, True))
    alpha = decoupled.searcher.alpha.detach().clone()
    for searcher in (coupled, decoupled):
        next(searcher.run_epoch())
    gradient = decoupled.searcher.alpha.grad
    # Adam's first step is the sign of its gradient.
    expected = alpha * (1 - experiment.alpha_lr * 0.1) - experiment.alpha_lr * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(decoupled.searcher.alpha.detach(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(coupled.searcher.alpha, decoupled.searcher.alpha)


# measuring, and the course of the first steps


def run_to_its_end(experiment):
    ended = start(experiment)
    for _ in range(experiment.epochs + experiment.measuring_epochs):
        for _ in ended.run_epoch():
            pass
    return ended


@pytest.mark.parametrize("name", ["dsnas-single", "darts-bi"])
def test_nothing_learns_in_the_measuring_epochs_and_costs_are_measured(name):
    searched = run_to_its_end(EXPERIMENTS[name])
    measured = run_to_its_end(replace(EXPERIMENTS[name], measuring_epochs=3))
    for p, q in zip(searched.theta, measured.theta, strict=True):
        assert torch.equal(p, q)
    assert torch.equal(searched.searcher.alpha, measured.searcher.alpha)
    before, after = searched.record(), measured.record()
    epochs = before.experiment.epochs
    for array in before.arrays:
        np.testing.assert_array_equal(before.arrays[array], after.arrays[array][: len(before.arrays[array])])
    counts = after.arrays["cost_count"]
    assert (counts[epochs:].sum((1, 2, 3, 4)) == counts[0].sum()).all()
    assert len({array.tobytes() for array in after.arrays["cost_mean"][epochs:]}) == 3  # new images, new draws


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("name", ["dsnas-single", "darts-bi", "all at once"])
def test_the_course_says_what_steps_cost_and_made_of_alpha(monkeypatch, name, every):
    experiment = replace(EXPERIMENTS[name], images=96, course_every=every)
    alphas, costs, update = [], [], Search._note_course

    def spy(self, measured):
        alphas.append(self.searcher.alpha.detach().clone())
        kinds = self.searcher.cell_types
        own = [measured[[kind == other for other in kinds]].sum(0) for kind in range(max(kinds) + 1)]
        costs.append(torch.stack(own))
        update(self, measured)

    monkeypatch.setattr(Search, "_note_course", spy)
    record = run_to_its_end(experiment).record()
    times = len(alphas) // every
    assert times > 0
    np.testing.assert_array_equal(record.arrays["course_alpha"], torch.stack(alphas)[every - 1 :: every].numpy())
    costs = torch.stack(costs[: times * every]).unflatten(0, (times, every))
    for array, values in (("cost", costs), ("square", costs**2)):
        np.testing.assert_allclose(record.arrays[f"course_{array}"], values.nanmean(1), rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(record.arrays["course_count"], (~costs.isnan()).sum(1))
    table = record.table("course_cost")
    assert table.step.unique().tolist() == [every * (time + 1) for time in range(times)]
    np.testing.assert_array_equal(table["course_cost"], record.arrays["course_cost"].ravel())


def test_single_level_darts_and_snas_take_alphas_gradient_from_autograd():
    for name in ("darts-single", "snas-single"):
        experiment = replace(EXPERIMENTS[name], temperature=0.7, alpha_std=0.5)
        searcher, oracle = start(experiment), start(experiment)
        next(searcher.run_epoch())
        images, labels = next(iter(oracle.loaders["training"]))
        oracle.searcher.anneal(0.7)
        gates = oracle.searcher.draw(oracle.generators["architectures"])
        loss = F.cross_entropy(oracle.supernet(images, gates), labels)
        (gradient,) = torch.autograd.grad(loss, oracle.searcher.alpha)
        torch.testing.assert_close(searcher.searcher.alpha.grad, gradient, rtol=1e-4, atol=1e-7)


def test_bi_level_halves_are_disjoint_and_cover_the_images():
    for images in (48, 49):
        loaders = start(replace(EXPERIMENTS["darts-bi"], images=images)).loaders
        parts = {split: {p.numpy().tobytes() for p in loader.dataset.pixels} for split, loader in loaders.items()}
        assert set(parts) == {"search", "training"}
        assert not parts["search"] & parts["training"]
        assert len(parts["search"] | parts["training"]) == images
        assert abs(len(parts["search"]) - len(parts["training"])) == images % 2


@pytest.mark.parametrize("searcher", ["darts", "snas", "dsnas"])
def test_bi_level_alpha_learns_from_the_search_half_only_and_theta_from_the_training_half_only(monkeypatch, searcher):
    bi = start(EXPERIMENTS[f"{searcher}-bi"])
    halves = {
        split: {image.numpy().tobytes() for image in loader.dataset.pixels} for split, loader in bi.loaders.items()
    }
    augmented, learn, shown, seen = datasets.Loader._augmented, Search._learn, [], []

    def spy_images(self, index):
        shown.append({image.numpy().tobytes() for image in self.dataset.pixels[index]})
        return augmented(self, index)

    def state():
        return [p.detach().clone() for p in bi.supernet.parameters()], bi.searcher.alpha.detach().clone()

    def spy(self, *arguments):
        theta, alpha = state()
        result = learn(self, *arguments)
        after_theta, after_alpha = state()
        theta_moved = not all(map(torch.equal, theta, after_theta))
        seen.append((theta_moved, not torch.equal(alpha, after_alpha)))
        return result

    monkeypatch.setattr(datasets.Loader, "_augmented", spy_images)
    monkeypatch.setattr(Search, "_learn", spy)
    for _ in bi.run_epoch():
        # One batch of each half a step: α's first.
        assert seen[-2:] == [(False, True), (True, False)]
        assert shown[-2] <= halves["search"]
        assert shown[-1] <= halves["training"]


def test_cosine_schedule_is_the_closed_form():
    experiment = replace(TINY, epochs=7, images=16, theta_lr=0.2, theta_lr_min=0.05)
    searcher = start(experiment)
    for epoch in range(7):
        expected = 0.05 + (0.2 - 0.05) * (1 + cos(pi * epoch / 7)) / 2
        assert searcher.optimisers["theta"].param_groups[0]["lr"] == pytest.approx(expected)
        list(searcher.run_epoch())
    assert searcher.optimisers["theta"].param_groups[0]["lr"] == pytest.approx(0.05)
    assert searcher.optimisers["alpha"].param_groups[0]["lr"] == experiment.alpha_lr


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_temperature_falls_geometrically_from_the_first_epoch_to_the_last(monkeypatch, epochs):
    searcher = start(
        replace(EXPERIMENTS["snas-single"], epochs=epochs, images=16, temperature=4.0, final_temperature=0.25)
    )
    draw, seen = type(searcher.searcher).draw, []

    def spy(self, random):
        seen.append(self.temperature)
        return draw(self, random)

    monkeypatch.setattr(type(searcher.searcher), "draw", spy)
    for _ in range(epochs):
        list(searcher.run_epoch())
    assert seen == pytest.approx([4.0] if epochs == 1 else np.geomspace(4.0, 0.25, epochs))


@pytest.mark.parametrize("level", ["single", "bi"])
def test_uniform_keeps_alpha_and_still_trains_theta(level):
    experiment = EXPERIMENTS[f"uniform-{level}"]
    arrays = recorded(experiment).arrays
    assert (arrays["alpha"] == 0).all()
    np.testing.assert_allclose(arrays["probability"], 1 / 8, rtol=1e-6)
    searcher = start(experiment)
    before = deepcopy(list(searcher.supernet.parameters()))
    list(searcher.run_epoch())
    assert not all(map(torch.equal, before, searcher.supernet.parameters()))


def test_alpha_starts_normally_distributed_around_its_mean():
    experiment = replace(TINY, alpha_mean=3.0, alpha_std=0.5)
    alphas = torch.stack([start(replace(experiment, seed=seed)).searcher.alpha.detach() for seed in range(20)])
    assert alphas.mean().item() == pytest.approx(3.0, abs=0.07)
    assert alphas.std().item() == pytest.approx(0.5, abs=0.05)
    assert (start(replace(TINY, alpha_std=0.0)).searcher.alpha == 1.0).all()


# what is recorded


@cases
def test_record_has_the_documented_shapes(experiment):
    record = recorded(experiment)
    e, splits = experiment, ["training"] if experiment.level == "single" else ["search", "training"]
    kinds = 2 if e.reductions else 1
    epochs = e.epochs + e.measuring_epochs
    for name in ("alpha", "probability"):
        assert record.arrays[name].shape == (1 + epochs, kinds, 5, 8)
    for part in ("mean", "min", "max", "count"):
        assert record.arrays[f"cost_{part}"].shape == (epochs, len(splits), e.cells, 5, 8)
        assert record.arrays[f"cell_cost_{part}"].shape == (epochs, len(splits), e.cells)
    if e.course_every:
        for name in ("alpha", "count", "cost", "square"):
            assert record.arrays[f"course_{name}"].shape == (
                e.epochs // e.course_every,
                kinds,
                5,
                8,
            )  # of one step each
    assert len(record.arrays) == 10 + 4 * (e.course_every > 0)
    assert list(record.scalars.columns) == ["epoch", "split", "group", "images", "accuracy", "loss", "entropy", "cost"]
    assert len(record.scalars) == epochs * len(splits) * 3
    assert record.scalars.epoch.tolist() == sorted(record.scalars.epoch)
    assert set(record.scalars.split) == set(splits)
    assert record.provenance["images"] == dict.fromkeys(splits, 48 // len(splits))


@cases
def test_probabilities_are_the_softmax_of_alpha_over_the_allowed_operations(experiment):
    record = recorded(experiment)
    allowed = experiment.topology.allowed().numpy()
    weights = np.exp(record.arrays["alpha"].astype(float)) * allowed
    np.testing.assert_allclose(record.arrays["probability"], weights / weights.sum(-1, keepdims=True), rtol=1e-5)


@cases
def test_costs_are_nan_exactly_where_an_operation_was_never_sampled(experiment):
    arrays = recorded(experiment).arrays
    count, steps = arrays["cost_count"], 48 // 16 if experiment.level == "single" else 1
    for part in ("mean", "min", "max"):
        assert (np.isnan(arrays[f"cost_{part}"]) == (count == 0)).all()
    one_hot = experiment.searcher in ("dsnas", "uniform")
    allowed = experiment.topology.allowed().numpy()
    if one_hot:
        assert (count.sum(-1) == steps).all()
    else:
        assert (count == steps * allowed).all()
    assert (count[..., ~allowed] == 0).all()
    there = count > 0
    low, mean, high = (arrays[f"cost_{part}"][there] for part in ("min", "mean", "max"))
    assert (low <= mean + 1e-6).all()
    assert (mean <= high + 1e-6).all()
    none = arrays["cost_mean"][..., 0]
    if one_hot:
        assert (none[~np.isnan(none)] == 0).all()


@cases
def test_cost_is_loss_minus_entropy_in_every_group(experiment):
    scalars = recorded(experiment).scalars
    np.testing.assert_allclose(scalars.cost, scalars.loss - scalars.entropy, atol=2e-5)
    assert scalars.cost.notna().sum() >= 2 * len(scalars) / 3 - 2


@cases
def test_last_cells_cost_in_the_arrays_is_the_scalars_cost(experiment):
    record = recorded(experiment)
    splits = list(dict.fromkeys(record.scalars.split))
    table = record.scalars[record.scalars.group == "all"].pivot(index="epoch", columns="split", values="cost")[splits]
    np.testing.assert_allclose(record.arrays["cell_cost_mean"][:, :, -1], table, atol=2e-5)


def test_groups_are_split_by_the_logits_maximum(monkeypatch):
    searcher = start(replace(TINY, theta_lr=0.1))
    forward, logits, labels = type(searcher.supernet).forward, [], []
    learn = Search._learn

    def spy_forward(self, *arguments):
        logits.append(forward(self, *arguments))
        return logits[-1]

    def spy_learn(self, phase, probe, batches):
        labels.append(batches[0][1])
        return learn(self, phase, probe, batches)

    monkeypatch.setattr(type(searcher.supernet), "forward", spy_forward)
    monkeypatch.setattr(Search, "_learn", spy_learn)
    list(searcher.run_epoch())
    z, y = torch.cat(logits).detach().double().numpy(), torch.cat(labels).numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    loss, entropy, correct = -np.log(p[range(48), y]), -(p * np.log(p)).sum(1), p.argmax(1) == y
    assert 0 < correct.sum() < 48
    for group, chosen in {"all": correct | True, "correct": correct, "wrong": ~correct}.items():
        row = searcher.record().scalars.query(f"group == '{group}'").iloc[0]
        assert row.images == chosen.sum()
        assert row.accuracy == pytest.approx(correct[chosen].mean())
        assert row.loss == pytest.approx(loss[chosen].mean(), rel=1e-5)
        assert row.entropy == pytest.approx(entropy[chosen].mean(), rel=1e-5)
        assert row.cost == pytest.approx((loss - entropy)[chosen].mean(), abs=2e-5)


def test_groups_add_up_to_all():
    scalars = recorded(TINY).scalars.set_index(["epoch", "group"])
    for epoch in (1, 2, 3):
        part = scalars.loc[epoch]
        assert part.images["all"] == part.images["correct"] + part.images["wrong"] == 48
        assert part.accuracy["all"] == pytest.approx(part.images["correct"] / 48)
        for name in ("loss", "entropy", "cost"):
            weighted = sum(
                part[name][group] * part.images[group] for group in ("correct", "wrong") if part.images[group]
            )
            assert part[name]["all"] * 48 == pytest.approx(weighted, abs=1e-5)


# divergence


@pytest.mark.parametrize("searcher", ["dsnas", "darts", "snas"])
def test_divergence_is_said_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, searcher):
    experiment, run_epoch = replace(TINY, searcher=searcher), Search.run_epoch

    def poisoned(self):
        if self.epoch == 2:
            with torch.no_grad():
                self.supernet.classifier.weight.fill_(torch.nan)
        yield from run_epoch(self)

    monkeypatch.setattr(Search, "run_epoch", poisoned)
    with pytest.raises(Diverged, match=r"epoch 3.*theta_lr"):
        run(experiment, tmp_path / "run")
    assert records.load_checkpoint(tmp_path / "run")["epoch"] == 2
    assert not records.is_done(tmp_path / "run")


def test_huge_learning_rate_diverges():
    with pytest.raises(Diverged):
        run(replace(TINY, theta_lr=1000.0, theta_weight_decay=1000.0))


# many seeds


def test_run_seeds_gives_what_the_single_runs_give(tmp_path, one_thread):
    seeds = [3, 0]
    swept = run_seeds(TINY, seeds, tmp_path)
    assert [record.experiment.seed for record in swept] == seeds
    for seed, record in zip(seeds, swept, strict=True):
        assert contents(record) == contents(run(replace(TINY, seed=seed)))
        assert contents(records.load(tmp_path / f"seed-{seed}")) == contents(record)


def test_run_seeds_of_no_seeds_or_of_one_twice_is_refused():
    with pytest.raises(ValueError, match="none given"):
        run_seeds(TINY, [])
    with pytest.raises(ValueError, match="a seed stands twice"):
        run_seeds(TINY, [1, 0, 1])


class Reads(TorchDispatchMode):
    """Note the operations that would make the host wait for a device: they read a tensor's values."""

    waiting = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "unique")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().split("::")[-1].split(".")[0]
        if name.startswith(self.waiting) or (name == "index" and args[1][0].dtype == torch.bool):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@cases
def test_no_step_reads_a_value_back(experiment):
    search = start(experiment)
    if "alpha" in search.optimisers:  # Adam counts its steps on the CPU, wherever α is, and reads that count
        search.optimisers["alpha"].step = lambda: None
    with Reads() as reads:
        next(search.run_epoch())
    assert not reads.seen
    with Reads() as reads:
        torch.ones(1).item()
    assert reads.seen == ["_local_scalar_dense"]


# what a researcher types


def test_run_takes_a_presets_name_and_changes():
    fields = {"images": 32, "batch": 16, "channels": 1, "epochs": 1}
    expected = contents(run(preset("p1-quick", seed=3, **fields)))
    assert contents(run("p1-quick", seed=3, **fields)) == expected
    assert contents(run(preset("p1-quick", **fields), seed=3)) == expected
    own = TINY.topology.without_edges((0, 2))
    assert run(TINY, topology=own, epochs=1).experiment == replace(TINY, topology=own, epochs=1)
    with pytest.raises(ValueError, match="preset 'p1': no such preset"):
        run("p1")


def test_run_takes_images_in_memory_and_the_record_says_their_name(tmp_path):
    digits = replace(datasets._digits(), name="my digits")  # in the order in which they are stored
    record = run(TINY, tmp_path / "run", dataset=digits)
    assert contents(record) == contents(recorded(TINY))
    assert record.experiment == replace(TINY, data="my digits")
    assert record.provenance["data"] == "my digits"
    assert contents(run(TINY, tmp_path / "run", dataset=digits)) == contents(record)  # it was read
    with pytest.raises(RecordError, match="data = 'my digits' there, 'digits' here"):
        run(TINY, tmp_path / "run")
    small = run(TINY, image_size=6, epochs=1, dataset=digits)
    assert small.scalars.equals(run(TINY, image_size=6, epochs=1).scalars)


def test_a_searcher_of_ones_own_is_run_by_its_name(monkeypatch, tmp_path):
    class Mine(DSNAS):
        """Nothing but another name."""

    monkeypatch.setitem(SEARCHERS, "mine", Mine)
    record = run(TINY, tmp_path / "run", searcher="mine")
    assert contents(record) == contents(recorded(TINY))
    assert records.load(tmp_path / "run").experiment.searcher == "mine"
    monkeypatch.delitem(SEARCHERS, "mine")
    with pytest.raises(RecordError, match="searcher = 'mine': no such searcher; allowed: darts"):
        records.load(tmp_path / "run")


# progress

SHORT = {"images": 32, "batch": 16, "channels": 1, "epochs": 2}
PLAIN = f"""
import sys
from wiring.search import loop
loop.keep_memory = None  # it alters its caller's malloc: a call would fail
if sys.argv[1] == "log":
    loop.log_epochs()
loop.run("p1-quick", image_size=16, **{SHORT})
for name in ("sklearn", "torch._dynamo", "torchvision"):
    if name in sys.modules:
        print(name, "was imported, which takes seconds")
"""


def test_a_line_an_epoch_is_said_where_it_was_asked_for(tmp_path, monkeypatch, capsys):
    own = logging.Logger("of its own")
    monkeypatch.setattr(search, "_LOG", own)
    monkeypatch.setattr(search.LOG, "parent", own)
    for _ in range(2):
        search.log_epochs()
    for folder, name in ((tmp_path / "mine", "mine"), (None, "search")):
        run("p1-quick", folder, **SHORT)
        out, err = capsys.readouterr()
        said = r"loss \d\.\d{3}, accuracy [01]\.\d{3}, edges dropped [0-5]/5, "
        data = r"digits \(scikit-learn\): 32 images, 8x8x1, of 10 classes: 0 \(\d+\), .*"
        lines = (data, rf"{name}: epoch 1/2, {said}\d\d:\d\d left", f"{name}: epoch 2/2, {said}00:00 left")
        assert [bool(re.fullmatch(*pair)) for pair in zip(lines, err.splitlines(), strict=True)] == [True] * 3
        assert out == ""


def test_plain_use_says_nothing_imports_nothing_slow_and_leaves_the_callers_malloc_alone():
    done = subprocess.run([sys.executable, "-c", PLAIN, "plain"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_on_a_terminal_a_bar_shows_it_and_no_line():
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 120))
    done = subprocess.Popen([sys.executable, "-c", PLAIN, "log"], stderr=end)
    os.close(end)
    shown = b""
    with suppress(OSError):  # Linux ends a terminal so
        while part := os.read(terminal, 9999):
            shown += part
    os.close(terminal)
    assert done.wait() == 0
    assert b"epoch 2/2: 100%" in shown
    assert b"edges dropped" in shown
    assert b"left" not in shown


def test_memory_is_kept_where_the_c_library_can(monkeypatch):
    assert search.keep_memory() is hasattr(search.ctypes.CDLL(None), "mallopt")
    monkeypatch.setattr(search.ctypes, "CDLL", lambda _: object())
    assert not search.keep_memory()
