"""Layouts of image folders and kinds of files: each is read as a user would expect, or refused in one line."""

import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from wiring import folders
from wiring.datasets import DataError, load_dataset

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def picture(file, colour=WHITE, size=(4, 4), **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file, **options)


def layout(*files):
    """A tree of these files; pictures, but for what ends in .txt, .gif, .csv or .db."""

    def make(root):
        for number, file in enumerate(files):
            path = root / file
            if path.suffix in (".txt", ".csv", ".db", ""):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("no image")
            else:
                picture(path, (number, number, number))

    return make


def and_then(make, change):
    def both(root):
        make(root)
        change(root)

    return both


TWO = ("a/0.png", "b/0.png")
IN_TRAIN = ("train/a/0.png", "train/b/0.png")


def with_one_more(make):
    return and_then(layout(*TWO), lambda root: make(root / "a/1.png"))


#: What a tree is -> how to make it, and the number of images of each class as it is read.
READ = {
    "classes": (layout(*TWO), {"a": 1, "b": 1}),
    "train": (layout(*IN_TRAIN), {"a": 1, "b": 1}),
    "train and test": (layout(*IN_TRAIN, "test/c/0.png", "test/d/0.png"), {"a": 1, "b": 1}),
    "train, val and valid": (layout(*IN_TRAIN, "val/a/0.png", "valid/a/0.png"), {"a": 1, "b": 1}),
    "train beside notes": (layout(*IN_TRAIN, "notes/read.txt", "labels.csv"), {"a": 1, "b": 1}),
    "train beside an empty folder": (
        and_then(layout(*IN_TRAIN), lambda root: (root / "later").mkdir()),
        {"a": 1, "b": 1},
    ),
    "a class named train": (layout("bus/0.png", "train/0.png", "car/0.png"), {"bus": 1, "car": 1, "train": 1}),
    "a class named test": (layout("exam/0.png", "test/0.png"), {"exam": 1, "test": 1}),
    "thumbnails": (layout(*TWO, ".thumbnails/0.png"), {"a": 1, "b": 1}),
    "thumbnails in a class": (layout(*TWO, "a/.thumbnails/0.png"), {"a": 1, "b": 1}),
    "checkpoints": (layout(*TWO, ".ipynb_checkpoints/0.png", "a/.ipynb_checkpoints/1.png"), {"a": 1, "b": 1}),
    "what an archive leaves": (layout(*TWO, "__MACOSX/a/0.png", "a/._0.png"), {"a": 1, "b": 1}),
    "hidden beside train": (layout(*IN_TRAIN, ".cache/0.png"), {"a": 1, "b": 1}),
    "hidden in train": (layout(*IN_TRAIN, "train/.cache/0.png"), {"a": 1, "b": 1}),
    "deep": (layout("a/x/y/0.png", "a/1.png", "b/0.png"), {"a": 2, "b": 1}),
    "suffixes in capitals": (layout("a/0.PNG", "a/1.JPG", "b/0.Jpeg"), {"a": 2, "b": 1}),
    "formats": (
        layout(*(f"a/0.{suffix}" for suffix in ("png", "jpg", "bmp", "tif", "tiff", "webp", "ppm")), "b/0.jpeg"),
        {"a": 7, "b": 1},
    ),
    "names with spaces and umlauts": (layout("ä ö/0 1.png", "b/0.png"), {"b": 1, "ä ö": 1}),
    "a file of another format": (layout(*TWO, "a/1.gif"), {"a": 1, "b": 1}),
    "a list of labels in a class": (layout(*TWO, "a/labels.txt"), {"a": 1, "b": 1}),
    "an image in no class": (layout(*TWO, "0.png"), {"a": 1, "b": 1}),
    "a link to a class elsewhere": (
        and_then(layout(*TWO, "../other/0.png"), lambda root: (root / "c").symlink_to(root.parent / "other")),
        {"a": 1, "b": 1, "c": 1},
    ),
    "a link to an image": (
        and_then(layout(*TWO), lambda root: (root / "a/1.png").symlink_to(root / "b/0.png")),
        {"a": 2, "b": 1},
    ),
    "a link to a folder elsewhere": (
        and_then(layout(*TWO, "../other/0.png"), lambda root: (root / "a/more").symlink_to(root.parent / "other")),
        {"a": 2, "b": 1},
    ),
    "a link back to the tree": (
        and_then(layout(*TWO), lambda root: (root / "a/again").symlink_to(root)),
        {"a": 1, "b": 1},
    ),
    "a link back to its class": (
        and_then(layout(*TWO), lambda root: (root / "a/again").symlink_to(root / "a")),
        {"a": 1, "b": 1},
    ),
    "a link to what holds the tree": (
        and_then(layout(*TWO), lambda root: (root / "a/up").symlink_to(root.parent)),
        {"a": 1, "b": 1},
    ),
    "links to each other": (
        and_then(
            layout("a/x/0.png", "a/y/0.png", "b/0.png"),
            lambda root: ((root / "a/x/y").symlink_to(root / "a/y"), (root / "a/y/x").symlink_to(root / "a/x")),
        ),
        {"a": 2, "b": 1},
    ),
    "a link to another class": (
        and_then(layout(*TWO), lambda root: (root / "a/b").symlink_to(root / "b")),
        {"a": 1, "b": 1},
    ),
    "a tree that is a link": (
        and_then(
            layout("../real/a/0.png", "../real/b/0.png"),
            lambda root: (root.rmdir(), root.symlink_to(root.parent / "real")),
        ),
        {"a": 1, "b": 1},
    ),
}
#: What is refused, with what the message says.
REFUSED = {
    "nothing": (lambda root: root.mkdir(), "no class folder"),
    "images alone": (layout("0.png", "1.png"), "no class folder"),
    "one class": (layout("a/0.png"), "only one class folder, 'a'"),
    "one class and a hidden one": (layout("a/0.png", ".b/0.png"), "only one class folder, 'a'"),
    "an empty class": (and_then(layout(*TWO), lambda root: (root / "c").mkdir()), "class 'c' has no image;"),
    "a class of other formats": (layout(*TWO, "c/0.gif", "c/1.gif", "c/x.txt"), "class 'c' has no image, only 2 .gif"),
    "a class of hidden images": (layout(*TWO, "c/._0.png"), "class 'c' has no image"),
    "train among classes": (layout("bus/0.png", "train/steam/0.png", "train/diesel/0.png"), "stands beside bus"),
    "train and a class": (layout(*IN_TRAIN, "c/0.png"), "give folder:.*/train"),
    "train with folders of images and images": (layout("train/a/0.png", "train/0.png"), "only one class folder"),
    "train alone, of images": (layout("train/0.png"), "train/ has no folder"),
    "train and test of images": (layout("train/0.png", "test/0.png"), "train/ has no folder"),
    "train, empty": (lambda root: (root / "train").mkdir(parents=True), "train/ has no folder"),
    "one image of another size": (with_one_more(lambda file: picture(file, size=(5, 4))), "4x4 and 5x4|5x4 and 4x4"),
    "a text named as an image": (with_one_more(lambda file: file.write_text("x")), "a/1.png is not"),
    "a broken link": (with_one_more(lambda file: file.symlink_to("none.png")), "a/1.png is not"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "counts"), READ.values(), ids=READ)
def test_a_layout_is_read_as_its_classes(tmp_path, make, counts):
    make(tmp_path / "data")
    found = load_dataset(f"folder:{tmp_path / 'data'}")
    assert dict(zip(found.classes, found.labels.bincount().tolist(), strict=True)) == counts
    assert f"{len(found)} images, 4x4x3, of {len(counts)} classes: " in str(found)


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_a_layout_that_is_none_is_refused_in_one_line(tmp_path, make, said):
    make(tmp_path / "data")
    with pytest.raises(DataError, match=said) as caught:
        load_dataset(f"folder:{tmp_path / 'data'}")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "data") in str(caught.value)


def test_what_is_not_read_is_counted_and_said(tmp_path, caplog):
    layout(*TWO, "a/1.gif", "a/2.GIF", "b/x.txt", "loose.png", ".hidden")(tmp_path)
    load_dataset(f"folder:{tmp_path}")
    (said,) = caplog.messages
    assert "2 .gif, 1 .txt, 1 in no class folder not read" in said
    caplog.clear()
    (tmp_path / "a/1.gif").unlink(), (tmp_path / "a/2.GIF").unlink()
    (tmp_path / "b/x.txt").unlink(), (tmp_path / "loose.png").unlink()
    load_dataset(f"folder:{tmp_path}")
    assert caplog.messages == []
    assert caplog.get_records("call") == []
    assert logging.getLogger("wiring.data").level == logging.NOTSET


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_pictures_are_turned_upright(tmp_path, turn, suffix):
    exif = Image.Exif()
    exif[0x0112] = turn  # the tag of the orientation
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(noise).save(tmp_path / name / f"0.{suffix}", exif=exif)
    pixels = load_dataset(f"folder:{tmp_path}").pixels[0].numpy()
    as_stored = np.asarray(Image.open(tmp_path / "a" / f"0.{suffix}").convert("RGB"))
    transposed = as_stored.swapaxes(0, 1)
    upright = [as_stored, as_stored[:, ::-1], as_stored[::-1, ::-1], as_stored[::-1]]
    upright += [transposed, np.rot90(as_stored, -1), transposed[::-1, ::-1], np.rot90(as_stored)]
    assert np.array_equal(pixels, upright[turn - 1])


def test_a_picture_that_is_too_large_is_reduced_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LARGEST", 64 * 64)
    gradient = np.linspace(0, 255, 256).astype(np.uint8)[None, :, None].repeat(256, 0).repeat(3, 2)
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.fromarray(gradient).save(tmp_path / name / "0.jpg", quality=95)
    pixels = load_dataset(f"folder:{tmp_path}", image_size=8).pixels
    expected = np.asarray(Image.fromarray(gradient).resize((8, 8), Image.Resampling.BILINEAR))
    assert np.abs(pixels[0].numpy().astype(int) - expected).max() <= 8
    for refused in ({}, {"image_size": 64}):
        with pytest.raises(DataError, match=r"256x256 pixels; allowed: 4096, or a JPEG and an image_size"):
            load_dataset(f"folder:{tmp_path}", **refused)
    Image.fromarray(gradient).save(tmp_path / "a" / "0.png")
    with pytest.raises(DataError, match=r"a/0.png is not a readable image \(256x256 pixels"):
        load_dataset(f"folder:{tmp_path}", image_size=8)


def test_a_picture_beyond_pillows_bound_is_read_small(tmp_path):
    for name in "ab":
        picture(tmp_path / name / "0.jpg", (200, 0, 0), (20_000, 10_000))
    bound = Image.MAX_IMAGE_PIXELS
    pixels = load_dataset(f"folder:{tmp_path}", image_size=4).pixels
    assert (pixels.float() - torch.tensor([200.0, 0, 0])).abs().max() < 4
    assert bound == Image.MAX_IMAGE_PIXELS


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path):
    layout(*TWO)(tmp_path)
    (tmp_path / "a").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        load_dataset(f"folder:{tmp_path}")
    (tmp_path / "a").chmod(0o755)
