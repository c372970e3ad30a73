"""An experiment is data: one frozen dataclass, and the presets, which the command line and the chapters share."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic_core
import torch
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from wiring.datasets import Dataset, check_batch, load_dataset
from wiring.search.searchers import SEARCHERS
from wiring.supernet import MINIMAL, TOPOLOGIES, Supernet, Topology
from wiring.supernet.network import Plan
from wiring.supernet.topology import topology_name

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

#: Level -> the phases of one step: which split a batch comes from, and which parameters learn from it.
LEVELS = {"single": (("training", ("theta", "alpha")),), "bi": (("search", ("alpha",)), ("training", ("theta",)))}
LEVELS |= {"unrolled": LEVELS["bi"]}


def _known(what: str, name: str, table: Mapping[str, object]) -> str:
    if name not in table:
        raise ValueError(f"no such {what}; allowed: {', '.join(table)}")
    return name


def _device(name: str) -> str:
    kind, colon, number = name.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        _known("device", name, {"cpu": 0, "cuda": 0, "cuda:0, cuda:1, ...": 0})
    return name


def _named(topology: Any) -> Any:
    return TOPOLOGIES[_known("topology", topology, TOPOLOGIES)] if isinstance(topology, str) else topology


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True))
class Experiment:
    """One search, to the last setting. The defaults are those of the authors' code for DSNAS, but for searcher.

    A pydantic.ValidationError names the field whose value is of the wrong type or out of bounds, and what is allowed.
    """

    topology: Annotated[Topology, BeforeValidator(_named)] = MINIMAL
    """the cell: minimal, simplified, darts, control, equal, swapped, chain, no-skip or, in Python, any Topology"""
    cells: Count = 8
    """number of cells"""
    reductions: tuple[int, ...] = ()
    """the numbers of the cells that halve the resolution, as [2,5]"""
    channels: Count = 16
    """channels of a node in the first cell"""
    partial: Count = 1
    """operations see one of so many parts of a node's channels, the others pass along every edge"""

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
    """how gates are drawn from α and what α learns from; the authors' code runs dsnas-code, their paper dsnas"""
    level: Literal["single", "bi", "unrolled"] = "single"
    """bi: θ learns from one half of the images, α from the other; unrolled: from there, after θ's next step"""
    early_stop: Annotated[float, Field(ge=-1, le=1)] = -1.0
    """bi: an operation's θ rests once the cosine of its two gradients, mean of 20 steps, is below this; -1: never"""
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
    measuring_epochs: Annotated[int, Field(ge=0)] = 0
    """passes after them in which nothing learns and costs are measured"""
    course_every: Annotated[int, Field(ge=0)] = 0
    """record α, and the costs summed over the cells, each time so many steps are done; 0 only after epochs"""
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
    undrawn: Literal["rest", "decay"] = "decay"
    """weights of operations that were not drawn rest, or decay and follow their momentum, as with a zero gradient"""
    clip: Positive = 5.0
    """largest norm of θ's gradient"""
    alpha_lr: Rate = 3e-4
    """Adam's learning rate for α"""
    alpha_betas: tuple[Decay, Decay] = (0.5, 0.999)
    """Adam's betas"""
    alpha_weight_decay: Rate = 1e-3
    """Adam's weight decay"""
    alpha_decoupled: bool = False
    """decay α itself, as AdamW does, instead of adding the decay to the gradient that Adam scales"""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """draws weights, α, subset, order, augmentation and architectures"""
    device: Annotated[str, AfterValidator(_device)] = "cpu"
    """where it runs: cpu, cuda or cuda:N"""
    graphs: bool = True
    """on a GPU: replay steps, or operations, as CUDA graphs, where that can be done"""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of the run; other numbers change its last digits"""
    bf16: bool = False
    """forward passes in bfloat16 where that is safe (autocast)"""


_ADAPTER = TypeAdapter(Experiment)
#: What was done before there was such a field, where that is not its default.
EARLIER: dict[str, Any] = {"undrawn": "rest"}
#: Field -> what it means.
DESCRIPTIONS = {name: field["description"] for name, field in _ADAPTER.json_schema()["properties"].items()}


def to_json(experiment: Experiment) -> str:
    """Every field, as it is kept in a run's folder."""
    return _ADAPTER.dump_json(experiment, indent=1).decode()


def from_json(text: str | bytes) -> Experiment:
    """Read an experiment back, also an older version's. Raises pydantic.ValidationError, see :func:`explain`."""
    experiment = _ADAPTER.validate_json(text)
    missing = EARLIER.keys() - pydantic_core.from_json(text).keys()
    return replace(experiment, **{name: EARLIER[name] for name in missing})


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


def anywhere(experiment: Experiment) -> Experiment:
    """The experiment without where it runs: a run may be resumed elsewhere, and counts wherever it ran."""
    return replace(experiment, device="cpu", graphs=True, threads=1)


def settings(experiment: Experiment) -> dict[str, Any]:
    """The fields as JSON types, the topology by its name."""
    return to_dict(experiment) | {"topology": topology_name(experiment.topology)}


def changed(experiment: Experiment, base: Experiment | None = None) -> dict[str, Any]:
    """The settings that differ from another experiment's, by default from the authors' for DSNAS."""
    others = settings(base or Experiment())
    return {name: value for name, value in settings(experiment).items() if value != others[name]}


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
    if e.level == "unrolled" and SEARCHERS[e.searcher].drawn_on_cpu:
        allowed = ", ".join(name for name, searcher in SEARCHERS.items() if not searcher.drawn_on_cpu)
        raise ValueError(f"level = 'unrolled': {e.searcher}'s gates pass no gradient on; allowed searchers: {allowed}")
    if e.early_stop > -1 and e.level == "single":
        raise ValueError(f"early_stop = {e.early_stop}: a single level has one gradient; allowed: -1, or level bi")
    operations = Plan.of(e.topology, e.topology.allowed().tolist()).operations
    if not any(operations[node - len(e.topology.inputs)] for node in e.topology.output):
        raise ValueError(
            "topology: no operation leads from an input node to the output; allowed: a cell that reads images"
        )
    with torch.device("meta"):  # takes no memory
        Supernet(e.topology, e.cells, e.channels, classes=2, reductions=e.reductions, partial=e.partial)
    if not device:
        return
    device_there = torch.device(e.device)
    if device_there.type == "cuda" and (device_there.index or 0) >= (found := torch.cuda.device_count()):
        there = ["cpu", *(f"cuda:{number}" for number in range(found))]
        raise ValueError(f"device = {e.device!r}: this machine has no such device; allowed here: {', '.join(there)}")
    in_memory = dataset is not None or e.data == "digits"
    size, read = (None, e.images) if in_memory else (e.image_size, 1)
    source = load_dataset(e.data if dataset is None else dataset, size, read)
    images = len(source) if in_memory else e.images
    if images is not None:
        check_batch(e.batch, images // len(LEVELS[e.level]), source.name)


def _from_table(fields: dict[str, Any]) -> Experiment:
    """An experiment from its entry in ``presets.toml``; the bases stand before it."""
    base = PRESETS[fields.pop("base")] if "base" in fields else Experiment()
    without = fields.pop("without", {"operations": []})
    edge = tuple(without["edge"]) if "edge" in without else None
    topology = base.topology.without_operations(*without["operations"], edge=edge)
    return with_fields(replace(base, topology=topology), fields)


#: Name -> experiment, and name -> what the preset is for: what ``presets.toml`` says.
PRESETS: dict[str, Experiment] = {}
PURPOSES: dict[str, str] = {}
for _name, _fields in tomllib.loads(Path(__file__).with_name("presets.toml").read_text("utf-8")).items():
    PURPOSES[_name] = _fields.pop("purpose")
    PRESETS[_name] = _from_table(_fields)
