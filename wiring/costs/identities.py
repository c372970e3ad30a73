"""The paper's identities, checked on any supernet: how far each is from holding, and which module is to blame.

>>> report = verify(model, images, labels, operations="cells.*.edges.*.*", cells="cells.*")
>>> print(report)
>>> report["T1"].residual

- T1: an operation that is homogeneous of degree 0 passes no cost on to the node that it reads (Theorem 1).
- CA: the cost at a cell's output is the sum of the costs of the cell's operations (cost assignment).
- CO: in every cell but the last they sum to zero (Corollary).
- T2a: the cost at the last cell's output is cross-entropy minus entropy, ``L - H`` (Theorem 2).

All rest on Euler's theorem: for ``f`` homogeneous of degree ``d``, ``<J^T g, x> = d <g, f(x)>`` whatever the gradient
``g`` is. A module's *degree* is measured as just that, the cost at its input in units of the cost at its output.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from textwrap import fill, indent
from typing import Any
from weakref import ref

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from wiring.costs.probe import CostProbe, fitting, refuse_compiled
from wiring.search.searchers import DARTS
from wiring.supernet.gates import Gates, image_dot
from wiring.supernet.textbook import PlainSupernet
from wiring.supernet.topology import Topology

Forward = Callable[[nn.Module, Tensor], Tensor]

#: An eps that vanishes beside any variance, so that the theorems are exact.
NO_EPS = 1e-30


@dataclass(frozen=True)
class Finding:
    """Whether one identity holds for a model.

    Parameters
    ----------
    residual
        How far from holding it is at the worst place. T1: the largest degree of an operation. CA and CO: what a sum
        is off, as a share of its terms' sizes (or of a thousandth of the loss, if that is more). T2a: the difference as
        a share of ``L + H``.
    holds
        Whether that is within the tolerance.
    why
        Where it is worst or, if the identity fails, which modules break it and how.
    modules
        The names of all modules that break it.
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
            f"{name} {'holds' if own.holds else 'fails'}: residual {own.residual:.1e} "
            f"{'<=' if own.holds else '>'} {self.tolerance:g}\n{indent(fill(own.why, 94), '  ')}"
            for name, own in self.findings.items()
        )


def set_eps(model: nn.Module, eps: float) -> nn.Module:
    """Give every normalisation in the model this ``eps`` and return the model.

    The theorems are exact for 0, but 0 makes a channel without variance NaN: :data:`NO_EPS` does not.
    """
    for part in model.modules():
        if hasattr(part, "eps"):
            setattr(part, "eps", eps)  # noqa: B010 (to mypy a module's attributes are tensors and modules)
    return model


def degree(operation: Callable[[Tensor], Tensor], x: Float[Tensor, "batch *shape"], seed: int = 0) -> float:
    """The cost that an operation passes on to its input ``x``, in units of the cost at its output: 0 in Theorem 1.

    ``sum_n <(J^T g)_n, x_n> / sum_n <g_n, f(x)_n>`` over the images ``n``, for a random gradient ``g`` under which
    every image's cost is positive. For ``f`` homogeneous of degree ``d`` this is ``d``, whatever ``g`` is.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        y = operation(x.clone())  # the operation may change its input in place
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype).to(y.device)
    arriving = image_dot(gradient, y.detach())
    gradient *= arriving.sign().to(gradient.dtype).view(-1, *(1 for _ in y.shape[1:]))
    if not y.requires_grad:
        return 0.0
    (back,) = torch.autograd.grad(y, x, gradient, allow_unused=True, materialize_grads=True)
    passed = image_dot(back, x.detach()).sum()
    return float(passed / arriving.abs().sum()) if passed else 0.0


def verify(
    model: nn.Module,
    images: Float[Tensor, "batch *shape"],
    labels: Int[Tensor, " label"],
    *,
    operations: str,
    cells: str,
    forward: Forward | None = None,
    tolerance: float = 1e-3,
) -> Report:
    """Which of the paper's identities hold for a model, from one forward and backward pass of a copy of it.

    The model itself stays as it is: no gradient, no running statistic of it changes.

    Parameters
    ----------
    model
        A classifier built of cells. Its mode (training or evaluation) and its precision are kept.
    images, labels
        The batch that is passed, and the class of each image from 0.
    operations
        A pattern of the names of the modules whose outputs are summed up to nodes: every edge's candidates.
    cells
        A pattern of the names of the cells, whose output is their nodes side by side.
    forward
        The logits of the images, where ``model(images)`` is not: ``lambda model, images: model(images)[0]``.
    tolerance
        An identity holds if its residual is at most this. A normalisation's eps alone leaves about eps / variance.

    Raises
    ------
    ValueError
        If the model is compiled, a pattern fits no module that ran, the output is no matrix of logits, a label is no
        class, the logits are not finite, or the tolerance is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance = {tolerance}: must be positive; a residual is never exactly 0")
    if len(labels) != len(images):
        raise ValueError(f"labels: {len(labels)} for {len(images)} images; give one an image")
    refuse_compiled(model)
    copy = deepcopy(model)
    call: Forward = forward if forward is not None else lambda model, images: model(images)
    trace = _Trace(copy, cells, operations)
    with trace, torch.no_grad():
        _check(call(copy, images), labels)
    parts = {name: part for name, part in copy.named_modules() if name in trace.arguments}
    order = list(trace.arguments)
    candidates = _fitting(parts, operations, "operations")
    chain = sorted(_fitting(parts, cells, "cells"), key=order.index)
    inside = {cell: [name for name in candidates if name.startswith(f"{cell}.")] for cell in chain}
    if empty := [cell for cell, names in inside.items() if not names]:
        raise ValueError(f"operations = {operations!r}: fits none in the cell {empty[0]!r}")

    passing = [*candidates, *dict.fromkeys(name for own in trace.readers.values() for name in own)]
    with (
        CostProbe(copy, {name: parts[name] for name in chain}) as outputs,
        CostProbe(copy, {name: parts[name] for name in candidates}) as arriving,
        CostProbe(copy, {name: parts[name] for name in passing}, at="inputs") as passed,
    ):
        logits = call(copy, images)
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
        loss.backward()
    at = _Evidence(parts, trace, _by_name(arriving), _by_name(passed), _by_name(outputs), loss.item() / 1000, tolerance)
    findings = {"T1": at.paths(candidates), "CA": at.assignment(inside)}
    if len(chain) > 1:
        findings["CO"] = at.corollary({cell: inside[cell] for cell in chain[:-1]})
    head = [name for name in order[order.index(chain[-1]) + 1 :] if not list(parts[name].children())]
    findings["T2a"] = at.output(chain[-1], logits.detach(), labels, head)
    return Report(findings, tolerance)


def verify_random(
    topology: Topology,
    cells: int,
    images: Float[Tensor, "batch channel height width"],
    labels: Int[Tensor, " batch"],
    seed: int,
    channels: int = 4,
) -> Report:
    """:func:`verify` a supernet of random weights with every candidate at a random gate, without eps.

    In double precision whatever is left of an identity's residual is then rounding, or a counter-example.

    Parameters
    ----------
    topology, cells, channels
        The supernet (:class:`wiring.supernet.textbook.PlainSupernet`).
    images, labels
        A batch, in double precision.
    seed
        Draws weights and gates.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = PlainSupernet(topology, cells, channels, int(labels.max()) + 1, images.shape[1]).double()
    drawn = DARTS(topology, [0] * cells, std=1.0, generator=random).double().draw(random)
    gates = Gates(drawn.values.detach(), drawn.active)
    return verify(
        set_eps(model, NO_EPS),
        images,
        labels,
        operations="cells.*.edges.*.*",
        cells="cells.*",
        forward=lambda model, images: model(images, gates),
        tolerance=1e-10,
    )


class _Trace:
    """What one forward pass inside the block shows of a model's wiring.

    Attributes
    ----------
    arguments
        What each module was called with last, by the modules' names in the order in which their calls ended.
    readers
        For each cell the outermost modules, cells and what holds them left out, that were given its very output.
    inner_edges
        The operations that were given what no module returned: the sum at an intermediate node.
    """

    def __init__(self, model: nn.Module, cells: str, operations: str) -> None:
        self.arguments: dict[str, tuple[Any, Any]] = {}
        self.readers: dict[str, list[str]] = {}
        self.inner_edges: set[str] = set()
        self._model = model
        self._outputs: dict[str, Any] = {}
        self._returned: dict[int, Any] = {}  # weak references: a tensor's number may be given to another one later
        names = [name for name, _ in model.named_modules()]
        self._cells, self._operations = set(fitting(names, cells)), set(fitting(names, operations))
        self._holding = {"", *(outer for cell in self._cells for outer in _outwards(cell))}
        self._handles: list[Any] = []

    def __enter__(self) -> "_Trace":
        for name, part in self._model.named_modules():
            before, after = self._before(name), self._after(name)
            self._handles.append(part.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(part.register_forward_hook(after, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _before(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: Any, named: Any) -> None:
            given = tree_leaves((inputs, named))
            if name in self._operations and not any(self._was_returned(x) for x in given):
                self.inner_edges.add(name)
            if name in self._holding:
                return
            for cell, output in self._outputs.items():
                own = self.readers[cell]
                if not any(outer in own for outer in _outwards(name)) and any(output is x for x in given):
                    own.append(name)

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: Any, named: Any, output: Any) -> None:
            self.arguments.pop(name, None)
            self.arguments[name] = inputs, named
            if name in self._cells:
                self._outputs[name], self.readers[name] = output, []
            if any(outer in self._operations for outer in _outwards(name)):
                return
            for x in tree_leaves(output):
                if isinstance(x, Tensor) and not any(x is y for y in tree_leaves((inputs, named))):
                    self._returned[id(x)] = ref(x)

        return hook

    def _was_returned(self, x: Any) -> bool:
        return id(x) in self._returned and self._returned[id(x)]() is x


@dataclass(frozen=True)
class _Evidence:
    """The batch's costs at the operations, what they and the readers pass on, and what that says of the identities.

    A cell whose operations cost less than ``least`` in all is taken to cost that much.
    """

    parts: Mapping[str, nn.Module]
    trace: _Trace
    arriving: Mapping[str, float]
    passed: Mapping[str, float]
    cell_costs: Mapping[str, float]
    least: float
    tolerance: float
    _degrees: dict[str, float] = field(default_factory=dict)

    def paths(self, operations: list[str]) -> Finding:
        degrees = {name: abs(self._degree(name)) for name in operations}
        broken = [name for name in operations if degrees[name] > self.tolerance]
        return self._finding(degrees, broken, f"{len(broken)} of {len(operations)} operations pass cost on")

    def assignment(self, inside: Mapping[str, list[str]]) -> Finding:
        residuals, broken = {}, []
        for cell, names in inside.items():
            terms = [*(self.arriving[name] for name in names), -self.cell_costs[cell]]
            residuals[cell], scale = self._sum(terms)
            broken += self._to_blame(residuals[cell], scale, [name for name in names if name in self.trace.inner_edges])
        return self._finding(residuals, broken, "edges do not cost what their cell's output does")

    def corollary(self, inside: Mapping[str, list[str]]) -> Finding:
        residuals, broken = {}, []
        for cell, names in inside.items():
            residuals[cell], scale = self._sum([self.arriving[name] for name in names])
            inner = [name for name in names if name in self.trace.inner_edges]
            broken += self._to_blame(residuals[cell], scale, [*self.trace.readers[cell], *inner])
        return self._finding(residuals, broken, "edges before the last cell cost something")

    def output(self, last: str, logits: Tensor, labels: Tensor, head: list[str]) -> Finding:
        log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
        loss, entropy = float(F.nll_loss(log_p, labels)), float(-(log_p.exp() * log_p).sum(1).mean())
        difference = f"{loss - entropy:.3f}"
        cost = self.cell_costs[last]
        residual = abs(cost - (loss - entropy)) / (loss + entropy)
        if residual <= self.tolerance:
            return Finding(residual, True, f"L - H = {difference}")
        broken = [name for name in head if abs(self._degree(name) - 1) > self.tolerance]
        return self._finding(
            {last: residual}, broken, f"the cost at the last cell's output is {cost:.3f} and L - H is {difference}"
        )

    def _finding(self, residuals: Mapping[str, float], broken: Iterable[str], what: str) -> Finding:
        worst = max(residuals, key=lambda name: residuals[name])
        if residuals[worst] <= self.tolerance:
            return Finding(residuals[worst], True, f"the largest at {worst}")
        modules = tuple(dict.fromkeys(broken))
        return Finding(residuals[worst], False, f"{what}: {self._blame(modules)}", modules)

    def _sum(self, terms: list[float]) -> tuple[float, float]:
        """The sum as a share of the terms' sizes, and these."""
        scale = max(sum(map(abs, terms)), self.least)
        return abs(sum(terms)) / scale, scale

    def _to_blame(self, residual: float, scale: float, names: list[str]) -> list[str]:
        """Those whose own passed cost makes the residual too large, the worst first; one at least if there is any."""
        if residual <= self.tolerance or not names:
            return []
        ranked = sorted(names, key=lambda name: -abs(self.passed[name]))
        return [name for name in ranked if abs(self.passed[name]) / scale > self.tolerance] or ranked[:1]

    def _degree(self, name: str) -> float:
        """The degree of a module at what it was called with."""
        if name not in self._degrees:
            self._degrees[name] = self._measured(name)
        return self._degrees[name]

    def _measured(self, name: str) -> float:
        given, structure = tree_flatten(self.trace.arguments[name])
        at = [k for k, x in enumerate(given) if isinstance(x, Tensor) and x.is_floating_point() and x.dim()]

        def operation(x: Tensor) -> Tensor:
            inputs, named = tree_unflatten([*given[: at[0]], x, *given[at[0] + 1 :]], structure)
            outputs = tree_leaves(self.parts[name](*inputs, **named))
            return next(y for y in outputs if isinstance(y, Tensor) and y.is_floating_point())

        return degree(operation, given[at[0]]) if at else 0.0

    def _matters(self, name: str, part: nn.Module) -> bool:
        """Whether it is this part, if it has a bias, that lets the module pass cost on: without it none would pass."""
        bias = getattr(part, "bias", None)
        if not isinstance(bias, Tensor) or hasattr(part, "eps"):
            return True
        kept = bias.detach().clone()
        with torch.no_grad():
            bias.zero_()
        without = self._measured(name)
        with torch.no_grad():
            bias.copy_(kept)
        return abs(without) <= self.tolerance

    def _blame(self, names: Iterable[str]) -> str:
        """Them by what in them is not as the theorems want it, the first of each kind by name."""
        kinds: dict[str, list[str]] = {}
        for name in names:
            kinds.setdefault(self._reason(name), []).append(name)
        found = [
            f"{own[0]}{f' and {len(own) - 1} like it' if len(own) > 1 else ''} ({reason})"
            for reason, own in sorted(kinds.items(), key=lambda item: -len(item[1]))
        ]
        return "; ".join(found) or "by what is no named module (a shortcut or a function)"

    def _reason(self, name: str) -> str:
        inside = [part for part in self.trace.arguments if part == name or part.startswith(f"{name}.")]
        degrees = {part: self._degree(part) for part in inside if not list(self.parts[part].children())}
        none = {part for part, own in degrees.items() if abs(own) <= self.tolerance}
        # A normalisation is to blame unless its degree is 0, any other part if its degree is neither 0 nor 1.
        for part, own in degrees.items():
            odd = part not in none and (abs(own - 1) > self.tolerance or hasattr(self.parts[part], "eps"))
            if odd and (part == name or self._matters(name, self.parts[part])):
                return _describe(self.parts[part])
        kind = type(self.parts[name]).__name__
        return f"{kind}: {'cost passes beside what normalises' if none else 'nothing in it normalises'}"


def _outwards(name: str) -> list[str]:
    """A module's name and those of the modules that it is in."""
    parts = name.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def _describe(part: nn.Module) -> str:
    kind = type(part).__name__
    if getattr(part, "running_mean", None) is not None and not part.training:
        return f"{kind} with running statistics, in evaluation mode"
    if getattr(part, "bias", None) is not None and not hasattr(part, "eps"):
        return f"{kind} with a bias"
    if hasattr(part, "eps"):
        return f"{kind} with eps = {part.eps:g}"
    return f"{kind}: not homogeneous"


def _check(logits: Any, labels: Tensor) -> None:
    """Refuse what is no matrix of logits of the labels' classes."""
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
        kind = (
            f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        )
        raise ValueError(f"the model returns {kind}, not logits ({len(labels)}, classes); give `forward` to get them")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        bounds = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels: from {bounds}, but the model has classes 0 to {logits.shape[1] - 1}")
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite on these images; no cost is then a number")


def _by_name(probe: CostProbe) -> dict[str, float]:
    return dict(zip(probe.names, probe.costs.tolist(), strict=True))


def _fitting(parts: Mapping[str, nn.Module], pattern: str, kind: str) -> list[str]:
    names = fitting(parts, pattern)
    if not names:
        such = f", such as {list(parts)[-1]!r}" if any(parts) else "; `forward` must call the model that it is given"
        raise ValueError(f"{kind} = {pattern!r}: fits no module that the model calls{such}")
    return names
