"""The cost hooks: measure ``C = <dL/dX, X>`` of every cell, edge and operation in an ordinary backward pass.

>>> with CostProbe(supernet) as probe:
...     cross_entropy(supernet(images, gates), labels).backward()
>>> probe.costs        # (cells, edges, operations): NaN where an operation was not sampled
>>> probe.per_image    # the same with a leading axis: each image's share, which sum to the above
>>> probe.cell_costs   # (cells,): <dL/dX_out, X_out> at the output of each cell
"""

from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wiring.gates import Gates, tap
from wiring.supernet import Supernet


class CostProbe:
    """While the block runs, every forward and backward pass of the supernet is measured; the last one is kept.

    A sampled operation that no path joins to the loss costs 0, as does ``none``. The loss is normally the batch
    mean, so that an image's share is 1/batch of its own cost. Probes may be nested; leaving the block, also by
    an exception, takes the hooks off.

    Parameters
    ----------
    supernet
        The supernet to measure. Its gates are replaced by per-image copies during the forward pass.
    """

    per_image: Float[Tensor, "batch cell edge operation"]
    cell_per_image: Float[Tensor, "batch cell"]

    def __init__(self, supernet: Supernet) -> None:
        self.supernet = supernet
        self._handles: list[Any] = []

    def __enter__(self) -> "CostProbe":
        self._handles.append(self.supernet.register_forward_pre_hook(self._open))
        for number, cell in enumerate(self.supernet.cells):
            self._handles.append(cell.register_forward_hook(partial(self._tap, number)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    @property
    def costs(self) -> Float[Tensor, "cell edge operation"]:
        return self.per_image.sum(0)

    @property
    def cell_costs(self) -> Float[Tensor, " cell"]:
        return self.cell_per_image.sum(0)

    def _open(self, supernet: nn.Module, arguments: tuple[Tensor, Gates]) -> tuple[Tensor, Gates] | None:
        images, gates = arguments
        if not torch.is_grad_enabled():
            return None
        batch = len(images)
        values = gates.values.expand(batch, *self.supernet.shape)
        if not values.requires_grad:
            values = values.detach().requires_grad_()
        active = gates.active.to(values.device, non_blocking=True)
        # What no gradient reaches never calls the hooks below: it costs nothing.
        self.per_image = self._missing(torch.zeros_like(values), active)
        values.register_hook(lambda gradient: setattr(self, "per_image", self._missing(gradient, active)))

        cells = values.new_ones(batch, len(self.supernet.cells)).requires_grad_()
        self.cell_per_image = torch.zeros_like(cells)
        cells.register_hook(lambda gradient: setattr(self, "cell_per_image", gradient))
        self._cell_gates = cells.unbind(1)
        return images, replace(gates, values=values)

    def _tap(self, number: int, cell: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return output
        return tap(output, self._cell_gates[number])

    @staticmethod
    def _missing(costs: Tensor, active: Tensor) -> Tensor:
        return costs.detach().masked_fill(~active, torch.nan)


class Statistics:
    """Count, mean, minimum and maximum of values over steps, NaN left out; stays on the values' device.

    Parameters
    ----------
    shape
        The shape of what :meth:`update` takes.
    device
        Where it lives.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros(shape, device=device)
        self.total = torch.zeros(shape, device=device)
        self.low = torch.full(shape, torch.inf, device=device)
        self.high = torch.full(shape, -torch.inf, device=device)

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
