"""Measures of mean costs as the paper has them: over many draws while nothing learns, before or after the search.

The epochs that count are those after the search (``Experiment.measuring_epochs``); a record without any says nothing.
The mean costs of an epoch in which weights learn are those of a different network at each step, and of few draws each.
Definitions, fixed before the runs that they judge:

- H1, *every*: all operations but None, on every edge, have a mean cost on their side of 0; *most*: more than half have.
- D1: each operation but None costs more on the intermediate edge than on the straight one.
- D2: training both edges equally often removes some of the mean difference, and some of it remains.
- D3: in the control the straight edge's own mean cost is positive, and it is higher than the intermediate edge's.
"""

import numpy as np
from jaxtyping import Float

from wiring.evidence.measures import _share, mean_costs
from wiring.search import Record
from wiring.search.drift import Costs
from wiring.supernet import NONE


def measured_costs(record: Record) -> Float[np.ndarray, "cell edge operation"]:
    """The measured mean cost of every operation, on the training split (nats); NaN where it was not drawn."""
    return mean_costs(record, slice(record.experiment.epochs, None))


def _measured(record: Record, *, learnt: bool) -> Float[np.ndarray, " operation"]:
    """The measured mean costs of all but None, with weights as drawn or learnt under random draws; else none."""
    e, means = record.experiment, measured_costs(record)[..., NONE + 1 :]
    says = e.searcher == "uniform" and (e.theta_lr > 0) == learnt
    return np.asarray(means[~np.isnan(means) & says])


def lowest_initial(record: Record) -> float:
    """Lowest mean cost of an operation at the initial weights (nats); of all but None, NaN if the weights learn."""
    return float(min(_measured(record, learnt=False), default=np.nan))


def positive_share(record: Record) -> float:
    """Share of the operations with a positive mean cost at the initial weights; without None, NaN if they learn."""
    return _share(_measured(record, learnt=False) > 0)


def highest_trained(record: Record) -> float:
    """Highest mean cost of an operation at the learnt weights (nats); of all but None, NaN unless θ alone learnt."""
    return float(max(_measured(record, learnt=True), default=np.nan))


def negative_share(record: Record) -> float:
    """Share of the operations with a negative mean cost at the learnt weights; without None, NaN unless θ alone did."""
    return _share(_measured(record, learnt=True) < 0)


def straight_and_intermediate(record: Record) -> Float[np.ndarray, "2 operation"]:
    """The measured mean cost of each operation but None (nats), over the cells, on the straight and intermediate edge.

    Edges (0, 2) and (1, 2) of the simplified cell, (1, 3) and (2, 3) of the minimal cell and its control.
    """
    topology = record.experiment.topology
    first = len(topology.inputs)
    edges = [topology.edges.index(edge) for edge in ((first - 1, first + 1), (first, first + 1))]
    return np.asarray(measured_costs(record)[:, edges, NONE + 1 :].mean(0))


def least_excess(record: Record) -> float:
    """Measured cost on the intermediate edge minus that on the straight one, of the operation with the least (nats)."""
    straight, intermediate = straight_and_intermediate(record)
    return float(np.nanmin(intermediate - straight))


def intermediate_excess(record: Record) -> float:
    """Measured cost on the intermediate edge minus that on the straight one, mean over operations (nats)."""
    straight, intermediate = straight_and_intermediate(record)
    return float(np.nanmean(intermediate - straight))


def straight_cost(record: Record) -> float:
    """Measured cost on the straight edge, mean over operations (nats)."""
    return float(np.nanmean(straight_and_intermediate(record)[0]))


def course_costs(record: Record) -> list[Costs]:
    """What the operations but None of each edge of the normal cells cost over the course: mean and spread (nats)."""
    cost, square, count = (record.arrays[f"course_{name}"][:, 0, :, NONE + 1 :] for name in ("cost", "square", "count"))
    totals = [np.nansum(count * values, axis=(0, 2), dtype=float) for values in (cost, square)]
    mean, mean_square = totals / count.sum((0, 2))
    operations = record.arrays["alpha"].shape[-1]
    spread = np.sqrt(mean_square - mean**2)
    return [Costs(float(c), float(s), operations=operations) for c, s in zip(mean, spread, strict=True)]
