"""Measures: one number, or one mark an edge, from the record of one run.

*Dropped*: None is strictly the most probable operation of the edge. *Gone*: dropped at every epoch of some tenth of
the search, at least three, since what a noisy α does for an epoch or two is no pattern. *Recovered*: gone once, and not
dropped at any epoch of the last tenth. *Retained*: not dropped at any epoch of the last tenth. An edge counts where it
has a choice between None and another operation, and once for each type of cell, which share their α. What stands before
the first semicolon or full stop of a measure's docstring is how a verdict names its number.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import spearmanr

from wiring.search import Record, derive, dropped, lead, load_reference
from wiring.search.experiments import LEVELS
from wiring.supernet import NONE

#: The share of correctly classified images from which on an accuracy is called high.
HIGH_ACCURACY = 0.9
#: An edge that was dropped for fewer epochs was not gone, unless the search has no more.
FEWEST = 3


def cells_of_types(record: Record) -> dict[int, list[int]]:
    """The numbers of the cells of each type that the network has; a type by its row of α."""
    e = record.experiment
    types = [int(cell in e.reductions) for cell in range(e.cells)]
    return {kind: [cell for cell in range(e.cells) if types[cell] == kind] for kind in sorted(set(types))}


def counted_edges(record: Record) -> list[tuple[int, int]]:
    """Type of cell and number of every edge that counts, in the order of :func:`recovered` and :func:`retained`."""
    allowed = record.experiment.topology.allowed()
    choice = allowed[:, NONE] & (allowed.sum(1) > 1)
    return [(kind, edge) for kind in cells_of_types(record) for edge in choice.nonzero().flatten().tolist()]


def scalars_of(record: Record, split: str | None = None, group: str = "all", late: bool = False) -> pd.DataFrame:
    """The scalars of a split ("training", "search") and a group of images ("all", "correct", "wrong"), a row an epoch.

    Of the search, without what is measured after it. Without a split it is the one that α learns from; of the search
    split a single-level search has no rows. ``late`` keeps the last tenth of the search, at least one epoch.
    """
    split = split or LEVELS[record.experiment.level][0][0]
    rows = record.scalars.query("split == @split and group == @group and epoch <= @record.experiment.epochs")
    return rows.tail(_late_epochs(record)) if late else rows


def _late_epochs(record: Record) -> int:
    return max(1, record.experiment.epochs // 10)


def steps(record: Record) -> int:
    """Steps of the search."""
    return record.experiment.epochs * (min(record.provenance["images"].values()) // record.experiment.batch)


def final_accuracy(record: Record) -> float:
    """Accuracy in the last epoch, on the images that α learns from."""
    return float(scalars_of(record).accuracy.iloc[-1])


def _dropped(record: Record) -> Bool[np.ndarray, "epoch edge"]:
    """Whether each edge that counts is dropped after each epoch of the search."""
    kinds, edges = np.array(counted_edges(record), dtype=int).reshape(-1, 2).T
    return np.asarray(dropped(record.arrays["probability"])[1 : 1 + record.experiment.epochs, kinds, edges])


def gone(record: Record) -> Bool[np.ndarray, " edge"]:
    """Which edges were dropped at every epoch of some tenth of the search, of at least :data:`FEWEST` epochs."""
    long = min(record.experiment.epochs, max(FEWEST, _late_epochs(record)))
    spans = np.lib.stride_tricks.sliding_window_view(_dropped(record), long, axis=0)
    return np.asarray(spans.all(-1).any(0))


def recovered(record: Record) -> Bool[np.ndarray, " edge"]:
    """Which edges were gone once, and were not dropped in the last tenth of the search."""
    return np.asarray(gone(record) & retained(record))


def retained(record: Record) -> Bool[np.ndarray, " edge"]:
    """Which edges were not dropped in the last tenth of the search."""
    return np.asarray(~_dropped(record)[-_late_epochs(record) :].any(0))


def largest_drop(record: Record) -> float:
    """Largest share of edges dropped at once in the first half."""
    early = _dropped(record)[: max(1, record.experiment.epochs // 2)]
    return float(early.mean(1).max()) if early.size else np.nan


def recovery(record: Record) -> float:
    """Share of the edges that were gone once that recover; NaN if none was."""
    return _share(recovered(record)[gone(record)])


def turning_epoch(record: Record) -> int | None:
    """First epoch whose mean cost at the last cell's output is negative on the training split; None without any."""
    negative = scalars_of(record, "training").query("cost < 0").epoch
    return None if negative.empty else int(negative.iloc[0])


def edge_costs(record: Record, epoch: int = 1) -> Float[np.ndarray, "cell edge"]:
    """Mean cost of what each edge drew in an epoch, on the split that α learns from; in nats, None counted as 0."""
    mean, count = (record.arrays[f"cost_{name}"][epoch - 1, 0] for name in ("mean", "count"))
    return np.nansum(mean * count, axis=2) / count.sum(2)


def mean_costs(record: Record, epochs: slice) -> Float[np.ndarray, "cell edge operation"]:
    """Mean cost of every operation over some epochs, on the split that α learns from; in nats, NaN if never drawn."""
    mean, count = (record.arrays[f"cost_{part}"][epochs, 0] for part in ("mean", "count"))
    totals, counts = np.nansum(mean * count, axis=0), count.sum(0)
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def depth_preference(record: Record) -> float:
    """Cost of the edges that read the deeper input minus that of the others, less the same where none is deeper (nats).

    An input is as deep as the fewest cells that lead from the stem to it. Compared are mean costs of the first epoch,
    cell by cell; where both inputs are as deep, those from the last cell with those from the cell before, and a cell
    whose inputs are the same is left out. NaN without cells of both kinds.
    """
    topology, costs = record.experiment.topology, edge_costs(record)
    depths, by_depth, by_place = [0], list[float](), list[float]()
    for cell, own in enumerate(costs):
        reads = topology.sources(cell)
        of_inputs = [depths[at] for at in reads]
        depths.append(1 + min(of_inputs))
        measure, found = (of_inputs, by_depth) if len(set(of_inputs)) > 1 else (list(reads), by_place)
        if len(set(measure)) > 1:
            of_edges = np.array([measure[i] if i < len(reads) else -1 for i, _ in topology.edges])
            low, high = (own[of_edges == extreme(measure)].mean() for extreme in (min, max))
            found.append(float(high - low))
    return float(np.mean(by_depth) - np.mean(by_place)) if by_depth and by_place else np.nan


def way_agreement(record: Record) -> float:
    """Rank correlation, over cells, of shortest ways past the last cell and how much less its edges cost; from -1 to 1.

    Ways lead from the stem to the output through the fewest cells. A cell's number is how many of them enter it past
    the last cell minus how many enter it from there; held against it is the mean cost in the first epoch of
    the edges from the last cell minus that of those past it. NaN where the number is the same in every cell.
    """
    topology, costs = record.experiment.topology, edge_costs(record)
    reads = [topology.sources(cell) for cell in range(len(costs))]
    fewest, ways = [0], [1]
    for own in reads:
        fewest.append(1 + min(fewest[at] for at in own))
        ways.append(sum(ways[at] for at in set(own) if fewest[at] == fewest[-1] - 1))
    onward, foretold, found = [0] * len(reads) + [1], list[int](), list[float]()
    for cell, own in reversed(list(enumerate(reads))):
        entering = {at: onward[cell + 1] * ways[at] * (fewest[at] == fewest[cell + 1] - 1) for at in own}
        for at in entering:
            onward[at] += onward[cell + 1] * (fewest[at] == fewest[cell + 1] - 1)
        past, last = min(own), max(own)
        if past != last:
            of_edges = np.array([own[i] if i < len(own) else -1 for i, _ in topology.edges])
            foretold.append(entering[past] - entering[last])
            found.append(float(costs[cell, of_edges == last].mean() - costs[cell, of_edges == past].mean()))
    return float(spearmanr(foretold, found).statistic) if len(set(foretold)) > 1 else np.nan


def width_preference(record: Record) -> float:
    """Share of input edges retained minus that of intermediate edges; NaN without both."""
    return _retained_from(record, *record.experiment.topology.inputs) - _retained_from(record, 0)


def bypass_preference(record: Record) -> float:
    """Share retained of the edges from the cell before last minus that of those from the last; NaN without both."""
    return _retained_from(record, 2) - _retained_from(record, 1)


def _retained_from(record: Record, *cells_back: int) -> float:
    """Share retained of the edges that read a cell so far back, 0 for those between intermediate nodes."""
    topology = record.experiment.topology
    of_nodes = [*topology.inputs, *[0] * len(topology.intermediate)]
    back = [of_nodes[topology.edges[edge][0]] for _, edge in counted_edges(record)]
    return _share(retained(record)[np.isin(back, cells_back)])


def retention(record: Record) -> float:
    """Share of edges retained."""
    return _share(retained(record))


def _share(marks: Bool[np.ndarray, "*axes"]) -> float:
    return float(marks.mean()) if marks.size else np.nan


def gap_of_correct(record: Record) -> float:
    """Largest factor between the splits late in the search; of L and H, of correctly classified images."""
    ratios = [np.divide(*_late(record, quantity, "correct")) for quantity in ("loss", "entropy")]
    return float(np.exp(np.abs(np.log(ratios)).max()))


def loss_gap_of_wrong(record: Record) -> float:
    """L on the search split / L on the training split, late in the search; of wrongly classified images."""
    return float(np.divide(*_late(record, "loss", "wrong")))


def entropy_gap_of_wrong(record: Record) -> float:
    """H on the search split / H on the training split, late in the search; of wrongly classified images."""
    return float(np.divide(*_late(record, "entropy", "wrong")))


def late_search_cost(record: Record) -> float:
    """Mean cost on the search split late in the search (nats)."""
    return float(_late(record, "cost")[0])


def generalisation_gap(record: Record) -> float:
    """Accuracy on the training split minus that on the search split, late in the search."""
    search, training = _late(record, "accuracy")
    return float(training - search)


def final_lead(record: Record) -> float:
    """Lead of None at the end of the recorded course; its α minus the others' mean, over edges, NaN without one."""
    course = record.arrays.get("course_alpha")
    return np.nan if course is None else float(lead(course[-1, list(cells_of_types(record))]).mean())


def accuracy_alone(record: Record, rule: str) -> float:
    """Accuracy of the search's cell by a rule of :func:`wiring.derive`; trained alone, NaN if no such run is recorded.

    On images that it has not learnt from, with the seed of the search, in ``derived-reference``.
    """
    runs = load_reference("derived-reference", topology=derive(record, rule))
    return next((final_accuracy(run) for run in runs if run.experiment.seed == record.experiment.seed), np.nan)


def strongest_accuracy(record: Record) -> float:
    """Accuracy of the cell of the strongest operations but None; trained alone, NaN if no such run is recorded."""
    return accuracy_alone(record, "strongest")


def gain_of_dropping(record: Record) -> float:
    """Accuracy without the edges that None has won, minus that with them; of the search's cell, trained alone."""
    return accuracy_alone(record, "argmax") - accuracy_alone(record, "strongest")


def earlier_cells_push(record: Record) -> float:
    """Share of the push on None's α that the earlier cells bring; in size, of DARTS, late, NaN for other searchers.

    A cell's push is what its costs C add to ``-dL/dα`` of None, ``w_None Σ_k w_k C_k``, summed over its edges: mean
    costs and probabilities of each epoch stand for those of its steps.
    """
    e, late = record.experiment, slice(record.experiment.epochs - _late_epochs(record), record.experiment.epochs)
    if e.searcher != "darts" or e.reductions:
        return np.nan
    weights, costs = record.arrays["probability"][late, :1], np.nan_to_num(record.arrays["cost_mean"][late, 0])
    pushes = (weights[..., NONE] * (weights * costs).sum(-1)).sum((0, 2))
    return float(abs(pushes[:-1].sum() / pushes.sum()))


def _late(record: Record, quantity: str, group: str = "all") -> Float[np.ndarray, "split"]:
    """A quantity's means late in the search, on the search split and on the training split."""
    return np.array([scalars_of(record, split, group, late=True)[quantity].mean() for split in ("search", "training")])


def initial_cost(record: Record) -> float:
    """Mean cost at the initial weights (nats); at the last cell's output, NaN if the weights learn."""
    return float(scalars_of(record, "training").cost.iloc[0]) if record.experiment.theta_lr == 0 else np.nan


def cost_at_high_accuracy(record: Record) -> float:
    """Mean cost over the epochs with an accuracy of 0.9 or more (nats); at the last cell's output, NaN without any."""
    return float(scalars_of(record, "training").query("accuracy >= @HIGH_ACCURACY").cost.mean())


def cost_trend(record: Record) -> float:
    """Rank correlation of cost and accuracy over the epochs; Spearman's, NaN for fewer than three epochs."""
    epochs = scalars_of(record, "training")
    return float(spearmanr(epochs.accuracy, epochs.cost).statistic) if len(epochs) > 2 else np.nan
