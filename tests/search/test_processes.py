"""Of several processes that start the same run, one does it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from command import call
from short_run import RUN, same_results, without_progress

STARTING = """
import json, sys
from pathlib import Path
import torch
from killing import child, status_of
torch.set_num_threads(1)
root, arguments = Path(sys.argv[1]), sys.argv[2:]
children = [child(arguments, root / f"errors-{k}", out=root / f"out-{k}") for k in range(8)]
print(json.dumps([status_of(number) for number in children]))
"""


def test_of_eight_processes_that_start_one_run_one_does_it_and_the_others_say_so(tmp_path):
    arguments = [*RUN, "--epochs=20", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", STARTING, str(tmp_path), *arguments],
        cwd=Path(__file__).parents[1] / "shared",
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = json.loads(done.stdout)
    said = [
        ((tmp_path / f"out-{k}").read_text(), without_progress((tmp_path / f"errors-{k}").read_text()))
        for k in range(8)
    ]
    did = [k for k, (out, _) in enumerate(said) if out and "finished before" not in out]
    assert len(did) == 1, said
    assert sum(status == 2 for status in statuses) >= 1, said
    for status, (out, err) in zip(statuses, said, strict=True):
        assert status in (0, 2)
        assert err.count("\n") == (status == 2)
        assert (status == 2) == ("another process runs there" in err)
        assert (status == 0) == bool(out)
    assert call(*RUN, "--epochs=20", "--out", str(tmp_path / "alone")) == 0
    assert same_results(tmp_path / "run", tmp_path / "alone")
