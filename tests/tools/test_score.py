"""tools.score: a folder of label PNGs gets the scores of the run that wrote it, and of a matrix made by hand."""

import json

import numpy as np
import pytest
import torch

import eval as eval_command
from common import command
from engine import checkpoint as ckpt
from engine.config import config_from, to_dict
from engine.evaluation.networks import build_network
from tests.commands.test_commands import write_config
from tests.helpers import make_cityscapes, make_folder, write_mask
from tools import score as score_command

HAND_TARGET = np.array([[0, 0, 1, 1], [2, 2, 11, 11]], np.uint8)
HAND_PRED = np.array([[0, 1, 1, 11], [2, 0, 0, 77]], np.uint8)


def run_score(*words) -> int:
    return command.run(score_command.main, score_command.build_parser(), [str(w) for w in words])


def fails(capsys, *words) -> str:
    capsys.readouterr()
    assert run_score(*words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.mark.parametrize("void", ["ignore", "error"])
def test_by_hand_with_values_outside_the_classes(tmp_path, void, capsys):
    """target 0: one right, one as 1; 1: one right, one as 11 (no class); 2: one right, one as 0; void: 0 and 77."""
    write_mask(tmp_path / "p/a.png", HAND_PRED)
    write_mask(tmp_path / "t/a.png", HAND_TARGET)
    out = tmp_path / "s.json"
    assert run_score(tmp_path / "p", tmp_path / "t", "--classes", "camvid", "--void", void, "--json", out) == 0
    result = json.loads(out.read_text())
    m = np.zeros((11, 11), int)
    m[0, 0], m[0, 1], m[1, 1], m[2, 2], m[2, 0] = 1, 1, 1, 1, 1
    assert result["confusion_matrix"] == m.tolist() and result["no_class"][1] == 1
    iou = list(result["per_class"].values())
    sky = 1 / 3 if void == "ignore" else 1 / 4  # the void pixel called sky is one more false positive
    assert iou[:3] == pytest.approx([sky, 1 / 3, 1 / 2]) and iou[3:] == [None] * 8
    assert result["miou"] == pytest.approx((sky + 1 / 3 + 1 / 2) / 3)
    assert result["pixel_accuracy"] == pytest.approx(3 / 6)  # of the labelled pixels, under either rule
    assert result.get("void_predictions", [0])[0] == (void == "error")
    assert "predicted as no class" in capsys.readouterr().out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network with random weights as a checkpoint, on a folder whose images have other sizes than the network's."""
    place = tmp_path_factory.mktemp("score")
    root = make_folder(place / "data", values=(0, 1, 2, 255), hw=(40, 60))  # the size of the images
    cfg = config_from(ckpt_config(place, root))
    torch.manual_seed(0)
    model = build_network(cfg, 3).eval()
    content = {"model": ckpt.cpu_state(model), "config": to_dict(cfg), "class_names": ["a", "b", "c"]}
    ckpt.save(content | {"palette": [[0, 0, 0], [9, 9, 9], [99, 9, 9]], "epoch": 0}, place / "best.pt")
    return place


def ckpt_config(place, root) -> dict:
    import yaml

    return yaml.safe_load(write_config(place / "c.yaml", root, eval={"batch_size": 3}).read_text())


@pytest.mark.parametrize("void", ["ignore", "error"])
@pytest.mark.parametrize("views", [(), ("--flip", "--scales", "1.0", "1.5")])
def test_equals_eval_on_the_same_predictions(checkpoint, tmp_path, void, views):
    words = ["--checkpoint", checkpoint / "best.pt", "--native", "--void", void, *views]
    words += ["--save", tmp_path / "p", "--json", tmp_path / "e.json"]
    assert command.run(eval_command.main, eval_command.build_parser(), [str(w) for w in words]) == 0
    targets, classes = checkpoint / "data/labels/val", checkpoint / "data/classes.yaml"
    assert run_score(tmp_path / "p", targets, "--classes", classes, "--void", void, "--json", tmp_path / "s.json") == 0
    ours, theirs = (json.loads((tmp_path / f"{n}.json").read_text()) for n in "es")
    assert set(ours) == set(theirs)
    for key in set(ours) - {"protocol", "seconds", "per_class", "per_image", "confusion_matrix", "void_predictions"}:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-9)
    assert ours["per_class"] == pytest.approx(theirs["per_class"], abs=1e-9)
    assert ours["confusion_matrix"] == theirs["confusion_matrix"]
    assert ours["per_image"]["cells"] == theirs["per_image"]["cells"]
    assert ("void_predictions" in ours) == (void == "error")


def test_names_are_paired_across_layouts(tmp_path, capsys):
    """City folders against a flat folder, Cityscapes' endings against ours; raw ids only where asked for."""
    root = make_cityscapes(tmp_path / "data", n=1, split="val")
    targets = root / "gtFine" / "val"
    for city in ("aachen", "bochum"):
        write_mask(tmp_path / f"flat/{city}_000000_000019_pred.png", (7, 11, 26, 0))
        write_mask(tmp_path / f"deep/{city}/{city}_000000_000019_leftImg8bit_ids.png", (0, 2, 13, 5))
        write_mask(tmp_path / f"deep/{city}/{city}_000000_000019_leftImg8bit_color.png", (0, 2, 13, 5))
    scored = {}
    for name, words in {"flat": ["--raw"], "deep": []}.items():
        out = tmp_path / f"{name}.json"
        assert run_score(tmp_path / name, targets, "--classes", "cityscapes", "--json", out, *words) == 0
        scored[name] = json.loads(out.read_text())
    assert scored["flat"]["miou"] == scored["deep"]["miou"] == 1.0
    assert scored["deep"]["per_image"]["groups"] == ["aachen", "bochum"]
    capsys.readouterr()
    assert run_score(tmp_path / "flat", targets, "--classes", "cityscapes") == 0
    assert "--raw" in capsys.readouterr().out  # ids read as trainIds: scored so, with a hint


def test_unpaired_files_give_one_line(tmp_path, capsys):
    for name in ("a", "b"):
        write_mask(tmp_path / f"t/{name}.png", (0, 1))
    write_mask(tmp_path / "p/a.png", (0, 1))
    assert "no prediction 'b'" in fails(capsys, tmp_path / "p", tmp_path / "t", "--classes", "camvid")
    write_mask(tmp_path / "p/b.png", (0, 1), (20, 30))
    assert "20x30" in fails(capsys, tmp_path / "p", tmp_path / "t", "--classes", "camvid")
    write_mask(tmp_path / "p/b_ids.png", (0, 1))
    assert "same name" in fails(capsys, tmp_path / "p", tmp_path / "t", "--classes", "camvid")
    assert "did you mean 'camvid'" in fails(capsys, tmp_path / "p", tmp_path / "t", "--classes", "camvit")


def evaluated(place, out, *words) -> dict:
    words = ["--checkpoint", place / "best.pt", "--json", out, *words]
    assert command.run(eval_command.main, eval_command.build_parser(), [str(w) for w in words]) == 0
    return json.loads(out.read_text())


def test_extra_scores_are_in_the_file_and_the_table(checkpoint, tmp_path, capsys):
    plain = evaluated(checkpoint, tmp_path / "a.json")
    capsys.readouterr()
    result = evaluated(checkpoint, tmp_path / "b.json", "--extra", "--native", "--save", tmp_path / "p")
    out = capsys.readouterr().out
    assert "boundary mIoU" in out and "AUC" in out and "expected calibration error" in out and "per image" in out
    assert not {"boundary_miou", "auc", "ece"} & set(plain)
    assert set(result["auc"]) == set(result["boundary_iou"]) == {"a", "b", "c"}
    assert sum(result["reliability"]["pixels"]) == np.sum(result["confusion_matrix"])
    words = [tmp_path / "p", checkpoint / "data/labels/val", "--classes", checkpoint / "data", "--extra"]
    assert run_score(*words, "--json", tmp_path / "s.json") == 0
    theirs = json.loads((tmp_path / "s.json").read_text())
    assert theirs["boundary_iou"] == pytest.approx(result["boundary_iou"], abs=1e-9)


def test_scores_do_not_depend_on_batch_size_or_workers(checkpoint, tmp_path):
    base = evaluated(checkpoint, tmp_path / "a.json", "--extra")
    for words in (["eval.batch_size=1"], ["eval.batch_size=4", "train.workers=2"]):
        sets = [w for s in words for w in ("--set", s)]
        other = evaluated(checkpoint, tmp_path / "b.json", "--extra", *sets)
        assert base["per_image"] == other["per_image"] and base["confusion_matrix"] == other["confusion_matrix"]
        assert base["boundary_iou"] == other["boundary_iou"]
        assert base["auc"] == pytest.approx(other["auc"], abs=1e-4)  # logits may differ in their last bits


def test_unusable_flags_give_one_line(checkpoint, capsys):
    for words, said in ((["--aggregate", "mean"], "--checkpoint"), (["--window", 32, 64], "eval.window")):
        words = ["--checkpoint", checkpoint / "best.pt", *words]
        assert command.run(eval_command.main, eval_command.build_parser(), [str(w) for w in words]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
