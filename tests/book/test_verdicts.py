"""Verdicts as pages show them: enough digits, the setting, and what differs from the authors'."""

import math
import re
from dataclasses import replace

from wiring_book.site import provenance
from wiring_book.verdicts import UNRECORDED, Finding, differences, rounded

from wiring.__main__ import from_text
from wiring.evidence import CLAIMS, judge
from wiring.search import load_reference, preset
from wiring.search.records import REFERENCE


def test_numbers_have_as_many_digits_as_tell_the_intervals_ends_apart():
    assert rounded(1.3183, 1.2989, 1.3447) == ("1.318", "1.299", "1.345")
    assert rounded(-0.0142, -0.0159, -0.0122) == ("−0.0142", "−0.0159", "−0.0122")
    assert rounded(0.0, 0.0, 0.0) == ("0.00", "0.00", "0.00")
    assert rounded(4.5e-15, 3.6e-15, 5.3e-15) == ("4.5e−15", "3.6e−15", "5.3e−15")


def test_a_claim_without_runs_says_how_to_make_one():
    finding = Finding(judge("P1a", []), None)
    assert math.isnan(finding.verdict.estimate)
    assert finding.word == UNRECORDED
    assert UNRECORDED in finding.badge
    assert finding.measured == "`wiring run p1-long-reference --seed N` makes a run"
    changed = Finding(judge("R7", []), None)
    assert changed.measured == "`wiring run collapse-reference --seed N --level unrolled` makes a run"
    assert "nan" not in finding.setting + finding.measured


def test_settings_are_held_against_the_authors():
    ours, theirs = preset("p1-reference"), preset("p1-paper")
    said = differences(ours, theirs)
    assert "channels 8 (16)" in said
    assert "images 10\N{NO-BREAK SPACE}000 (all)" in said
    assert "device" not in said
    assert differences(theirs, replace(theirs, seed=3, device="cpu")) == "the same"


def test_how_a_run_was_recorded_names_its_folder_and_a_command_that_makes_it():
    for fields in ({}, {"alpha_decoupled": True}, {"alpha_weight_decay": 0.0, "cells": 4, "topology": "chain"}):
        said = provenance("start-reference", load_reference("start-reference", **fields))
        folder, command = re.findall(r"`data/reference/(.*?)`.*?`wiring run start-reference --seed N(.*?)`", said)[0]
        assert (REFERENCE / folder / "seed-0" / "done.json").exists()
        given = command.split()
        changes = {
            name.removeprefix("--"): from_text(value) for name, value in zip(given[::2], given[1::2], strict=True)
        }
        assert changes == fields
    assert "data/reference/collapse-reference/early_stop=0.4`" in provenance(
        "collapse-reference", load_reference("collapse-reference", early_stop=0.4)
    )


def test_every_claim_of_the_paper_names_its_chapter():
    assert all(claim.chapter for claim in CLAIMS.values())
