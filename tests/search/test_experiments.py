"""An experiment survives JSON, its defaults are the authors' settings, and every invalid value is refused by name."""

import json
import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import NAMES
from pydantic import ValidationError

from wiring.search.experiments import (
    DESCRIPTIONS,
    PRESETS,
    Experiment,
    changed,
    explain,
    from_json,
    preset,
    to_dict,
    to_json,
)
from wiring.supernet.topology import MINIMAL, TOPOLOGIES

#: The authors' settings, as the paper's code has them.
AUTHORS = {
    "undrawn": "decay",
    "alpha_decoupled": False,
    "cells": 8,
    "reductions": (),
    "channels": 16,
    "partial": 1,
    "data": "cifar10",
    "image_size": None,
    "images": None,
    "label_noise": 0.0,
    "crop": 4,
    "flip": True,
    "searcher": "dsnas",
    "level": "single",
    "early_stop": -1.0,
    "alpha_mean": 1.0,
    "alpha_std": 0.01,
    "epochs": 150,
    "batch": 96,
    "theta_lr": 0.025,
    "theta_lr_min": 0.001,
    "theta_momentum": 0.9,
    "theta_weight_decay": 0.0003,
    "clip": 5.0,
    "alpha_lr": 0.0003,
    "alpha_betas": (0.5, 0.999),
    "alpha_weight_decay": 0.001,
    "bf16": False,
}

counts = st.integers(1, 10**6)
rates = st.floats(0, 1000)
shares = st.floats(0, 1)
positive = st.floats(1e-12, 1e12)
experiments = st.builds(
    Experiment,
    topology=st.sampled_from([*TOPOLOGIES, MINIMAL.without_edges((0, 2)).with_operations((1, 2), "sep_conv_5x5")]),
    cells=counts,
    reductions=st.lists(st.integers(0, 20)).map(tuple),
    channels=counts,
    partial=counts,
    data=st.one_of(st.just("digits"), st.text(st.characters(exclude_categories=["Cs"])).map("folder:{}".format)),
    image_size=st.none() | counts,
    images=st.none() | counts,
    label_noise=shares,
    crop=st.integers(0, 99),
    flip=st.booleans(),
    searcher=st.sampled_from(["darts", "snas", "dsnas", "dsnas-code", "darts-edges", "uniform"]),
    level=st.sampled_from(["single", "bi", "unrolled"]),
    early_stop=st.floats(-1, 1),
    temperature=positive,
    final_temperature=positive,
    alpha_mean=st.floats(-1000, 1000),
    alpha_std=rates,
    epochs=counts,
    batch=counts,
    theta_lr=rates,
    theta_momentum=shares,
    clip=positive,
    alpha_betas=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
    seed=st.integers(0, 2**63 - 1),
    device=st.sampled_from(["cpu", "cuda", "cuda:1"]),
    threads=st.integers(1, 1024),
    bf16=st.booleans(),
    graphs=st.booleans(),
    undrawn=st.sampled_from(["rest", "decay"]),
    measuring_epochs=st.integers(0, 99),
    course_every=st.integers(0, 99),
)


@settings(deadline=None, max_examples=100)
@given(experiments)
def test_json_gives_every_experiment_back(experiment):
    again = from_json(to_json(experiment))
    assert again == experiment
    assert to_json(again) == to_json(experiment)
    assert from_json(json.dumps(to_dict(experiment))) == experiment


def test_an_experiment_from_before_there_was_decay_of_what_is_not_drawn_is_one_without():
    fields_of_today = to_dict(Experiment())
    del fields_of_today["undrawn"]
    assert from_json(json.dumps(fields_of_today)) == replace(Experiment(), undrawn="rest")


@pytest.mark.parametrize("name", PRESETS)
def test_json_gives_every_preset_back(name):
    assert from_json(to_json(PRESETS[name])) == preset(name) == PRESETS[name]


def test_defaults_are_the_authors_settings_value_by_value():
    default = Experiment()
    assert {name: getattr(default, name) for name in AUTHORS} == AUTHORS
    assert {type(getattr(default, name)) for name in ("theta_lr", "clip", "label_noise")} == {float}
    assert {field.name for field in fields(Experiment)} - set(AUTHORS) == {
        "course_every",
        "measuring_epochs",
        "topology",
        "temperature",
        "final_temperature",
        "seed",
        "device",
        "graphs",
        "threads",
    }


def test_default_cell_is_the_minimal_cell_with_all_eight_operations_on_every_edge():
    topology = Experiment().topology
    assert topology.inputs == (2, 1)
    assert topology.edges == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert topology.output == (2, 3)
    assert topology.candidates == (NAMES,) * 5


def test_p1_paper_is_the_authors_setting_on_a_gpu():
    assert PRESETS["p1-paper"] == Experiment(device="cuda")
    assert changed(PRESETS["p1-paper"]) == {"device": "cuda"}


def test_presets_for_everyone_need_no_gpu():
    assert {name for name, e in PRESETS.items() if e.device == "cuda"} == {n for n in PRESETS if n.endswith("-paper")}


NONSENSE = ["x", [], {}, None]
WRONG = [
    *(("topology", v) for v in ("nosuch", "", 3, [], {"inputs": [1]})),
    *(("cells", v) for v in (0, -1, 1.5, "8", True, math.nan, *NONSENSE)),
    *(("reductions", v) for v in (1, "12", [1.5], ["1"], [True], [None])),
    *(("channels", v) for v in (0, -16, 16.0, "16", False)),
    *(("data", v) for v in (1, ["digits"], None)),
    *(("image_size", v) for v in (0, -8, 8.5, "8", True)),
    *(("images", v) for v in (0, -8, 8.5, "8", True)),
    *(("label_noise", v) for v in (-0.1, 1.1, math.nan, math.inf, "0.1", True)),
    *(("crop", v) for v in (-1, 0.5, "4", True)),
    *(("flip", v) for v in (0, 1, "true", "yes", None)),
    *(("searcher", v) for v in ("DARTS", "enas", "", 0, None)),
    *(("level", v) for v in ("bilevel", 1, 2, None)),
    *(("temperature", v) for v in (0, 0.0, -1.0, math.nan, math.inf, "1", True)),
    *(("final_temperature", v) for v in (0.0, -1.0, math.nan, -math.inf)),
    *(("alpha_mean", v) for v in (math.nan, math.inf, -math.inf, "1", True)),
    *(("alpha_std", v) for v in (-0.01, math.nan, math.inf, "1")),
    *(("epochs", v) for v in (0, -3, 2.5, 3.0, "3", True, math.inf)),
    *(("batch", v) for v in (0, -96, 96.0, "96", True)),
    *(("theta_lr", v) for v in (-0.1, math.nan, math.inf, "1e-4", True, None, [0.1])),
    *(("theta_lr_min", v) for v in (-0.1, math.nan, math.inf, "0")),
    *(("theta_momentum", v) for v in (-0.1, 1.5, math.nan, "0.9")),
    *(("theta_weight_decay", v) for v in (-1e-3, math.nan, math.inf, "0")),
    *(("clip", v) for v in (0, 0.0, -5.0, math.nan, "5")),
    *(("alpha_lr", v) for v in (-1e-3, math.nan, math.inf, "0")),
    *(("alpha_betas", v) for v in (0.5, [0.5], [0.5, 0.9, 0.9], [-0.5, 0.9], [0.5, 1.1], [0.5, "x"], [math.nan, 0.5])),
    *(("alpha_weight_decay", v) for v in (-1e-3, math.nan, math.inf, "0")),
    *(("seed", v) for v in (-1, 2**63, 0.0, "0", True, None)),
    *(("device", v) for v in ("gpu", "cuda:", "cuda:x", "cpu:0", "", 0, None)),
    *(("threads", v) for v in (0, -1, 1.0, "1", True)),
    *((name, v) for name in ("bf16", "graphs") for v in (0, 1, "false", None)),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{field}={value!r}" for field, value in WRONG])
def test_invalid_value_is_refused_by_its_fields_name_in_one_line(field, value):
    given_as_list = tuple(value) if isinstance(value, list) else value
    refusals = [
        lambda: Experiment(**{field: given_as_list}),
        lambda: replace(Experiment(), **{field: given_as_list}),
        lambda: from_json(json.dumps(to_dict(Experiment()) | {field: value})),
    ]
    for refused in refusals:
        with pytest.raises(ValidationError) as caught:
            refused()
        message = explain(caught.value)
        assert message.startswith(field)
        assert "\n" not in message


@pytest.mark.parametrize("name", ["epoch", "lr", "Epochs", "", "topology.inputs"])
def test_unknown_field_is_refused_by_its_name(name):
    with pytest.raises(ValidationError) as caught:
        preset("p1-quick", **{name: 3})
    assert explain(caught.value).startswith(name)
    with pytest.raises(ValidationError):
        Experiment(**{name: 3})


def test_choices_and_bounds_are_named_in_the_refusal():
    for field, value, allowed in (
        ("searcher", "enas", ["darts", "snas", "dsnas", "uniform"]),
        ("level", "two", ["single", "bi"]),
        ("device", "tpu", ["cpu", "cuda"]),
        ("topology", "big", list(TOPOLOGIES)),
        ("epochs", 0, ["1"]),
        ("label_noise", 2, ["1"]),
    ):
        with pytest.raises(ValidationError) as caught:
            preset("p1-quick", **{field: value})
        message = explain(caught.value)
        assert repr(value) in message
        assert all(word in message for word in allowed)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "\xff", "{}}", '{"epochs": 1', "\x00"])
def test_text_that_is_no_experiment_is_refused_in_one_line(text):
    with pytest.raises(ValidationError) as caught:
        from_json(text)
    assert "\n" not in explain(caught.value)


def test_preset_keeps_its_value_where_none_is_given():
    kept = dict.fromkeys(DESCRIPTIONS)
    for name, experiment in PRESETS.items():
        assert preset(name, **kept) == experiment
    assert preset("p1-quick", epochs=None, seed=5) == replace(PRESETS["p1-quick"], seed=5)


def test_preset_takes_a_topology_by_its_name():
    for name, topology in TOPOLOGIES.items():
        assert preset("p1-quick", topology=name).topology == topology


def test_unknown_preset_is_refused_with_the_presets_there_are():
    with pytest.raises(ValueError, match="'p1'.*" + ".*".join(PRESETS)):
        preset("p1")


def test_experiment_is_frozen_and_hashable():
    experiment = Experiment()
    with pytest.raises(FrozenInstanceError):
        experiment.epochs = 3
    assert experiment == Experiment()
    assert {experiment: 1}[Experiment()] == 1


def test_experiment_takes_no_positional_arguments():
    with pytest.raises(ValidationError):
        Experiment(MINIMAL)


def test_every_field_has_a_description():
    assert list(DESCRIPTIONS) == [field.name for field in fields(Experiment)]
    assert all(DESCRIPTIONS.values())
