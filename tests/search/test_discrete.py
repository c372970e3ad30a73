"""The cell that a search ends in: chosen as each rule says, and what closing a gate changes, by the textbook."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, examples, topologies
from torch.nn.functional import cross_entropy

from wiring.search.discrete import RULES, alone, closing, derive
from wiring.search.experiments import Experiment, to_json
from wiring.search.loop import Search, generator, run
from wiring.search.records import Record, RecordError
from wiring.supernet.gates import Gates
from wiring.supernet.operations import NAMES
from wiring.supernet.textbook import PlainSupernet
from wiring.supernet.topology import MINIMAL

SEARCH = Experiment(
    data="digits", images=64, batch=16, cells=2, channels=2, crop=0, flip=False, epochs=2, searcher="darts", level="bi",
    alpha_lr=0.3, alpha_mean=0.0, theta_lr=0.1,
)  # fmt: skip


def found(topology, seed):
    """A record that ends in random probabilities, and a table of what closing each gate changes."""
    random = np.random.default_rng(seed)
    probability = random.random((2, 1, len(topology.edges), len(NAMES))) * topology.allowed().numpy()
    rows = [
        (str(edge), name, random.normal())
        for edge, names in zip(topology.edges, topology.candidates, strict=True)
        for name in names
        if name != "none"
    ]
    table = pd.DataFrame(rows, columns=["edge", "operation", "change"])
    return Record(replace(SEARCH, topology=topology), pd.DataFrame(), {"probability": probability}, {}), table


def drawn_by_hand(experiment):
    """An operation for each edge by the largest of numbers that settings and seed, but not the place, tell."""
    settings = to_json(replace(experiment, device="cpu", graphs=True, threads=1))
    numbers = torch.rand(len(experiment.topology.edges), 8, generator=generator(experiment.seed, f"cell/{settings}"))
    cells = zip(experiment.topology.edges, experiment.topology.candidates, numbers, strict=True)
    return {
        edge: max([name for name in names if name != "none"] or names, key=lambda name: own[NAMES.index(name)])
        for edge, names, own in cells
    }


def test_random_cells_differ_between_searches_and_hold_every_operation():
    cells = [
        derive(replace(record, experiment=replace(record.experiment, seed=seed, cells=cells)), "random")
        for record, _ in [found(MINIMAL, 0)]
        for seed in range(50)
        for cells in (1, 2)
    ]
    drawn = Counter(name for cell in cells for (name,) in cell.candidates)
    assert set(drawn) == set(NAMES) - {"none"}
    assert max(drawn.values()) < 2 * min(drawn.values())
    assert len({cell.candidates for cell in cells}) > 95


@given(topologies(), SEEDS, st.sampled_from(sorted(RULES)))
@examples(60)
def test_each_rule_keeps_what_it_says(topology, seed, rule):
    record, table = found(topology, seed)
    chosen, strength = {}, {}
    for number, (edge, names) in enumerate(zip(topology.edges, topology.candidates, strict=True)):
        values = {name: record.arrays["probability"][-1, 0, number, NAMES.index(name)] for name in names}
        if rule == "perturbation":
            own = table[table.edge == str(edge)]
            values = dict(zip(own.operation, own.change, strict=True)) or {"none": 0.0}
        elif rule != "argmax" and names != ("none",):
            values.pop("none", None)
        chosen[edge] = max(values, key=values.get)
        strength[edge] = values[chosen[edge]]
    if rule == "two":
        for end in {end for _, end in topology.edges}:
            into = sorted((edge for edge in chosen if edge[1] == end), key=strength.get, reverse=True)
            chosen |= dict.fromkeys(into[2:], "none")
    if rule == "random":
        chosen = drawn_by_hand(record.experiment)
    cell = derive(record, rule, table if rule == "perturbation" else None)
    assert dict(zip(cell.edges, cell.candidates, strict=True)) == {edge: (name,) for edge, name in chosen.items()}
    assert (cell.inputs, cell.output) == (topology.inputs, topology.output)


@pytest.mark.parametrize(
    ("rule", "fields", "complaint"),
    [
        ("best", {}, "rule = 'best': no such rule; allowed: argmax"),
        ("argmax", {"reductions": (1,)}, r"reductions = \(1,\): allowed: \(\)"),
        ("perturbation", {}, "closing: needed by the rule 'perturbation'"),
    ],
)
def test_what_no_cell_can_be_derived_from_is_refused(rule, fields, complaint):
    record, _ = found(SEARCH.topology, 0)
    with pytest.raises(ValueError, match=complaint):
        derive(replace(record, experiment=replace(record.experiment, **fields)), rule)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, run(SEARCH, folder)


def test_a_derived_cell_is_trained_on_the_half_that_trained_the_searchs_weights(finished):
    _, record = finished
    e = alone(record.experiment, derive(record, "strongest"), epochs=1)
    one = run(e)
    assert e.epochs == 1
    assert [len(names) for names in e.topology.candidates] == [1] * 5
    assert one.provenance["images"] == record.provenance["images"] == {"search": 32, "training": 32}
    counts = one.arrays["cost_count"].sum((0, 1, 2))
    assert (counts > 0).tolist() == e.topology.allowed().tolist()


def test_closing_a_gate_changes_the_loss_as_in_the_textbook_network(finished, monkeypatch):
    folder, _ = finished
    searches = []
    monkeypatch.setattr(
        "wiring.search.discrete.Search", lambda *arguments: searches.append(Search(*arguments)) or searches[-1]
    )
    table = closing(folder)
    (search,) = searches
    e = search.experiment
    plain = PlainSupernet(e.topology, e.cells, e.channels, 10, 1).copy_weights(search.supernet.parameters())
    weights = search.searcher.alpha[0].softmax(-1).detach()
    search.generators["batches"].set_state(search.shuffle)  # the same batches, of the search half
    batches = list(search.loaders["search"])

    def loss(values):
        gates = Gates(values.expand(e.cells, -1, -1), torch.ones(e.cells, *values.shape, dtype=torch.bool))
        return torch.stack([cross_entropy(plain(images, gates), labels) for images, labels in batches]).mean()

    rows = {(row.edge, row.operation): row for row in table.itertuples()}
    assert len(rows) == 5 * 7
    whole = loss(weights).item()
    for edge, pair in enumerate(e.topology.edges):
        for k, name in enumerate(NAMES[1:], 1):
            row, without = rows[str(pair), name], weights.clone()
            without[edge, k] = 0
            with torch.no_grad():
                assert row.change == pytest.approx(loss(without).item() - whole, abs=2e-5)
            assert row.gate == pytest.approx(weights[edge, k].item())
    weights.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(weights), weights)
    costs = [
        gradient[e.topology.edges.index(tuple(map(int, edge[1:-1].split(","))))][NAMES.index(o)] for edge, o in rows
    ]
    np.testing.assert_allclose(table.cost, torch.stack(costs), rtol=1e-3, atol=1e-5)


def test_without_weights_or_with_gates_that_are_open_or_closed_nothing_is_said(finished, tmp_path):
    run(replace(SEARCH, searcher="dsnas"), tmp_path / "dsnas")
    with pytest.raises(ValueError, match="searcher = 'dsnas': its gates are open or closed"):
        closing(tmp_path / "dsnas")
    for path in (tmp_path / "dsnas").glob("checkpoint*"):
        path.unlink()
    with pytest.raises(RecordError, match="no checkpoint"):
        closing(tmp_path / "dsnas")
