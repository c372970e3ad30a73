"""The reference records are whole, are the preset's, and can be made again."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from wiring import datasets
from wiring.__main__ import from_text
from wiring.evidence.claims import CLAIMS
from wiring.evidence.measures import accuracy_alone
from wiring.evidence.verdicts import judge, recorded
from wiring.search.discrete import derive
from wiring.search.experiments import anywhere, preset
from wiring.search.loop import Search
from wiring.search.records import REFERENCE, load, load_reference

RUNS = sorted(path.parent for path in REFERENCE.glob("**/done.json"))


def said(folder):
    """The experiment that a record's place names: ``preset[/field=value,...]/seed-N``; a rule before a cell's."""
    name, *fields, seed = folder.relative_to(REFERENCE).parts
    if name == "derived-reference":
        rule, *searched = fields
        cell = derive(load(REFERENCE.joinpath("collapse-reference", *searched, seed)), rule)
        return preset(name, seed=int(seed.removeprefix("seed-")), topology=cell)
    changes = dict(field.split("=") for field in (",".join(fields)).split(",") if field)
    return preset(name, seed=int(seed.removeprefix("seed-")), **{key: from_text(text) for key, text in changes.items()})


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS.values() if claim.reference], ids=lambda claim: claim.id)
def test_there_are_reference_runs_of_three_seeds_or_more(claim):
    assert len(recorded(claim)) >= 3


@pytest.mark.parametrize("folder", RUNS, ids=lambda path: str(path.relative_to(REFERENCE)))
def test_record_is_whole_and_of_its_preset_and_seed(folder):
    record = load(folder)  # compares checksums
    e, named = record.experiment, said(folder)
    assert anywhere(e) == anywhere(named)
    assert record.arrays["alpha"].shape[0] == 1 + e.epochs + e.measuring_epochs
    assert np.isfinite(record.scalars.query("group == 'all'")[["loss", "entropy", "cost"]]).all(axis=None)
    assert {"cifar10": "CIFAR-10", "digits": "digits"}[record.experiment.data] in record.provenance["data"]


def test_flipping_one_bit_of_a_reference_record_is_noticed(tmp_path):
    for file in RUNS[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / "scalars.csv").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "scalars.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"scalars\.csv is damaged"):
        load(tmp_path)


@pytest.mark.parametrize("claim", ["P1a", "P1b"])
def test_verdict_agrees_with_a_plain_recount(claim):
    records = recorded(CLAIMS[claim])
    shares = []
    for record in records:
        best = record.arrays["probability"][1:, 0].argmax(-1) == 0
        half, late = len(best) // 2, len(best) // 10
        if claim == "P1a":
            shares.append(max(np.mean(epoch) for epoch in best[:half]))
        else:
            gone = [edge for edge in best.T if "True" * late in "".join(map(str, edge))]
            shares += [np.mean([not edge[-late:].any() for edge in gone])] if gone else []
    verdict = judge(claim, records)
    assert verdict.estimate == pytest.approx(np.mean(shares))
    assert verdict.seeds == len(shares)
    assert (verdict.low > CLAIMS[claim].threshold) == (verdict.verdict == "holds")


def test_the_bi_level_claims_agree_with_a_plain_recount():
    best = [record.arrays["probability"][-4:, 0].argmax(-1) == 0 for record in load_reference("p3-reference")]
    assert judge("P3", load_reference("p3-reference")).estimate == pytest.approx(np.mean([~own.any(0) for own in best]))
    found = {"B1": [], "B2-loss": [], "B2-entropy": [], "B3": []}
    for record in load_reference("fixed-alpha-reference"):
        rows = record.scalars[record.scalars.epoch > 45].groupby(["split", "group"]).mean(numeric_only=True)
        search, training = rows.loc["search"], rows.loc["training"]
        ratios = [search[name]["correct"] / training[name]["correct"] for name in ("loss", "entropy")]
        found["B1"].append(max(max(ratio, 1 / ratio) for ratio in ratios))
        found["B2-loss"].append(search.loss["wrong"] / training.loss["wrong"])
        found["B2-entropy"].append(search.entropy["wrong"] / training.entropy["wrong"])
        found["B3"].append(search.cost["all"])
    for claim, numbers in found.items():
        assert judge(claim, recorded(CLAIMS[claim])).estimate == pytest.approx(np.mean(numbers))


def test_the_claims_about_cells_trained_alone_agree_with_a_plain_recount():
    def accuracies(*place):
        tables = [
            pd.read_csv(REFERENCE.joinpath("derived-reference", *place, f"seed-{k}", "scalars.csv")) for k in range(3)
        ]
        return np.array([t[(t.split == "search") & (t.group == "all")].accuracy.iloc[-1] for t in tables])

    stopped = accuracies("strongest", "early_stop=0.4")
    found = {"R11": stopped - accuracies("strongest"), "R12": accuracies("argmax", "early_stop=0.4") - stopped}
    for claim, numbers in found.items():
        assert judge(claim, recorded(CLAIMS[claim])).estimate == pytest.approx(numbers.mean())
    assert np.isnan(accuracy_alone(load_reference("p3-reference")[0], "strongest"))


def halved(record):
    """The record as if it had ended after half of its measuring epochs."""
    e = record.experiment
    shorter = replace(e, measuring_epochs=e.measuring_epochs // 2)
    arrays = {
        name: values[: e.epochs + shorter.measuring_epochs] if name.startswith("cost_") else values
        for name, values in record.arrays.items()
    }
    return replace(record, experiment=shorter, arrays=arrays)


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if claim.startswith(("H1", "D"))])
def test_half_the_measuring_draws_give_the_same_verdict(claim):
    runs = recorded(CLAIMS[claim])
    fewer = [tuple(map(halved, run)) if isinstance(run, tuple) else halved(run) for run in runs]
    assert judge(claim, fewer).verdict == judge(claim, runs).verdict


@pytest.mark.skipif("WIRING_DATA" not in os.environ, reason="WIRING_DATA names no folder with CIFAR-10")
def test_first_epoch_of_a_reference_run_repeats():
    first = load_reference("p1-reference")[0]
    e = first.experiment
    search = Search(e, datasets.load_dataset(e.data, e.image_size, e.images, e.seed))
    for _ in search.run_epoch():
        pass
    again = search.record()
    # Bit for bit on the recording machine; the digits a processor's kernels round differently are allowed for.
    assert np.allclose(again.arrays["alpha"][1], first.arrays["alpha"][1], atol=2e-2)
    assert again.scalars.loss[0] == pytest.approx(first.scalars.loss[0], abs=1e-2)
