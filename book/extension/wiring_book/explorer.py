"""What the cost explorer shows: all architectures of one small cell on the digits, before and after its training.

``make explorer`` makes ``data/explorer.npz`` in about half a minute; it is committed, since a book is built
from what was measured. The weights lie beside the costs, so that these can be measured again.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int16
from torch import Tensor
from wiring import datasets
from wiring.costs.enumeration import enumerate_minimal
from wiring.search.experiments import PRESETS
from wiring.search.loop import Search
from wiring.search.records import REFERENCE
from wiring.supernet.textbook import PlainSupernet
from wiring.supernet.topology import MINIMAL

PATH = REFERENCE.parent / "explorer.npz"
#: One cell whose weights learn under random architectures; four channels do for digits.
EXPERIMENT = replace(PRESETS["theorem2-quick"], topology=MINIMAL, channels=4)
#: Images of the batch on which costs are measured.
IMAGES = 32
#: Costs are kept as whole multiples of this, in nats.
STEP = 1e-4
#: The first axis of a state: the five edges' direct costs, what comes back through edge 4 to edges 0 and 1, L and H.
QUANTITIES = (*(f"direct {edge}" for edge in range(5)), "through 0", "through 1", "loss", "entropy")
#: What the explorer shows of them: L − H in the place of L and H.
SHOWN = (*QUANTITIES[:-2], "output")
#: Both states of the weights, and how a reader sees them named.
STATES = {"initial": "at initialisation", "trained": "after training"}

Costs = Int16[np.ndarray, "quantity op0 op1 op2 op3 op4"]


def measure(weights: Iterable[Tensor]) -> Costs:
    """The costs of all architectures with these weights, in steps of ``STEP``."""
    network = PlainSupernet(MINIMAL, 1, EXPERIMENT.channels, 10, 1).double().copy_weights(weights)
    everything = enumerate_minimal(network, *datasets.sample("digits", IMAGES))
    values = [*everything.direct.movedim(-1, 0), *everything.through[..., :2].movedim(-1, 0)]
    return (torch.stack([*values, everything.loss, everything.entropy]) / STEP).round().short().numpy()


def load_costs(path: Path = PATH) -> dict[str, Costs]:
    """Both states' costs."""
    with np.load(path, allow_pickle=False) as archive:
        return {state: archive[state] for state in STATES}


def shown(costs: Costs) -> Int16[np.ndarray, "shown op0 op1 op2 op3 op4"]:
    """What the explorer shows of a state, in steps of ``STEP``."""
    *values, loss, entropy = costs
    return np.stack([*values, loss - entropy])


def extremes(costs: Costs) -> dict[str, list[int]]:
    """The operations of the architectures with the largest and the smallest L − H."""
    output = shown(costs)[-1]
    places = {"Max": output.argmax(), "Min": output.argmin()}
    return {name: [int(k) for k in np.unravel_index(place, output.shape)] for name, place in places.items()}


def weights(state: str, path: Path = PATH) -> list[Tensor]:
    """The parameters with which a state was measured, in the order of the supernet's."""
    shapes = [parameter.shape for parameter in PlainSupernet(MINIMAL, 1, EXPERIMENT.channels, 10, 1).parameters()]
    with np.load(path, allow_pickle=False) as archive:
        flat: Float[Tensor, " all"] = torch.from_numpy(archive[f"{state}_weights"])
    return [part.view(shape) for part, shape in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True)]


def make(path: Path = PATH) -> None:
    """Train, measure both states and write them."""
    e = EXPERIMENT
    search = Search(e, datasets.load_dataset(e.data, e.image_size, e.images, e.seed))
    arrays = {}
    for state in STATES:
        if state == "trained":
            for _ in range(e.epochs):
                for _ in search.run_epoch():
                    pass
        arrays[state] = measure(search.theta)
        arrays[f"{state}_weights"] = torch.cat([p.detach().flatten() for p in search.theta]).numpy()
    np.savez_compressed(path, allow_pickle=False, **arrays)


if __name__ == "__main__":
    make()
