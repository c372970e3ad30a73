"""The paper's identities, checked on any supernet: how far each is from holding, and which module is to blame.

- T1: an operation that is homogeneous of degree 0 passes no cost on to the node that it reads (Theorem 1).
- CA: the cost at a cell's output is the sum of the costs of the cell's operations (cost assignment).
- CO: in every cell but the last they sum to zero (Corollary).
- T2a: the cost at the last cell's output is cross-entropy minus entropy, ``L - H`` (Theorem 2).

All rest on Euler's theorem, which :mod:`wiring.costs.diagnosis` has. Where cost passes that should not, or does not
that should, a sum is off by just that much: so a module is blamed for its own part, and no module for what is left.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import call
from textwrap import fill
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from wiring.costs.diagnosis import FUNCTION, LITTLE, PAST, REMEDIES, Reason, keeps, passes_on
from wiring.costs.exact import loss_minus_entropy, random_gates, random_supernet
from wiring.costs.probe import Modules, chosen, refuse_compiled
from wiring.costs.trace import Call, Seen, Trace, upstream
from wiring.supernet import PlainSupernet, Topology
from wiring.supernet.normalise import Images


@dataclass(frozen=True)
class Finding:
    """Whether one identity holds for a model.

    The residual is how far from holding it is at the worst place. T1: the largest share of the images' costs that an
    operation passes on. CA and CO: what a sum is off, as a share of its terms' sizes. T2a: the difference of cost and
    ``L - H`` as a share of the larger. What is less than a thousandth of the loss counts as that much. ``what`` says
    where it is worst or, if it fails, what is wrong; then ``reasons`` say how the ``modules`` break it, and
    ``remedies`` what to do about it.
    """

    residual: float
    holds: bool
    what: str
    reasons: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """What is wrong, and the reasons."""
        return f"{self.what}: {'; '.join(self.reasons)}" if self.reasons else self.what


@dataclass(frozen=True)
class Report:
    """The findings by the identity's id, ``T1``, ``CA``, ``CO`` (if there are two cells) and ``T2a``."""

    findings: Mapping[str, Finding]
    tolerance: float

    def __getitem__(self, identity: str) -> Finding:
        return self.findings[identity]

    def __str__(self) -> str:
        lines = []
        for identity, finding in self.findings.items():
            relation = "holds: residual {:.2e} <=" if finding.holds else "fails: residual {:.2e} >"
            lines.append(f"{identity} {relation.format(finding.residual)} {self.tolerance:g}")
            lines.append(_wrapped(finding.what + ":" * bool(finding.reasons), "  "))
            lines += [_wrapped(reason, "  - ") for reason in finding.reasons]
            lines += [_wrapped(f"what to do: {remedy}", "  ") for remedy in finding.remedies]
        return "\n".join(lines)


def _wrapped(text: str, start: str) -> str:
    return fill(text, 70, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)


def verify(
    model: nn.Module,
    images: Float[Tensor, "batch *shape"],
    labels: Tensor,
    *,
    operations: Modules,
    cells: Modules,
    forward: Callable[[nn.Module, Tensor], Tensor] | None = None,
    tolerance: float = 1e-3,
) -> Report:
    """Which of the paper's identities hold for a model, from one forward and one backward pass of it.

    The model is a classifier built of cells. Its ``operations`` are every edge's candidates, whose outputs are summed
    up to nodes; the output of its ``cells`` is their nodes side by side. Both are given as modules are to
    :class:`CostProbe`. A cell that is no module, or runs by another method than ``forward``, is seen if its output goes
    through one, ``self.output = nn.Identity()``. Where ``model(images)`` is not the logits, ``forward`` is:
    ``lambda model, images: model(images)[0]``.

    An identity holds if its residual is at most the tolerance. It is a share: in T1 of an operation's cost, summed over
    the images without signs, that it passes on; in CA and CO of the sizes of a cell's costs, by which their sum is off;
    in T2a of the larger of cost and ``L - H``, by which they differ. A normalisation's eps alone leaves about
    eps / variance. In double precision and without eps (``set_eps``) the tolerance may be 1e-9, and little can hide.

    The model runs once, in the mode (training or evaluation) and precision that it has; if it draws an architecture in
    every pass, the one drawn is judged. Its gradients, its buffers, as running statistics, and the generators of random
    numbers are put back. Raises ValueError if it is compiled, what is given fits no module that ran, the output is no
    matrix of finite logits, labels are no classes from 0, or the tolerance is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance = {tolerance}: must be positive; a residual is never exactly 0")
    for what, given in (("images", images), ("labels", labels)):
        if not isinstance(given, Tensor):
            raise ValueError(f"{what}: {type(given).__name__}; give a tensor")
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        shape = tuple(labels.shape)
        raise ValueError(
            f"labels: {labels.dtype} of shape {shape}; give the number of a class, as int64, for each image"
        )
    if len(labels) != len(images) or not len(images):
        raise ValueError(f"labels: {len(labels)} for {len(images)} images; give one an image")
    refuse_compiled(model)
    parts = {what: chosen(model, given, what) for what, given in (("operations", operations), ("cells", cells))}
    losses = list[Tensor]()

    def run() -> Any:
        return (forward or call)(model, images.clone())

    def loss(logits: Any) -> Tensor:
        _check(logits, labels)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses.append(F.cross_entropy(logits, labels.long().clone()))
        return losses[0]

    names = {part: name for given in parts.values() for name, part in given.items()}
    trace = Trace(model, run, loss, len(images), names)
    difference = loss_minus_entropy(trace.logits.to(losses[0].dtype), labels.long()).item()
    evidence = _Evidence(trace, model, parts, losses[0].item(), difference, tolerance)
    return Report(evidence.findings(), tolerance)


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


_Blamed = tuple[Call, Reason]


@dataclass(frozen=True)
class _Part:
    """What a module contributes to a sum that should be zero, and the degree that it should have there."""

    call: Call
    amount: float
    degree: int
    reason: Reason | None = None
    """If it is not to be found within."""


class _Evidence:
    """What the calls of a traced model say of the identities.

    A *unit* is an outermost module that neither is a cell nor has one, or an operation, within it.
    """

    def __init__(
        self,
        trace: Trace,
        model: nn.Module,
        parts: Mapping[str, Mapping[str, nn.Module]],
        loss: float,
        difference: float,
        tolerance: float,
    ) -> None:
        self.trace, self.loss, self.difference, self.tolerance = trace, loss, difference, tolerance
        own = {what: set(given.values()) for what, given in parts.items()}
        inside = {part: set(part.modules()) - {part} for part in model.modules()}
        holds = {part for part, within in inside.items() if within & (own["operations"] | own["cells"])}
        self._holding = (holds | own["cells"]) - own["operations"]
        self.units = [
            c for c in trace.calls if c.part not in self._holding and all(o.part in self._holding for o in c.callers())
        ]
        self.operations = [c for c in self.units if c.part in own["operations"] and c.outputs]
        ran = [c for c in trace.calls if c.part in own["cells"] and c.outputs]
        #: The outputs of the cells, by name, in the order in which they ran.
        self.cells = {c.name: [x for other in ran if other.name == c.name for x in other.outputs] for c in ran}
        for what, found in (("operations", self.operations), ("cells", ran)):
            if not found:
                first, part = next(iter(parts[what].items()))
                if isinstance(part, nn.ModuleList | nn.ModuleDict):
                    raise ValueError(f"{what}: {first!r} is a {type(part).__name__}, which never runs; its parts do")
                raise ValueError(
                    f"{what}: {first!r} and its like did not run, or not by a call with gradients; `forward` must call "
                    f"the model that it is given, and what runs by another method be returned through an nn.Identity()"
                )
        self._outputs = {x for outputs in self.cells.values() for x in outputs}
        self._made = {x: c for c in self.operations for x in c.outputs}
        #: The operations of each cell.
        self.inside = {cell: self._feeding(outputs) for cell, outputs in self.cells.items()}
        if empty := [cell for cell, own in self.inside.items() if not own and any(x.cost for x in self.cells[cell])]:
            raise ValueError(
                f"operations: none that feeds the output of the cell {empty[0]!r}; are they those of another level, or "
                "cells and operations exchanged?"
            )
        reached = upstream(trace.end.inputs, lambda _: False)
        #: The cells that no path joins to the logits: not drawn, or detached.
        self.lost = [cell for cell, outputs in self.cells.items() if not reached & set(outputs)]
        if self.lost and self.lost[-1] == list(self.cells)[-1]:
            raise ValueError(f"cells: no path joins the output of {self.lost[-1]!r} to the logits; is it detached?")

    def _feeding(self, outputs: list[Seen]) -> list[Call]:
        before = upstream(outputs, lambda x: x in self._outputs)
        return [c for c in self.operations if before & set(c.outputs)]

    def findings(self) -> dict[str, Finding]:
        """By the identity's id."""
        nodes = {cell: self._nodes(cell) for cell in self.cells}
        *before, last = self.cells
        costs = {cell: [c.cost for c in calls] for cell, calls in self.inside.items()}
        with_output = {cell: [*own, -sum(x.cost for x in self.cells[cell])] for cell, own in costs.items()}
        ca = self._sums(with_output, nodes, "edges do not cost what their cell's output does")
        back = {cell: [*nodes[cell], *self._behind(cell)] for cell in before}
        co = {"CO": self._sums(costs, back, "edges before the last cell cost something")} if before else {}
        return {"T1": self._operations(), "CA": ca, **co, "T2a": self._last_output(last)}

    def _nodes(self, cell: str) -> list[_Part]:
        """What reads the sums of a cell's operations: on to its output, with degree 1, or back to them, with 0."""
        made = {x for c in self.inside[cell] for x in c.outputs}
        onward = self._between(self.cells[cell], made)
        nodes = made | {x for part in onward for x in part.call.outputs}
        return [*onward, *self._readers(nodes, {part.call for part in onward})]

    def _behind(self, cell: str) -> list[_Part]:
        """What reads a cell's output that is not the last, but for the head, which should not have degree 0."""
        *_, last = self.cells
        ends = upstream(self.trace.end.inputs, lambda x: x in self._outputs)
        heads = {u for u in self.units if ends & set(u.outputs)}
        main = {part.call for part in self._between(self.trace.end.inputs, set(self.cells[last]))}
        parts = self._readers(self.cells[cell], main)
        return [replace(part, reason=PAST) if part.call in heads else part for part in parts]

    def _between(self, ends: Iterable[Seen], starts: set[Seen]) -> list[_Part]:
        """The units on the ways from some tensors to others; all should have degree 1."""

        def stop(x: Seen) -> bool:
            return x in starts or x in self._made or x in self._outputs

        region = upstream(ends, stop)
        units = [u for u in self.units if region & set(u.outputs) and upstream(u.inputs, stop) & starts]
        return [_Part(u, u.passed - u.cost, 1) for u in units if u not in self.operations]

    def _readers(self, nodes: Iterable[Seen], but: Iterable[Call] = ()) -> list[_Part]:
        """The units that read these tensors, which should pass nothing on to them."""
        nodes = set(nodes)

        def stop(x: Seen) -> bool:
            return x in self._outputs or x.call.part not in self._holding

        read = {u: [x for x in u.inputs if upstream([x], stop) & nodes] for u in self.units if u not in but}
        return [_Part(u, sum(x.cost for x in inputs), 0) for u, inputs in read.items() if inputs]

    def _operations(self) -> Finding:
        by_name: dict[str, list[Call]] = {}
        for c in self.operations:
            by_name.setdefault(c.name, []).append(c)
        shares, broken = {}, list[_Blamed]()
        for name, calls in by_name.items():
            scale = max(sum(x.size for c in calls for x in c.outputs), self.loss / 1000)
            passed = abs(sum(c.passed for c in calls))
            shares[name] = passed / scale
            if passed > max(self.tolerance * scale, math.hypot(*(c.rounding for c in calls))):
                broken.append((calls[-1], passes_on(calls[-1], self.tolerance * scale)))
        many = f"{len(broken)} of {len(shares)} operations pass cost on"
        return self._finding(shares, broken, [], many if broken else "operations seem to pass a little on")

    def _sums(self, terms: Mapping[str, list[float]], parts: Mapping[str, list[_Part]], what: str) -> Finding:
        """Whether each cell's terms add up to 0; where they do not, its parts and what is left of them break it."""
        residuals, broken, others = {}, list[_Blamed](), list[Reason]()
        for cell, own in parts.items():
            scale = max(sum(map(abs, terms[cell])), self.loss / 1000)
            residuals[cell] = abs(sum(terms[cell])) / scale
            if residuals[cell] > self.tolerance:
                ends = [x for c in self.inside[cell] for x in c.outputs] + self.cells[cell]
                found, rest = self._blame(sum(terms[cell]), own, scale, ends)
                broken, others = broken + found, others + rest
        return self._finding(residuals, broken, others, what)

    def _last_output(self, cell: str) -> Finding:
        cost = sum(x.cost for x in self.cells[cell])
        scale = max(abs(cost), abs(self.difference), self.loss / 1000)
        residual = abs(cost - self.difference) / scale
        what = f"the cost at the last cell's output is {cost:.4f} and L - H is {self.difference:.4f}"
        if residual <= self.tolerance:
            return Finding(residual, True, what)
        head = self._between(self.trace.end.inputs, set(self.cells[cell]))
        found, rest = self._blame(cost - self.difference, head, scale, [*self.cells[cell], *self.trace.end.inputs])
        return self._finding({cell: residual}, found, rest, what)

    def _blame(
        self, amount: float, parts: list[_Part], scale: float, ends: Iterable[Seen]
    ) -> tuple[list[_Blamed], list[Reason]]:
        """The calls that what a sum is off comes from, and the reasons for what no call explains."""
        rounding = math.hypot(*(part.call.rounding for part in parts), *(x.rounding for x in ends))
        floor = max(self.tolerance * scale, rounding)
        found: list[_Blamed] = []
        for part in sorted(parts, key=lambda part: -abs(part.amount)):
            if abs(part.amount) > max(self.tolerance * scale, part.call.rounding):
                reason = part.reason or passes_on(part.call, floor)
                found += keeps(part.call, floor) if part.degree else [(part.call, reason)]
        if abs(amount - sum(part.amount for part in parts)) > floor:
            return found, [FUNCTION]
        return found, [] if found or abs(amount) <= rounding else [LITTLE]

    def _rounded(self) -> Reason:
        return Reason(f"what {str(self.trace.logits.dtype).removeprefix('torch.')} rounds off", "rounding")

    def _finding(
        self, residuals: Mapping[str, float], broken: list[_Blamed], others: list[Reason], what: str
    ) -> Finding:
        worst = max(residuals, key=lambda name: residuals[name])
        if residuals[worst] <= self.tolerance:
            lost = f"; no path joins {', '.join(self.lost)} to the logits" if self.lost else ""
            return Finding(residuals[worst], True, f"the largest at {worst}{lost}")
        named: dict[str, Reason] = {}
        for c, reason in broken:
            named.setdefault(c.name, reason)
        rest = dict.fromkeys(others or ([] if named else [self._rounded()]))
        texts = [reason.text for reason in rest]
        reasons = (*_grouped(named), *texts)
        remedies = dict.fromkeys(REMEDIES[reason.kind] for reason in (*named.values(), *rest))
        return Finding(residuals[worst], False, what, reasons, tuple(remedies), tuple(named))


def _grouped(named: Mapping[str, Reason]) -> list[str]:
    """The modules by what is wrong with them, the most frequent first; of each kind the first by name."""
    groups: dict[str, list[str]] = {}
    for name, reason in named.items():
        groups.setdefault(reason.text, []).append(name)
    return [
        f"{first}{f' and {len(others)} like it' if others else ''} ({text})"
        for text, (first, *others) in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


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
