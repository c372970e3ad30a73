"""The paper's identities, checked on any supernet: how far each is from holding, and which module is to blame.

- T1: an operation that is homogeneous of degree 0 passes no cost on to the node that it reads (Theorem 1).
- CA: the cost at a cell's output is the sum of the costs of the cell's operations (cost assignment).
- CO: in every cell but the last they sum to zero (Corollary).
- T2a: the cost at the last cell's output is cross-entropy minus entropy, ``L - H`` (Theorem 2).

All rest on Euler's theorem; :mod:`wiring.costs.diagnosis` has it, and finds the modules that break an identity.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import call
from textwrap import fill, indent
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from wiring.costs.diagnosis import Trace
from wiring.costs.exact import loss_minus_entropy, random_gates, random_supernet
from wiring.costs.probe import CostProbe, refuse_compiled
from wiring.supernet import PlainSupernet, Topology
from wiring.supernet.normalise import Images


@dataclass(frozen=True)
class Finding:
    """Whether one identity holds for a model.

    The residual is how far from holding it is at the worst place. T1: the largest degree of an operation. CA and CO:
    what a sum is off, as a share of its terms' sizes (or of a thousandth of the loss, if that is more). T2a: the
    difference as a share of ``L + H``. ``why`` says where it is worst or, if it fails, how the ``modules`` break it.
    """

    residual: float
    holds: bool
    why: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The findings by the identity's id, ``T1``, ``CA``, ``CO`` (if there are two cells) and ``T2a``."""

    findings: Mapping[str, Finding]
    tolerance: float

    def __getitem__(self, identity: str) -> Finding:
        return self.findings[identity]

    def __str__(self) -> str:
        return "\n".join(
            f"{identity} {'holds' if finding.holds else 'fails'}: residual {finding.residual:.1e} "
            f"{'<=' if finding.holds else '>'} {self.tolerance:g}\n{indent(fill(finding.why, 94), '  ')}"
            for identity, finding in self.findings.items()
        )


def verify(
    model: nn.Module,
    images: Float[Tensor, "batch *shape"],
    labels: Int[Tensor, " label"],
    *,
    operations: str,
    cells: str,
    forward: Callable[[nn.Module, Tensor], Tensor] | None = None,
    tolerance: float = 1e-3,
) -> Report:
    """Which of the paper's identities hold for a model, from one forward and backward pass of a copy of it.

    The model is a classifier built of cells. Patterns of names say which modules are its ``operations``, every edge's
    candidates, whose outputs are summed up to nodes, and which are its ``cells``, whose output is their nodes side by
    side. Where ``model(images)`` is not the logits, ``forward`` is: ``lambda model, images: model(images)[0]``. An
    identity holds if its residual is at most the tolerance; a normalisation's eps alone leaves about eps / variance.

    The model's mode (training or evaluation) and its precision are kept, and it stays as it is: no gradient, no running
    statistic of it changes. Raises ValueError if it is compiled, a pattern fits no module that ran, its output is no
    matrix of finite logits, a label no class from 0, or the tolerance not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance = {tolerance}: must be positive; a residual is never exactly 0")
    if len(labels) != len(images):
        raise ValueError(f"labels: {len(labels)} for {len(images)} images; give one an image")
    refuse_compiled(model)
    copy = deepcopy(model)
    run = partial(forward or call, copy, images)
    with Trace(copy, cells, operations, tolerance) as trace, torch.no_grad():
        _check(run(), labels)
    return Report(_Evidence(trace, run, labels).findings(), tolerance)


def verify_random(
    topology: Topology, cells: int, images: Images, labels: Int[Tensor, " batch"], seed: int, channels: int = 4
) -> Report:
    """:func:`verify` a :class:`wiring.PlainSupernet` without eps, every candidate at a random gate.

    The seed draws weights and gates; the images are to be in double precision.
    """
    classes, image_channels = int(labels.max()) + 1, images.shape[1]
    model = random_supernet(topology, cells, channels, seed, classes, image_channels, PlainSupernet)
    gates = random_gates(topology, cells, torch.Generator().manual_seed(seed))
    where = {"operations": "cells.*.edges.*.*", "cells": "cells.*"}
    return verify(model, images, labels, **where, forward=lambda model, x: model(x, gates), tolerance=1e-10)


class _Evidence:
    """What the modules of a traced model cost and pass on in one pass, and what that says of the identities."""

    def __init__(self, trace: Trace, run: Callable[[], Tensor], labels: Tensor) -> None:
        self.trace, self.tolerance = trace, trace.tolerance
        self.operations, self.cells = trace.resolve()
        outputs, inputs = [*self.cells, *self.operations], chain(self.operations, *trace.readers.values())
        with (
            CostProbe(trace.model, {name: trace.parts[name] for name in outputs}) as at_outputs,
            CostProbe(trace.model, {name: trace.parts[name] for name in inputs}, at="inputs") as at_inputs,
        ):
            logits = run()
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, labels)
            loss.backward()
        self.costs, self.passed = at_outputs.by_name(), at_inputs.by_name()
        self.loss, self.difference = loss.item(), loss_minus_entropy(logits.detach(), labels).item()

    def findings(self) -> dict[str, Finding]:
        """By the identity's id."""
        degrees = {name: abs(self.trace.degree(name)) for name in self.operations}
        passing = [name for name, d in degrees.items() if d > self.tolerance]
        terms = {cell: [self.costs[name] for name in names] for cell, names in self.cells.items()}
        with_output = {cell: [*costs, -self.costs[cell]] for cell, costs in terms.items()}
        inner = {cell: [x for x in names if x in self.trace.inner_edges] for cell, names in self.cells.items()}
        *before, last = self.cells
        back = {cell: [*self.trace.readers[cell], *inner[cell]] for cell in before}
        t1 = self._finding(degrees, passing, f"{len(passing)} of {len(degrees)} operations pass cost on")
        ca = self._sums(with_output, inner, "edges do not cost what their cell's output does")
        co = {"CO": self._sums(terms, back, "edges before the last cell cost something")} if before else {}
        return {"T1": t1, "CA": ca, **co, "T2a": self._last_output(last)}

    def _sums(self, terms: Mapping[str, list[float]], suspects: Mapping[str, list[str]], what: str) -> Finding:
        """Whether each cell's terms add up to 0; where they do not, its suspects that pass cost on break it."""
        residuals, broken = {}, []
        for cell, names in suspects.items():
            # Operations that cost less than a thousandth of the loss in all are taken to cost that much.
            scale = max(sum(map(abs, terms[cell])), self.loss / 1000)
            residuals[cell] = abs(sum(terms[cell])) / scale
            if residuals[cell] > self.tolerance:
                ranked = sorted(names, key=lambda name: -abs(self.passed[name]))
                broken += [name for name in ranked if abs(self.passed[name]) / scale > self.tolerance] or ranked[:1]
        return self._finding(residuals, broken, what)

    def _last_output(self, cell: str) -> Finding:
        cost = self.costs[cell]
        residual = abs(cost - self.difference) / (2 * self.loss - self.difference)  # a share of L + H
        ran = list(self.trace.arguments)
        head = filter(self.trace.is_leaf, ran[ran.index(cell) + 1 :])
        broken = (name for name in head if abs(self.trace.degree(name) - 1) > self.tolerance)
        what = f"the cost at the last cell's output is {cost:.3f} and L - H is {self.difference:.3f}"
        return self._finding({cell: residual}, broken, what, f"L - H = {self.difference:.3f}")

    def _finding(self, residuals: Mapping[str, float], broken: Iterable[str], fails: str, holds: str = "") -> Finding:
        worst = max(residuals, key=lambda name: residuals[name])
        if residuals[worst] <= self.tolerance:
            return Finding(residuals[worst], True, holds or f"the largest at {worst}")
        modules = tuple(dict.fromkeys(broken))
        return Finding(residuals[worst], False, f"{fails}: {self.trace.blame(modules)}", modules)


def _check(logits: Any, labels: Tensor) -> None:
    """Refuse what is no matrix of logits of the labels' classes."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
        what = f"tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model returns a {what}, not logits ({len(labels)}, classes); give `forward` to get them")
    low, high = int(labels.min()), int(labels.max())
    if not 0 <= low <= high < logits.shape[1]:
        raise ValueError(f"labels: from {low} to {high}, but the model has classes 0 to {logits.shape[1] - 1}")
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite on these images; no cost is then a number")
