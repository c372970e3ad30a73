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

from wiring.costs.probe import Tap, backward_pass
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
        self.end = Call("logits", None, None)
        #: For each call that runs: its inputs, the copies that it was given instead, and the versions of these.
        self._lent: list[list[tuple[Tensor, Tensor, int]]] = [[]]
        with ExitStack() as stack:
            stack.enter_context(_left_as_it_was(model))
            for name, part in model.named_modules():
                if "parametrizations" in name.split("."):  # is called with weights, not with images
                    continue
                label = labels.get(part, name)
                stack.enter_context(part.register_forward_pre_hook(partial(self._before, label), with_kwargs=True))
                stack.enter_context(part.register_forward_hook(partial(self._after, label)))
            self.logits = self._tap(self.end, run(), of_input=True)
            loss(self.logits).backward(inputs=[self._anchor])
        self.logits = self.logits.detach()
        self._taps.clear()

    def _before(self, name: str, part: nn.Module, inputs: Any, named: Any) -> Any:
        again = backward_pass() is not None  # a checkpointed part is run again, and must save as many tensors
        if not again:
            self._now = Call(name, part, self._now)
        self._lent.append([])
        return tree_map(partial(self._tap, None if again else self._now, of_input=True), (inputs, named))

    def _after(self, name: str, part: nn.Module, inputs: Any, output: Any) -> Any:
        for x, copy, version in self._lent.pop():
            if copy._version != version:  # changed in place: the input becomes the copy, to autograd as well
                x.copy_(copy)
        if backward_pass() is not None or self._now is None:
            return tree_map(partial(self._tap, None), output)
        call = next(call for call in (self._now, *self._now.callers()) if call.part is part)
        self._now = call.caller
        self.calls.append(call)
        if call.caller is not None:
            call.caller.made.append(call)
        return tree_map(partial(self._tap, call), output)

    def _tap(self, call: Call | None, x: Any, of_input: bool = False) -> Any:
        """Tap a tensor at an end of a call, if it is known of which; an input in a copy, which the call may change."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or not torch.is_grad_enabled():
            return x
        if call is not None:
            sources = self._sources(x)
            is_constant = not x.requires_grad and x.dim() > 0 and len(x) == self._images
            seen = Seen(call, sources, is_constant or any(source.of_images for source in sources))
            if seen.of_images or not of_input:
                (call.inputs if of_input else call.outputs).append(seen)
        y: Tensor = Tap.apply(x.clone() if of_input else x, self._anchor, True, seen.note if call else lambda *_: None)
        if call is not None:
            self._taps[y.grad_fn] = seen
        if of_input:
            self._lent[-1].append((x, y, y._version))
        return y

    def _sources(self, x: Tensor) -> set[Seen]:
        """The taps nearest to it, back along autograd's graph."""
        before = _reached([x.grad_fn], lambda node: () if node in self._taps else (n for n, _ in node.next_functions))
        return {self._taps[node] for node in before if node in self._taps}


def upstream(ends: Iterable[Seen], stop: Callable[[Seen], bool]) -> set[Seen]:
    """What these are computed from, those where to stop included and nothing beyond them."""
    return _reached([source for end in ends for source in end.sources], lambda x: () if stop(x) else x.sources)


def _reached(ahead: list[Any], before: Callable[[Any], Iterable[Any]]) -> set[Any]:
    """These and what is before them, as far as it goes."""
    found: set[Any] = set()
    while ahead:
        one = ahead.pop()
        if one is not None and one not in found:
            found.add(one)
            ahead += before(one)
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
