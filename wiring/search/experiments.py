"""An experiment is data: one frozen dataclass, and the presets, which the command line and the chapters share.

>>> preset("p1-quick", epochs=5, seed=1)
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import pydantic_core
import torch
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from wiring.datasets import Dataset, check_batch, load_dataset
from wiring.search.searchers import SEARCHERS
from wiring.supernet import CONTROL, EQUAL, MINIMAL, SWAPPED, TOPOLOGIES, Supernet, Topology
from wiring.supernet.topology import topology_name

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

#: Level -> the phases of one step: which split a batch comes from, and which parameters learn from it.
LEVELS = {"single": (("training", ("theta", "alpha")),), "bi": (("search", ("alpha",)), ("training", ("theta",)))}


def _known(what: str, name: str, table: Mapping[str, object]) -> str:
    if name not in table:
        raise ValueError(f"no such {what}; allowed: {', '.join(table)}")
    return name


def _named(topology: Any) -> Any:
    return TOPOLOGIES[_known("topology", topology, TOPOLOGIES)] if isinstance(topology, str) else topology


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True))
class Experiment:
    """One search, to the last setting. The defaults are the authors' settings for DSNAS (their published code).

    A pydantic.ValidationError names the field whose value is of the wrong type or out of bounds, and what is allowed.
    """

    topology: Annotated[Topology, BeforeValidator(_named)] = MINIMAL
    """the cell: a name (minimal, simplified, darts) or, in Python, any Topology"""
    cells: Count = 8
    """number of cells"""
    reductions: tuple[int, ...] = ()
    """the numbers of the cells that halve the resolution, as [2,5]"""
    channels: Count = 16
    """channels of a node in the first cell"""

    data: str = "cifar10"
    """digits, cifar10 or folder:PATH"""
    image_size: Count | None = None
    """resize images to squares of that many pixels"""
    images: Count | None = None
    """use a random subset of that many images"""
    label_noise: Share = 0.0
    """share of the images whose label is redrawn uniformly"""
    crop: Annotated[int, Field(ge=0)] = 4
    """pixels of padding for the random crop"""
    flip: bool = True
    """mirror images at random"""

    searcher: Annotated[str, AfterValidator(lambda name: _known("searcher", name, SEARCHERS))] = "dsnas"
    """how gates are drawn from α and what α learns from; the authors' code runs dsnas-log-sum, their paper dsnas"""
    level: Literal["single", "bi"] = "single"
    """bi: θ learns from one half of the images, α from the other"""
    temperature: Positive = 1.0
    """SNAS: temperature in the first epoch"""
    final_temperature: Positive = 1.0
    """SNAS: temperature in the last epoch, reached geometrically"""
    alpha_mean: Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)] = 1.0
    """α starts at alpha_mean + alpha_std * N(0, 1)"""
    alpha_std: Rate = 0.01
    """see alpha_mean"""

    epochs: Count = 150
    """passes over the (training) images"""
    batch: Count = 96
    """images in a batch"""
    theta_lr: Rate = 0.025
    """SGD's learning rate for θ in the first epoch"""
    theta_lr_min: Rate = 0.001
    """and the one it falls to, along a cosine"""
    theta_momentum: Share = 0.9
    """SGD's momentum"""
    theta_weight_decay: Rate = 3e-4
    """SGD's weight decay"""
    clip: Positive = 5.0
    """largest norm of θ's gradient"""
    alpha_lr: Rate = 3e-4
    """Adam's learning rate for α"""
    alpha_betas: tuple[Decay, Decay] = (0.5, 0.999)
    """Adam's betas"""
    alpha_weight_decay: Rate = 1e-3
    """Adam's weight decay"""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """draws weights, α, subset, order, augmentation and architectures"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where it runs"""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of the run; other numbers change its last digits"""
    bf16: bool = False
    """forward passes in bfloat16 where that is safe (autocast)"""


_ADAPTER = TypeAdapter(Experiment)
#: Field -> what it means.
DESCRIPTIONS = {name: field["description"] for name, field in _ADAPTER.json_schema()["properties"].items()}


def to_json(experiment: Experiment) -> str:
    """Every field, as it is kept in a run's folder."""
    return _ADAPTER.dump_json(experiment, indent=1).decode()


def from_json(text: str | bytes) -> Experiment:
    """Read an experiment back. Raises pydantic.ValidationError, see :func:`explain`."""
    return _ADAPTER.validate_json(text)


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The fields as JSON types."""
    return dict(json.loads(to_json(experiment)))


def preset(name: str | Experiment, **changes: Any) -> Experiment:
    """A preset, or an experiment of one's own, with some fields changed; ``None`` leaves a field as it is.

    Raises ValueError if there is no such preset or field, or a value does not fit (pydantic.ValidationError).
    """
    if isinstance(name, str) and name not in PRESETS:
        raise ValueError(f"preset {name!r}: no such preset; allowed: {', '.join(PRESETS)}")
    base = PRESETS[name] if isinstance(name, str) else name
    return with_fields(base, {field: value for field, value in changes.items() if value is not None})


def with_fields(experiment: Experiment, fields: Mapping[str, Any]) -> Experiment:
    """The experiment with these fields, as Python has them or as JSON does. Raises pydantic.ValidationError."""
    return from_json(pydantic_core.to_json(to_dict(experiment) | dict(fields), inf_nan_mode="constants"))


def settings(experiment: Experiment) -> dict[str, Any]:
    """The fields as JSON types, the topology by its name."""
    return to_dict(experiment) | {"topology": topology_name(experiment.topology)}


def changed(experiment: Experiment) -> dict[str, Any]:
    """The settings that differ from the authors' for DSNAS (the defaults)."""
    authors = settings(Experiment())
    return {name: value for name, value in settings(experiment).items() if value != authors[name]}


def explain(error: ValidationError) -> str:
    """The first complaint of a validation, in one line: field, value, what is allowed."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "experiment"
    if first["type"] == "unexpected_keyword_argument":
        return f"{field}: no such field; allowed: {', '.join(DESCRIPTIONS)}"
    return f"{field} = {first['input']!r}: {first['msg'].removeprefix('Value error, ')}"


def preflight(experiment: Experiment, *, dataset: Dataset | None = None, device: bool = True) -> None:
    """Raise ValueError if an experiment could not run, on its own data or on a data set in memory; writes nothing.

    Then no supernet has its reductions, this machine has no such device, or (:class:`wiring.datasets.DataError`) the
    data set is not there, its first image is broken, or the images fill no batch. Of a folder or of CIFAR-10 one image
    is read; that they are fewer than ``images`` only shows when all are. With ``device=False`` neither the device nor
    the data set is looked for: the workers of a cluster have their own.
    """
    e = experiment
    with torch.device("meta"):  # takes no memory
        Supernet(e.topology, e.cells, e.channels, classes=2, reductions=e.reductions)
    if not device:
        return
    if e.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = 'cuda': this machine has no usable CUDA device; allowed here: cpu")
    in_memory = dataset is not None or e.data == "digits"
    size, read = (None, e.images) if in_memory else (e.image_size, 1)
    source = load_dataset(e.data if dataset is None else dataset, size, read)
    images = len(source) if in_memory else e.images
    if images is not None:
        check_batch(e.batch, images // len(LEVELS[e.level]), source.name)


#: Name -> experiment: quick runs anywhere in a minute, reference is recorded in data/reference, paper needs a GPU.
PRESETS: dict[str, Experiment] = {"p1-paper": Experiment(device="cuda")}


def _add(name: str, base: str, **changes: Any) -> None:
    PRESETS[name] = replace(PRESETS[base], **changes)


_SMALL: dict[str, Any] = {"device": "cpu", "image_size": 16, "channels": 8}
_DIGITS: dict[str, Any] = {"data": "digits", "image_size": None, "cells": 1}
# A twenty-fifth of the authors' steps, so α gets ten times their learning rate.
_add("p1-reference", "p1-paper", **_SMALL, images=10_000, crop=2, epochs=30, alpha_lr=3e-3)
# The digits are small: one cell, no mirror images, and slow weights.
_SLOW: dict[str, Any] = {"batch": 64, "theta_lr": 2e-4, "theta_lr_min": 2e-4}
_add("p1-quick", "p1-reference", **_DIGITS, **_SLOW, images=None, crop=1, flip=False, epochs=40)
# Several cells, and labels that nothing can be learnt from: then some edges are kept only at the cost of others.
_add("p2-quick", "p1-quick", cells=3, channels=4, label_noise=0.8, epochs=12, alpha_lr=0.02)
_add("p3-paper", "p1-paper", searcher="darts", level="bi", alpha_mean=0.0, alpha_std=1e-3, epochs=50)
# An eighth of the authors' steps. Without augmentation the splits part within them.
_add("p3-reference", "p3-paper", **_SMALL, images=5_000, crop=0, flip=False, epochs=40, batch=64, alpha_lr=1e-2)
# The digits are easy: only wrong labels keep what is learnt from one half from serving the other.
_add("p3-quick", "p3-reference", **_DIGITS, images=200, label_noise=0.8, epochs=60, batch=50, alpha_lr=0.1)
_add("p3-single-reference", "p3-reference", level="single")
# B1 to B3 as the authors measure them: α uniform and never stepped, no skip_connect between the intermediate nodes.
_NO_SKIP = MINIMAL.without_operations("skip_connect", edge=(2, 3))
_add("fixed-alpha-reference", "p3-reference", topology=_NO_SKIP, alpha_lr=0.0, alpha_std=0.0, epochs=50)
# Fewer images are learnt by heart sooner: another gap between the splits, with as many steps. One cell, to afford it.
_add("p3-5000-images-reference", "p3-reference", cells=1)
_add("p3-1000-images-reference", "p3-5000-images-reference", images=1_000, epochs=200)
_add("p3-1000-images-single-reference", "p3-1000-images-reference", level="single")
_add("p1-log-sum-reference", "p1-reference", searcher="dsnas-log-sum")
_add("p1-swapped-reference", "p1-reference", topology=SWAPPED)
# Nearly three times the edges, so half the cells and steps, and α learns twice as fast.
_add("p1-darts-cell-reference", "p1-reference", topology=TOPOLOGIES["darts"], cells=4, epochs=15, alpha_lr=6e-3)
_add("p1-one-cell-reference", "p1-reference", cells=1)
_add("p1-snas-reference", "p1-one-cell-reference", searcher="snas")
# The weights alone learn, under random architectures, in one cell, and come to rest.
_add("uniform-reference", "p1-reference", searcher="uniform", cells=1, epochs=60, theta_lr_min=0.0)
_add("initial-reference", "uniform-reference", images=5_000, epochs=1, theta_lr=0.0)
# The same on the digits, and fast enough to classify well.
_FAST: dict[str, Any] = {"batch": 32, "theta_lr": 0.05, "theta_lr_min": 0.001}
_NO_NONE = MINIMAL.without_operations("none")
_add("theorem2-quick", "p1-quick", **_FAST, searcher="uniform", topology=_NO_NONE, crop=0, epochs=12)
_add("simplified-reference", "uniform-reference", topology=TOPOLOGIES["simplified"])
_add("control-reference", "uniform-reference", topology=CONTROL)
_add("equal-reference", "uniform-reference", topology=EQUAL)

#: Name -> what the preset is for.
PURPOSES: dict[str, str] = {
    "p1-paper": "P1: the authors' settings for DSNAS, on a GPU",
    "p1-reference": "P1: DSNAS on 10 000 small images of CIFAR-10, recorded; 8 minutes on one core",
    "p1-quick": "P1, growing tendency: DSNAS on the digits, in seconds on one core",
    "p2-quick": "P2, width preference: three cells on the digits with wrong labels",
    "p3-paper": "P3: bi-level DARTS with the authors' settings, on a GPU",
    "p3-reference": "P3: bi-level DARTS on 5 000 small images of CIFAR-10, recorded",
    "p3-quick": "P3, catastrophic failure: bi-level DARTS on 200 digits with wrong labels",
    "p3-single-reference": "P3's control: the same single-level, recorded",
    "fixed-alpha-reference": "B1 to B3 in the paper's setting: α uniform and never stepped, recorded",
    "p3-5000-images-reference": "P3 in one cell, 5 000 images, recorded",
    "p3-1000-images-reference": "P3 in one cell, 1 000 images, learnt by heart sooner: a wider gap, recorded",
    "p3-1000-images-single-reference": "the control of p3-1000-images-reference: single-level, recorded",
    "p1-log-sum-reference": "P1 with the objective that the authors' code runs, recorded",
    "p1-swapped-reference": "P1 with the two input nodes swapped: is it the place that counts?, recorded",
    "p1-darts-cell-reference": "P1 in the cell of DARTS (4 intermediate nodes, 14 edges), recorded",
    "p1-one-cell-reference": "P1 in one cell, recorded",
    "p1-snas-reference": "P1 with SNAS, in one cell, recorded",
    "uniform-reference": "costs after training: weights alone learn, under random architectures, recorded",
    "initial-reference": "costs before training: random architectures, weights that do not learn, recorded",
    "theorem2-quick": "Theorem 2: weights alone learn on the digits, under random architectures",
    "simplified-reference": "uniform-reference in the simplified cell, recorded",
    "control-reference": "uniform-reference in the control: nodes 1 and 2 joined for good, recorded",
    "equal-reference": "simplified-reference where node 1 always has an input, recorded",
}
