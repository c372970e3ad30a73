"""What cannot run is refused before it starts, without its memory and its images; what passes does run."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from wiring.datasets import DataError, Dataset
from wiring.search.experiments import Experiment, preflight
from wiring.search.loop import run
from wiring.supernet import MINIMAL, NAMES

TINY = Experiment(data="digits", images=48, batch=16, cells=1, channels=2, epochs=1)


def noise(images):
    pixels = torch.randint(256, (images, 4, 4, 3), dtype=torch.uint8)
    return Dataset("noise", ("a", "b"), pixels, torch.arange(images) % 2)


@pytest.fixture
def folder(tmp_path):
    """The name of an image folder of two images."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "x.png")
    return f"folder:{tmp_path}"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reductions": (1,)}, "no cell 1 among 1"),
        ({"data": "nosuch"}, "data = 'nosuch'"),
        ({"batch": 49}, "batch = 49: more than the 48 images"),
        ({"batch": 25, "level": "bi"}, "batch = 25: more than the 24 images"),
        ({"images": None, "batch": 1798}, "batch = 1798: more than the 1797 images"),
        ({"images": 1798}, "images = 1798: digits .* has only 1797"),
        ({"topology": MINIMAL.without_edges(*MINIMAL.edges)}, "no operation leads .* to the output"),
        ({"topology": MINIMAL.without_edges((0, 2), (1, 2)).with_output(2)}, "no operation leads .* to the output"),
        ({"topology": MINIMAL.without_operations(*NAMES[1:])}, "no operation leads .* to the output"),
    ],
)
def test_what_cannot_run_is_refused_and_so_is_the_run(tmp_path, fields, said):
    experiment = replace(TINY, **fields)
    for refused in (preflight, lambda e: run(e, tmp_path / "run")):
        with pytest.raises(ValueError, match=said):
            refused(experiment)
    assert not (tmp_path / "run").exists()


def test_a_folder_is_told_by_one_image(folder):
    preflight(replace(TINY, data=folder, images=None))
    with pytest.raises(DataError, match="batch = 16: more than the 2 images"):
        preflight(replace(TINY, data=folder, images=2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_device_and_data_of_a_clusters_workers_are_not_looked_for_here():
    elsewhere = replace(TINY, device="cuda", data="folder:nowhere")
    preflight(elsewhere, device=False)
    with pytest.raises(ValueError, match="device = 'cuda'"):
        preflight(elsewhere)
    with pytest.raises(ValueError, match="reductions"):
        preflight(replace(elsewhere, reductions=(5,)), device=False)


@pytest.mark.parametrize(("fields", "images"), [({"images": None}, 15), ({"images": 15}, 17), ({"level": "bi"}, 31)])
def test_images_in_memory_are_told_by_their_number(fields, images):
    preflight(replace(TINY, images=None), dataset=noise(16))
    with pytest.raises(DataError, match="batch = 16: more than the 15 images of a split of noise"):
        preflight(replace(TINY, **{"images": None, **fields}), dataset=noise(images))


def test_an_experiment_of_any_size_takes_no_memory_and_no_random_numbers():
    state = torch.get_rng_state()
    preflight(replace(TINY, cells=2, channels=2**14))
    assert torch.equal(torch.get_rng_state(), state)
