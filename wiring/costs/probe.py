"""The cost hooks: measure ``C = <dL/dX, X>`` in an ordinary backward pass, in this supernet or in any model.

A cost has the unit of the loss: nats, if that is a cross-entropy with natural logarithms, as torch's is.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from wiring.supernet import Gates, Supernet
from wiring.supernet.gates import image_dot

Modules = Mapping[str, nn.Module]


class CostProbe(ExitStack):
    """Measures the cost ``<dL/dX, X>`` at the output ``X`` of each of a model's modules, while the block runs.

    ``modules`` are submodules of the model by a name each, or a pattern of their names in the model: ``*`` stands for
    anything between two dots, so that ``cells.*`` are the cells and not what is in them. Raises ValueError if there are
    none, one is not the model's own, or the model or a part of it is compiled.

    Of the passes inside the block the last is kept. A cost is summed over the calls of its module and over the tensors
    of an output that has several; it is 0 if no path joins the output to the loss, NaN if the module did not run. The
    loss is normally the batch's mean, so that an image's share is 1/batch of its own cost. The model is not edited:
    modules that return their input, whose output is changed in place, that are frozen, checkpointed or run under
    autocast are measured alike. Probes may be nested; leaving the block, also by an exception, takes the hooks off.

    With ``at="inputs"`` what comes back through a module alone is measured: how much of the cost at its output it
    passes on, nothing if it is homogeneous of degree 0 (Theorem 1), all if of degree 1. Of several inputs those are
    measured that number as many images as the first.
    """

    def __init__(self, model: nn.Module, modules: Modules | str | None = None, at: str = "outputs") -> None:
        if at not in ("outputs", "inputs"):
            raise ValueError(f"at = {at!r}: allowed are outputs and inputs")
        super().__init__()
        refuse_compiled(model)
        self.model, self._at, self._modules = model, at, _chosen(model, modules)
        #: The modules' names, in the order of the last axis of their costs.
        self.names = tuple(self._modules)
        #: Whether something may change a measured tensor in place, so that the model has to go on with a copy.
        self._copy = True
        #: What each call of a module cost, by the module's name; a call that no gradient reaches costs 0.
        self._calls: dict[str, list[Float[Tensor, " batch"]]] = {}
        #: Whether a backward pass has set out from the model's last output.
        self._returned = False

    @property
    def costs(self) -> Float[Tensor, " module"]:
        """The batch's costs, in the unit of the loss."""
        return torch.stack([cost.sum() for cost in self._module_costs()])

    @property
    def per_image(self) -> Float[Tensor, "batch module"]:
        """Each image's share of them; the first axis of every output must number the images."""
        return torch.stack(self._module_costs(), dim=1)

    def by_name(self) -> dict[str, float]:
        """The batch's costs by the modules' names."""
        return dict(zip(self.names, self.costs.tolist(), strict=True))

    def __enter__(self) -> "CostProbe":
        self.enter_context(self.model.register_forward_pre_hook(_Hook(self._begin)))
        self.enter_context(self.model.register_forward_hook(_Hook(self._end)))
        for name, part in self._modules.items():
            before = partial(part.register_forward_pre_hook, with_kwargs=True)
            register: Any = part.register_forward_hook if self._at == "outputs" else before
            self.enter_context(register(_Hook(self._measure, name)))
        return self

    def _begin(self, *_: Any) -> None:
        self._calls, self._returned = {}, False

    def _end(self, model: nn.Module, inputs: Any, output: Any) -> None:
        outputs = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]
        # Without weights and operations there is nothing to go back through, and nothing costs.
        self._returned = not outputs
        for x in outputs:
            x.register_hook(lambda _: setattr(self, "_returned", True))

    def _measure(self, name: str, module: nn.Module, inputs: Any, last: Any) -> Any:
        """Hooked on a module's outputs, which are ``last``, or on its inputs, the named ones of which are ``last``."""
        tensors = last if self._at == "outputs" else (inputs, last)
        images = next((len(x) for x in tree_leaves(tensors) if is_batch(x)), 0)

        def tap(x: Any) -> Any:
            if not is_batch(x) or len(x) != images:
                return x
            cost = x.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32))
            self._calls.setdefault(name, []).append(cost)
            return _Tap.apply(x, x.new_zeros((), requires_grad=True), self._copy, cost)

        return tree_map(tap, tensors)

    def _check_measured(self) -> None:
        if not self._calls or not self._returned:
            raise RuntimeError(
                "nothing was measured yet: call the model inside the block, with gradients enabled, and then backward"
            )

    def _module_costs(self) -> list[Float[Tensor, " _"]]:
        """Each module's costs by image, summed over its calls; NaN if it did not run."""
        self._check_measured()
        missing = torch.full_like(next(iter(self._calls.values()))[0], torch.nan)
        return [sum(calls[1:], calls[0]) if (calls := self._calls.get(name)) else missing for name in self._modules]


class GateProbe(ExitStack):
    """Measures the cost of every cell, edge and operation of a :class:`wiring.Supernet`, while the block runs.

    A gate multiplies its operation's output, so the loss's gradient with respect to the gate *is* the operation's cost
    ``<dL/dX, O(X)>``. Where the operation was not sampled the cost is NaN; if it was, but no path joins it to the loss,
    0, as of ``none``. Else all is as for :class:`CostProbe`. Raises ValueError for another model, or a compiled one.
    """

    def __init__(self, supernet: nn.Module) -> None:
        super().__init__()
        refuse_compiled(supernet)
        if not isinstance(supernet, Supernet):
            kind = type(supernet).__name__
            raise ValueError(f"supernet: {kind} has no gates; CostProbe(model, modules) measures any model")
        self.model, self._cells = supernet, CostProbe(supernet, "cells.*")
        self._cells._copy = False  # nothing changes a cell's output in place
        self._gate_costs = torch.zeros(0)

    @property
    def costs(self) -> Float[Tensor, "cell edge operation"]:
        """The batch's costs, in the unit of the loss."""
        return self.per_image.sum(0)

    @property
    def per_image(self) -> Float[Tensor, "batch cell edge operation"]:
        """Each image's share of them."""
        self._cells._check_measured()
        return self._gate_costs

    @property
    def cell_costs(self) -> Float[Tensor, " cell"]:
        """The batch's costs ``<dL/dX, X>`` at the cells' outputs ``X``."""
        return self.cell_per_image.sum(0)

    @property
    def cell_per_image(self) -> Float[Tensor, "batch cell"]:
        """Each image's share of them."""
        return self._cells.per_image

    def __enter__(self) -> "GateProbe":
        self.enter_context(self._cells)
        self.enter_context(self.model.register_forward_pre_hook(_Hook(self._measure)))
        return self

    def _measure(self, model: nn.Module, inputs: tuple[Tensor, Gates]) -> tuple[Tensor, Gates]:
        images, gates = inputs
        values = gates.values.expand(len(images), *gates.active.shape)
        if not values.requires_grad:
            values = values.detach().requires_grad_()
        active = gates.active.to(values.device, non_blocking=True)

        def note(gradient: Tensor) -> None:
            self._gate_costs = gradient.detach().masked_fill(~active, torch.nan)

        note(torch.zeros_like(values))  # what no gradient reaches costs nothing
        # After two backward passes through one forward pass `retain_grad` would have their sum; this has the last.
        values.register_hook(note)
        return images, replace(gates, values=values)


class _Tap(torch.autograd.Function):
    """Identity (or clone) whose backward writes each image's ``<dL/dX, X>`` into ``cost``.

    The anchor wants a gradient and gets none: behind frozen modules nothing else would send the loss back this far.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, copy: bool, cost: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.cost = cost
        return x.clone() if copy else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.cost.copy_(image_dot(gradient, *ctx.saved_tensors))
        return gradient, None, None, None


class _Hook(partial[Any]):
    """A hook that is called if gradients are enabled, and does nothing in a copy of its module."""

    def __call__(self, *arguments: Any) -> Any:
        return super().__call__(*arguments) if torch.is_grad_enabled() else None

    def __deepcopy__(self, memo: Any) -> "_Hook":
        return _Hook(lambda *_: None)


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names of modules that match a pattern; its ``*`` stands for anything between two dots."""
    wanted = pattern.split(".")
    split = {name: name.split(".") for name in names if name}
    return [name for name, parts in split.items() if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))]


def is_batch(x: Any) -> bool:
    """Whether it is what may have a cost: a tensor of real numbers whose first axis may number images."""
    return isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 0


def refuse_compiled(model: nn.Module) -> None:
    """Raise ValueError if the model or a part of it is compiled."""
    if any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in model.modules()):
        kind = type(model).__name__
        raise ValueError(f"model: {kind} is compiled, which leaves hooks out; probe it as it was before")


def _chosen(model: nn.Module, modules: Modules | str | None) -> Modules:
    """The modules to measure, by name."""
    whole, parts = type(model).__name__, dict(model.named_modules())
    if modules is None:
        instead = ", or let GateProbe measure its gates" if isinstance(model, Supernet) else ""
        raise ValueError(f"modules = None: name the submodules of {whole} to measure{instead}")
    if isinstance(modules, str):
        if not (names := matching(parts, modules)):
            raise ValueError(f"modules = {modules!r}: fits no name of a part of {whole}, such as {list(parts)[-1]!r}")
        return {name: parts[name] for name in names}
    if foreign := [name for name, module in modules.items() if module not in set(parts.values())]:
        raise ValueError(f"modules: {foreign[0]!r} is no submodule of the model {whole}")
    if not modules:
        raise ValueError("modules = {}: name at least one")
    return dict(modules)


class Statistics(nn.Module):
    """Count, mean, minimum and maximum over steps of values of a shape, NaN left out; stays on the values' device."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.count, self.total = nn.Buffer(torch.zeros(shape)), nn.Buffer(torch.zeros(shape))
        self.low, self.high = nn.Buffer(torch.full(shape, torch.inf)), nn.Buffer(torch.full(shape, -torch.inf))

    def update(self, values: Tensor) -> None:
        """Add one step's values; nothing waits for the device."""
        missing = values.isnan()
        self.count.add_(~missing)
        self.total.add_(values.masked_fill(missing, 0.0))
        torch.minimum(self.low, values.masked_fill(missing, torch.inf), out=self.low)
        torch.maximum(self.high, values.masked_fill(missing, -torch.inf), out=self.high)

    def result(self) -> dict[str, Tensor]:
        """``count``, ``mean``, ``min``, ``max`` on the CPU; where nothing was counted the last three are NaN."""
        low, high = (extreme.masked_fill(self.count == 0, torch.nan) for extreme in (self.low, self.high))
        results = {"count": self.count, "mean": self.total / self.count, "min": low, "max": high}
        return {name: values.cpu() for name, values in results.items()}
