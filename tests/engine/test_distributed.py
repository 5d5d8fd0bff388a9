"""Two processes through torchrun on the CPU: one run folder, one log, gradients of the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.commands.test_commands import write_config
from tests.helpers import make_folder

ROOT = Path(__file__).parents[2]


def torchrun(place: Path, *words: str, processes: int = 2) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, *words]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("folds", [0, 2])
def test_two_processes_write_one_run(tmp_path, folds):
    root = make_folder(tmp_path / "data", n=8)
    cv = {"folds": folds, "start_epochs": 1, "line_points": 0, "group": "none"}
    train = {"epochs": 2, "batch_size": 1, "validate_every": 2}
    config = write_config(tmp_path / "c.yaml", root, cv=cv, train=train, device="cpu")
    done = torchrun(tmp_path, str(ROOT / "train.py"), str(config))
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = (tmp_path / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(rows) == (2 if folds == 0 else 1 + 2 * 2)
    assert done.stdout.count("report:") == 1
    last = torch.load(run / ("last.pt" if folds == 0 else "stage0/fold0/last.pt"), weights_only=True)
    images = 8 if folds == 0 else 2  # 8 images: 3 start, 1 select, 4 in two folds
    assert last["progress"]["iteration"] == 2 * images // 2  # each process saw half
    resumed = torchrun(tmp_path, str(ROOT / "train.py"), "--resume", str(run))
    assert resumed.returncode == 0 and len((run / "log.jsonl").read_text().splitlines()) == len(rows)


SCRIPT = """
import sys, torch
from common import distributed
distributed.start()
torch.manual_seed(0)
model = torch.nn.Conv2d(3, 2, 1)
wrapped = distributed.wrap(model, torch.device("cpu"))
images = torch.arange(24.0).view(4, 3, 1, 2) / 10
mine = images[distributed.rank() :: distributed.world_size()]
wrapped(mine).square().mean().backward()
assert distributed.gather(distributed.rank()) == list(range(distributed.world_size()))
assert distributed.from_main(distributed.rank()) == 0
if distributed.is_main():
    torch.save(model.weight.grad, sys.argv[1])
del wrapped
distributed.stop()
"""


def test_gradients_are_those_of_all_images(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    gradients = []
    for processes in (1, 2):
        done = torchrun(tmp_path, "script.py", f"{processes}.pt", processes=processes)
        assert done.returncode == 0, done.stderr[-2000:]
        gradients.append(torch.load(tmp_path / f"{processes}.pt"))
    torch.testing.assert_close(*gradients)
