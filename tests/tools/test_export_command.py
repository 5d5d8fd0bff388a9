"""tools.export: the files give the network's logits in every format; wrong arguments give one line."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from common import command
from engine import checkpoint as ckpt
from engine.config import config_from, to_dict
from models import build_model
from tests.model_helpers import assert_close, perturb_norms
from tests.models.test_models import FAMILIES
from tools import export

CLASSES = ["road", "car", "sky", "person", "void of meaning"]


def write_checkpoint(path, name="unet", seed=0, members=1):
    """A checkpoint with random weights, norms included; members > 1: an ensemble."""
    torch.manual_seed(seed)
    cfg = config_from({"model": {"name": name, **FAMILIES[name]}, "data": {"size": [64, 96]}})
    states = []
    for _ in range(members):
        model = build_model(name, len(CLASSES), **FAMILIES[name])
        perturb_norms(model)
        states.append(ckpt.cpu_state(model))
    content = {
        "model": states[0],
        "config": to_dict(cfg),
        "class_names": CLASSES,
        "palette": [[i, 0, 9] for i in range(5)],
    }
    ckpt.save(content | ({"ensemble": states} if members > 1 else {}), path)
    return path


def call(*words) -> int:
    return command.run(export.main, export.build_parser(), [str(w) for w in words])


def fails(capsys, *words) -> str:
    assert call(*words) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(err) == 1 and err[0].startswith("error: "), err
    return err[0]


PT2 = ["segformer_b0", "pspnet_resnet18", "unet"]  # tests/models/test_export.py has them all


@pytest.mark.parametrize("name", PT2)
def test_pt2_gives_the_networks_logits(name, tmp_path, capsys):
    path, out = write_checkpoint(tmp_path / "best.pt", name), tmp_path / "model.bin"
    assert call("--checkpoint", path, "--size", 64, 96, "--format", "pt2", "--out", out) == 0
    assert "0 of 18432 pixels get another class" in capsys.readouterr().out  # 3 images of 64 x 96
    images = torch.randn(1, 3, 64, 96)
    model = build_model(name, len(CLASSES), **FAMILIES[name]).eval()
    model.load_state_dict(ckpt.load_ours(path)["model"])
    with torch.no_grad():
        theirs = export.open_pt2(out)(images)
        assert_close(theirs, model(images)["out"], 1e-5)


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet18", "segformer_b0"])
def test_onnx_is_one_file_and_knows_its_classes(name, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    path = write_checkpoint(tmp_path / "best.pt", name)
    assert call("--checkpoint", path, "--size", 64, 96, "--batch", 2, "--out", out) == 0
    assert "pixels get another class" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "model.onnx"]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 3, 64, 96]
    facts = json.loads(session.get_modelmeta().custom_metadata_map[export.KEY])
    assert facts["classes"] == CLASSES and facts["mean"] == [0.485, 0.456, 0.406]


def test_pt2_holds_the_facts(tmp_path):
    out = tmp_path / "model.pt2"
    assert call("--checkpoint", write_checkpoint(tmp_path / "best.pt"), "--format", "pt2", "--out", out) == 0
    found = {export.KEY: ""}
    torch.export.load(out, extra_files=found)
    assert json.loads(found[export.KEY])["palette"] == [[i, 0, 9] for i in range(5)]


def test_a_file_with_other_logits_is_not_written(tmp_path, capsys, monkeypatch):
    path, out = write_checkpoint(tmp_path / "best.pt"), tmp_path / "model.pt2"

    def spoiled(model, images, facts, file):
        model.network.classifier.bias.data[0] += 0.05
        export.to_pt2(model, images, facts, file)
        model.network.classifier.bias.data[0] -= 0.05

    monkeypatch.setitem(export.FORMATS, "pt2", (spoiled, export.open_pt2))
    assert "computes otherwise: largest difference 5.00e-02" in fails(
        capsys, "--checkpoint", path, "--format", "pt2", "--out", out
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt"]


def test_without_onnxruntime_it_says_that_nothing_was_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    out = tmp_path / "model.onnx"
    assert call("--checkpoint", write_checkpoint(tmp_path / "best.pt"), "--out", out) == 0
    assert "not compared: onnxruntime is not installed" in capsys.readouterr().out and out.exists()


def test_wrong_arguments_give_one_line(tmp_path, capsys, monkeypatch):
    path = write_checkpoint(tmp_path / "best.pt")
    assert "at least 64 64" in fails(capsys, "--checkpoint", path, "--size", 32, 96)
    assert "no folder" in fails(capsys, "--checkpoint", path, "--out", tmp_path / "nowhere" / "a.onnx")
    assert "is a folder" in fails(capsys, "--checkpoint", path, "--out", tmp_path)
    assert "not both" in fails(capsys, "--checkpoint", path, "--run", tmp_path)
    two = write_checkpoint(tmp_path / "two.pt", members=2)
    assert "ensemble of 2 networks" in fails(capsys, "--checkpoint", two)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install onnx onnxscript" in fails(capsys, "--checkpoint", path, "--out", tmp_path / "a.onnx")
