"""On a GPU a step as one CUDA graph: there its kernels take less time than to call them one by one."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

_LOG = logging.getLogger("wiring")


class Captured:
    """A function of tensors on a GPU that is called in earnest at first, then captured, and from then on replayed.

    What it does besides, on the GPU, must be the same at each call; ``same`` is asked after the first whether it is.
    Else, and where it cannot be captured, which is said, it is called again and again.
    """

    def __init__(self, function: Callable[..., None], same: Callable[[], bool]) -> None:
        self._function, self._same, self._calls = function, same, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._read: Any = None

    def __call__(self, *arguments: Any) -> None:
        """Call the function, or replay it on these arguments, whose tensors have the same shapes at each call."""
        self._calls += 1
        if self._calls == 2 and self._same():
            self._capture(arguments)
        if self._graph is None:
            self._function(*arguments)
            return
        for there, here in zip(tree_leaves(self._read), tree_leaves(arguments), strict=True):
            if isinstance(here, Tensor):
                there.copy_(here)
        self._graph.replay()

    def _capture(self, arguments: Any) -> None:
        self._read = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, arguments)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._function(*self._read)
        except RuntimeError as error:
            _LOG.warning("wiring: no CUDA graph here, kernels are called one by one: %s", str(error).splitlines()[0])
        else:
            self._graph = graph
