"""tools.study on a folder of tiny configs, and its bootstrap over groups and seeds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import eval as eval_command
from common import command
from engine.config import Config
from engine.evaluation.paired_bootstrap import bootstrap_difference
from engine.metrics import ConfusionMatrix
from tests.commands.test_commands import write_config
from tests.helpers import make_folder
from tools import curves as curves_command
from tools.study import __main__ as study_command
from tools.study import comparison
from tools.study.comparison import Entry, best_of, difference
from tools.study.runs import run_title
from tools.study.tables import main_cells


def call(module, *words: object) -> int:
    return command.run(module.main, module.build_parser(), [str(w) for w in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of two configs, a study.json, and one in a subfolder that must not run."""
    place = tmp_path_factory.mktemp("study")
    root = make_folder(place / "data", n=6)
    folder = place / "b_tiny"
    (folder / "full").mkdir(parents=True)
    write_config(folder / "0_plain.yaml", root, device="cpu")
    write_config(folder / "1_dice.yaml", root, device="cpu", loss={"name": "dice"})
    write_config(folder / "full" / "huge.yaml", root, train={"epochs": 100000})
    facts = {"title": "Tiny", "focus": ["a", "c"], "methods": {"1_dice": ["Dice"]},
             "families": {"A": ["0_plain"], "B": ["1_dice"]},
             "quoted": {"1_dice": {"miou": 0.5, "per_class": {"b": 0.25}}}, "quoted_on": "on Mars"}  # fmt: skip
    (folder / "study.json").write_text(json.dumps(facts))
    return place


def test_a_study_runs_writes_its_table_and_is_not_run_twice(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    assert call(study_command, "b_tiny", "--seeds", 0, 1, "--images", 2, "--set", "train.batch_size=2") == 0
    capfd.readouterr()
    runs = sorted(p.parent.name.rsplit("-", 2)[0] for p in (place / "runs").glob("*/config.yaml"))
    assert runs == [f"study-b_tiny-{c}-seed{s}" for c in ("0_plain", "1_dice") for s in (0, 1)]
    out = place / "runs" / "study-b_tiny"
    text = (out / "table.md").read_text()
    assert "# Tiny" in text and "seeds 0, 1" in text and "on Mars" in text and "/ 25.00" in text
    assert "| 1_dice | on |" in text and "| 0_plain | off |" in text
    rows = json.loads((out / "study.json").read_text())["rows"]
    assert rows[0]["difference"] is None and rows[1]["difference"]["low"] <= rows[1]["difference"]["high"]
    assert rows[0]["step"] is None and rows[1]["step"] == rows[1]["difference"]  # the row above is the first
    facts = {"focus": [], "cumulative": False}
    third = rows[1] | {"step": {"difference": 0.012, "low": -0.001, "high": 0.02}}
    assert "to the row above [95 %]" not in main_cells([*rows, third], facts)[1]
    table, headers = main_cells([*rows, third], facts | {"cumulative": True})
    assert table[2][headers.index("to the row above [95 %]")] == "+1.20 [-0.10, +2.00]"
    assert rows[1]["parameters"] > 0 and rows[1]["gflops"] > 0 and rows[1]["seconds"] > 0
    assert rows[1]["efficiency"] == pytest.approx(100 * rows[1]["miou"] / rows[1]["gflops"])
    for row in rows:
        scores = [json.loads((place / run / "results.json").read_text()) for run in row["runs"]]
        assert row["miou"] == pytest.approx(sum(s["miou"] for s in scores) / 2)
        assert row["per_class"]["a"] == pytest.approx(sum(s["per_class"]["a"] for s in scores) / 2)
        assert row["focus"] == pytest.approx((row["per_class"]["a"] + row["per_class"]["c"]) / 2)
    with (out / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [r["config"] for r in table] == ["0_plain", "1_dice"] and float(table[1]["quoted_miou"]) == 0.5
    assert float(table[0]["iou_b"]) == pytest.approx(rows[0]["per_class"]["b"])
    for picture in ("accuracy", "curves", "best", "confusion", "predictions"):
        assert Image.open(out / f"{picture}.png").size[0] > 300 and f"({picture}.png)" in text
    assert not (out / "roc.png").exists() and "AUC" not in text and "auc" not in rows[0]  # not asked for

    assert call(study_command, "b_tiny", "--seeds", 0, 1, "--set", "train.batch_size=2") == 0
    assert "python train.py" not in capfd.readouterr().out  # nothing is trained again
    assert call(study_command, "b_tiny", "--only", "1_dice", "--seeds", 0, "--set", "train.batch_size=3") == 0
    assert "training a new run" in capfd.readouterr().out


def test_probabilities_where_they_are_asked_for(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    words = ("b_tiny", "--seeds", 0, 1, "--set", "train.batch_size=2")
    assert call(study_command, *words, "--extra") == 0
    assert "mean AUC" in capfd.readouterr().out
    out = place / "runs" / "study-b_tiny"
    rows = json.loads((out / "study.json").read_text())["rows"]
    for row in rows:
        wanted = []
        for run in row["runs"]:
            assert call(eval_command, "--run", run, "--extra", "--json", "e.json") == 0
            wanted.append(json.loads((place / "e.json").read_text()))
        for key in ("mean_auc", "ece", "boundary_miou"):
            assert row[key] == pytest.approx(sum(w[key] for w in wanted) / 2)
        assert row["auc"]["b"] == pytest.approx(sum(w["auc"]["b"] for w in wanted) / 2)
    with (out / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert float(table[1]["auc_b"]) == pytest.approx(rows[1]["auc"]["b"]) and float(table[0]["mean_auc"]) > 0
    text = (out / "table.md").read_text()
    assert "AUC, a" in text and "AUC, b" not in text and "(roc.png)" in text  # the classes in focus
    assert Image.open(out / "roc.png").size[0] > 300
    assert call(study_command, *words) == 0  # without: the old picture does not stay
    assert not (out / "roc.png").exists() and "(roc.png)" not in (out / "table.md").read_text()


def test_the_best_of_each_family(place, monkeypatch, capfd):
    entries = [SimpleNamespace(name=n, miou=lambda v=v: v) for n, v in (("a", [0.5, 0.7]), ("b", [0.61]), ("c", [0.1]))]
    found = best_of({"one": ["a", "b"], "two": ["c"], "absent": ["d"]}, entries)
    assert {family: e.name for family, e in found.items()} == {"one": "b", "two": "c"}
    monkeypatch.chdir(place)
    path = place / "b_tiny" / "study.json"
    facts = path.read_text()
    path.write_text(json.dumps(json.loads(facts) | {"families": {"A": ["0_plane"]}}))
    assert call(study_command, "b_tiny") == 2
    assert "did you mean '0_plain'" in capfd.readouterr().err
    path.write_text(facts)


def test_what_fails_is_named_and_the_rest_is_written(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    assert call(study_command, "b_tiny", "--only", "nosuch") == 2
    assert "there are: 0_plain, 1_dice" in capfd.readouterr().err
    broken = place / "b_tiny" / "2_broken.yaml"
    broken.write_text((place / "b_tiny" / "0_plain.yaml").read_text().replace("lr", "lr") + "optim: {name: nosuch}\n")
    assert (
        call(study_command, "b_tiny", "--only", "0_plain", "2_broken", "--seeds", 0, "--set", "train.batch_size=2") == 2
    )
    assert "not finished: 2_broken" in capfd.readouterr().err
    broken.unlink()


def test_a_config_starts_from_anothers_checkpoint(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    path = place / "b_tiny" / "study.json"
    facts = json.loads(path.read_text()) | {"families": {}}
    path.write_text(json.dumps(facts | {"needs": {"1_dice": {"model.pretrained": "0_plain"}}}))
    assert call(study_command, "b_tiny", "--only", "1_dice", "--seeds", 0, "--set", "train.batch_size=2") == 0
    (first,) = study_command.RUNS.glob("study-b_tiny-0_plain-seed0-*")
    (row,) = json.loads((place / "runs" / "study-b_tiny" / "study.json").read_text())["rows"]
    assert f"pretrained: {first}/best.pt" in (place / row["runs"][0] / "config.yaml").read_text()
    (place / "b_tiny" / "start").mkdir()
    (place / "b_tiny" / "0_plain.yaml").rename(place / "b_tiny" / "start" / "net.yaml")
    path.write_text(json.dumps(facts | {"needs": {"1_dice": {"model.pretrained": "start/net"}}}))
    sets = "--set", "train.batch_size=2", "--set-start", "train.batch_size=3"
    assert call(study_command, "b_tiny", "--seeds", 5, *sets) == 0
    (start,) = study_command.RUNS.glob("study-b_tiny-start-net-*")  # trained once, with its own seed
    (row,) = json.loads((place / "runs" / "study-b_tiny" / "study.json").read_text())["rows"]
    assert f"pretrained: {start}/best.pt" in (place / row["runs"][0] / "config.yaml").read_text()
    assert "batch_size: 3" in (start / "config.yaml").read_text()
    assert "batch_size: 2" in (place / row["runs"][0] / "config.yaml").read_text()
    (place / "b_tiny" / "start" / "net.yaml").rename(place / "b_tiny" / "0_plain.yaml")
    path.write_text(json.dumps(facts | {"needs": {"1_dice": {"model.pretrained": "nosuch"}}}))
    assert call(study_command, "b_tiny", "--only", "1_dice") == 2
    path.write_text(json.dumps(facts))


def test_titles_tell_the_systems_apart_and_let_studies_share_a_start():
    full, cities = Path("configs/c_pets/full"), Path("configs/c_pets/from_drawn_city")
    assert run_title(full, full) == "c_pets-full"
    assert run_title(full / "fcn_frozen.yaml", full) == "c_pets-full-fcn_frozen"
    assert run_title(cities / "../start/fcn.yaml", cities) == "c_pets-start-fcn"
    assert run_title(full.parent / "start/fcn.yaml", full.parent) == "c_pets-start-fcn"


def test_curves_of_runs_in_one_plot(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    runs = sorted((place / "runs").glob("study-b_tiny-*-seed1-*"))
    assert call(curves_command, *runs, "--names", "plain", "dice", "--out", "both.png") == 0
    assert Image.open("both.png").size[0] > 500
    assert call(curves_command, *runs, "--names", "same", "same") == 2


# --- the bootstrap ----------------------------------------------------------------------------------------------------


def matrices(seed: int, right: float, groups: int = 12, num_classes: int = 3) -> dict[str, ConfusionMatrix]:
    """Groups of 400 pixels of the first 3 classes, of which a share is right."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for g in range(groups):
        target = torch.randint(3, (400,), generator=generator)
        wrong = torch.rand(400, generator=generator) > right
        out[f"g{g}"] = ConfusionMatrix(num_classes)
        out[f"g{g}"].update(torch.where(wrong, (target + 1) % 3, target), target)
    return out


def sum_of(groups: dict[str, ConfusionMatrix]) -> ConfusionMatrix:
    total = ConfusionMatrix(next(iter(groups.values())).num_classes)
    for matrix in groups.values():
        total.merge(matrix)
    return total


def made(rights: list[float], seeds: list[int], num_classes: int = 3) -> Entry:
    trained = []
    for right, seed in zip(rights, seeds):
        cfg = Config()
        cfg.seed = seed
        score = SimpleNamespace(groups=matrices(seed, right, num_classes=num_classes), binned=None)
        trained.append(SimpleNamespace(cfg=cfg, score=score, seconds=1.0, peak_memory=None, run="run"))
    return Entry("x", trained, 1, 1)


def test_one_seed_is_the_bootstrap_over_groups():
    a, b = made([0.7], [0]), made([0.8], [0])
    ours, plain = difference(a, b), bootstrap_difference(*[list(e.trained[0].score.groups.values()) for e in (a, b)])
    assert ours["difference"] == pytest.approx(plain["difference"], abs=1e-12)
    assert ours["low"] == pytest.approx(plain["low"], abs=0.01) and ours["high"] == pytest.approx(
        plain["high"], abs=0.01
    )


def test_seeds_that_disagree_widen_the_interval():
    agree = difference(made([0.7] * 3, [0, 1, 2]), made([0.75] * 3, [0, 1, 2]))
    differ = difference(made([0.7] * 3, [0, 1, 2]), made([0.6, 0.75, 0.9], [0, 1, 2]))
    assert 0 < agree["low"] < agree["difference"] < agree["high"]
    assert differ["high"] - differ["low"] > 3 * (agree["high"] - agree["low"]) and differ["low"] < 0
    assert difference(made([0.7], [0]), made([0.7], [1])) is None  # other seeds do not pair


@pytest.mark.parametrize("absent, share", [("nan", 1.0), ("zero", 0.5), ("one", 0.5)])
def test_focus_treats_absent_classes_as_its_difference_does(monkeypatch, absent, share):
    """The focus holds a class that no validation image has: eval.absent says what that counts, here and there."""
    names = ["a", "b", "c", "nowhere"]
    monkeypatch.setattr(comparison, "class_names", lambda e: names)
    entries = [made([0.7, 0.72], [0, 1], 4), made([0.8, 0.9], [0, 1], 4)]
    for e in entries:
        for t in e.trained:
            t.cfg.eval.absent = absent
            t.score.confusion = sum_of(t.score.groups)
    rows = comparison.summary(entries, ["a", "nowhere"])
    assert [r["per_class"]["nowhere"] for r in rows] == [None, None]
    for row in rows:
        assert row["focus"] == pytest.approx(share * row["per_class"]["a"] + (absent == "one") / 2)
    assert rows[1]["focus_difference"]["difference"] == pytest.approx(rows[1]["focus"] - rows[0]["focus"])


def test_a_focus_on_absent_classes_alone_has_no_score(monkeypatch):
    monkeypatch.setattr(comparison, "class_names", lambda e: ["a", "b", "c", "nowhere"])
    e = made([0.7], [0], 4)
    e.trained[0].score.confusion = sum_of(e.trained[0].score.groups)
    (row,) = comparison.summary([e], ["nowhere"])
    assert row["focus"] is None


def test_classes_can_be_chosen():
    a, b = made([0.7], [0]), made([0.8], [0])
    gap = [difference(a, b, [c])["difference"] for c in range(3)]
    assert difference(a, b)["difference"] == pytest.approx(sum(gap) / 3)
