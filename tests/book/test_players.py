"""What the players are given is what was recorded and what is measured afresh."""

import json
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from wiring_book import drawing, explorer, logo, players

from wiring.chapters import BOOK
from wiring.search.experiments import preset
from wiring.search.loop import Search
from wiring.search.records import load_reference
from wiring.search.searchers import dropped
from wiring.supernet.operations import NAMES
from wiring.supernet.topology import MINIMAL, TOPOLOGIES


def test_every_search_whose_alpha_moves_can_be_played():
    assert {"p1-reference", "p3-reference"} <= set(players.searches())
    assert not {"uniform-reference", "fixed-alpha-reference", "start-reference"} & set(
        players.searches()
    )  # α stays, or there is one epoch


def test_a_searchs_name_says_what_sets_it_apart(monkeypatch):
    names = players.captions()
    assert len(set(names.values())) == len(names)
    assert "bi-level DARTS, 8 minimal cells, 5 000 images of CIFAR-10" in names["p3-reference"]
    assert "8 input-swapped cells" in names["p1-swapped-reference"]
    assert "alpha_lr" not in "".join(names.values())
    # Two that nothing else tells apart are told by the settings in which they differ.
    twin = SimpleNamespace(experiment=preset("p3-reference", alpha_lr=0.5))
    monkeypatch.setattr(players, "searches", lambda: ["p3-reference", "twin"])
    monkeypatch.setattr(players, "load_reference", lambda name: [twin] if name == "twin" else load_reference(name))
    assert {name.rpartition(", ")[2] for name in players.captions().values()} == {"alpha_lr 0.01", "alpha_lr 0.5"}


@pytest.mark.parametrize("name", ["p1-reference", "p3-reference"])
def test_a_search_is_given_as_it_was_recorded(name):
    for record in load_reference(name):
        (run,) = players.runs(record)
        probability = record.arrays["probability"][:, 0]
        assert run["seed"] == str(record.experiment.seed)
        assert np.allclose(run["probability"], probability, atol=1e-6)
        assert (dropped(np.array(run["probability"])) == dropped(probability)).all()
        # All cells but the last share out nothing, so the edges' costs make up the cost at the output, in which the
        # probabilities moved while the epoch's costs were measured.
        output = next(iter(run["splits"].values()))["cost"]
        assert np.abs(np.sum(run["cost"], axis=1) - output).mean() < 0.02
        assert np.corrcoef(np.sum(run["cost"], axis=1), output)[0, 1] > 0.9
        scalars = record.scalars.query("group == 'all'")
        assert list(run["splits"]) == (["search", "training"] if record.experiment.level == "bi" else ["training"])
        for split, given in run["splits"].items():
            for quantity, values in given.items():
                assert np.allclose(values, scalars[scalars.split == split][quantity], atol=1e-4)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_drawing_joins_the_nodes_that_the_edges_join_and_no_label_covers_another_or_a_node(name):
    topology, drawn = TOPOLOGIES[name], drawing.drawing(TOPOLOGIES[name])
    at = np.array(drawn["nodes"])
    assert len(np.unique(at, axis=0)) == topology.nodes + 1
    assert at.min() >= drawing.NODE
    assert (at.max(0) <= np.array([drawing.WIDTH, drawn["height"]]) - drawing.NODE).all()
    for ends, edge in zip(topology.edges, drawn["edges"], strict=True):
        assert tuple(edge["ends"]) == ends
        gaps = np.hypot(*(at[list(ends)] - [edge["points"][:2], edge["tip"]]).T)
        assert gaps == pytest.approx(drawing.NODE, abs=3)
    half, labels = np.array(drawn["label"]) / 2, np.array([edge["label"] for edge in drawn["edges"]])
    assert all((abs(a - b) > 2 * half).any() for a, b in combinations(labels, 2))
    assert all((abs(label - node) > half + drawing.NODE).any() for label in labels for node in at)


def test_scripts_hold_the_data_that_a_page_reads():
    scripts = {}
    for name, text in players.scripts().items():
        start = f"(window.wiring ??= {{}})[{json.dumps(Path(name).stem)}] = "
        assert text.startswith(start)
        scripts[Path(name).stem] = json.loads(text.removeprefix(start).removesuffix(";\n"))
    for name, search in scripts["common"]["searches"].items():
        assert [scripts[f"{name}-{run}"]["seed"] for run in range(len(search["seeds"]))] == search["seeds"]
    for state, stored in explorer.load_costs().items():
        output = stored[-2].astype(int) - stored[-1]
        for third, fourth in ((0, 0), (4, 1), (7, 6)):
            given = np.array(scripts[f"costs-{third}{fourth}"][state]).reshape(len(explorer.SHOWN), 8, 8, 8)
            assert (given[:-1] == stored[:-2, ..., third, fourth]).all()
            assert (given[-1] == output[..., third, fourth]).all()
        extremes = scripts["common"]["extremes"][state]
        assert output[*extremes["Max"]] == output.max()
        assert output[*extremes["Min"]] == output.min()


@pytest.mark.parametrize("state", explorer.STATES)
def test_the_explorers_costs_are_those_measured_afresh(state):
    stored = explorer.load_costs()[state]
    assert stored.shape == (len(explorer.QUANTITIES), *[len(NAMES)] * 5)
    # A step more or less where another processor's last digit rounds the other way.
    assert np.abs(stored.astype(int) - explorer.measure(explorer.weights(state))).max() <= 1


def test_the_explorer_starts_from_its_experiments_initial_weights():
    e = explorer.EXPERIMENT
    supernet = Search(e, explorer.datasets.load_dataset(e.data, e.image_size, e.images, e.seed)).supernet
    assert e.topology == MINIMAL
    for stored, own in zip(explorer.weights("initial"), supernet.parameters(), strict=True):
        torch.testing.assert_close(stored, own.detach())


def test_training_turned_the_sign_of_most_architectures():
    shares = {}
    for state, values in explorer.load_costs().items():
        *_, loss, entropy = values.astype(int)
        shares[state] = (loss > entropy).mean()
    assert shares["trained"] < 0.01 < 0.5 < shares["initial"]


def test_the_exercises_architecture_is_one_of_hundreds_untrained_and_a_third_of_all_trained():
    earning = {}
    for state, values in explorer.load_costs().items():
        of = dict(zip(explorer.QUANTITIES, values.astype(int), strict=True))
        costs = [of[f"direct {edge}"] + of.get(f"through {edge}", 0) for edge in range(5)]
        earning[state] = (np.stack(costs) < 0).all(0)
    assert earning["initial"][(NAMES.index("skip_connect"),) * 5]
    assert 200 < earning["initial"].sum() < 1000
    assert 0.3 < earning["trained"].mean() < 1 / 3


def test_logo_and_card_are_what_the_code_draws(tmp_path):
    assert (BOOK / "_static" / "logo.svg").read_text() == logo.svg()
    logo.card(tmp_path / "card.png")
    assert (tmp_path / "card.png").stat().st_size == pytest.approx(
        (BOOK / "_static" / "card.png").stat().st_size, rel=0.2
    )
