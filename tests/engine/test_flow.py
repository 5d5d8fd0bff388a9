"""One way through: a run builds its data and network once, reads and predicts each image no more often than it must."""

import sys
from collections import Counter
from pathlib import Path

import torch

import train as train_command
from common import command
from data import build_dataset
from engine import config as config_module
from engine.training.job import Job, build_parts, first_network
from models.networks.unet import UNet
from tests.engine.test_training import tiny
from tests.helpers import make_folder

ROOT = Path(__file__).parents[2]


class Trace:
    """Counts calls of this repository's functions, and the files they are in, while it is active."""

    def __init__(self) -> None:
        self.calls: Counter = Counter()
        self.files: set[str] = set()
        self.forwards: Counter = Counter()  # of whole networks, by whether they are training

    def __call__(self, frame, event, arg) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(ROOT)) or ".venv" in code.co_filename:
            return
        name = str(Path(code.co_filename).relative_to(ROOT))
        if name.startswith("tests/") or code.co_name == "<module>":
            return
        self.files.add(name)
        self.calls[f"{name}:{code.co_name}"] += 1
        if name == "models/networks/unet.py" and code.co_name == "forward" and type(frame.f_locals["self"]) is UNet:
            self.forwards[frame.f_locals["self"].training] += 1

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *error) -> None:
        sys.setprofile(None)


def test_one_epoch_on_twelve_images(tmp_path, monkeypatch, capsys):
    make_folder(tmp_path / "data", n=6)
    cfg = tiny(tmp_path / "data", "train.epochs=1", "train.batch_size=2")
    (tmp_path / "c.yaml").write_text(config_module.dump(cfg))
    monkeypatch.chdir(tmp_path)
    with Trace() as trace:
        assert command.run(train_command.main, train_command.build_parser(), ["c.yaml"]) == 0
    calls = trace.calls
    assert trace.forwards[True] == 3  # the trace sees what it should: three batches of two
    assert 1 <= calls["data/__init__.py:build_dataset"] <= 3
    assert 1 <= calls["engine/evaluation/networks.py:build_network"] <= 2
    assert 6 <= calls["data/files.py:read_image"] <= 30
    assert 6 <= calls["data/files.py:read_raw_mask"] <= 30
    assert 1 <= trace.forwards[False] <= 12
    assert len(trace.files) <= 80, sorted(trace.files)
    assert "report:" in capsys.readouterr().out


def test_the_first_training_goes_on_with_the_network_built_before(tmp_path):
    """Built before the run or in it: the same weights, and the same random numbers afterwards."""
    make_folder(tmp_path / "data", n=3)
    cfg = tiny(tmp_path / "data")
    data = build_dataset(cfg, "train", train=True)
    states = []
    for built in (None, first_network(cfg, data, 7)):
        torch.manual_seed(99)
        parts = build_parts(Job(tmp_path, cfg, data, data, 7, built=built), torch.device("cpu"))
        states.append((parts.init_hash, torch.rand(3).tolist()))
    assert states[0] == states[1]
