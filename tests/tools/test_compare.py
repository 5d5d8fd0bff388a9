"""tools.compare: paired differences of two result files, and refusals."""

import json

import pytest
import torch

from common import command
from engine.evaluation.paired_bootstrap import bootstrap_difference, group_matrices, result_differences
from engine.evaluation.per_image import PerImage, pack, unpack
from engine.evaluation.scores import Score, scores
from engine.metrics import ConfusionMatrix
from tools import compare as compare_command

NAMES = ["a", "b", "c", "d"]  # d occurs nowhere


def result(error: float, void: str = "ignore", seed: int = 0, order=range(12), **protocol) -> dict:
    """Twelve images in four groups; the same targets for every error rate."""
    generator = torch.Generator().manual_seed(seed)
    score = Score(ConfusionMatrix(4, void=void))
    images = []
    for i in range(12):
        target = torch.randint(3, (9, 11), generator=generator)
        noise, other = torch.rand(9, 11, generator=generator), torch.randint(3, (9, 11), generator=generator)
        target[0] = 255
        images.append((f"{i:02d}", f"g{i % 4}", torch.where(noise < error, other, target), target))
    for i in order:
        score.add_image(*images[i])
    score.images = 12
    facts = {
        "data": "x",
        "images": 12,
        "data_hash": "1",
        "absent": "nan",
        "void": void,
        "exclude": [],
        "checkpoint": str(error),
    }
    return {"protocol": facts | protocol, **scores(score, NAMES)}


def write(path, value: dict):
    path.write_text(json.dumps(value))
    return path


def run(*words) -> int:
    return command.run(compare_command.main, compare_command.build_parser(), [str(w) for w in words])


@pytest.mark.parametrize("void", ["ignore", "error"])
def test_cells_survive_a_round_trip(void):
    found = json.loads(json.dumps(result(0.5, void)))
    like = ConfusionMatrix(4, void=void)
    per_image = PerImage.from_json(found["per_image"])
    for matrix in per_image.matrices(like):
        like.merge(matrix)
        assert torch.equal(pack(unpack(pack(matrix), like)), pack(matrix))
    assert like.matrix.tolist() == found["confusion_matrix"]
    assert like.miou() == pytest.approx(found["miou"])
    mious = [m.miou() for m in per_image.matrices(like)]
    assert found["miou_per_image"] == pytest.approx(sum(mious) / 12) and found["per_image"]["miou"] == mious


def test_difference_is_the_bootstrap_of_the_groups(tmp_path, capsys):
    a, b = result(0.6), result(0.3, order=range(11, -1, -1))  # the order of the images does not matter
    found = result_differences(a, b)
    sides = [group_matrices(r, "group") for r in (a, b)]
    assert found["miou"] == pytest.approx(bootstrap_difference(*[list(s.values()) for s in sides]))
    assert found["miou"]["difference"] == pytest.approx(b["miou"] - a["miou"])
    assert 0 < found["miou"]["low"] < found["miou"]["difference"] < found["miou"]["high"]
    for name in "abc":
        assert found["per_class"][name]["difference"] == pytest.approx(b["per_class"][name] - a["per_class"][name])
    assert found["per_class"]["d"] is None
    paths = write(tmp_path / "a.json", a), write(tmp_path / "b.json", b)
    assert run(*paths, "--by", "image", "--json", tmp_path / "c.json") == 0
    out = capsys.readouterr().out
    assert "12 images" in out and "B - A" in out
    assert json.loads((tmp_path / "c.json").read_text())["groups"] == 12
    same = result_differences(a, a)["miou"]
    assert same == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_a_class_in_one_file_only_counts_for_both():
    """As in the candidates' table: one set of present classes; the side without the class has 0 there."""
    a, b = result(0.0), result(0.0)
    cells = b["per_image"]["cells"]
    cells[0] = cells[0] + ", 0 3 5"  # five pixels called d
    found = result_differences(a, b, "image")
    assert found["per_class"]["d"]["difference"] == 0.0
    like = ConfusionMatrix(4)
    for matrix in PerImage.from_json(b["per_image"]).matrices(like):
        like.merge(matrix)
    assert found["miou"]["difference"] == pytest.approx((like.iou()[:3].sum().item() + 0 - 3) / 4)  # 4 classes, twice


@pytest.mark.parametrize(
    "change, words",
    [({"data_hash": "2"}, "data_hash: 1 and 2"), ({"flip": True}, "flip: None and True"), ({"void": "error"}, "void")],
)
def test_another_protocol_is_refused_without_anyway(tmp_path, capsys, change, words):
    paths = write(tmp_path / "a.json", result(0.5)), write(tmp_path / "b.json", result(0.4, **change))
    assert run(*paths) == 2 and words in capsys.readouterr().err
    assert run(*paths, "--anyway") == 0 and f"NOT THE SAME PROTOCOL: {words}" in capsys.readouterr().out


def test_how_a_network_was_chosen_may_differ_but_for_contamination(tmp_path, capsys):
    single, folds = result(0.5), result(0.4, start="role", select="role", member="best", stage=0, labels=[])
    paths = write(tmp_path / "a.json", single), write(tmp_path / "b.json", folds)
    assert run(*paths) == 0 and "NOT THE SAME" not in capsys.readouterr().out
    write(paths[1], result(0.4, select="val", labels=["contaminated"]))
    assert run(*paths) == 2 and "contaminated" in capsys.readouterr().err


def test_results_of_other_images_give_one_line(tmp_path, capsys):
    good = write(tmp_path / "a.json", result(0.5))
    one_less = result(0.5)
    for key in ("names", "groups", "cells"):
        one_less["per_image"][key] = one_less["per_image"][key][1:]
    others = {
        "no such file": tmp_path / "none.json",
        "not a JSON file": tmp_path / "broken.json",
        "no scores of single images": write(tmp_path / "old.json", {"protocol": {}, "miou": 1}),
        "not the same images": write(tmp_path / "less.json", one_less),
    }
    (tmp_path / "broken.json").write_text("{")
    for words, path in others.items():
        assert run(good, path, "--anyway") == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
