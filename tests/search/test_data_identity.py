"""A run is of its images: on others it is neither resumed nor finished, whatever their names say."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from wiring import chapters
from wiring.datasets import Dataset, difference, load_dataset
from wiring.search import load, records, run, sweep
from wiring.search.experiments import Experiment
from wiring.search.records import RecordError

TINY = Experiment(batch=4, cells=1, channels=2, epochs=2, crop=0, image_size=4)


def pictures(root, seed, classes=("a", "b"), size=4, each=4):
    random = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(each):
            pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k}.png")


def stopped_after_one_epoch(monkeypatch, experiment, folder, **options):
    save = records.save_checkpoint

    def save_and_stop(path, state):
        save(path, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(records, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, folder, **options)


def replaced_pixels(root):
    pictures(root, 1)


def swapped_labels(root):
    shutil.move(root / "a/0.png", root / "moved.png")
    shutil.move(root / "b/0.png", root / "a/0.png")
    shutil.move(root / "moved.png", root / "b/0.png")


def renamed_class(root):
    shutil.move(root / "b", root / "c")


def one_more(root):
    shutil.copy(root / "a/0.png", root / "a/9.png")


CHANGES = {
    "pixels": (replaced_pixels, "other pixels"),
    "labels": (swapped_labels, "other (labels|pixels)"),
    "class names": (renamed_class, "other class names"),
    "number": (one_more, "shape 8x4x4x3 there, 9x4x4x3 here"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_a_run_is_not_resumed_on_other_data(tmp_path, monkeypatch, change, said):
    root = tmp_path / "pictures"
    pictures(root, 0)
    experiment = replace(TINY, data=f"folder:{root}")
    whole = run(experiment)
    stopped_after_one_epoch(monkeypatch, experiment, tmp_path / "run")
    shutil.copytree(root, tmp_path / "kept")
    change(root)
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    for _ in range(2):
        with pytest.raises(
            RecordError, match=rf"checkpoint\.pt .* other data: {said}.*; choose another folder, or restore"
        ) as caught:
            run(experiment, tmp_path / "run")
        assert "\n" not in str(caught.value)
        assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
    shutil.rmtree(root), shutil.copytree(tmp_path / "kept", root)
    resumed = run(experiment, tmp_path / "run")
    assert np.array_equal(resumed.arrays["alpha"], whole.arrays["alpha"])


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_a_run_on_other_data_is_not_finished(tmp_path, change, said):
    root = tmp_path / "pictures"
    pictures(root, 0)
    experiment = replace(TINY, data=f"folder:{root}")
    done = run(experiment, tmp_path / "run")
    assert done.provenance["fingerprint"] == load_dataset(experiment.data).fingerprint()
    assert np.array_equal(run(experiment, tmp_path / "run").arrays["alpha"], done.arrays["alpha"])
    change(root)
    with pytest.raises(RecordError, match=f"other data: {said}"):
        run(experiment, tmp_path / "run")
    shutil.rmtree(root)  # nothing to hold it against
    assert np.array_equal(run(experiment, tmp_path / "run").arrays["alpha"], done.arrays["alpha"])
    assert load(tmp_path / "run").provenance == done.provenance


def test_a_record_that_does_not_know_its_images_is_finished_whatever_they_are(tmp_path):
    pictures(tmp_path / "pictures", 0)
    experiment = replace(TINY, data=f"folder:{tmp_path / 'pictures'}")
    run(experiment, tmp_path / "run")
    done = json.loads((tmp_path / "run/done.json").read_text())
    del done["provenance"]["fingerprint"], done["sha256"]["provenance"]
    (tmp_path / "run/done.json").write_text(json.dumps(done | {"format": 1}))
    replaced_pixels(tmp_path / "pictures")
    run(experiment, tmp_path / "run")


def test_images_in_memory_of_the_same_name_are_told_apart(tmp_path, monkeypatch):
    def noise(seed):
        pixels = torch.randint(256, (8, 4, 4, 3), generator=torch.Generator().manual_seed(seed)).byte()
        return Dataset("noise", ("a", "b"), pixels, torch.arange(8) % 2)

    stopped_after_one_epoch(monkeypatch, TINY, tmp_path / "run", dataset=noise(0))
    with pytest.raises(RecordError, match="other pixels"):
        run(TINY, tmp_path / "run", dataset=noise(1))
    run(TINY, tmp_path / "run", dataset=noise(0))
    with pytest.raises(RecordError, match="other pixels"):
        run(TINY, tmp_path / "run", dataset=noise(1))


def test_a_sweep_on_other_data_is_not_finished(tmp_path, one_thread):
    pictures(tmp_path / "pictures", 0)
    experiment = replace(TINY, data=f"folder:{tmp_path / 'pictures'}", epochs=1)
    sweep(experiment, {"seed": [0, 1]}, tmp_path / "sweep")
    sweep(experiment, {"seed": [0, 1]}, tmp_path / "sweep")
    replaced_pixels(tmp_path / "pictures")
    with pytest.raises(RecordError, match="other pixels"):
        sweep(experiment, {"seed": [0, 1, 2]}, tmp_path / "sweep")


def test_a_fingerprint_is_of_names_labels_and_pixels_and_not_of_where_they_lie():
    digits = load_dataset("digits")
    same = Dataset("copy", digits.classes, digits.pixels.clone(), digits.labels.clone())
    assert same.fingerprint() == digits.fingerprint()
    assert difference(digits.fingerprint(), same.fingerprint()) is None
    assert difference({}, same.fingerprint()) is None
    strided = replace(same, pixels=same.pixels.repeat(1, 1, 1, 2)[..., ::2])
    assert strided.fingerprint() == digits.fingerprint()
    pixels = same.pixels.clone()
    pixels[-1, -1, -1, -1] ^= 1
    assert difference(digits.fingerprint(), replace(same, pixels=pixels).fingerprint()) == "other pixels"


def test_a_reruns_folder_is_kept_as_an_absolute_path(tmp_path, monkeypatch):
    pictures(tmp_path / "pics", 0, each=40)
    monkeypatch.chdir(tmp_path)
    values = chapters.check("p1", {"data": "folder:pics", "seeds": 2})
    assert values == {"data": f"folder:{tmp_path / 'pics'}", "seeds": 2}
