"""What the players are given is what was recorded and what is measured afresh."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from wiring_book import explorer, logo, players

from wiring.chapters import BOOK
from wiring.search.loop import Search
from wiring.search.records import load_reference
from wiring.search.searchers import dropped
from wiring.supernet.operations import NAMES
from wiring.supernet.topology import MINIMAL, TOPOLOGIES


def test_every_search_whose_alpha_moves_can_be_played():
    assert {"p1-reference", "p3-reference"} <= set(players.searches())
    assert not {"uniform-reference", "start-reference"} & set(players.searches())  # α stays, or there is one epoch


@pytest.mark.parametrize("name", ["p1-reference", "p3-reference"])
def test_a_search_is_given_as_it_was_recorded(name):
    given, records = players.search(name), load_reference(name)
    assert [run["seed"] for run in given["runs"]] == [record.experiment.seed for record in records]
    for run, record in zip(given["runs"], records, strict=True):
        probability = record.arrays["probability"][:, 0]
        assert np.allclose(run["probability"], probability, atol=1e-6)
        assert (dropped(np.array(run["probability"])) == dropped(probability)).all()
        # All cells but the last share out nothing, so the edges' costs make up the cost at the output, in which the
        # probabilities moved while the epoch's costs were measured.
        assert np.abs(np.sum(run["cost"], axis=1) - run["output"]).mean() < 0.02
        assert np.corrcoef(np.sum(run["cost"], axis=1), run["output"])[0, 1] > 0.9


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_drawing_joins_the_nodes_that_the_edges_join(name):
    topology, drawing = TOPOLOGIES[name], players.drawing(TOPOLOGIES[name])
    at = [(node["x"], node["y"]) for node in drawing["nodes"]]
    assert len(set(at)) == topology.nodes + 1
    for ends, edge in zip(topology.edges, drawing["edges"], strict=True):
        assert tuple(edge["ends"]) == ends
        for node, k in zip(ends, (0, -1), strict=True):
            assert (edge["x"][k], edge["y"][k]) == pytest.approx(at[node], abs=1e-3)


def test_scripts_hold_the_data_that_a_page_reads():
    scripts = players.scripts()
    for name, text in scripts.items():
        start = f"(window.wiring ??= {{}})[{json.dumps(Path(name).stem)}] = "
        assert text.startswith(start)
        value = json.loads(text.removeprefix(start).removesuffix(";\n"))
        if name.startswith("costs-"):
            low, high = np.frombuffer(zlib.decompress(base64.b64decode(value)), np.uint8).reshape(2, -1)
            stored = explorer.load_costs()[name.removeprefix("costs-").removesuffix(".js")]
            assert ((low.astype(np.uint16) | high.astype(np.uint16) << 8).view(np.int16) == stored.ravel()).all()
    assert sum(len(text) for name, text in scripts.items() if name.startswith("costs-")) < 1e6


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
