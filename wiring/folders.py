"""Image folders: which files are images of which class, and their pixels.

A tree is ``PATH/<class>/*``, or ``PATH/train/<class>/*`` beside other splits. What is hidden is no class and no image;
a tree that can be read in two ways is refused.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageMode, ImageOps

#: The suffixes of what is read, in lower case.
FORMATS = {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"}
#: Folders that may stand beside ``train`` and are no classes.
SPLITS = {"train", "test", "val", "valid", "validation", "dev"}
#: The pixels of the largest image that is decoded: Pillow's own bound against bombs.
LARGEST = 2 * (Image.MAX_IMAGE_PIXELS or 2**26)


@dataclass(frozen=True)
class Tree:
    """The images of an image-folder tree, by class and name."""

    classes: tuple[str, ...]
    files: list[Path]
    labels: list[int]
    unread: Counter[str]
    """How many files of other formats there are, by suffix."""
    split: str
    """Which of several splits it is, or nothing."""


def scan(path: Path) -> Tree:
    """The images of a tree. Raises ValueError, or OSError, if there is none or it can be read in more than one way."""
    root = path
    if "train" in (names := _folders(path)):
        inside = [name for name in _folders(path / "train") if any(_images(path / "train" / name))]
        beside = [name for name in names if name not in SPLITS and any(_images(path / name))]
        if inside and beside:
            raise ValueError(
                f"train/ has folders of images ({inside[0]}, ...), as a split has, but stands beside {beside[0]}, as a "
                f"class would; give folder:{path / 'train'}, or move one of them away"
            )
        if not inside and not beside:
            raise ValueError("train/ has no folder of images for each class")
        root = path / "train" if inside else path
    classes, files, labels, unread = _folders(root), list[Path](), list[int](), Counter[str]()
    there = _known(root)
    for label, name in enumerate(classes):
        others = Counter[str]()
        own = sorted(_images(root / name, others, {*there}), key=lambda file: (str(file.parent), file.name))
        if not own:
            only = f", only {listed(others)}" if others else ""
            raise ValueError(f"class {name!r} has no image{only}; allowed: {' '.join(sorted(FORMATS))}")
        files += own
        labels += [label] * len(own)
        unread += others
    if loose := sum(entry.is_file() for entry in _visible(root)):
        unread["in no class folder"] = loose
    if len(classes) < 2:
        found = f"only one class folder, {classes[0]!r}" if classes else "no class folder"
        raise ValueError(f"{found}; give two or more, PATH/<class>/images")
    return Tree(tuple(classes), files, labels, unread, root.name if root != path else "")


def listed(counts: Counter[str]) -> str:
    """Counts in words, the largest first: ``3 .gif, 1 .txt``."""
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def read(file: Path, image_size: int | None) -> np.ndarray:
    """An image's RGB bytes, upright, (height, width, 3), resized to a square of ``image_size`` pixels, if given.

    One too large to decode is reduced while it is read, if its format (JPEG) and ``image_size`` allow. Raises OSError,
    SyntaxError or ValueError if it is none, damaged, still too large, or of more than eight bits a channel.
    """
    with _without_bound(), Image.open(file) as opened:
        # More than eight bits a channel would be clipped without a word.
        if np.dtype(ImageMode.getmode(opened.mode).typestr).itemsize > 1:
            raise ValueError(f"mode {opened.mode}; allowed: eight bits a channel")
        if image_size is not None and opened.width * opened.height > LARGEST:
            opened.draft(opened.mode, (4 * image_size, 4 * image_size))
        if opened.width * opened.height > LARGEST:
            raise ValueError(f"{opened.width}x{opened.height} pixels; allowed: {LARGEST}, or a JPEG and an image_size")
        image = ImageOps.exif_transpose(opened)
        # A palette may hold transparency, which only RGBA can take over.
        image = (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
        if image_size is not None:
            image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
        return np.asarray(image)


@contextmanager
def _without_bound() -> Iterator[None]:
    """Let Pillow open what it would take for a bomb, to be asked for its size."""
    kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = kept


def _visible(path: Path) -> list[Path]:
    """What a folder holds but for what is hidden, as thumbnails, checkpoints and what archives leave."""
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith((".", "__MACOSX")))


def _folders(path: Path) -> list[str]:
    return [entry.name for entry in _visible(path) if entry.is_dir()]


def _known(root: Path) -> set[Path]:
    """A tree's own folder, those that hold it, and its classes: where a link may lead back to."""
    return {root.resolve(), *root.resolve().parents, *((root / name).resolve() for name in _folders(root))}


def _images(folder: Path, others: Counter[str] | None = None, been: set[Path] | None = None) -> Iterator[Path]:
    """The images in a class' folder, and those in its folders, each once; ``others`` counts files by suffix.

    A link that leads back, to the tree or to another class, is not followed.
    """
    been = _known(folder.parent) if been is None else been
    for entry in _visible(folder):
        if entry.is_dir():
            if (real := entry.resolve()) not in been:
                been.add(real)
                yield from _images(entry, others, been)
        elif entry.suffix.lower() in FORMATS:
            yield entry
        elif others is not None:
            others[entry.suffix.lower() or entry.name] += 1
