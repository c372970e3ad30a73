"""One forward and one backward pass of a model, seen at every call of its modules: what costs, what passes, what feeds.

Every tensor that a module is called with or returns goes through a tap, which notes the cost that comes back. The taps
are nodes of autograd's graph, too, so the graph says which call feeds which, whatever lies between them: slices, sums,
functions. As one pass is enough, a model that draws an architecture in each is seen as it was drawn.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from wiring.costs.probe import Lent, Tap, backward_pass
from wiring.supernet.gates import image_dot


@dataclass(eq=False)
class Seen:
    """A tensor at one end of a call; its cost in the unit of the loss, if a backward pass comes to it."""

    call: "Call"
    sources: set["Seen"]
    """Those that it is computed from, with no other in between."""
    of_images: bool
    """Whether it depends on the images; an operation's weight, say, does not."""
    cost: float = 0.0
    size: float = 0.0
    """The images' costs, summed without their signs."""
    rounding: float = 0.0
    """By how much the cost may be off; where identities hold exactly it was off by less, in every precision."""

    def note(self, gradient: Tensor, x: Tensor) -> None:
        """The gradient that came back."""
        costs = image_dot(gradient, x) if x.dim() else (gradient * x)[None]
        self.cost, self.size = costs.sum().item(), costs.abs().sum().item()
        # Elements are rounded one by one, and sums of them, in single precision at least, all in one direction.
        products, sums = gradient.double() * x.double(), torch.promote_types(x.dtype, torch.float32)
        one_by_one, together = torch.finfo(x.dtype).eps * products.norm(), torch.finfo(sums).eps * products.abs().sum()
        self.rounding = (10 * one_by_one + 8 * together).item()


@dataclass(eq=False)
class Call:
    """A call of a module, made by another."""

    name: str
    part: nn.Module | None
    caller: "Call | None"
    inputs: list[Seen] = field(default_factory=list)
    """Those that depend on the images."""
    outputs: list[Seen] = field(default_factory=list)
    made: list["Call"] = field(default_factory=list)
    """The calls that it made."""

    @property
    def cost(self) -> float:
        """What its output costs."""
        return sum(seen.cost for seen in self.outputs)

    @property
    def passed(self) -> float:
        """How much of that it passes on to its input."""
        return sum(seen.cost for seen in self.inputs)

    @property
    def rounding(self) -> float:
        """By how much the two may be off."""
        return math.hypot(*(seen.rounding for seen in (*self.inputs, *self.outputs)))

    def callers(self) -> Iterator["Call"]:
        """The calls around it, from within outwards."""
        call = self.caller
        while call is not None:
            yield call
            call = call.caller


class Trace:
    """The calls of one pass of a model, in the order in which they ended, and the logits with which it ended.

    ``run`` calls the model and returns its logits; the ``loss`` of them goes back. ``labels`` are names for some of the
    modules; the others have their names in the model. No gradient, buffer or generator of random numbers is left
    changed.
    """

    def __init__(
        self,
        model: nn.Module,
        run: Callable[[], Tensor],
        loss: Callable[[Tensor], Tensor],
        images: int,
        labels: Mapping[nn.Module, str],
    ) -> None:
        self.calls: list[Call] = []
        self._images, self._anchor = images, torch.zeros((), requires_grad=True)
        self._taps: dict[Any, Seen] = {}
        self._now: Call | None = None
        self._lent = Lent()
        with ExitStack() as stack:
            stack.enter_context(_left_as_it_was(model))
            for name, part in model.named_modules():
                if "parametrizations" in name.split("."):  # is called with weights, not with images
                    continue
                label = labels.get(part, name)
                stack.enter_context(part.register_forward_pre_hook(partial(self._before, label), with_kwargs=True))
                stack.enter_context(part.register_forward_hook(partial(self._after, label)))
            self.end = Call("logits", None, None)
            self.logits = self._tap(self.end, self.end.inputs, run())
            loss(self.logits).backward(inputs=[self._anchor])
        self.logits = self.logits.detach()
        self._taps.clear()

    def _before(self, name: str, part: nn.Module, inputs: Any, named: Any) -> Any:
        self._lent.begin()
        if backward_pass() is not None:  # a checkpointed part is run again, and must save as many tensors
            return tree_map(lambda x: self._lend(x, self._tap_again(x, of_input=True)), (inputs, named))
        self._now = call = Call(name, part, self._now)
        return tree_map(lambda x: self._lend(x, self._tap(call, call.inputs, x)), (inputs, named))

    def _lend(self, x: Any, y: Any) -> Any:
        return x if x is y else self._lent.note(x, y)

    def _after(self, name: str, part: nn.Module, inputs: Any, output: Any) -> Any:
        self._lent.give_back()
        if backward_pass() is not None or self._now is None:
            return tree_map(self._tap_again, output)
        call = next(call for call in (self._now, *self._now.callers()) if call.part is part)
        self._now = call.caller
        self.calls.append(call)
        if call.caller is not None:
            call.caller.made.append(call)
        return tree_map(partial(self._tap, call, call.outputs), output)

    def _tap(self, call: Call, end: list[Seen], x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or not torch.is_grad_enabled():
            return x
        sources = self._sources(x)
        is_constant = not x.requires_grad and x.dim() > 0 and len(x) == self._images
        seen = Seen(call, sources, is_constant or any(source.of_images for source in sources))
        if seen.of_images or end is not call.inputs:
            end.append(seen)
        y: Tensor = Tap.apply(x.clone() if end is call.inputs else x, self._anchor, True, seen.note)
        self._taps[y.grad_fn] = seen
        return y

    def _tap_again(self, x: Any, of_input: bool = False) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or not torch.is_grad_enabled():
            return x
        return Tap.apply(x.clone() if of_input else x, self._anchor, True, lambda *_: None)

    def _sources(self, x: Tensor) -> set[Seen]:
        found, been, ahead = set(), set(), [x.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is None or node in been:
                continue
            been.add(node)
            if node in self._taps:
                found.add(self._taps[node])
            else:
                ahead += [before for before, _ in node.next_functions]
        return found


def upstream(ends: Iterable[Seen], stop: Callable[[Seen], bool]) -> set[Seen]:
    """What these are computed from, those where to stop included and nothing beyond them."""
    found: set[Seen] = set()
    ahead = [source for end in ends for source in end.sources]
    while ahead:
        seen = ahead.pop()
        if seen not in found:
            found.add(seen)
            ahead += () if stop(seen) else seen.sources
    return found


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back the model's buffers and the generators of random numbers; enable gradients meanwhile."""
    buffers = [
        (part, name, x, x.clone()) for part in model.modules() for name, x in part._buffers.items() if x is not None
    ]
    states, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (a model may draw from it)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        random.setstate(states)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for part, name, own, kept in buffers:
                part._buffers[name] = own
                own.copy_(kept)
