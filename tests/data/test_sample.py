"""data.sample (custom splits) and eval.exclude (classes left out of the means), up to a run's files."""

from __future__ import annotations

import json

import pytest
import torch

from data import build_dataset, sampled_names
from data.splits import Splits, draw_sample
from engine import checkpoint as ckpt
from engine.config import config_from, dump
from engine.evaluation.protocol import protocol_line
from engine.evaluation.scores import excluded, metrics
from engine.folds.roles import open_study
from engine.metrics import ConfusionMatrix
from engine.report.markdown_report import write_report
from engine.report.samples import write_pictures
from engine.report.score_tables import class_table
from engine.training.single_run import prepare, train_single
from tests.helpers import config, make_camvid, make_folder, refuses, write_image, write_mask

CPU = torch.device("cpu")
NAMES = [f"i{i:04d}" for i in range(2975)]


def test_2000_250_250_are_disjoint_and_by_seed_alone():
    parts = draw_sample(NAMES, NAMES, [2000, 250, 250], seed=0)
    assert [len(parts[s]) for s in ("train", "val", "test")] == [2000, 250, 250]
    assert len({i for part in parts.values() for i in part}) == 2500
    assert [parts[s][:4] for s in ("train", "val", "test")] == [[0, 1, 4, 5], [12, 30, 33, 62], [2, 8, 29, 32]]
    assert parts == draw_sample(NAMES, NAMES, [2000, 250, 250], 0) != draw_sample(NAMES, NAMES, [2000, 250, 250], 1)
    shuffled = NAMES[::-1]
    other = draw_sample(shuffled, shuffled, [2000, 250, 250], 0)
    assert {shuffled[i] for i in other["val"]} == {NAMES[i] for i in parts["val"]}
    more = draw_sample(NAMES, NAMES, [10, 250, 250], 0)  # fewer training images, the same ones to score on
    assert more["test"] == parts["test"] and more["val"] == parts["val"]
    with refuses(r"data.sample: \[2800, 250, 250\]: .* 2975 images .*too few for train \(2475 of 2800 left\)"):
        draw_sample(NAMES, NAMES, [2800, 250, 250], 0)


@pytest.mark.parametrize("seed", range(4))
def test_by_group_no_group_is_in_two_splits(seed):
    groups = [f"g{i // 20}" for i in range(300)]
    parts = draw_sample(NAMES[:300], groups, [150, 30, 50], seed)
    assert [len(parts[s]) for s in ("train", "val", "test")] == [150, 30, 50]
    sets = [{groups[i] for i in part} for part in parts.values()]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]


def test_data_sets_are_sampled_from_their_training_split(tmp_path):
    root = make_camvid(make_camvid(tmp_path, {"0001TP": 45, "0006R0": 30}), {"0016E5": 3}, "val")
    cfg = config("camvid", root, sample=[20, 10, 0])
    train, val = build_dataset(cfg, "train", True), build_dataset(cfg, "val", False)
    assert (len(train), len(val), val.split) == (20, 10, "val") and not set(train.names) & set(val.names)
    assert sampled_names(cfg.data) == {"val": val.names} and "sampled" in val.name
    with refuses("no such data folder"):  # a count of 0: the data set's own test split, which is not there
        build_dataset(cfg, "test", False)
    own = build_dataset(config("camvid", root, sample=[20, 0, 5]), "val", False)
    assert len(own) == 3 and own.names[0].startswith("0016E5") and "sampled" not in own.name
    cfg.data.sample_by = "group"
    train, val = build_dataset(cfg, "train", True), build_dataset(cfg, "val", False)
    assert len(train) == 20 and len(val) == 10 and not set(train.groups) & set(val.groups)
    for bad in ([1, 2], [0, 1, 1], [1, -1, 0]):
        with refuses("data.sample must be"):
            config_from({"data": {"sample": bad}})


def tiny(root, *sets: str):
    base = {
        "name": "tiny",
        "model": {"name": "unet", "base_channels": 4},
        "data": {
            "name": "folder",
            "root": str(root),
            "size": [64, 64],
            "labels": {"background": "rest", "b": "b", "c": "c"},
            "sample": [7, 3, 2],
        },
        "eval": {"exclude": ["background"]},
        "train": {"epochs": 1, "batch_size": 4},
        "log": {"plots": False},
    }
    return config_from(base, sets)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "data", ("train",), n=14, values=(0, 1, 2, 255, 0))


def test_a_run_with_sample_remap_and_exclude(tmp_path, folder):
    """From config to report: the run scores its sampled images, and the mean leaves the background out everywhere."""
    cfg, run = tiny(folder), tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(dump(cfg))
    results = train_single(cfg, run, CPU)
    b, c = results["per_class"]["b"], results["per_class"]["c"]
    assert results["class_names"] == ["background", "b", "c"] and results["images"] == 3
    assert results["miou"] == pytest.approx((b + c) / 2) and results["per_class"]["background"] is not None
    assert results["miou"] != pytest.approx((b + c + results["per_class"]["background"]) / 3)
    row = json.loads((run / "log.jsonl").read_text())
    assert row["val_miou"] == pytest.approx(results["miou"])
    assert results["protocol"]["exclude"] == ["background"] and results["protocol"]["sample"] == [7, 3, 2]
    said = protocol_line(results["protocol"])
    assert "means without background" in said and "splits 7/3/2 drawn from train by image, seed 0" in said
    report = write_report(run).read_text()
    assert said in report and "| (background) |" in report and "In brackets: not in the means." in report
    assert "(background)" in class_table(results, results["protocol"])
    own = protocol_line({**results["protocol"], "sample": [7, 0, 2], "background": "ignore"})
    assert "splits 7/own/2" in own and "background ignored" in own
    splits = Splits.load(run / "splits.json")
    assert len(splits.roles["train"]) == 7 and [len(splits.sample[s]) for s in ("val", "test")] == [3, 2]
    assert splits.sample["val"] == build_dataset(cfg, "val", False).names
    train_single(cfg, run, CPU)  # goes on with the saved splits
    write_image(folder / "images/train/0new.png")
    write_mask(folder / "labels/train/0new.png", (0, 1))
    with refuses("has changed since the splits were drawn|data.sample draws other"):
        train_single(cfg, run, CPU)


def test_cross_validation_keeps_the_sample_and_excludes(tmp_path, folder):
    cfg = tiny(folder, "cv.folds=2", "cv.group=none")
    study = open_study(cfg, tmp_path, CPU)
    assert sorted(sum(study.roles.values(), [])) == list(range(7)) and len(study.report) == 3
    saved = Splits.load(tmp_path / "splits.json")
    assert len(saved.sample["val"]) == 3
    confusion = ConfusionMatrix(3)
    confusion.counts[:, :3] = torch.tensor([[5, 5, 0], [0, 4, 0], [0, 0, 4]])
    assert study.miou(confusion) == pytest.approx((4 / 9 + 1) / 2)
    cfg.data.sample_seed = 1
    with refuses("draws other|has changed"):
        open_study(cfg, tmp_path, CPU)


def test_the_page_of_samples_fits_native_targets(tmp_path, folder):
    cfg = tiny(folder, "eval.native=true", "log.samples=2")
    prepared = prepare(cfg)
    results = train_single(cfg, tmp_path, CPU, prepared)
    write_pictures(tmp_path, cfg, [prepared.network.model], prepared.val, CPU, results)
    assert (tmp_path / "plots/samples.png").is_file()


def test_splits_files_from_before_sampling_still_load(tmp_path):
    old = Splits("x", 0, "auto", {"train": ["a"]}, [], ["a"])
    content = {"dataset": "x", "seed": 0, "group": "auto", "roles": {"train": ["a"]}, "folds": [], "names": ["a"]}
    (tmp_path / "splits.json").write_text(json.dumps(content | {"hash": old.hash}))
    assert Splits.load(tmp_path / "splits.json") == old
    # the hash that this project wrote before the field `sample` existed
    assert old.hash == "1a99af2532e5fad4c80b51f6a33cd933c639360ee95668b1c5d6921d76204a3c"


def test_exclude_names_must_be_classes():
    assert excluded(["b"], ("a", "b")) == (1,)
    with refuses("unknown class in eval.exclude 'B': .*valid: a, b"):
        excluded(["B"], ("a", "b"))
    with refuses("all classes are excluded"):
        excluded(["b", "a"], ("a", "b"))
    confusion = ConfusionMatrix(2)
    confusion.counts[:, :2] = torch.tensor([[8, 2], [0, 10]])
    result = metrics(confusion, ["a", "b"], exclude=["a"])
    assert result["miou"] == pytest.approx(10 / 12) and result["mean_accuracy"] == 1.0
    assert result["dice"] == pytest.approx(20 / 22) and result["pixel_accuracy"] == pytest.approx(0.9)


def test_a_run_can_be_scored_with_its_background_ignored(tmp_path, folder, monkeypatch):
    """Same classes, same checkpoint: only what is scored differs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cfg = tiny(folder, "data.background=ignore", "loss.class_weights=median_frequency")
    results = train_single(cfg, tmp_path, CPU)
    matrix = torch.tensor(results["confusion_matrix"])
    assert results["class_names"] == ["background", "b", "c"] and matrix[0].sum() == 0 and matrix[1:].sum() > 0
    weights = json.loads((tmp_path / "class_weights.json").read_text())[0]["weights"]
    assert weights[0] == 0 and min(weights[1:]) > 0
    trained = build_dataset(tiny(folder), "val", False)
    assert trained.class_names == build_dataset(cfg, "val", False).class_names
    checkpoint = ckpt.load_ours(tmp_path / "best.pt")
    ckpt.require_classes(checkpoint, trained.class_names, tmp_path / "best.pt")
