"""The paper's identities, checked on any supernet: how far each is from holding, and which module is to blame.

>>> report = verify(model, images, labels, operations="cells.*.edges.*.*", cells="cells.*")
>>> print(report)
>>> report["T1"].residual

- T1: an operation that is homogeneous of degree 0 passes no cost on to the node that it reads (Theorem 1).
- CA: the cost at a cell's output is the sum of the costs of the cell's operations (cost assignment).
- CO: in every cell but the last they sum to zero (Corollary).
- T2a: the cost at the last cell's output is cross-entropy minus entropy, ``L - H`` (Theorem 2).

All rest on Euler's theorem: for ``f`` homogeneous of degree ``d``, ``<J^T g, x> = d <g, f(x)>`` whatever the gradient
``g`` is. A module's *degree* is measured as just that, the cost at its inputs in units of the cost at its outputs.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from textwrap import fill, indent
from typing import Any
from weakref import ref

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from wiring.costs import CostProbe, fitting
from wiring.distributions import DARTS
from wiring.gates import Gates, image_dot
from wiring.plain import PlainSupernet
from wiring.topology import Topology

Forward = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Finding:
    """Whether one identity holds for a model.

    Parameters
    ----------
    residual
        How far from holding it is at the worst place, as a share of the costs there (0 to about 1). Where a cell's
        costs are less than a thousandth of the loss, that is what the residual is a share of.
    holds
        Whether that is within the tolerance.
    why
        Where it is worst or, if the identity fails, which modules break it and how.
    """

    residual: float
    holds: bool
    why: str


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

    The theorems are exact for 0. 0 itself makes a channel without variance NaN; 1e-30 vanishes beside any variance.
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
    y = operation(x)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype).to(y.device)
    arriving = image_dot(gradient, y.detach())
    gradient *= arriving.sign().to(gradient.dtype).view(-1, *(1 for _ in y.shape[1:]))
    (passed,) = torch.autograd.grad(y, x, gradient)
    return float(image_dot(passed, x.detach()).sum() / arriving.abs().sum())


def verify(
    model: nn.Module,
    images: Float[Tensor, "batch *shape"],
    labels: Int[Tensor, " batch"],
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
        A batch.
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
        If a pattern fits no module that ran, the output is no matrix of logits, or the tolerance is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance = {tolerance}: must be positive; a residual is never exactly 0")
    copy = deepcopy(model)
    call: Forward = forward if forward is not None else lambda model, images: model(images)
    calls, readers, inner_edges = _trace(copy, images, call, cells, operations)
    parts = {name: part for name, part in copy.named_modules() if name in calls}
    candidates = _fitting(parts, operations, "operations")
    chain = sorted(_fitting(parts, cells, "cells"), key=calls.index)
    leaves = [name for name, part in parts.items() if not list(part.children())]
    head = [name for name in leaves if calls.index(name) > calls.index(chain[-1])]
    reading = [name for own in readers.values() for name in own]
    inner = [leaf for leaf in leaves if any(leaf.startswith(f"{name}.") for name in (*candidates, *reading))]
    watched = {name: parts[name] for name in (*candidates, *reading, *inner, *head)}

    inside = {cell: [name for name in candidates if name.startswith(f"{cell}.")] for cell in chain}
    if empty := [cell for cell, names in inside.items() if not names]:
        raise ValueError(f"operations = {operations!r}: fits none in the cell {empty[0]!r}")

    with (
        CostProbe(copy, {name: parts[name] for name in chain}) as outputs,
        CostProbe(copy, watched) as arriving,
        CostProbe(copy, watched, at="inputs") as passed,
    ):
        logits = call(copy, images)
        if logits.dim() != 2 or len(logits) != len(labels):
            raise ValueError(
                f"the model's output has shape {tuple(logits.shape)}, not ({len(labels)}, classes); "
                "say in `forward` how to get the logits"
            )
        loss = F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)
        loss.backward()
    at = _Costs(parts, _by_name(arriving), _by_name(passed), inner_edges, loss.detach() / 1000, tolerance)
    cell_costs = _by_name(outputs)

    findings = {"T1": at.paths(candidates)}
    findings["CA"] = at.assignment(cell_costs, inside)
    if len(chain) > 1:
        findings["CO"] = at.corollary({cell: inside[cell] for cell in chain[:-1]}, readers)
    findings["T2a"] = at.output(cell_costs[chain[-1]], logits.detach(), labels, head)
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
        The supernet (:class:`wiring.plain.PlainSupernet`).
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
        set_eps(model, 1e-30),
        images,
        labels,
        operations="cells.*.edges.*.*",
        cells="cells.*",
        forward=lambda model, images: model(images, gates),
        tolerance=1e-10,
    )


@dataclass(frozen=True)
class _Costs:
    """The costs of each image at the outputs and the inputs of modules, and what they say of the identities.

    ``inner_edges`` are the operations that read an intermediate node; a cell that costs less than ``least`` is taken to
    cost that much.
    """

    parts: Mapping[str, nn.Module]
    arriving: Mapping[str, Tensor]
    passed: Mapping[str, Tensor]
    inner_edges: set[str]
    least: Tensor
    tolerance: float

    def paths(self, operations: list[str]) -> Finding:
        shares = {name: self._share(name) for name in operations}
        broken = [name for name in operations if shares[name] > self.tolerance]
        why = f"{len(broken)} of {len(operations)} operations pass cost on: {self._blame(broken)}"
        return self._finding(shares, why)

    def assignment(self, cell_costs: Mapping[str, Tensor], inside: Mapping[str, list[str]]) -> Finding:
        residuals, broken = {}, []
        for cell, names in inside.items():
            own = torch.stack([*(self.arriving[name].sum() for name in names), -cell_costs[cell].sum()])
            residuals[cell] = _ratio(own.sum(), own, self.least)
            if residuals[cell] > self.tolerance:
                broken += [name for name in names if name in self.inner_edges and self._passes(name)]
        return self._finding(residuals, f"edges do not cost what their cell's output does: {self._blame(broken)}")

    def corollary(self, inside: Mapping[str, list[str]], readers: Mapping[str, list[str]]) -> Finding:
        residuals, broken = {}, []
        for cell, names in inside.items():
            own = torch.stack([self.arriving[name].sum() for name in names])
            residuals[cell] = _ratio(own.sum(), own, self.least)
            if residuals[cell] > self.tolerance:
                passing = [*readers[cell], *(name for name in names if name in self.inner_edges)]
                broken += [name for name in passing if self._passes(name)]
        return self._finding(residuals, f"edges before the last cell cost something: {self._blame(broken)}")

    def output(self, cost: Tensor, logits: Tensor, labels: Tensor, head: list[str]) -> Finding:
        log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
        loss, entropy = F.nll_loss(log_p, labels), -(log_p.exp() * log_p).sum(1).mean()
        residual = float((cost.sum() - (loss - entropy)).abs() / (loss + entropy))
        broken = [name for name in head if self._degree(name) != 1]
        why = (
            f"the cost at the last cell's output is {cost.sum():.3f} and L - H is {loss - entropy:.3f}: "
            + self._blame(broken)
        )
        holds = residual <= self.tolerance
        return Finding(residual, holds, f"L - H = {loss - entropy:.3f}" if holds else why)

    def _finding(self, residuals: Mapping[str, float], why: str) -> Finding:
        worst = max(residuals, key=lambda name: residuals[name])
        holds = residuals[worst] <= self.tolerance
        return Finding(residuals[worst], holds, f"the largest at {worst}" if holds else why)

    def _share(self, name: str) -> float:
        """How much of the cost at a module's output it passes on."""
        return _ratio(self.passed[name].sum(), self.arriving[name])

    def _passes(self, name: str) -> bool:
        return self._share(name) > self.tolerance

    def _degree(self, name: str) -> int | None:
        """0 if no cost passes the module, 1 if all does, None otherwise."""
        if not self._passes(name):
            return 0
        arriving = self.arriving[name]
        return 1 if _ratio(self.passed[name].sum() - arriving.sum(), arriving) <= self.tolerance else None

    def _blame(self, names: list[str]) -> str:
        """Them by what in them is not as the theorems want it, the worst of each kind by name."""
        kinds: dict[str, list[str]] = {}
        for name in sorted(dict.fromkeys(names), key=self._share, reverse=True):
            kinds.setdefault(self._reason(name), []).append(name)
        found = [
            f"{own[0]}{f' and {len(own) - 1} like it' if len(own) > 1 else ''} ({reason})"
            for reason, own in sorted(kinds.items(), key=lambda item: -len(item[1]))
        ]
        return "; ".join(found) or "by what is no named module (a shortcut or a function)"

    def _reason(self, name: str) -> str:
        inside = [part for part in self.arriving if part == name or part.startswith(f"{name}.")]
        leaves = [part for part in inside if not list(self.parts[part].children())]
        degrees = {leaf: self._degree(leaf) for leaf in leaves}
        # A normalisation is to blame unless its degree is 0, any other part if its degree is neither 0 nor 1.
        if odd := [leaf for leaf, own in degrees.items() if own is None or (own and hasattr(self.parts[leaf], "eps"))]:
            return _describe(self.parts[odd[0]])
        kind = type(self.parts[name]).__name__
        if 0 in degrees.values():
            return f"{kind}: cost passes beside what normalises"
        return f"{kind}: nothing in it normalises"


def _describe(part: nn.Module) -> str:
    kind = type(part).__name__
    if getattr(part, "running_mean", None) is not None and not part.training:
        return f"{kind} with running statistics, in evaluation mode"
    if getattr(part, "bias", None) is not None and not hasattr(part, "eps"):
        return f"{kind} with a bias"
    if hasattr(part, "eps"):
        return f"{kind} with eps = {part.eps:g}"
    return f"{kind}: not homogeneous"


def _ratio(part: Tensor, costs: Tensor, least: Tensor | float = 0.0) -> float:
    """``|part| / sum |costs|``; 0 where there is no cost at all."""
    scale = costs.abs().sum().clamp(min=least)
    return float(part.abs() / scale) if scale > 0 else 0.0


def _by_name(probe: CostProbe) -> dict[str, Tensor]:
    return dict(zip(probe.names, probe.per_image.unbind(1), strict=True))


def _fitting(parts: Mapping[str, nn.Module], pattern: str, kind: str) -> list[str]:
    names = fitting(parts, pattern)
    if not names:
        raise ValueError(f"{kind} = {pattern!r}: fits no module that the model calls, such as {list(parts)[-1]!r}")
    return names


def _trace(
    model: nn.Module, images: Tensor, call: Forward, cells: str, operations: str
) -> tuple[list[str], dict[str, list[str]], set[str]]:
    """What one forward pass shows of a model's wiring.

    Returns
    -------
    calls
        The modules' names in the order in which their (last) calls end.
    readers
        For each cell the outermost modules, cells and what holds them left out, that are given its very output.
    inner_edges
        The operations that are given what no module returned: the sum at an intermediate node.
    """
    calls: list[str] = []
    outputs: dict[str, Tensor] = {}
    readers: dict[str, list[str]] = {}
    inner_edges: set[str] = set()
    returned: dict[int, Any] = {}  # weak references: a pass's tensors need not all stay
    names = [name for name, _ in model.named_modules()]
    are_cells, are_operations = fitting(names, cells), fitting(names, operations)

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if name in are_operations and not any(id(x) in returned and returned[id(x)]() is x for x in inputs):
                inner_edges.add(name)
            if any(cell == name or cell.startswith(f"{name}.") for cell in are_cells) or not name:
                return
            for cell, output in outputs.items():
                inner = any(name == reader or name.startswith(f"{reader}.") for reader in readers[cell])
                if not inner and any(output is x for x in inputs):
                    readers[cell].append(name)

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if name in calls:
                calls.remove(name)
            calls.append(name)
            if name in are_cells:
                outputs[name], readers[name] = output, []
            of_operation = any(name == own or name.startswith(f"{own}.") for own in are_operations)
            if isinstance(output, Tensor) and not of_operation and not any(output is x for x in inputs):
                returned[id(output)] = ref(output)

        return hook

    handles: list[Any] = []
    for name, part in model.named_modules():
        handles += [part.register_forward_pre_hook(before(name)), part.register_forward_hook(after(name))]
    try:
        with torch.no_grad():
            call(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return calls, readers, inner_edges
