"""What two splits allow: the look-ahead's gradient is the exact one, and operations that overfit come to rest."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from wiring import datasets
from wiring.search.bilevel import EarlyStopping, look_ahead
from wiring.search.experiments import Experiment, preflight
from wiring.search.loop import Search, run

BI = Experiment(
    data="digits",
    images=64,
    batch=16,
    cells=2,
    channels=2,
    crop=0,
    epochs=4,
    searcher="darts",
    level="bi",
    alpha_lr=0.05,
)


def start(experiment):
    return Search(experiment, datasets.load_dataset("digits", None, experiment.images, experiment.seed))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_looking_ahead_is_the_gradient_through_a_step(momentum):
    random = torch.Generator().manual_seed(3)
    x, y, a, b = (torch.randn(8, 4, dtype=torch.float64, generator=random) for _ in range(4))
    theta = [nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=random)) for shape in [(4, 3), (3, 4)]]
    alpha = nn.Parameter(torch.randn(3, dtype=torch.float64, generator=random))

    def loss(images, targets, weights, gates):
        return ((torch.tanh(images @ weights[0]) * gates.softmax(0) @ weights[1] - targets) ** 2).mean()

    sgd = torch.optim.SGD(theta, 0.1, momentum, weight_decay=0.01)
    for _ in range(2 if momentum else 0):  # so that there is momentum
        sgd.zero_grad()
        loss(x, y, theta, alpha).backward()
        sgd.step()
    before = [p.detach().clone() for p in theta]
    (found,) = look_ahead(lambda: loss(a, b, theta, alpha), lambda: loss(x, y, theta, alpha), theta, [alpha], sgd)
    assert all(map(torch.equal, theta, before))

    gradients = torch.autograd.grad(loss(x, y, theta, alpha), theta, create_graph=True)
    moving = [sgd.state[p]["momentum_buffer"] if momentum else 0 for p in theta]
    after = [p - 0.1 * (g + 0.01 * p + momentum * m) for p, g, m in zip(theta, gradients, moving, strict=True)]
    (exact,) = torch.autograd.grad(loss(a, b, after, alpha), alpha)
    (first_order,) = torch.autograd.grad(loss(a, b, theta, alpha), alpha)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-9)
    assert (found - exact).norm() < 0.01 * (first_order - exact).norm()  # the first order would not pass


@pytest.mark.parametrize("searcher", ["darts", "snas"])
def test_a_searchs_alpha_learns_from_where_thetas_next_step_leads(monkeypatch, searcher):
    experiment = replace(BI, searcher=searcher, level="unrolled", theta_momentum=0.0, theta_weight_decay=0.0)
    search, oracle, learn, found = start(experiment), start(experiment), Search._learn, []

    def spy(self, *arguments):
        learn(self, *arguments)
        found.append(self.searcher.alpha.grad.clone())

    monkeypatch.setattr(Search, "_learn", spy)
    next(search.run_epoch())
    (of_search, of_training) = (next(iter(loader)) for loader in oracle.loaders.values())
    theta = dict(oracle.supernet.named_parameters())
    random = oracle.generators["architectures"]
    before = random.get_state()

    def loss(parameters, batch):
        gates = oracle.searcher.draw(random.set_state(before))
        return cross_entropy(torch.func.functional_call(oracle.supernet, parameters, (batch[0], gates)), batch[1])

    def moved(direction, distance):
        return {name: p + distance * v for (name, p), v in zip(theta.items(), direction, strict=True)}

    ahead = moved(torch.autograd.grad(loss(theta, of_training), theta.values()), -experiment.theta_lr)
    direct, *vector = torch.autograd.grad(loss(ahead, of_search), [oracle.searcher.alpha, *ahead.values()])
    small = 0.01 / torch.cat([v.flatten() for v in vector]).norm()
    sides = [loss(moved(vector, sign * small), of_training) for sign in (1, -1)]
    plus, minus = (torch.autograd.grad(side, oracle.searcher.alpha)[0] for side in sides)
    torch.testing.assert_close(
        found[0], direct - experiment.theta_lr * (plus - minus) / (2 * small), rtol=1e-3, atol=2e-6
    )


def test_operations_rest_whose_mean_cosine_is_below_the_threshold(monkeypatch):
    monkeypatch.setattr(EarlyStopping, "steps", 3)
    search, random = start(BI), torch.Generator().manual_seed(0)
    stopping = EarlyStopping(search.supernet, 0.1)
    cosines = torch.zeros(len(stopping.weights))
    for step in range(1, stopping.steps + 1):
        assert not stopping.resting.any()
        sides = []
        for note in (stopping.keep, partial(stopping.compare, step)):
            for parameter in search.theta:
                parameter.grad = torch.randn(parameter.shape, generator=random) + 0.3
            sides.append([torch.cat([p.grad.flatten() for p in weights]) for weights in stopping.weights])
            note()
        cosines += torch.stack([cosine_similarity(a, b, dim=0) for a, b in zip(*sides, strict=True)])
    assert stopping.resting.tolist() == (cosines / 3 < 0.1).tolist()
    assert 0 < stopping.resting.sum() < len(stopping.weights)
    assert len(stopping.weights) == 2 * 5 * 4  # those of cells, edges and the operations that have weights


@pytest.mark.parametrize("undrawn", ["rest", "decay"])
def test_what_rests_stays_as_it_is_and_the_rest_learns(monkeypatch, undrawn):
    monkeypatch.setattr(EarlyStopping, "steps", 2)
    search = start(replace(BI, early_stop=1.0, undrawn=undrawn))  # no two gradients are that close
    seen = []
    for _ in range(2):
        for _ in search.run_epoch():
            seen += [[p.detach().clone() for p in search.theta]]
    assert search.stopping.resting.all()
    operations = {p for weights in search.stopping.weights for p in weights}
    for number, parameter in enumerate(search.theta):
        assert torch.equal(seen[1][number], seen[-1][number]) == (parameter in operations)
    assert not any(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))


@pytest.fixture(scope="module")
def plain():
    return run(BI)


@pytest.mark.parametrize("fields", [{"early_stop": 0.5}, {"level": "unrolled"}])
def test_such_a_run_resumes_where_it_stopped(monkeypatch, tmp_path, plain, fields):
    monkeypatch.setattr(EarlyStopping, "steps", 3)
    experiment, learn, phases = replace(BI, **fields), Search._learn, []

    def interrupted(self, *arguments):
        phases.append(1)
        if len(phases) == 10:
            raise KeyboardInterrupt
        return learn(self, *arguments)

    whole = run(experiment)
    with monkeypatch.context() as patch:
        patch.setattr(Search, "_learn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, tmp_path / "run")
    resumed = run(experiment, tmp_path / "run")
    assert resumed.scalars.equals(whole.scalars)
    assert all((resumed.arrays[name] == array).all() for name, array in whole.arrays.items() if "cost" not in name)
    assert not plain.scalars.equals(whole.scalars)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"level": "unrolled", "searcher": "dsnas"}, "level = 'unrolled': dsnas's gates pass no gradient on"),
        ({"level": "single", "early_stop": 0.4}, "early_stop = 0.4: a single level has one gradient"),
    ],
)
def test_what_has_no_second_gradient_is_refused(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        preflight(replace(BI, **fields))
