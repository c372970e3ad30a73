"""Every data source, every refusal and the batched augmentation, against PIL, torchvision and loops over images."""

import hashlib
import os
import pickle
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, ImageFolder, cifar
from torchvision.transforms.v2.functional import resize

from wiring.datasets import DataError, Dataset, Loader, load_dataset, sample

MODES = {"L": 1, "RGB": 3, "RGBA": 4}
UNSCALED = torch.zeros(3), torch.ones(3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(file, seed, size=(8, 8), mode="RGB"):
    """Write a random image of (width, height) and return its RGB pixels as PIL reads them."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], MODES[mode]), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.squeeze() if mode == "L" else noise).save(file)
    return noise.repeat(3, axis=2) if mode == "L" else noise[..., :3]


def tree(root, classes=("ape", "bee"), each=3, **shape):
    """An image-folder tree; (class, file name) -> pixels."""
    names = [(name, f"{k}.png") for name in classes for k in range(each)]
    return {key: picture(root.joinpath(*key), seed, **shape) for seed, key in enumerate(names)}


def multiset(pixels, labels):
    return sorted((int(label), image.tobytes()) for image, label in zip(np.asarray(pixels), labels, strict=True))


def refusal(*arguments, **options):
    with pytest.raises(DataError) as caught:
        load_dataset(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noise_set(count, height, width, channels=3, seed=0):
    """Random images; the label of each is its number."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    classes = tuple(map(str, range(count)))
    return Dataset("noise", classes, torch.from_numpy(pixels), torch.arange(count))


# digits


def test_digits_are_all_of_scikit_learns_images_stretched_to_bytes():
    digits, source = load_dataset("digits"), load_digits()
    assert digits.classes == tuple("0123456789")
    assert digits.pixels.dtype == torch.uint8
    assert digits.pixels.shape == (1797, 8, 8, 1)
    expected = np.array([[round(v * 255 / 16) for v in image.flat] for image in source.images], dtype=np.uint8)
    assert multiset(digits.pixels, digits.labels) == multiset(expected.reshape(-1, 8, 8, 1), source.target)


def test_digits_resized_are_torchvisions_antialiased_resize():
    small, large = load_dataset("digits", images=5), load_dataset("digits", 12, images=5)
    expected = resize(small.pixels.permute(0, 3, 1, 2), [12, 12], antialias=True).permute(0, 2, 3, 1)
    assert torch.equal(large.pixels, expected)
    assert torch.equal(large.labels, small.labels)


def test_subset_of_digits_is_seeded_and_without_duplicates():
    everything = load_dataset("digits")
    whole = multiset(everything.pixels, everything.labels)
    first, again, other = (load_dataset("digits", images=1000, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    for entry in (drawn := multiset(first.pixels, first.labels)):
        whole.remove(entry)  # fails for an image drawn more often than it is there
    assert len(drawn) == 1000


# image folders


@pytest.mark.parametrize("layout", [".", "train"])
@pytest.mark.parametrize("mode", MODES)
def test_image_folder_gives_pil_s_pixels_under_the_class_folders_names(tmp_path, layout, mode):
    there = tree(tmp_path / layout, ("cat", "ape", "bee"), size=(7, 5), mode=mode)
    data = load_dataset(f"folder:{tmp_path}")
    assert data.classes == ("ape", "bee", "cat")
    assert data.pixels.shape == (9, 5, 7, 3)
    expected = multiset(list(there.values()), [data.classes.index(name) for name, _ in there])
    assert multiset(data.pixels, data.labels) == expected
    oracle = ImageFolder(str(tmp_path / layout))
    assert multiset([np.asarray(image) for image, _ in oracle], oracle.targets) == expected


def test_image_folder_with_train_and_test_reads_train_alone(tmp_path):
    there = tree(tmp_path / "train")
    tree(tmp_path / "test", ("other", "third"))
    data = load_dataset(f"folder:{tmp_path}")
    assert multiset(data.pixels, data.labels) == multiset(list(there.values()), [0, 0, 0, 1, 1, 1])


def test_image_size_resizes_images_of_different_sizes_as_pil_does(tmp_path):
    picture(tmp_path / "a/odd.png", 1, (11, 6))
    picture(tmp_path / "b/grey.png", 2, (3, 17), "L")
    data = load_dataset(f"folder:{tmp_path}", image_size=9)
    assert data.pixels.shape == (2, 9, 9, 3)
    files = [tmp_path / "a/odd.png", tmp_path / "b/grey.png"]
    expected = [np.asarray(Image.open(f).convert("RGB").resize((9, 9), Image.Resampling.BILINEAR)) for f in files]
    assert multiset(data.pixels, data.labels) == multiset(expected, [0, 1])


def test_subset_of_an_image_folder_is_seeded_without_duplicates_and_alone_decoded(tmp_path):
    there = tree(tmp_path, each=8)
    whole = multiset(list(there.values()), [0] * 8 + [1] * 8)
    first, again = (load_dataset(f"folder:{tmp_path}", images=7, seed=5) for _ in range(2))
    assert torch.equal(first.pixels, again.pixels)
    drawn = multiset(first.pixels, first.labels)
    assert len(set(drawn)) == 7
    assert set(drawn) <= set(whole)
    assert len({tuple(load_dataset(f"folder:{tmp_path}", images=7, seed=s).labels.tolist()) for s in range(6)}) > 1
    unused = next(f for f, image in there.items() if image.tobytes() not in {image for _, image in drawn})
    tmp_path.joinpath(*unused).write_text("no image")
    assert multiset(load_dataset(f"folder:{tmp_path}", images=7, seed=5).pixels, first.labels) == drawn


def test_paths_with_spaces_umlauts_and_nested_folders_work(tmp_path):
    root = tmp_path / "my bïlder"
    picture(root / "a a/deep/er/x.png", 1)
    picture(root / "b/y.PNG", 2)
    assert load_dataset(f"folder:{root}").classes == ("a a", "b")


# CIFAR-10


@pytest.mark.parametrize("place", ["train", "cifar10/train"])
def test_cifar10_is_found_as_an_image_tree_in_wiring_data(tmp_path, monkeypatch, place):
    there = tree(tmp_path / place, size=(6, 6))
    monkeypatch.setenv("WIRING_DATA", str(tmp_path))
    monkeypatch.setattr(cifar, "download_and_extract_archive", None)  # a call would fail
    data = load_dataset("cifar10")
    assert data.classes == ("ape", "bee")
    assert "CIFAR-10" in data.name
    assert multiset(data.pixels, data.labels) == multiset(list(there.values()), [0, 0, 0, 1, 1, 1])
    (tmp_path / place).joinpath(*next(iter(there))).write_bytes(b"no image")
    assert refusal("cifar10").startswith("data = 'cifar10', in ")


class Bomb:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def batches(root, content):
    base = root / CIFAR10.base_folder
    base.mkdir(parents=True)
    for name in [*(name for name, _ in CIFAR10.train_list + CIFAR10.test_list), CIFAR10.meta["filename"]]:
        (base / name).write_bytes(pickle.dumps(content(name)))
    return base


def test_cifar10_batches_with_wrong_checksums_are_refused_and_not_unpickled(tmp_path, monkeypatch):
    batches(tmp_path, lambda name: Bomb(tmp_path / "exploded"))
    monkeypatch.setenv("WIRING_DATA", str(tmp_path))
    monkeypatch.setattr(cifar, "download_and_extract_archive", None)
    assert str(tmp_path) in refusal("cifar10")
    assert not (tmp_path / "exploded").exists()


def test_cifar10_batches_with_right_checksums_are_read(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    planes = {name: rng.integers(0, 256, (4, 3072), dtype=np.uint8) for name, _ in CIFAR10.train_list}

    def content(name):
        if name == CIFAR10.meta["filename"]:
            return {"label_names": list("abcdefghij")}
        return {"data": planes.get(name, np.zeros((1, 3072), np.uint8)), "labels": [1, 9, 0, 1]}

    base = batches(tmp_path, content)
    sums = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in base.iterdir()}
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, part, [(name, sums[name]) for name, _ in getattr(CIFAR10, part)])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums[CIFAR10.meta["filename"]]})
    monkeypatch.setenv("WIRING_DATA", str(tmp_path))
    data = load_dataset("cifar10")
    assert data.classes == tuple("abcdefghij")
    expected = np.concatenate(list(planes.values())).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert multiset(data.pixels, data.labels) == multiset(expected, [1, 9, 0, 1] * 5)


def no_network(url, root, **options):
    os.makedirs(root)  # torchvision's own makes it before it asks
    raise URLError("[Errno -3] Temporary failure in name resolution\nsecond line")


def test_cifar10_without_files_and_network_names_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WIRING_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(cifar, "download_and_extract_archive", no_network)
    message = refusal("cifar10")
    assert all(part in message for part in ("WIRING_DATA", "train/<class>/", "name resolution", str(tmp_path)))
    assert not (tmp_path / "nothing").exists()


# refusals


@pytest.mark.parametrize("name", ["cifar", "CIFAR10", "", "folder", "folder:", "mnist"])
def test_unknown_data_set_is_refused_with_what_is_allowed(name):
    message = refusal(name)
    assert repr(name) in message
    assert "digits, cifar10, folder:PATH" in message


def test_missing_folder_is_refused(tmp_path):
    assert "no such folder" in refusal(f"folder:{tmp_path / 'none'}")


def test_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert "is a file" in refusal(f"folder:{tmp_path / 'file'}")


def test_folder_without_classes_is_refused(tmp_path):
    picture(tmp_path / "x.png", 0)
    assert str(tmp_path) in refusal(f"folder:{tmp_path}")


def test_empty_class_is_refused_by_name(tmp_path):
    tree(tmp_path)
    (tmp_path / "hollow").mkdir()
    assert "hollow" in refusal(f"folder:{tmp_path}")


def test_class_of_other_files_is_refused_by_name(tmp_path):
    tree(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/read.txt").write_text("no image")
    assert "notes" in refusal(f"folder:{tmp_path}")


def test_single_class_is_refused(tmp_path):
    tree(tmp_path, ("only",))
    assert "only" in refusal(f"folder:{tmp_path}")


def truncated(file):
    file.write_bytes(file.read_bytes()[:-60])


def headless(file):
    file.write_bytes(b"\x00" * 8 + file.read_bytes()[8:])


def emptied(file):
    file.write_bytes(b"")


def text(file):
    file.write_text("no image")


def flipped(file):
    content = bytearray(file.read_bytes())
    content[60] ^= 255
    file.write_bytes(content)


def dangling(file):
    file.unlink()
    file.symlink_to("nowhere.png")


@pytest.mark.parametrize("damage", [truncated, headless, emptied, text, flipped, dangling])
def test_broken_image_is_refused_by_name(tmp_path, damage):
    tree(tmp_path)
    damage(tmp_path / "bee/1.png")
    message = refusal(f"folder:{tmp_path}")
    assert str(tmp_path / "bee/1.png") in message
    assert "not a readable image" in message


def test_truncated_jpeg_is_refused_by_name(tmp_path):
    tree(tmp_path)
    Image.effect_noise((32, 32), 50).save(tmp_path / "bee/x.jpg")
    truncated(tmp_path / "bee/x.jpg")
    assert "bee/x.jpg" in refusal(f"folder:{tmp_path}")


def test_mixed_sizes_are_refused_with_both_sizes_and_the_way_out(tmp_path):
    picture(tmp_path / "a/0.png", 0, (8, 6))
    picture(tmp_path / "b/0.png", 0, (5, 7))
    message = refusal(f"folder:{tmp_path}")
    assert all(part in message for part in ("8x6", "5x7", "image_size"))


@pytest.mark.parametrize("source", ["digits", "folder", "cifar10"])
def test_more_images_than_there_are_is_refused_with_both_numbers(tmp_path, monkeypatch, source):
    tree(tmp_path / "train")
    monkeypatch.setenv("WIRING_DATA", str(tmp_path))
    message = refusal(f"folder:{tmp_path}" if source == "folder" else source, images=5000)
    assert "5000" in message
    assert ("1797" if source == "digits" else "6") in message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pixels": torch.zeros(4, 8, 8, 3)}, "allowed: torch.uint8 (images, height, width, channels)"),
        ({"pixels": torch.zeros(4, 8, 8, dtype=torch.uint8)}, "pixels torch.uint8 (4, 8, 8)"),
        ({"labels": torch.zeros(4)}, "labels torch.float32 (4,)"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "labels torch.int64 (5,)"),
        ({"labels": torch.tensor([0, 1, 2, 4])}, "labels from 0 to 4; allowed: 0 to 3"),
        ({"labels": torch.tensor([0, 1, 2, -1])}, "labels from -1 to 2; allowed: 0 to 3"),
        ({"name": "digits"}, "name = 'digits': means another data set"),
        ({"name": "folder:mine"}, "name = 'folder:mine': means another data set"),
    ],
)
def test_tensors_that_are_no_data_set_are_refused(fields, said):
    dataset = object.__new__(Dataset)  # under pytest the constructor's shapes are checked first
    vars(dataset).update(vars(noise_set(4, 8, 8)) | fields)
    with pytest.raises(DataError, match=re.escape(said)):
        dataset.__post_init__()


def test_images_in_memory_are_resized_and_drawn_from_as_those_of_a_name(tmp_path):
    tree(tmp_path)
    whole = replace(load_dataset(f"folder:{tmp_path}"), name="mine")
    small = load_dataset(whole, image_size=5, images=4, seed=1)
    assert small.pixels.shape == (4, 5, 5, 3)
    expected = resize(whole.pixels[torch.randperm(6, generator=seeded(1))[:4]].permute(0, 3, 1, 2), [5, 5])
    assert torch.equal(small.pixels.permute(0, 3, 1, 2), expected)
    with pytest.raises(DataError, match="images = 7: mine has only 6"):
        load_dataset(whole, images=7)


def test_fewer_images_than_a_batch_is_refused():
    with pytest.raises(DataError, match=re.escape("batch = 9") + ".*8 images"):
        Loader(noise_set(8, 4, 4), UNSCALED, 9, 0, False, seeded())


# batches


def windows(image, crop):
    """Every crop and mirror image of one padded image, by numpy."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * crop, width + 2 * crop, channels), image.dtype)
    padded[crop : crop + height, crop : crop + width] = image
    for top, left, mirrored in product(range(2 * crop + 1), range(2 * crop + 1), (False, True)):
        window = padded[top : top + height, left : left + width]
        yield (top, left, mirrored), window[:, ::-1] if mirrored else window


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(2, 9),
    height=st.integers(3, 7),
    width=st.integers(3, 7),
    channels=st.sampled_from([1, 3]),
    crop=st.integers(0, 4),
    flip=st.booleans(),
    batch=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_batches_are_crops_and_mirror_images_of_each_image_at_most_once(
    count, height, width, channels, crop, flip, batch, seed
):
    data, batch = noise_set(count, height, width, channels, seed), min(batch, count)
    moments = data.moments()
    loader = Loader(data, moments, batch, crop, flip, seeded(seed))
    seen = []
    for images, labels in loader:
        assert images.shape == (batch, channels, height, width)
        for image, label in zip(images, labels.tolist(), strict=True):
            restored = (image.permute(1, 2, 0) * moments[1] + moments[0]).round().to(torch.uint8).numpy()
            places = [
                place for place, window in windows(data.pixels[label].numpy(), crop) if (window == restored).all()
            ]
            assert any(flip or not mirrored for *_, mirrored in places)
            seen.append(label)
    assert len(seen) == len(loader) * batch == count // batch * batch
    assert len(set(seen)) == len(seen)


def test_crops_and_mirrors_are_uniform_and_each_image_has_its_own():
    crop, count = 1, 1800
    data = noise_set(1, 5, 4)
    copies = Dataset("copies", ("a", "b"), data.pixels.expand(count, -1, -1, -1), torch.zeros(count).long())
    ((images, _),) = Loader(copies, UNSCALED, count, crop, True, seeded())
    restored = images.permute(0, 2, 3, 1).to(torch.uint8).numpy()
    tally = [sum((window == r).all() for r in restored) for _, window in windows(data.pixels[0].numpy(), crop)]
    assert sum(tally) == count
    expected = count / 18
    assert sum((n - expected) ** 2 / expected for n in tally) < 40.8  # the 99.9 % quantile of chi square, 17 degrees


def test_every_image_is_left_out_now_and_then():
    loader = Loader(noise_set(5, 3, 3), UNSCALED, 2, 0, False, seeded())
    epochs = [{label for _, labels in loader for label in labels.tolist()} for _ in range(60)]
    assert all(len(epoch) == 4 for epoch in epochs)
    assert all(any(image not in epoch for epoch in epochs) for image in range(5))


def test_moments_are_numpys_and_normalise_what_comes_out():
    data = noise_set(40, 5, 6)
    mean, deviation = data.moments()
    pixels = data.pixels.numpy().astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(deviation, pixels.std((0, 1, 2)), rtol=1e-6)
    ((images, labels),) = Loader(data, (mean, deviation), 40, 0, False, seeded())
    expected = (pixels[labels] - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    np.testing.assert_allclose(images.permute(0, 2, 3, 1), expected, atol=1e-5)


def test_constant_channel_does_not_divide_by_zero():
    pixels = torch.full((3, 2, 2, 1), 77, dtype=torch.uint8)
    data = Dataset("flat", ("a", "b"), pixels, torch.tensor([0, 1, 0]))
    ((images, _),) = Loader(data, data.moments(), 3, 0, False, seeded())
    assert (images == 0).all()


def test_padding_is_black_before_normalisation():
    data = Dataset("white", ("a", "b"), torch.full((400, 1, 1, 1), 255, dtype=torch.uint8), torch.zeros(400).long())
    ((images, _),) = Loader(data, (torch.tensor([51.0]), torch.tensor([2.0])), 400, 1, False, seeded())
    assert set(images.flatten().tolist()) == {-25.5, 102.0}


def test_batches_are_channels_last_floats_of_a_resident_uint8_data_set():
    loader = Loader(noise_set(8, 5, 4), UNSCALED, 4, 2, True, seeded())
    resident = [value for value in vars(loader).values() if isinstance(value, torch.Tensor) and value.ndim == 4]
    assert [value.dtype for value in [*resident, loader.dataset.pixels]] == [torch.uint8] * (len(resident) + 1)
    for images, labels in loader:
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64


def test_same_seed_gives_the_same_batches_epoch_after_epoch_and_another_seed_others():
    def epochs(seed):
        loader = Loader(noise_set(9, 4, 4), UNSCALED, 4, 1, True, seeded(seed))
        return torch.stack([images for _ in range(3) for images, _ in loader])

    assert torch.equal(epochs(1), epochs(1))
    assert not torch.equal(epochs(1), epochs(2))
    assert not torch.equal(epochs(1)[:2], epochs(1)[2:4])


def test_loader_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    list(Loader(noise_set(9, 4, 4), UNSCALED, 4, 1, True, seeded()))
    assert torch.equal(state, torch.get_rng_state())


# label noise


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_label_noise_redraws_that_share_of_the_labels_uniformly(share):
    count, classes = 20_000, 10
    data = Dataset("x", tuple("0123456789"), torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count).long())
    noisy = data.with_label_noise(share, seeded())
    redrawn = round(share * count)
    tally = np.bincount(noisy.labels, minlength=classes)
    assert len(tally) == classes
    np.testing.assert_allclose(tally[1:], redrawn / classes, atol=5 * (redrawn / classes) ** 0.5)
    assert (data.labels == 0).all()
    assert torch.equal(noisy.labels, data.with_label_noise(share, seeded()).labels)


def test_a_data_set_at_an_index_is_those_images_in_that_order():
    data = noise_set(6, 2, 2)
    part = data.at(torch.tensor([4, 0, 4]))
    assert len(part) == 3
    assert part.labels.tolist() == [4, 0, 4]
    assert torch.equal(part.pixels, data.pixels[[4, 0, 4]])


def test_a_sample_is_a_normalised_batch_in_double_precision_and_the_seeds():
    images, labels = sample("digits", 200, seed=1)
    assert (images.shape, images.dtype, labels.shape) == ((200, 1, 8, 8), torch.float64, (200,))
    assert images.mean().abs() < 1e-6
    assert abs(images.std() - 1) < 1e-2
    assert torch.equal(sample("digits", 200, seed=1)[0], images)
    assert not torch.equal(sample("digits", 200, seed=2)[0], images)
    assert sample("digits", 5, size=12)[0].shape == (5, 1, 12, 12)
