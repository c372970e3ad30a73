"""A day of steps in small: two thousand, in a process of their own, take no more memory than the first fifth."""

import json
import os
import subprocess
import sys

import pytest

STEPS = """
import json, sys
from pathlib import Path
import psutil, torch
from wiring.datasets import Dataset
from wiring.search.experiments import Experiment
from wiring.search.records import save_checkpoint
from wiring.search.loop import Search, keep_memory
from wiring.supernet.topology import Topology
torch.set_num_threads(1)
keep_memory()
topology = Topology((1,), ((0, 1),), (1,), (("skip_connect",),))
e = Experiment(topology=topology, cells=1, channels=1, batch=1, crop=0, flip=False, epochs=5, searcher="darts")
random = torch.Generator().manual_seed(0)
pixels = torch.randint(256, (400, 2, 2, 1), dtype=torch.uint8, generator=random)
search = Search(e, Dataset("noise", ("a", "b"), pixels, torch.randint(2, (400,), generator=random)))
process, steps, found = psutil.Process(), 0, []
while search.epoch < e.epochs:
    for _ in search.run_epoch():
        steps += 1
    save_checkpoint(Path(sys.argv[1]), search.state_dict())
    found.append([steps, process.memory_info().rss, process.num_fds()])
print(json.dumps(found))
"""


@pytest.mark.long
def test_memory_and_file_handles_do_not_grow_in_two_thousand_steps(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STEPS, str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    (_, first_memory, first_files), (steps, memory, files) = found[0], found[-1]
    assert steps == 2_000
    assert memory < 1.002 * first_memory, found
    assert files == first_files, found
