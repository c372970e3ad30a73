"""What can be told of an experiment before it starts, so that a bad one is refused before anything is written."""

import torch

from wiring.datasets import Dataset, check_batch, load_dataset
from wiring.search.experiments import LEVELS, Experiment
from wiring.supernet.network import Supernet


def preflight(experiment: Experiment, *, dataset: Dataset | None = None, device: bool = True) -> None:
    """Refuse an experiment that could not run. Takes no memory to speak of and writes nothing.

    Parameters
    ----------
    experiment
        What is to run.
    dataset
        The images, if they are not the experiment's ``data`` (:func:`wiring.run`).
    device
        Whether it is to run on this machine. With False neither the device nor the data set is looked for: the workers
        of a cluster have their own.

    Raises
    ------
    ValueError
        If no supernet has these reductions, or this machine has no such device.
    wiring.datasets.DataError
        A ValueError: if the data set is not there, its first image is broken, or the images fill no batch. Of a folder
        or of CIFAR-10 one image is read; that they are fewer than ``images`` only shows when all are.
    """
    e = experiment
    with torch.device("meta"):  # takes no memory
        Supernet(e.topology, e.cells, e.channels, classes=2, reductions=e.reductions)
    if not device:
        return
    if e.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = 'cuda': this machine has no usable CUDA device; allowed here: cpu")
    if dataset is None and e.data != "digits":
        name, images = load_dataset(e.data, e.image_size, images=1).name, e.images
    else:
        source = load_dataset(e.data if dataset is None else dataset, images=e.images)
        name, images = source.name, len(source)
    if images is not None:
        check_batch(e.batch, images // len(LEVELS[e.level]), name)
