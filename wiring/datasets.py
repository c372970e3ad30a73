"""Image data that lives on the device as uint8, cropped and flipped a batch at a time.

``digits`` comes with scikit-learn, ``cifar10`` is read from the folder that the environment variable ``WIRING_DATA``
names (torchvision's files, or an image-folder tree ``train/<class>/*``), or downloaded there by torchvision;
``folder:PATH`` is any image-folder tree.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from http.client import HTTPException
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from wiring import folders
from wiring.supernet.gates import moved
from wiring.supernet.normalise import Images

Labels = Int64[Tensor, " image"]
#: Mean and standard deviation of each channel.
Moments = tuple[Float[Tensor, " channel"], Float[Tensor, " channel"]]
#: As they are stored; :data:`Images` are what the supernet sees.
RawImages = UInt8[Tensor, "image height width channel"]


#: Says what a data set holds, and what of it is not read.
LOG = logging.getLogger("wiring.data")


class DataError(ValueError):
    """A data set that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels on one device. Raises DataError if they do not fit this, or the name is another data set's."""

    name: str
    """What records say: where the images come from."""
    classes: tuple[str, ...]
    """The names of the classes; a label is an index into them."""
    pixels: RawImages
    """The images, channels last as they are stored."""
    labels: Labels

    def __post_init__(self) -> None:
        name, pixels, labels, classes = self.name, self.pixels, self.labels, len(self.classes)
        if name in ("digits", "cifar10") or name.startswith("folder:"):
            raise DataError(f"name = {name!r}: means another data set; give the images a name of their own")
        if (pixels.dtype, pixels.dim(), labels.dtype, labels.shape) != (torch.uint8, 4, torch.int64, pixels.shape[:1]):
            raise DataError(
                f"{name}: pixels {pixels.dtype} {tuple(pixels.shape)}, labels {labels.dtype} {tuple(labels.shape)}; "
                "allowed: torch.uint8 (images, height, width, channels), torch.int64 (images,)"
            )
        if not ((labels >= 0) & (labels < classes)).all():
            raise DataError(f"{name}: labels from {labels.min()} to {labels.max()}; allowed: 0 to {classes - 1}")

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        height, width, channels = self.pixels.shape[1:]
        counts = self.labels.bincount(minlength=len(self.classes)).tolist()
        shown = [f"{name} ({count})" for name, count in zip(self.classes, counts, strict=True)]
        more = [f"{len(shown) - 10} more"] * (len(shown) > 10)
        text = ", ".join(shown[:10] + more)
        return f"{self.name}: {len(self)} images, {width}x{height}x{channels}, of {len(counts)} classes: {text}"

    def fingerprint(self) -> dict[str, str]:
        """What tells these images from others: their number and size, and digests of class names, labels and pixels."""
        parts = {"labels": self.labels, "pixels": self.pixels}
        digests = {name: hashlib.sha256(x.cpu().contiguous().numpy().data).hexdigest() for name, x in parts.items()}
        classes = hashlib.sha256(json.dumps(self.classes).encode()).hexdigest()
        return {"shape": "x".join(map(str, self.pixels.shape)), "class names": classes, **digests}

    def to(self, device: torch.device | str) -> "Dataset":
        """The same images on that device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def at(self, index: Int64[Tensor, " chosen"]) -> "Dataset":
        """Some of the images, in that order."""
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def moments(self) -> Moments:
        """Mean and standard deviation of each channel, over all pixels of all images."""
        pixels = self.pixels.flatten(0, 2)
        # Sums of whole numbers are exact; a part at a time, since of all images at once they would take gigabytes.
        sums = [torch.stack([part.int().sum(0), part.int().square().sum(0)]) for part in pixels.split(2**20)]
        mean, square = torch.stack(sums).sum(0).double() / len(pixels)
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        # A channel that is constant is left unscaled.
        return mean.float(), deviation.where(deviation > 0, 1.0).float()

    def with_label_noise(self, share: float, generator: torch.Generator) -> "Dataset":
        """Replace the labels of a random ``share`` of the images by classes drawn uniformly."""
        noisy = torch.randperm(len(self), generator=generator)[: round(share * len(self))]
        labels = self.labels.clone()
        labels[noisy] = torch.randint(len(self.classes), noisy.shape, generator=generator).to(labels.device)
        return replace(self, labels=labels)


def difference(there: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """In what the fingerprints of two data sets differ; what one of them does not say is taken to be the same."""
    for name in here:
        if there.get(name, here[name]) != here[name]:
            return f"{name} {there[name]} there, {here[name]} here" if name == "shape" else f"other {name}"
    return None


def check_batch(batch: int, images: int, name: str) -> None:
    """Raise DataError where the images of a split, so many of that data set, fill no batch."""
    if images < batch:
        raise DataError(f"batch = {batch}: more than the {images} images of a split of {name}")


class Loader:
    """Shuffled, augmented batches of one data set, on its device; each :func:`iter` is one epoch of whole batches.

    The last images of a shuffle that fill no batch are left out, so that every cost is a mean over equally many images.
    Each image is padded by ``crop`` black pixels and cropped to its size at a random place of its own, and with
    ``flip`` mirrored with probability 1/2; ``moments`` normalise each channel (:meth:`Dataset.moments`). Order, crops
    and flips are drawn from ``generator``, on the CPU. Raises DataError if there are fewer images than a batch needs.
    """

    def __init__(
        self, dataset: Dataset, moments: Moments, batch: int, crop: int, flip: bool, generator: torch.Generator
    ) -> None:
        check_batch(batch, len(dataset), dataset.name)
        self.dataset, self.batch, self.crop, self.flip, self.generator = dataset, batch, crop, flip, generator
        # One border for the whole data set instead of one for each batch.
        self._padded = F.pad(dataset.pixels, (0, 0, crop, crop, crop, crop))
        self._mean, self._deviation = moments

    def __len__(self) -> int:
        return len(self.dataset) // self.batch

    def __iter__(self) -> Iterator[tuple[Images, Labels]]:
        order = torch.randperm(len(self.dataset), generator=self.generator)
        order = moved(order, self._padded.device)
        for index in order[: len(self) * self.batch].split(self.batch):
            yield self._augmented(index), self.dataset.labels[index]

    def _augmented(self, index: Int64[Tensor, " batch"]) -> Images:
        height, width = self.dataset.pixels.shape[1:3]
        top, left = torch.randint(2 * self.crop + 1, (2, len(index), 1), generator=self.generator)
        mirrored = torch.rand(len(index), 1, generator=self.generator) < (0.5 if self.flip else 0.0)
        rows = moved(top + torch.arange(height), index.device)
        columns = left + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
        columns = moved(columns, index.device)
        pixels = self._padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return ((pixels.float() - self._mean) / self._deviation).permute(0, 3, 1, 2)


def load_dataset(
    data: str | Dataset, image_size: int | None = None, images: int | None = None, seed: int = 0
) -> Dataset:
    """Load a data set by name (``digits``, ``cifar10``, ``folder:PATH``), or take one that is in memory.

    ``image_size`` resizes to squares of that many pixels (an image that is none is squashed), ``images`` keeps so many
    of them, None all; ``seed`` draws which, and their order. A folder is ``PATH/<class>/*`` or
    ``PATH/train/<class>/*``, of JPEG, PNG, BMP, TIFF, WebP and PNM files, which are turned upright as their EXIF says;
    what is hidden is left out, what else is not read is said. Raises DataError if there is no such data set, or its
    files are missing, broken or not all of one size.
    """
    for name, least in (("image_size", image_size), ("images", images)):
        if least is not None and least < 1:
            raise DataError(f"{name} = {least}: must be at least 1")
    if data == "digits":
        data = _digits()
    if isinstance(data, Dataset):
        source = data.at(_subset(len(data), images, seed, data.name))
    elif data == "cifar10":
        source = _cifar10(seed, images, image_size)
    elif data.startswith("folder:") and data != "folder:":
        path = Path(os.path.expanduser(data.removeprefix("folder:")))
        source = _folder(path, f"data = 'folder:{path}'", f"image folder {path.name}", seed, images, image_size)
    else:
        raise DataError(f"data = {data!r}: no such data set; allowed: digits, cifar10, folder:PATH")
    if image_size is None or source.pixels.shape[1:3] == (image_size, image_size):
        return source
    # Only a CPU resizes uint8. torchvision's resize computes the same bits, but takes seconds to import.
    resize = partial(F.interpolate, size=(image_size, image_size), mode="bilinear", antialias=True)
    parts = [resize(part.permute(0, 3, 1, 2)) for part in source.pixels.cpu().split(4096)]
    return replace(source, pixels=torch.cat(parts).permute(0, 2, 3, 1).contiguous().to(source.pixels.device))


def _subset(total: int, images: int | None, seed: int, name: str) -> Int64[Tensor, " chosen"]:
    if images is not None and images > total:
        raise DataError(f"images = {images}: {name} has only {total}")
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:images]


@cache
def _digits() -> Dataset:
    # Its file is read as it lies: importing scikit-learn takes seconds.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",")
    pixels = torch.from_numpy(np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8)).reshape(-1, 8, 8, 1)
    return Dataset("digits (scikit-learn)", tuple("0123456789"), pixels, torch.from_numpy(rows[:, -1]).long())


def _cifar10(seed: int, images: int | None, image_size: int | None) -> Dataset:
    root = Path(os.environ.get("WIRING_DATA", "data"))
    for tree in (root, root / "cifar10"):
        if (tree / "train").is_dir():
            kind = "JPEG copy" if any((tree / "train").glob("*/*.jp*g")) else "image folder"
            return _folder(tree, f"data = 'cifar10', in {tree}", f"CIFAR-10 ({kind})", seed, images, image_size)
    from torchvision.datasets import CIFAR10  # takes seconds to import

    is_new = not root.exists()
    try:
        # torchvision compares the checksums of its files before it opens them.
        source = CIFAR10(str(root), train=True, download=not (root / CIFAR10.base_folder).is_dir())
    except (OSError, RuntimeError, HTTPException) as error:
        if is_new:
            with suppress(OSError):  # a part of the download may be in it
                root.rmdir()
        reason = str(error).splitlines()[0]
        raise DataError(
            f"data = 'cifar10': nothing usable in {root} (the folder that WIRING_DATA names: torchvision's "
            f"{CIFAR10.base_folder}/, or train/<class>/ images), and torchvision could not fetch it: {reason}"
        ) from error
    everything = Dataset("CIFAR-10", tuple(source.classes), torch.from_numpy(source.data), torch.tensor(source.targets))
    return everything.at(_subset(len(everything), images, seed, "CIFAR-10"))


def _folder(path: Path, given: str, name: str, seed: int, images: int | None, image_size: int | None) -> Dataset:
    """Read an image-folder tree (:func:`wiring.folders.scan`); only the subset is decoded."""
    if not path.is_dir():
        raise DataError(f"{given}: {'is a file' if path.exists() else 'no such folder'}")
    try:
        tree = folders.scan(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{given}: {error}") from error
    name += f" ({tree.split})" if tree.split else ""
    chosen = _subset(len(tree.files), images, seed, name)
    pixels: list[np.ndarray] = []
    for index in tqdm(chosen.tolist(), desc=f"reading {name}", disable=None, leave=False):
        file = tree.files[index]
        try:
            pixels.append(folders.read(file, image_size))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{given}: {file} is not a readable image ({error})") from error
        if pixels[-1].shape != pixels[0].shape:
            sizes = " and ".join("x".join(map(str, p.shape[1::-1])) for p in (pixels[0], pixels[-1]))
            raise DataError(f"{given}: images of {sizes} pixels ({file}); give image_size")
    if tree.unread and images != 1:
        LOG.warning(
            "%s: %s not read; read are %s", name, folders.listed(tree.unread), " ".join(sorted(folders.FORMATS))
        )
    return Dataset(name, tree.classes, torch.from_numpy(np.stack(pixels)), torch.tensor(tree.labels)[chosen])


def sample(name: str, images: int, seed: int = 0, size: int | None = None) -> tuple[Images, Labels]:
    """Random images, normalised, in double precision, and their labels. Raises DataError as :func:`load_dataset`."""
    dataset = load_dataset(name, size, images, seed)
    loader = Loader(dataset, dataset.moments(), images, 0, flip=False, generator=torch.Generator().manual_seed(seed))
    pixels, labels = next(iter(loader))
    return pixels.double(), labels
