"""The cost hooks: measure ``C = <dL/dX, X>`` in an ordinary backward pass, in this supernet or in any model.

A cost has the unit of the loss: nats, if that is a cross-entropy with natural logarithms, as torch's is.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from wiring.supernet import Gates, Supernet
from wiring.supernet.gates import image_dot, moved

#: Which modules: by a name each, by a pattern of names in the model, or by several names and patterns.
Modules = Mapping[str, nn.Module] | Iterable[str]


class CostProbe(ExitStack):
    """Measures the cost ``<dL/dX, X>`` at the output ``X`` of each of a model's modules, while the block runs.

    ``modules``, which must be given, are submodules of the model by a name each, a pattern of their names in the model,
    or several patterns: ``*`` stands for anything between two dots, so that ``cells.*`` are the cells and not what is
    in them (``?`` and ``[01]`` are what they are to fnmatch). Raises ValueError if one fits none or is not the model's
    own, or a part of the model is compiled or traced.

    Costs are those of the last forward pass inside the block that a backward pass came back to, and of the last
    backward pass through it. They are summed over a module's calls and over the tensors of an output that has several,
    in tuples, lists and dictionaries.
    A cost is 0 if no path joins the output to the loss, and NaN if there is none: the module did not run or not with
    gradients, or ``backward(inputs=...)`` or ``autograd.grad`` did not go as far. The loss is normally the batch's
    mean, so that an image's share is 1/batch of its own cost; if it is scaled (``GradScaler``), so are the costs.

    The model is not edited: modules that return their input, whose output is changed in place, that are frozen,
    checkpointed or run under autocast are measured alike. A tensor that no module returns has a cost if one is made to
    return it: ``self.node = nn.Identity()``. Not seen is what reaches the loss beside a module's return, as an
    attribute that its ``forward`` keeps. Probes may be nested; leaving the block, also by an exception, takes the hooks
    off.
    """

    def __init__(self, model: nn.Module, modules: Modules | None = None) -> None:
        super().__init__()
        refuse_compiled(model)
        self.model, self._modules = model, chosen(model, modules)
        #: The modules' names, in the order of the last axis of their costs.
        self.names = tuple(self._modules)
        #: Whether something may change a measured tensor in place, so that the model has to go on with a copy.
        self._copy = True
        #: The forward pass that runs; the one that a backward pass came back to last; the last of those in the block.
        self._running: _Pass | None = None
        self._returning = self._measured = _Pass(0)
        self._count = 0
        #: Whether a module ran that no call of the model had called.
        self._outside = False

    @property
    def costs(self) -> Float[Tensor, " module"]:
        """The batch's costs, in the unit of the loss. Raises RuntimeError where nothing was measured, and says why."""
        return torch.stack(self._read(lambda cost: cost.sum()))

    @property
    def per_image(self) -> Float[Tensor, "batch module"]:
        """Each image's share. Raises RuntimeError like costs, or where outputs' first axes number other than images."""
        calls = {name: self._measured.costs(name) for name in self.names}
        lengths = {len(cost): name for name, costs in calls.items() for cost in costs}
        if len(lengths) > 1:
            what = " and ".join(f"{length} ({name})" for length, name in lengths.items())
            raise RuntimeError(f"per_image: the first axes of what was measured have lengths of {what}; costs are sums")
        return torch.stack(self._read(lambda cost: cost), dim=1)

    def by_name(self) -> dict[str, float]:
        """The batch's costs by the modules' names."""
        return dict(zip(self.names, self.costs.tolist(), strict=True))

    def __enter__(self) -> "CostProbe":
        self.enter_context(self.model.register_forward_pre_hook(_Hook(self._begin)))
        self.enter_context(self.model.register_forward_hook(_Hook(self._end)))
        for name, part in self._modules.items():
            # First of the module's hooks, so that another that keeps its output keeps what is measured.
            self.enter_context(part.register_forward_hook(_Hook(self._measure, name), prepend=True))
        return self

    def _begin(self, *_: Any) -> None:
        self._count += 1
        self._running = _Pass(self._count)

    def _end(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        """Tap the model's outputs, too: a backward pass sets out there, even one that comes to no module."""
        ended, self._running = self._running, None
        if ended is None:  # a recursive call has ended it
            return output

        def tap(x: Any) -> Any:
            return Tap.apply(x, ended.anchor, True, partial(self._set_out, ended)) if _is_real(x) else x

        return tree_map(tap, output)

    def _set_out(self, of: "_Pass", *_: Tensor) -> None:
        of.restart(backward_pass())
        self._come_back(of)

    def _come_back(self, to: "_Pass") -> None:
        self._returning = to
        if to.number >= self._measured.number:
            self._measured = to

    def _now(self) -> "_Pass | None":
        """The pass that a call belongs to; in a backward pass, which runs what was checkpointed again, that one's."""
        if self._running is not None and self._running.within == backward_pass():
            return self._running
        return None if backward_pass() is None else self._returning

    def _measure(self, name: str, module: nn.Module, inputs: Any, output: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                "a cost is measured in loss.backward() or autograd.grad; torch.func's transforms have none"
            )
        if (now := self._now()) is None:
            self._outside = True
            return None

        def tap(x: Any) -> Any:
            if not _is_real(x):
                return x
            precision, shape = torch.promote_types(x.dtype, torch.float32), x.shape[:1] or (1,)
            # Not x.new_zeros, which would keep x alive for as long as the pass is known.
            call = now.call(name, partial(torch.zeros, shape, dtype=precision.to_real(), device=x.device))
            return Tap.apply(x, now.anchor, self._copy, partial(self._note, now, call))

        return tree_map(tap, output)

    def _note(self, of: "_Pass", call: "_Call", gradient: Tensor, x: Tensor) -> None:
        if x.is_complex():
            gradient, x = torch.view_as_real(gradient), torch.view_as_real(x)
        call.cost = image_dot(gradient, x) if x.dim() else (gradient * x)[None]
        self._come_back(of)

    def _check_measured(self) -> None:
        if self._measured.number:
            return
        if self._outside:
            raise RuntimeError(
                f"modules ran, but not by a call of the model: call the {type(self.model).__name__} itself, not its "
                "`forward`, another method or a part of it"
            )
        raise RuntimeError(
            "nothing was measured yet: call the model inside the block, with gradients enabled, and then backward"
        )

    def _read(self, read: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What is read of each module's calls, summed over them; NaN if it did not run."""
        self._check_measured()
        calls = {name: [read(cost) for cost in self._measured.costs(name)] for name in self.names}
        like = next((costs[0] for costs in calls.values() if costs), None)
        if like is None:
            (first, part), more = next(iter(self._modules.items())), len(calls) - 1
            raise RuntimeError(
                f"{first} ({type(part).__name__}){f' and {more} more' if more else ''}: no call with gradients in the "
                "pass that returned tensors. Not drawn, under no_grad, in a compiled function, or tensors in no tuple, "
                "list or dictionary? Or does its owner call its `forward`, or a function of its weights (a fused one)?"
            )
        missing = torch.full_like(like, torch.nan)
        return [sum(costs[1:], costs[0]) if costs else missing for costs in calls.values()]


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
        #: What the last forward pass ran, and what it left out, on the device; relaxed gates always run the same.
        self._inactive: tuple[list[Any], Tensor] | None = None

    @property
    def costs(self) -> Float[Tensor, "cell edge operation"]:
        """The batch's costs, in the unit of the loss."""
        return self.per_image.sum(0)

    @property
    def per_image(self) -> Float[Tensor, "batch cell edge operation"]:
        """Each image's share of them."""
        self._cells._check_measured()
        (costs,) = self._cells._measured.costs("")
        return costs

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
        values = moved(gates.values, images.device).expand(len(images), *gates.active.shape)
        if not values.requires_grad:
            values = values.detach().requires_grad_()
        active = gates.active.tolist()
        if self._inactive is None or self._inactive[0] != active:
            self._inactive = active, moved(~gates.active, values.device)
        inactive = self._inactive[1].to(values.device)
        nothing = partial(torch.zeros, values.shape, dtype=values.dtype, device=values.device)
        now = self._cells._running
        assert now is not None  # the cells' probe has begun it
        call = now.call("", lambda: nothing().masked_fill(inactive, torch.nan))

        def note(gradient: Tensor) -> None:
            call.cost = gradient.detach().masked_fill(inactive, torch.nan)

        # After two backward passes through one forward pass `retain_grad` would have their sum; this has the last.
        values.register_hook(note)
        return images, replace(gates, values=values)


class _Call:
    """A tensor of a module's call and what it cost, if a backward pass came to it."""

    def __init__(self, nothing: Callable[[], Tensor]) -> None:
        self.nothing, self.again = nothing, backward_pass() is not None
        self.cost: Tensor | None = None


class _Pass:
    """A forward pass of the model, and what the last backward pass through it found that its calls cost."""

    def __init__(self, number: int) -> None:
        self.number, self._calls = number, dict[str, list[_Call]]()
        #: The backward pass that the forward pass is a part of, as that of a checkpointed model, and the one back.
        self.within, self._back = backward_pass(), backward_pass()
        #: A leaf behind every tap, also where the model's weights are frozen. A backward pass arrives at it if it goes
        #: to all leaves; what it then has not come to is joined to the loss by no path.
        self.anchor = torch.zeros((), requires_grad=True)
        self._whole: list[Tensor] = []
        self.anchor.register_hook(self._whole.append)

    def call(self, name: str, nothing: Callable[[], Tensor]) -> _Call:
        """Note a tensor of a call of a module; ``nothing`` makes the cost of one that has no path to the loss."""
        self._calls.setdefault(name, []).append(call := _Call(nothing))
        return call

    def restart(self, backward: int | None) -> None:
        """Forget what an earlier backward pass found."""
        if backward == self._back:
            return
        self._back = backward
        self._whole.clear()
        for calls in self._calls.values():
            for call in calls:
                call.cost = None

    def costs(self, name: str) -> list[Tensor]:
        """What each tensor of a module's calls cost; of those computed again for a checkpoint one of two counts."""
        costs = []
        for call in self._calls.get(name, ()):
            if call.cost is not None:
                costs.append(call.cost)
            elif not call.again:
                costs.append(call.nothing() if self._whole else torch.full_like(call.nothing(), torch.nan))
        return costs


class Tap(torch.autograd.Function):
    """Identity (or clone) that hands the gradient that comes back, and the tensor, to ``note``.

    The anchor wants a gradient and gets none: behind frozen modules nothing else would send the loss back this far.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, copy: bool, note: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.note = note
        return x.clone() if copy else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.note(gradient.detach(), *ctx.saved_tensors)
        return gradient, None, None, None


class _Hook(partial[Any]):
    """A hook that is called if gradients are enabled, and does nothing in a copy of its module."""

    def __call__(self, *arguments: Any) -> Any:
        return super().__call__(*arguments) if torch.is_grad_enabled() else None

    def __deepcopy__(self, memo: Any) -> "_Hook":
        return _Hook(lambda *_: None)


def backward_pass() -> int | None:
    """The number of the backward pass that runs; of one within another, as for a checkpoint, its own."""
    task = torch._C._current_graph_task_id()
    return None if task < 0 else task


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names of modules that match a pattern; its ``*`` stands for anything between two dots."""
    wanted = pattern.split(".")
    split = {name: name.split(".") for name in names if name}
    return [name for name, parts in split.items() if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))]


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def refuse_compiled(model: nn.Module) -> None:
    """Raise ValueError if the model or a part of it is compiled or traced, or it is none."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: {type(model).__name__} is no torch.nn.Module")
    for part in model.modules():
        if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
            how = "compiled"
        elif isinstance(part, torch.jit.ScriptModule):
            how = "traced"
        else:
            continue
        which = "" if part is model else f" has a part, {type(part).__name__}, that"
        raise ValueError(
            f"model: {type(model).__name__}{which} is {how}, which leaves hooks out; probe it as it was before"
        )


def chosen(model: nn.Module, modules: Modules | None, what: str = "modules") -> Mapping[str, nn.Module]:
    """The modules by name. Raises ValueError as CostProbe; ``what`` is the name of the parameter."""
    whole, parts = type(model).__name__, dict(model.named_modules())
    if modules is None:
        instead = ", or let GateProbe measure its gates" if isinstance(model, Supernet) else ""
        raise ValueError(f"{what} = None: name the submodules of {whole} to measure{instead}")
    if isinstance(modules, Mapping):
        for name, module in modules.items():
            if not any(module is part for part in parts.values()):
                what_it_is = f" but {module!r}; values are modules" if isinstance(module, str) else ""
                raise ValueError(f"{what}: {name!r} is no submodule of the model {whole}{what_it_is}")
        found = dict(modules)
    elif isinstance(modules, nn.Module) or not isinstance(modules, Iterable):
        raise ValueError(f"{what}: {type(modules).__name__} is no pattern; give names, patterns or a mapping of names")
    else:
        patterns = [modules] if isinstance(modules, str) else list(modules)
        if odd := [pattern for pattern in patterns if not isinstance(pattern, str)]:
            raise ValueError(f"{what}: {type(odd[0]).__name__} is no name or pattern; modules need a name each")
        names = {pattern: matching(parts, pattern) for pattern in patterns}
        if unfit := [pattern for pattern in patterns if not names[pattern]]:
            (near,) = get_close_matches(unfit[0], list(parts)[1:] or [""], 1, 0.0)
            raise ValueError(f"{what} = {unfit[0]!r}: fits no name of a part of {whole}, such as {near!r}")
        found = {name: parts[name] for pattern in patterns for name in names[pattern]}
    if not found:
        raise ValueError(f"{what} = {modules}: name at least one")
    return found


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

    def reset(self) -> None:
        """Forget all values."""
        for buffer, start in ((self.count, 0.0), (self.total, 0.0), (self.low, torch.inf), (self.high, -torch.inf)):
            buffer.fill_(start)

    def result(self) -> dict[str, Tensor]:
        """``count``, ``mean``, ``min``, ``max`` on the CPU; where nothing was counted the last three are NaN."""
        low, high = (extreme.masked_fill(self.count == 0, torch.nan) for extreme in (self.low, self.high))
        results = {"count": self.count.clone(), "mean": self.total / self.count, "min": low, "max": high}
        return {name: values.cpu() for name, values in results.items()}
