"""log.csv, and fakes of TensorBoard and Weights & Biases, which need not be installed."""

from __future__ import annotations

import csv
import json
import sys
from types import SimpleNamespace

import pytest

import train
from common import command
from engine.training import trackers
from engine.training.log import Log
from tests.commands.test_commands import write_config
from tests.helpers import make_folder


def call(*words: object) -> int:
    return command.run(train.main, train.build_parser(), [str(w) for w in words])


class FakeWandb:
    """Records its calls. https://docs.wandb.ai: init, Run.define_metric, Run.log, Run.finish."""

    def __init__(self, broken_at: int | None = None):
        self.rows, self.metrics, self.finished, self.broken_at = [], [], 0, broken_at

    def init(self, **facts):
        self.facts = facts
        return self

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, row):
        if len(self.rows) == self.broken_at:
            raise ConnectionError("network is gone")
        self.rows.append(row)

    def finish(self):
        self.finished += 1


class FakeWriter:
    made: list[FakeWriter] = []

    def __init__(self, folder):
        self.folder, self.points, self.closed = folder, [], False
        FakeWriter.made.append(self)

    def add_scalar(self, name, value, step):
        self.points.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "c.yaml", make_folder(tmp_path / "data", n=6), device="cpu", train={"epochs": 2})
    return tmp_path


def rows_of(place) -> list[dict]:
    (log,) = place.glob("runs/*/log.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_log_csv_holds_the_rows_of_log_jsonl(place):
    log = Log(place / "log.jsonl")
    log.append({"epoch": 1, "train_loss": 0.5, "val_miou": None})
    size = log.size()
    log.append({"epoch": 2, "train_loss": 0.4, "val_miou": 0.25, "train_dice": 0.7})
    with open(place / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"epoch": "1", "train_loss": "0.5", "val_miou": "", "train_dice": ""}
    assert rows[1]["val_miou"] == "0.25" and rows[1]["train_dice"] == "0.7"
    log.cut(size)  # a kill, and a resume
    log.append({"epoch": 2, "train_loss": 0.3, "val_miou": 0.5})
    with open(place / "log.csv") as file:
        assert [row["train_loss"] for row in csv.DictReader(file)] == ["0.5", "0.3"]


def test_wandb_gets_every_number_of_the_log(place, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    assert call("c.yaml", "--set", "log.tracker=wandb") == 0
    assert [r["epoch"] for r in fake.rows] == [1, 2] and fake.finished == 1 and fake.metrics == [("*", "epoch")]
    for sent, row in zip(fake.rows, rows_of(place)):
        assert sent == {k: v for k, v in row.items() if v is not None}
    (run,) = place.glob("runs/*")
    assert fake.facts["id"] == run.name and fake.facts["project"] == "segmentation"
    assert fake.facts["config"]["train"]["epochs"] == 2


def test_folds_have_their_own_names(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeWriter))
    FakeWriter.made.clear()
    write_config(place / "c.yaml", make_folder(place / "folds", n=24), device="cpu", train={"epochs": 1},
                 cv={"folds": 2, "bn_images": 8, "line_points": 0})  # fmt: skip
    assert call("c.yaml", "--set", "log.tracker=tensorboard") == 0
    (writer,) = FakeWriter.made
    assert writer.closed and writer.folder.endswith("tensorboard")
    names = {name for name, _, _ in writer.points}
    assert {"start/train_loss", "stage0/fold0/val_miou", "stage0/fold1/val_miou"} <= names
    fold1 = next(r for r in rows_of(place) if r["fold"] == 1)
    assert ("stage0/fold1/val_miou", fold1["val_miou"], 1) in writer.points


def test_a_tracker_that_fails_does_not_end_a_training(place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb(broken_at=1))
    assert call("c.yaml", "--set", "log.tracker=wandb") == 0
    assert len(fake.rows) == 1 and len(rows_of(place)) == 2
    assert "log.tracker left out from here on: network is gone" in capsys.readouterr().err


def test_a_missing_package_is_an_error_before_the_run_folder_exists(place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    assert call("c.yaml", "--set", "log.tracker=wandb") == 2
    assert "wandb is not installed; pip install wandb" in capsys.readouterr().err and not (place / "runs").exists()

    def refuse(**facts):
        raise RuntimeError("api_key not configured (no-tty)")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    assert call("c.yaml", "--set", "log.tracker=wandb") == 2
    assert "WANDB_MODE=offline" in capsys.readouterr().err
    assert set(trackers.PACKAGES) == {"tensorboard", "wandb"}
