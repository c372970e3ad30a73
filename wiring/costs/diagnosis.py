"""Whom to blame where an identity fails: what a forward pass shows of a model's wiring, and its modules' degrees.

Euler's theorem: if ``f(cx) = c^d f(x)`` for all ``c > 0``, so that ``f`` is homogeneous of degree ``d``, then
differentiating at ``c = 1`` gives ``J x = d f(x)``. Hence ``<J^T g, x> = d <g, f(x)>`` whatever the gradient ``g`` is:
``f`` passes on to its input ``d`` times the cost at its output. A module's *degree* is measured as just that ratio.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cache, partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from wiring.costs.probe import is_batch, matching
from wiring.supernet.gates import image_dot


def degree(operation: Callable[[Tensor], Tensor], x: Float[Tensor, "batch *shape"], seed: int = 0) -> float:
    """The cost that an operation passes on to its input ``x``, in units of the cost at its output: 0 in Theorem 1.

    ``sum_n <(J^T g)_n, x_n> / sum_n <g_n, f(x)_n>`` over the images ``n``, for a random gradient ``g`` that the seed
    draws and under which every image's cost is positive.
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


class Trace(ExitStack):
    """What one forward pass inside the block shows of a model: its wiring, and its modules' degrees.

    Within the tolerance a degree is 0 or 1. Leaving the block takes the hooks off.
    """

    def __init__(self, model: nn.Module, cells: str, operations: str, tolerance: float) -> None:
        super().__init__()
        self.model, self.parts, self.tolerance = model, dict(model.named_modules()), tolerance
        #: A module's degree at what it was called with, by name.
        self.degree = cache(self._measured)
        #: What each module was called with last, by the modules' names in the order in which their calls ended.
        self.arguments: dict[str, tuple[Any, Any]] = {}
        #: For each cell the outermost modules, cells and what holds them left out, that were given its very output.
        self.readers: dict[str, list[str]] = {}
        #: The operations that were given what no module returned: the sum at an intermediate node.
        self.inner_edges: set[str] = set()
        self._patterns = {"operations": operations, "cells": cells}
        self._operations, self._cells = (set(matching(self.parts, pattern)) for pattern in (operations, cells))
        self._holding = {"", *(outer for cell in self._cells for outer in _outwards(cell))}
        self._outputs: dict[str, Any] = {}
        #: The tensors that a module made and returned.
        self._returned: Any = WeakTensorKeyDictionary()
        for name, part in self.parts.items():
            self.enter_context(part.register_forward_pre_hook(partial(self._before, name), with_kwargs=True))
            self.enter_context(part.register_forward_hook(partial(self._after, name), with_kwargs=True))

    def resolve(self) -> tuple[list[str], dict[str, list[str]]]:
        """The operations that ran, and those in each cell, the cells in the order in which they ran."""
        ran = [name for name in self.parts if name in self.arguments]
        names = {what: matching(ran, pattern) for what, pattern in self._patterns.items()}
        if unfit := [what for what in names if not names[what]]:
            such = f", such as {ran[-1]!r}" if any(ran) else "; `forward` must call the model that it is given"
            raise ValueError(f"{unfit[0]} = {self._patterns[unfit[0]]!r}: fits no module that the model calls{such}")
        operations, chain = names["operations"], sorted(names["cells"], key=list(self.arguments).index)
        inside = {cell: [name for name in operations if name.startswith(f"{cell}.")] for cell in chain}
        if empty := [cell for cell, names in inside.items() if not names]:
            raise ValueError(f"operations = {self._patterns['operations']!r}: fits none in the cell {empty[0]!r}")
        return operations, inside

    def _before(self, name: str, _: nn.Module, inputs: Any, named: Any) -> None:
        read = tree_leaves((inputs, named))
        if name in self._operations and not any(x in self._returned for x in read):
            self.inner_edges.add(name)
        if name in self._holding:
            return
        for cell, output in self._outputs.items():
            readers = self.readers[cell]
            if not any(outer in readers for outer in _outwards(name)) and any(output is x for x in read):
                readers.append(name)

    def _after(self, name: str, _: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        self.arguments.pop(name, None)
        self.arguments[name] = inputs, named
        if name in self._cells:
            self._outputs[name], self.readers[name] = output, []
        if self._operations.isdisjoint(_outwards(name)):
            made = [x for x in tree_leaves(output) if not any(x is y for y in tree_leaves((inputs, named)))]
            self._returned.update(dict.fromkeys(filter(torch.is_tensor, made), True))

    def is_leaf(self, name: str) -> bool:
        """Whether the module has no parts."""
        return not list(self.parts[name].children())

    def blame(self, names: Iterable[str]) -> str:
        """The modules by what is wrong with them, the most frequent first; of each kind the first by name."""
        reasons: dict[str, list[str]] = {}
        for name in names:
            reasons.setdefault(self._reason(name), []).append(name)
        texts = [
            f"{first}{f' and {len(others)} like it' if others else ''} ({reason})"
            for reason, (first, *others) in sorted(reasons.items(), key=lambda item: -len(item[1]))
        ]
        return "; ".join(texts) or "by what is no named module (a shortcut or a function)"

    def _measured(self, name: str) -> float:
        leaves, structure = tree_flatten(self.arguments[name])
        first = next((k for k, x in enumerate(leaves) if is_batch(x)), None)
        if first is None:
            return 0.0

        def operation(x: Tensor) -> Tensor:
            inputs, named = tree_unflatten([*leaves[:first], x, *leaves[first + 1 :]], structure)
            return next(filter(is_batch, tree_leaves(self.parts[name](*inputs, **named))))

        return degree(operation, leaves[first])

    def _reason(self, name: str) -> str:
        what = "nothing in it normalises"
        # A normalisation is to blame unless its degree is 0, any other part if its degree is neither 0 nor 1.
        for leaf in [part for part in self.arguments if name in _outwards(part) and self.is_leaf(part)]:
            part, d = self.parts[leaf], self.degree(leaf)
            if abs(d) <= self.tolerance:
                what = "cost passes beside what normalises"
            elif (abs(d - 1) > self.tolerance or hasattr(part, "eps")) and (leaf == name or self._matters(name, part)):
                return _describe(part)
        return f"{type(self.parts[name]).__name__}: {what}"

    def _matters(self, name: str, part: nn.Module) -> bool:
        """Whether it is this part, if it has a bias, that lets the module pass cost on: without it none would pass."""
        bias = getattr(part, "bias", None)
        if not isinstance(bias, Tensor) or hasattr(part, "eps"):
            return True
        kept, bias.data = bias.data, torch.zeros_like(bias)
        without = self._measured(name)
        bias.data = kept
        return abs(without) <= self.tolerance


def _outwards(name: str) -> list[str]:
    """A module's name and those of the modules that it is in."""
    return list(accumulate(name.split("."), "{}.{}".format))


def _describe(part: nn.Module) -> str:
    what = ": not homogeneous"
    if getattr(part, "running_mean", None) is not None and not part.training:
        what = " with running statistics, in evaluation mode"
    elif hasattr(part, "eps"):
        what = f" with eps = {part.eps:g}"
    elif getattr(part, "bias", None) is not None:
        what = " with a bias"
    return type(part).__name__ + what
