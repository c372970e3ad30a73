"""The cell that a search ends in: one operation an edge, chosen by a rule, and the experiment that trains it alone.

>>> cell = derive(record, "strongest")
>>> run(alone(record.experiment, cell, epochs=30))    # on half of the images; the other half tells what it is worth
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from wiring.costs.probe import GateProbe
from wiring.datasets import Dataset, load_dataset
from wiring.search import records
from wiring.search.experiments import Experiment, anywhere, preset, to_json
from wiring.search.loop import Search, generator
from wiring.search.records import Record, RecordError
from wiring.supernet import NAMES, NONE, Topology

#: Rule -> what it keeps.
RULES = {
    "argmax": "each edge's most probable operation, None as any other",
    "strongest": "each edge's most probable operation but None",
    "two": "the same, on the two edges into a node whose are the most probable; None on others (Liu et al., 2019)",
    "perturbation": "of each edge the operation without which the loss is highest (Wang et al., 2021)",
    "random": "any operation but None, by the search's seed and settings: to be beaten (Li and Talwalkar, 2020)",
}


def derive(record: Record, rule: str = "argmax", closing: pd.DataFrame | None = None) -> Topology:
    """The topology with one operation on each edge, by one of the :data:`RULES`, from a search's last probabilities.

    "argmax" leaves out edges that None has won, "strongest" keeps all. "perturbation" takes what
    ``wiring.search.closing`` found, for all edges of the searched network at once; its authors go edge by edge.

    Raises ValueError for an unknown rule, or a search with reduction cells, which have an architecture of their own.
    """
    e = record.experiment
    if rule not in RULES:
        raise ValueError(f"rule = {rule!r}: no such rule; allowed: {', '.join(RULES)}")
    if e.reductions:
        raise ValueError(f"reductions = {e.reductions}: allowed: (), a search whose cells are all alike")
    allowed = e.topology.allowed().numpy()
    score = np.where(allowed, record.arrays["probability"][-1, 0], -np.inf)
    if rule == "perturbation":
        if closing is None:
            raise ValueError("closing: needed by the rule 'perturbation'")
        changes = closing.pivot(index="edge", columns="operation", values="change")
        edges = [str(edge) for edge in e.topology.edges]
        score = changes.reindex(index=edges, columns=NAMES).fillna(-np.inf).to_numpy(copy=True)
    if rule == "random":
        drawn = torch.rand(score.shape, generator=generator(e.seed, f"cell/{to_json(anywhere(e))}"))
        score = np.where(allowed, drawn.numpy(), -np.inf)
    if rule != "argmax":
        score[allowed[:, NONE + 1 :].any(1), NONE] = -np.inf
    best, strength = score.argmax(1), score.max(1)
    if rule == "two":
        ends = np.array([end for _, end in e.topology.edges])
        for end in set(ends):
            into = np.flatnonzero(ends == end)
            best[into[(-strength[into]).argsort(kind="stable")[2:]]] = NONE
    return replace(e.topology, candidates=tuple((NAMES[k],) for k in best))


def alone(experiment: Experiment, topology: Topology, **changes: Any) -> Experiment:
    """The experiment that trains such a network by itself, on the images that trained a bi-level search's weights.

    Its accuracy on the other half, on which it does not learn, is that of the split "search" in its record.
    """
    rest = replace(experiment, level="bi", early_stop=-1.0, measuring_epochs=0, course_every=0, partial=1)
    return preset(replace(rest, topology=topology, searcher="uniform"), **changes)


def closing(folder: Path | str, dataset: Dataset | None = None) -> pd.DataFrame:
    """What a finished run's loss rises by when the gates of one operation of an edge are closed, in all cells.

    On the images that α learnt from, in nats: a row for each ``edge`` and ``operation`` but None, with its ``gate``,
    its ``cost``, summed over the cells, and the loss's ``change``, which is ``-gate * cost`` to first order. Raises
    RecordError if the folder has no checkpoint, ValueError unless the run's searcher is DARTS or weighs like it.
    """
    folder = Path(folder)
    e, state = records.load(folder).experiment, records.load_checkpoint(folder)
    if state is None:
        raise RecordError(f"{folder} has no checkpoint, which holds the weights")
    search = Search(e, load_dataset(e.data if dataset is None else dataset, e.image_size, e.images, e.seed))
    search.load_state_dict(state)
    drawn = search.searcher.draw(search.generators["architectures"])
    gates = replace(drawn, values=drawn.values.detach())
    if (gates.values == 1).any():
        raise ValueError(f"searcher = {e.searcher!r}: its gates are open or closed; allowed: those that weigh all")
    allowed = e.topology.allowed()
    allowed[:, NONE] = False
    pairs = allowed.nonzero().tolist()
    costs, changes = torch.zeros(2, len(pairs))
    loader = next(iter(search.loaders.values()))
    for images, labels in loader:
        with GateProbe(search.supernet) as probe:
            loss = F.cross_entropy(search.supernet(images, gates), labels)
            loss.backward()
        costs += probe.costs.sum(0)[allowed].cpu() / len(loader)
        for number, (edge, k) in enumerate(pairs):
            without = replace(gates, values=gates.values.clone())
            without.values[:, edge, k] = 0
            with torch.no_grad():
                change = F.cross_entropy(search.supernet(images, without), labels) - loss
            changes[number] += change.cpu() / len(loader)
    names = [(str(e.topology.edges[edge]), NAMES[k]) for edge, k in pairs]
    table = pd.DataFrame(names, columns=["edge", "operation"])
    return table.assign(gate=gates.values[0][allowed].cpu().numpy(), cost=costs.numpy(), change=changes.numpy())
