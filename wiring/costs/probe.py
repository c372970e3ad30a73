"""The cost hooks: measure ``C = <dL/dX, X>`` in an ordinary backward pass, in this supernet or in any module.

>>> with CostProbe(supernet) as probe:
...     cross_entropy(supernet(images, gates), labels).backward()
>>> probe.costs        # (cells, edges, operations): NaN where an operation was not sampled
>>> probe.per_image    # the same with a leading axis: each image's share, which sum to the above
>>> probe.cell_costs   # (cells,): <dL/dX_out, X_out> at the output of each cell

>>> with CostProbe(model, "cells.*.edges.*") as probe:
...     cross_entropy(model(images), labels).backward()
>>> dict(zip(probe.names, probe.costs))
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from wiring.supernet.gates import image_dot
from wiring.supernet.network import Supernet


class CostProbe:
    """While the block runs, every forward and backward pass of the model is measured; the last one is kept.

    Without ``modules`` the model is a :class:`wiring.Supernet`, and the cost of every cell, edge and operation
    is measured through its gates. With them the cost ``<dL/dX, X>`` is measured at the output ``X`` of each of those
    modules, summed over its calls and over the tensors of an output that has several. The model is not edited: modules
    that return their input, whose output is changed in place, that are frozen, checkpointed or run under autocast are
    measured alike.

    An operation that no path joins to the loss costs 0, as does ``none``; where nothing ran the cost is NaN. The loss
    is normally the batch mean, so that an image's share is 1/batch of its own cost. Probes may be nested; leaving the
    block, also by an exception, takes the hooks off, and a copy of the model made inside it has none.

    Parameters
    ----------
    model
        What is called inside the block.
    modules
        Submodules of the model by a name each, or a pattern of their names in the model: ``*`` stands for anything
        between two dots, so that ``cells.*`` are the cells and not what is in them.
    at
        ``"outputs"`` or ``"inputs"``. At its inputs is measured what comes back through a module alone: how much of the
        cost at its output it passes on. If it is homogeneous of degree 0 that is nothing (Theorem 1), of degree 1 all
        of it. Of several inputs those are measured that number as many images as the first.

    Raises
    ------
    ValueError
        If the model or a part of it is compiled, no name fits the pattern, a module is not the model's own, or modules
        are left out although the model is no Supernet.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module] | str | None = None,
        at: str = "outputs",
    ) -> None:
        if at not in ("outputs", "inputs"):
            raise ValueError(f"at = {at!r}: allowed are outputs and inputs")
        if modules is None and at != "outputs":
            raise ValueError(f"at = {at!r}: name the modules to measure there")
        self._at = at
        self.model, self._gated = model, modules is None
        self._modules = _chosen(model, modules)
        #: The modules' names, in the order of the last axis of their costs.
        self.names = tuple(self._modules)
        self._handles: list[Any] = []
        #: What each call of a module cost, by the module's name; a call that no gradient reaches costs 0.
        self._calls: dict[str, list[Float[Tensor, " batch"]]] = {}
        self._gate_costs: Tensor | None = None
        #: Whether a backward pass has set out from the model's last output.
        self._returned = False

    def __enter__(self) -> "CostProbe":
        self._handles.append(self.model.register_forward_pre_hook(_Hook(self._open)))
        self._handles.append(self.model.register_forward_hook(_Hook(self._close)))
        for name, module in self._modules.items():
            if self._at == "outputs":
                hook = _Hook(lambda _module, _inputs, output, name=name: self._tap(name, output))
                self._handles.append(module.register_forward_hook(hook))
            else:
                hook = _Hook(lambda _module, inputs, named, name=name: self._tap(name, (inputs, named)))
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    @property
    def costs(self) -> Float[Tensor, "*place"]:
        """The batch's costs, ``[cell, edge, operation]`` of a Supernet, ``[module]`` of named modules."""
        if self._gated:
            return self.per_image.sum(0)
        return torch.stack([cost.sum() for cost in self._module_costs()])

    @property
    def per_image(self) -> Float[Tensor, "batch *place"]:
        """Each image's share of them; the first axis of every output must number the images."""
        if not self._gated:
            return torch.stack(self._module_costs(), dim=1)
        if self._gate_costs is None or not self._returned:
            raise RuntimeError(_NOTHING)
        return self._gate_costs

    @property
    def cell_costs(self) -> Float[Tensor, " cell"]:
        """The costs at the outputs of a Supernet's cells."""
        return self.cell_per_image.sum(0)

    @property
    def cell_per_image(self) -> Float[Tensor, "batch cell"]:
        """Each image's share of them."""
        if not self._gated:
            raise RuntimeError("only a Supernet measured through its gates has cell costs; name its cells as modules")
        return torch.stack(self._module_costs(), dim=1)

    def _module_costs(self) -> list[Float[Tensor, " _"]]:
        if not self._calls or not self._returned:
            raise RuntimeError(_NOTHING)
        first = next(iter(self._calls.values()))[0]
        missing = torch.full_like(first, torch.nan)
        return [sum(calls[1:], calls[0]) if (calls := self._calls.get(name)) else missing for name in self.names]

    def _open(self, model: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not torch.is_grad_enabled():
            return None
        self._calls, self._returned = {}, False
        if not self._gated:
            return None
        images, gates = arguments
        values = gates.values.expand(len(images), *gates.active.shape)
        if not values.requires_grad:
            values = values.detach().requires_grad_()
        active = gates.active.to(values.device, non_blocking=True)
        # What no gradient reaches never calls the hook below: it costs nothing.
        self._gate_costs = _missing(torch.zeros_like(values), active)
        values.register_hook(lambda gradient: setattr(self, "_gate_costs", _missing(gradient, active)))
        return images, replace(gates, values=values)

    def _close(self, model: nn.Module, arguments: Any, output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        outputs = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]
        # Without weights and operations there is nothing to go back through, and nothing costs.
        self._returned = not outputs
        for x in outputs:
            x.register_hook(lambda _: setattr(self, "_returned", True))

    def _tap(self, name: str, tensors: Any) -> Any:
        if not torch.is_grad_enabled():
            return tensors
        images: int | None = None

        def tap(x: Any) -> Any:
            nonlocal images
            if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0:
                return x
            images = len(x) if images is None else images
            if len(x) != images:
                return x
            calls = self._calls.setdefault(name, [])
            call = len(calls)
            calls.append(x.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32)))
            # Named modules may be followed by anything, also by what changes their output in place; cells are not.
            return _Tap.apply(x, x.new_zeros((), requires_grad=True), not self._gated, partial(calls.__setitem__, call))

        return tree_map(tap, tensors)


_NOTHING = "nothing was measured yet: call the model inside the block, with gradients enabled, and then backward"


class _Tap(torch.autograd.Function):
    """A tensor passed on as it is, or as a copy; its way back hands ``<dL/dX, X>`` of each image to ``record``.

    The anchor wants a gradient and gets none: behind frozen modules nothing else would send the loss back this far.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, copy: bool, record: Callable[[Tensor], None]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.record = record
        return x.clone() if copy else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.record(image_dot(gradient, *ctx.saved_tensors))
        return gradient, None, None, None


class _Hook:
    """A hook that a copy of its module does not take along."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)

    def __deepcopy__(self, memo: Any) -> "_Hook":
        return _Hook(lambda *_: None)


def fitting(names: Iterable[str], pattern: str) -> list[str]:
    """The names of modules that fit a pattern; its ``*`` stands for anything between two dots."""
    wanted = pattern.split(".")
    return [
        name
        for name in names
        if name and len(own := name.split(".")) == len(wanted) and all(map(fnmatchcase, own, wanted))
    ]


def refuse_compiled(model: nn.Module) -> None:
    """Raise ValueError if the model or a part of it is compiled."""
    for part in model.modules():
        if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
            kind = type(model).__name__
            raise ValueError(f"model: {kind} is compiled, which leaves hooks out; probe it as it was before")


def _chosen(model: nn.Module, modules: Mapping[str, nn.Module] | str | None) -> dict[str, nn.Module]:
    """The modules to tap, by name."""
    refuse_compiled(model)
    kind, parts = type(model).__name__, dict(model.named_modules())
    if modules is None:
        if not isinstance(model, Supernet):
            raise ValueError(f"modules = None: name the submodules of {kind} to measure; only a Supernet needs none")
        return {f"cells.{number}": cell for number, cell in enumerate(model.cells)}
    if isinstance(modules, str):
        chosen = {name: parts[name] for name in fitting(parts, modules)}
        if not chosen:
            raise ValueError(f"modules = {modules!r}: fits no name of a part of {kind}, such as {list(parts)[-1]!r}")
        return chosen
    own = set(parts.values())
    if foreign := [name for name, module in modules.items() if module not in own]:
        raise ValueError(f"modules: {foreign[0]!r} is no submodule of the model {kind}")
    if not modules:
        raise ValueError("modules = {}: name at least one")
    return dict(modules)


def _missing(costs: Tensor, active: Tensor) -> Tensor:
    return costs.detach().masked_fill(~active, torch.nan)


class Statistics(nn.Module):
    """Count, mean, minimum and maximum of values over steps, NaN left out; stays on the values' device.

    Parameters
    ----------
    shape
        The shape of what :meth:`update` takes.
    device
        Where it lives.
    """

    count: Tensor
    total: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        super().__init__()
        start = {"count": 0.0, "total": 0.0, "low": torch.inf, "high": -torch.inf}
        for name, value in start.items():
            self.register_buffer(name, torch.full(shape, value, device=device))

    def update(self, values: Tensor) -> None:
        """Add one step's values; nothing waits for the device."""
        missing = values.isnan()
        self.count += ~missing
        self.total += values.masked_fill(missing, 0.0)
        torch.minimum(self.low, values.masked_fill(missing, torch.inf), out=self.low)
        torch.maximum(self.high, values.masked_fill(missing, -torch.inf), out=self.high)

    def result(self) -> dict[str, Tensor]:
        """``count``, ``mean``, ``min``, ``max`` on the CPU; where nothing was counted the last three are NaN."""
        nothing = self.count == 0
        return {
            "count": self.count.cpu(),
            "mean": (self.total / self.count).cpu(),
            "min": self.low.masked_fill(nothing, torch.nan).cpu(),
            "max": self.high.masked_fill(nothing, torch.nan).cpu(),
        }
