"""What can be told of an experiment before it starts, so that a bad one is refused before anything is written."""

import torch

from wiring.datasets import Dataset, check_batch, load_dataset
from wiring.search.experiments import LEVELS, Experiment
from wiring.supernet import Supernet


def preflight(experiment: Experiment, *, dataset: Dataset | None = None, device: bool = True) -> None:
    """Raise ValueError if an experiment could not run, on its own data or on a data set in memory; writes nothing.

    Then no supernet has its reductions, this machine has no such device, or (:class:`wiring.datasets.DataError`) the
    data set is not there, its first image is broken, or the images fill no batch. Of a folder or of CIFAR-10 one image
    is read; that they are fewer than ``images`` only shows when all are. With ``device=False`` neither the device nor
    the data set is looked for: the workers of a cluster have their own.
    """
    e = experiment
    with torch.device("meta"):  # takes no memory
        Supernet(e.topology, e.cells, e.channels, classes=2, reductions=e.reductions)
    if not device:
        return
    if e.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = 'cuda': this machine has no usable CUDA device; allowed here: cpu")
    in_memory = dataset is not None or e.data == "digits"
    size, read = (None, e.images) if in_memory else (e.image_size, 1)
    source = load_dataset(e.data if dataset is None else dataset, size, read)
    images = len(source) if in_memory else e.images
    if images is not None:
        check_batch(e.batch, images // len(LEVELS[e.level]), source.name)
