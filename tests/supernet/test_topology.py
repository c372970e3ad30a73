"""Cells are wired and numbered as in the paper; edits change what they name; refusals say what is wrong."""

import re
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import NAMES
from pydantic import TypeAdapter
from strategies import Case, examples, topologies

from wiring.supernet.topology import (
    CHAIN,
    CONTROL,
    EQUAL,
    MINIMAL,
    SWAPPED,
    TOPOLOGIES,
    Topology,
    complete,
    topology_name,
)

DARTS_EDGES = (
    *((0, 2), (1, 2)),
    *((0, 3), (1, 3), (2, 3)),
    *((0, 4), (1, 4), (2, 4), (3, 4)),
    *((0, 5), (1, 5), (2, 5), (3, 5), (4, 5)),
)


def fields(topology):
    return topology.inputs, topology.edges, topology.output, topology.candidates


def test_minimal_cell_is_the_papers():
    assert TOPOLOGIES["minimal"] is MINIMAL
    assert fields(MINIMAL) == ((2, 1), ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)), (2, 3), (NAMES,) * 5)


def test_simplified_cell_is_the_papers():
    assert fields(TOPOLOGIES["simplified"]) == ((1,), ((0, 1), (0, 2), (1, 2)), (1, 2), (NAMES,) * 3)


def test_darts_cell_is_the_papers():
    assert fields(TOPOLOGIES["darts"]) == ((2, 1), DARTS_EDGES, (2, 3, 4, 5), (NAMES,) * 14)


@pytest.mark.parametrize(
    ("name", "intermediate", "input_edges"),
    [
        ("minimal", [2, 3], {0, 1, 2, 3}),
        ("simplified", [1, 2], {0, 1}),
        ("darts", [2, 3, 4, 5], {0, 1, 2, 3, 5, 6, 9, 10}),
    ],
)
def test_input_edges_start_at_an_input_node(name, intermediate, input_edges):
    topology = TOPOLOGIES[name]
    assert list(topology.intermediate) == intermediate
    assert {edge for edge in range(len(topology.edges)) if topology.is_input_edge(edge)} == input_edges


@given(topologies())
@examples(50)
def test_nodes_are_all_that_edges_and_output_name(topology):
    named = {*range(len(topology.inputs)), *topology.output, *(node for edge in topology.edges for node in edge)}
    assert topology.nodes == max(named) + 1
    assert set(topology.intermediate) == set(range(topology.nodes)) - set(range(len(topology.inputs)))


@given(topologies())
@examples(50)
def test_allowed_says_which_edge_may_carry_which_operation(topology):
    allowed = topology.allowed()
    assert allowed.shape == (len(topology.edges), len(NAMES))
    for edge, names in enumerate(topology.candidates):
        assert tuple(name for name, on in zip(NAMES, allowed[edge].tolist(), strict=True) if on) == names


@given(topologies(), st.data())
@examples(50)
def test_edits_change_what_they_name_and_nothing_else(topology, data):
    before = fields(topology)
    carries = dict(zip(topology.edges, topology.candidates, strict=True))
    edge = data.draw(st.sampled_from(topology.edges))

    fewer = topology.without_edges(edge)
    kept = [other for other in topology.edges if other != edge]
    assert fewer == Topology(topology.inputs, tuple(kept), topology.output, tuple(carries[other] for other in kept))

    fixed = topology.with_operations(edge, "avg_pool_3x3")
    assert dict(zip(fixed.edges, fixed.candidates, strict=True)) == carries | {edge: ("avg_pool_3x3",)}

    output = data.draw(st.permutations(topology.intermediate))
    assert fields(topology.with_output(*output)) == (*before[:2], tuple(output), before[3])

    both = topology.with_operations(edge, "none", "skip_connect")
    without = both.without_operations("skip_connect", edge=edge)
    assert dict(zip(without.edges, without.candidates, strict=True)) == carries | {edge: ("none",)}

    assert fields(topology) == before


def test_operations_are_taken_off_every_edge_where_none_is_named():
    convolutions = NAMES[4:]
    assert MINIMAL.without_operations(*NAMES[:4]).candidates == (convolutions,) * 5


def test_all_edges_can_be_deleted():
    empty = MINIMAL.without_edges(*MINIMAL.edges)
    assert (empty.edges, empty.nodes, empty.allowed().shape) == ((), 4, (0, 8))


def test_the_papers_control_experiment_and_the_cells_beside_it_are_named():
    control = ((2, 1), ((1, 2), (1, 3), (2, 3)), (3,), (("sep_conv_5x5",), NAMES, NAMES))
    assert fields(TOPOLOGIES["control"]) == fields(CONTROL) == control
    assert TOPOLOGIES["equal"] is EQUAL
    assert fields(EQUAL) == ((1,), ((0, 1), (0, 2), (1, 2)), (1, 2), (NAMES[1:], NAMES, NAMES))
    assert TOPOLOGIES["swapped"] is SWAPPED
    assert fields(SWAPPED) == ((1, 2), *fields(MINIMAL)[1:])
    assert TOPOLOGIES["chain"] is CHAIN
    assert fields(CHAIN) == ((1, 1), *fields(MINIMAL)[1:])


def test_the_names_of_topologies_are_theirs():
    assert {name: topology_name(topology) for name, topology in TOPOLOGIES.items()} == {
        name: name for name in TOPOLOGIES
    }
    assert topology_name(MINIMAL.without_edges((0, 2))) == "4 edges of its own"


def test_left_out_candidates_are_all_operations():
    assert Topology((2, 1), MINIMAL.edges, (2, 3)) == MINIMAL


def test_json_keeps_the_order_of_its_fields():
    text = TypeAdapter(Topology).dump_json(complete((1,), 1).with_operations((0, 1), "none")).decode()
    assert text == '{"inputs":[1],"edges":[[0,1]],"candidates":[["none"]],"output":[1]}'


def test_sources_are_the_stem_before_the_first_cell():
    assert [complete((3, 1), 1).sources(cell) for cell in range(4)] == [[0, 0], [0, 1], [0, 2], [1, 3]]


def test_lists_as_json_has_them_become_tuples():
    assert Topology([1], [[0, 1]], [1], [["none", "skip_connect"]]) == complete((1,), 1).with_operations(
        (0, 1), "none", "skip_connect"
    )


def test_a_topology_does_not_change():
    with pytest.raises(FrozenInstanceError):
        MINIMAL.output = (3,)


VALID = {"inputs": (2, 1), "edges": ((0, 2), (1, 2)), "candidates": (NAMES, NAMES), "output": (2,)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ()}, "inputs (): give for each input node how many cells back it reads, 1 or more"),
        ({"inputs": (2, 0)}, "inputs (2, 0): give for each input node how many cells back it reads, 1 or more"),
        ({"edges": ((0, 2), (0, 2))}, "edges ((0, 2), (0, 2)): an edge stands twice"),
        ({"edges": ((0, 2), (2, 2))}, "edge (2, 2): an edge (i, j) needs 0 <= i < j and must not end at an input"),
        ({"edges": ((0, 2), (3, 2))}, "edge (3, 2): an edge (i, j) needs 0 <= i < j and must not end at an input"),
        ({"edges": ((0, 2), (-1, 2))}, "edge (-1, 2): an edge (i, j) needs 0 <= i < j and must not end at an input"),
        ({"edges": ((0, 2), (0, 1))}, "edge (0, 1): an edge (i, j) needs 0 <= i < j and must not end at an input"),
        ({"candidates": (NAMES,)}, "candidates: 1 sets for 2 edges; give one an edge"),
        ({"candidates": (NAMES, ("conv",))}, f"edge (1, 2): unknown operation 'conv'; allowed: {', '.join(NAMES)}"),
        ({"candidates": (NAMES, ())}, "edge (1, 2): operations (); give at least one, each once, in the paper's order"),
        ({"candidates": (NAMES, NAMES[1::-1])}, "edge (1, 2): operations ('skip_connect', 'none'); give at least one"),
        ({"candidates": (NAMES, ("none", "none"))}, "edge (1, 2): operations ('none', 'none'); give at least one"),
        ({"output": ()}, "output (): name at least one intermediate node (2 or more), each once"),
        ({"output": (2, 2)}, "output (2, 2): name at least one intermediate node (2 or more), each once"),
        ({"output": (1, 2)}, "output (1, 2): name at least one intermediate node (2 or more), each once"),
        ({"edges": ((0, "x"), (1, 2))}, "unable to parse string as an integer"),
        ({"extra": 1}, "Unexpected keyword argument"),
    ],
)
def test_an_impossible_topology_is_refused(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Topology(**VALID | change)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: MINIMAL.without_edges((0, 1)), "no edge (0, 1); the edges are (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)"),
        (lambda: MINIMAL.with_operations((3, 4), "none"), "no edge (3, 4); the edges are (0, 2), (1, 2),"),
        (lambda: MINIMAL.without_operations("none", edge=(2, 4)), "no edge (2, 4); the edges are (0, 2), (1, 2),"),
        (lambda: MINIMAL.with_operations((2, 3), "conv"), "edge (2, 3): unknown operation 'conv'; allowed: none, skip"),
        (lambda: MINIMAL.with_operations((2, 3)), "edge (2, 3): operations (); give at least one"),
        (lambda: MINIMAL.without_operations("conv"), "unknown operation 'conv'; allowed: none, skip_connect"),
        (lambda: MINIMAL.without_operations(*NAMES, edge=(1, 3)), "edge (1, 3): operations (); give at least one"),
        (lambda: MINIMAL.with_output(1), "output (1,): name at least one intermediate node (2 or more), each once"),
    ],
)
def test_an_impossible_edit_is_refused(edit, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        edit()


@given(st.integers(0, 2**31 - 1))
@examples(10)
def test_simplified_cell_is_the_minimal_cell_without_its_first_inputs_edges(seed):
    minimal = Case(MINIMAL.without_edges((0, 2), (0, 3)), seed=seed)
    simplified = Case(TOPOLOGIES["simplified"])
    for cell, larger in zip(simplified.supernet.cells, minimal.supernet.cells, strict=True):
        cell.inputs[0].load_state_dict(larger.inputs[1].state_dict())
        cell.edges.load_state_dict(larger.edges.state_dict())
    for part in ("stem", "classifier"):
        getattr(simplified.supernet, part).load_state_dict(getattr(minimal.supernet, part).state_dict())
    for gates in (minimal.child()[0], minimal.mixed()[0]):
        assert torch.equal(simplified.supernet(minimal.images, gates), minimal.supernet(minimal.images, gates))
