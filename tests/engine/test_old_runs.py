"""Run folders of earlier versions go on where they stopped, and their checkpoints still score (old_runs/README.md)."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import eval as eval_command
import train as train_command
from common import command
from tests.helpers import make_folder

HERE = Path(__file__).parent / "old_runs"


@pytest.fixture
def expected() -> dict:
    return json.loads((HERE / "expected.json").read_text())


def close(found, wanted) -> bool:
    """Other processors and versions of torch round otherwise."""
    return found == wanted or found == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_a_run_of_6c594c2_goes_on_to_the_same_weights_and_scores(tmp_path, monkeypatch, expected):
    monkeypatch.chdir(tmp_path)
    make_folder(Path("data"), n=12, values=(0, 1, 2, 255))
    run = Path("runs/old")
    shutil.copytree(HERE / "6c594c2", run)
    assert command.run(train_command.main, train_command.build_parser(), ["--resume", str(run)]) == 0

    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert len(log) == len(expected["log"])
    for found, wanted in zip(log, expected["log"]):
        assert all(close(found[key], wanted[key]) for key in wanted), (found, wanted)
    weights = torch.load(run / "stage0/fold1/last.pt", weights_only=True)["model"]
    for key, wanted in expected["weights"].items():
        assert close(weights[key].double().abs().sum().item(), wanted), key

    assert command.run(eval_command.main, eval_command.build_parser(), ["--run", str(run), "--aggregate", "all",
                                                                        "--json", "scores.json"]) == 0  # fmt: skip
    for row in json.loads(Path("scores.json").read_text())["candidates"]:
        found = [row["select_miou"], row["miou"], row["miou_raw"]]
        assert all(map(close, found, expected["candidates"][row["name"]])), row["name"]
    assert (
        command.run(eval_command.main, eval_command.build_parser(), ["--checkpoint", str(run / "start/best.pt")]) == 0
    )


def test_a_run_with_checkpoints_of_format_2_goes_on_to_the_same_weights(tmp_path, monkeypatch, expected):
    monkeypatch.chdir(tmp_path)
    make_folder(Path("data"), n=12, values=(0, 1, 2, 255))
    run = Path("runs/old")
    shutil.copytree(HERE / "format2", run)
    assert torch.load(run / "last.pt", weights_only=True)["info"]["format"] == 2
    assert command.run(train_command.main, train_command.build_parser(), ["--resume", str(run)]) == 0
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for found, wanted in zip(log, expected["format2"]["log"], strict=True):
        assert all(close(found[key], wanted[key]) for key in wanted), (found, wanted)
    weights = torch.load(run / "last.pt", weights_only=True)["model"]
    for key, wanted in expected["format2"]["weights"].items():
        assert close(weights[key].double().abs().sum().item(), wanted), key
