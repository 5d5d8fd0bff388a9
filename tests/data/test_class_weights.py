"""Class weights: the rules by hand and against published lists, the counting, and their use in a run's loss."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common import command
from data import build_dataset
from data.class_weights import RULES, cache_file, class_shares, class_weights, count_pixels
from engine import checkpoint as ckpt
from engine.config import config_from, dump, load_config, stage_config
from engine.folds import cross_validation
from engine.folds.roles import open_study
from engine.training import job as training
from engine.training.class_weighting import FILE, placeholder_specs, resolved_specs
from engine.training.single_run import train_single
from tests.engine.test_training import equal_runs
from tests.helpers import config, make_folder, refuses, write_mask
from tools import class_weights as class_weights_command

CPU = torch.device("cpu")
# Three images: a fills the first, a and b share the second, b and c the third; d is nowhere.
COUNTS = torch.tensor([[100, 0, 0, 0], [60, 40, 0, 0], [0, 90, 10, 0]])  # n = 160, 130, 10, 0 of 300


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# --- the rules --------------------------------------------------------------------------------------------------------


def test_rules_by_hand():
    by = lambda rule, **options: class_weights({"rule": rule, **options}, COUNTS)  # noqa: E731
    inverse = [300 / 160, 300 / 130, 300 / 10]
    expected = [3 * v / sum(inverse) for v in inverse]  # scaled to the 3 classes that have pixels
    assert by("inverse_frequency", eps=0.0) == pytest.approx([*expected, 0])
    assert by("inverse_frequency") == pytest.approx([*expected, 0], rel=1e-4)
    roots = [math.sqrt(v) for v in inverse]
    assert by("inverse_sqrt") == pytest.approx([*[3 * v / sum(roots) for v in roots], 0])
    # of the images with a: 160/200; with b: 130/200; with c: 10/100; the median is b's
    assert by("median_frequency") == pytest.approx([0.65 / 0.8, 1.0, 0.65 / 0.1, 0])
    assert by("enet") == pytest.approx([*[1 / math.log(1.02 + n / 300) for n in (160, 130, 10)], 0])
    logs = [1 / math.log(1 + n) for n in (160, 130, 10)]
    assert by("inverse_log_count") == pytest.approx([*[3 * v / sum(logs) for v in logs], 0])
    effective = [0.1 / (1 - 0.9**n) for n in (160, 130, 10)]
    assert by("effective_number", beta=0.9) == pytest.approx([*[3 * v / sum(effective) for v in effective], 0])
    assert set(RULES) == {
        "inverse_frequency", "median_frequency", "effective_number", "enet", "inverse_log_count", "inverse_sqrt",
    }  # fmt: skip


def test_median_of_an_even_number_of_classes():
    counts = torch.tensor([[10, 20, 30, 40]])
    assert class_weights("median_frequency", counts) == pytest.approx([2.5, 1.25, 25 / 30, 0.625])


def test_effective_number_lies_between_none_and_inverse_frequency():
    assert class_weights({"rule": "effective_number", "beta": 0.0}, COUNTS) == pytest.approx([1, 1, 1, 0])
    nearly = class_weights({"rule": "effective_number", "beta": 1 - 1e-12}, COUNTS)
    assert nearly == pytest.approx(class_weights({"rule": "inverse_frequency", "eps": 0.0}, COUNTS), rel=1e-3)
    billions = class_weights("effective_number", COUNTS * 10**9)  # the default follows the number of pixels
    assert billions == pytest.approx(class_weights("effective_number", COUNTS), rel=2e-2)
    assert max(billions) / min(billions[:3]) > 3 and all(map(math.isfinite, billions))


# Pixels of the 19 classes and of everything else in Cityscapes' 2975 training masks, as several public projects count
# them (their sum is 2975 x 1024 x 2048).
CITYSCAPES_PIXELS = [
    2036416525, 336090793, 1260636120, 36199498, 48454166, 67789506, 11477088, 30448193, 879783988, 63949536,
    221979646, 67326424, 7463162, 386328286, 14772328, 12990290, 12863955, 5449152, 22861233, 715747311,
]  # fmt: skip


def test_published_lists_for_cityscapes():
    """One project's inverse frequency (20 classes, scaled to 20), and ERFNet's list (its c is 1.10, 20 classes)."""
    assert sum(CITYSCAPES_PIXELS) == 2975 * 1024 * 2048
    counts = torch.tensor([CITYSCAPES_PIXELS])
    inverse = [
        0.0121096, 0.07337357, 0.0195617, 0.68122994, 0.50893832, 0.3637758, 2.14864449, 0.80990625, 0.02802981,
        0.3856194, 0.11109209, 0.36627791, 3.30425387, 0.06383219, 1.66934974, 1.89835499, 1.91699846, 4.52550817,
        1.07868993, 0.03445375,
    ]  # fmt: skip
    assert class_weights({"rule": "inverse_frequency", "eps": 0.0}, counts) == pytest.approx(inverse, rel=1e-6)
    erfnet = [
        2.8149, 6.9850, 3.7890, 9.9428, 9.7702, 9.5111, 10.3114, 10.0265, 4.6323, 9.5608, 7.8698, 9.5169, 10.3737,
        6.6616, 10.2605, 10.2879, 10.2898, 10.4054, 10.1381,
    ]  # fmt: skip
    assert class_weights({"rule": "enet", "c": 1.1}, counts)[:19] == pytest.approx(erfnet, rel=1e-3)


def test_the_published_weights_of_system_e_have_a_mean_of_one():
    """The counts behind them are not public (Cityscapes' give other weights). What the rule says of them: their sum is
    C, and 1 / w grows with ln(1 + n), so that the scale which makes as many pixels as the study's 150 images of
    375x1242 have must give the shares of a street: road and vegetation first, two-wheelers and trains least."""
    published = torch.tensor([
        0.7595, 0.8523, 0.8086, 0.9431, 0.9525, 0.9167, 1.0267, 0.9986, 0.7485, 0.8042, 0.7972, 1.1439, 1.2829, 0.8297,
        1.0447, 1.1793, 1.3262, 1.4060, 1.1795,
    ], dtype=torch.float64)  # fmt: skip
    assert published.sum().item() == pytest.approx(19, abs=2e-4)
    low, high = 0.05, 0.2  # sum v / C: the smaller, the more pixels
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (published * middle)).expm1().sum() > 150 * 375 * 1242 else (low, middle)
    assert class_weights("inverse_log_count", torch.tensor([CITYSCAPES_PIXELS[:19]]))[0] > published[0] + 0.05
    pixels = (1 / (published * low)).expm1().round().long()
    assert class_weights("inverse_log_count", pixels[None]) == pytest.approx(published.tolist(), abs=2e-4)
    shares = pixels / pixels.sum()
    assert shares[[0, 8]].min() > 0.2 and shares[[12, 16, 17]].max() < 1e-3


def test_bad_rules_are_refused():
    with refuses("unknown rule for class_weights 'median': did you mean 'median_frequency'"):
        class_weights("median", COUNTS)
    with refuses("unknown option of enet 'beta': valid: c"):
        class_weights({"rule": "enet", "beta": 0.9}, COUNTS)
    with refuses("beta must be at least 0 and below 1, got 1.5"):
        class_weights({"rule": "effective_number", "beta": 1.5}, COUNTS)
    with refuses("c must be above 1"):
        class_weights({"rule": "enet", "c": 1.0}, COUNTS)
    with refuses("the 2 training images have no labelled pixel"):
        class_weights("enet", COUNTS[:2] * 0)


# --- counting ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight images with different masks: value 2 only in the last two, 255 in all."""
    root = make_folder(tmp_path / "data", n=8)
    for i in range(8):
        write_mask(root / f"labels/train/{i:02d}.png", (0, 0, 1, 255) if i < 6 else (0, 2, 2, 255))
    return root


def test_counts_are_of_labelled_pixels_at_native_size(folder):
    dataset = build_dataset(config("folder", folder, size=(64, 64)), "train", True)
    counts = count_pixels(dataset)
    assert counts.dtype == torch.int64 and counts.tolist() == [[1200, 600, 0]] * 6 + [[600, 0, 1200]] * 2
    assert count_pixels(dataset.subset([7, 0])).tolist() == [[600, 0, 1200], [1200, 600, 0]]
    remapped = config("folder", folder, labels={"rest": "rest", "c": "c"})
    assert count_pixels(build_dataset(remapped, "train", True))[7].tolist() == [600, 1200]


def test_counts_are_cached_by_image(folder, monkeypatch):
    dataset = build_dataset(config("folder", folder), "train", True)
    part, whole = count_pixels(dataset.subset([1, 2])), count_pixels(dataset)
    assert torch.equal(part, whole[[1, 2]]) and cache_file(dataset) == cache_file(dataset.subset([3]))
    monkeypatch.setattr("data.class_weights.read_mask", None)  # whoever reads now, fails
    assert torch.equal(count_pixels(dataset), whole)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    write_mask(folder / "labels/train/00.png", (1, 1, 0, 255))  # as many bytes or not: written since
    assert count_pixels(build_dataset(config("folder", folder), "train", True))[0].tolist() == [600, 1200, 0]
    cache_file(dataset).write_text("{broken")
    assert torch.equal(count_pixels(dataset)[1:], whole[1:])


def test_a_cache_that_cannot_be_written_is_no_obstacle(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(count_pixels(build_dataset(config("folder", folder), "train", True))) == 8


# --- in a config, in a run --------------------------------------------------------------------------------------------

BASE = {
    "name": "tiny",
    "model": {"name": "unet", "base_channels": 4},
    "data": {"name": "folder", "size": [64, 64], "augment": "standard"},
    "train": {"epochs": 2, "batch_size": 4},
    "cv": {"start_epochs": 1, "bn_images": 16, "line_points": 0, "group": "none"},
    "log": {"plots": False},
}


def tiny(folder: Path, loss: dict, *sets: str):
    return config_from({**BASE, "loss": loss}, [f"data.root={folder}", *sets])


def test_a_rule_in_a_config(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("loss: {class_weights: median_frequency, label_smoothing: 1e-1}\n")
    cfg = load_config(path)
    assert cfg.loss.options == {"label_smoothing": 0.1, "class_weights": "median_frequency"}
    path.write_text("loss: {terms: [{name: cross_entropy, class_weights: {rule: enet, c: '1.1'}}, {name: dice}]}\n")
    cfg = load_config(path)
    assert cfg.loss.terms[0]["class_weights"] == {"rule": "enet", "c": 1.1}
    path.write_text(dump(cfg))
    assert load_config(path) == cfg
    for text, expected in (("1 2.5 1e-1", [1, 2.5, 0.1]), ("[1, 2, 3]", [1, 2, 3]), ("none", None), ("null", None)):
        assert config_from({}, [f"loss.class_weights={text}"]).loss.options["class_weights"] == expected
    for bad, said in (
        ("medien_frequency", "did you mean 'median_frequency'"),
        ("{rule: enet, beta: 0.9}", "loss.class_weights: unknown option 'beta': valid: c"),
        ("{rule: enet, c: x}", "expected a number"),
        ("{c: 1.1}", "expected numbers, the name of a rule, or {rule"),
    ):
        with refuses(said.replace("{", r"\{")):
            config_from({}, [f"loss.class_weights={bad}"])
    with refuses("unknown option 'class_weights'"):
        config_from({}, ["loss.name=dice", "loss.class_weights=enet"])
    spec, _ = placeholder_specs(cfg.loss, 3)
    assert spec["terms"][0]["class_weights"] == [1.0] * 3 and cfg.loss.terms[0]["class_weights"]["rule"] == "enet"


def test_the_loss_of_a_run_has_the_numbers_and_they_stay(tmp_path, folder):
    """Computed once, written, and read again: a resume uses the file even if the labels have changed."""
    cfg = tiny(folder, {"class_weights": "median_frequency"})
    train, val = (build_dataset(cfg, s, s == "train") for s in ("train", "val"))
    run = tmp_path / "run"
    job = training.Job(run, cfg, train, val, 0)
    expected = class_weights("median_frequency", count_pixels(train))
    # a: 8400 of the 14400 pixels of 8 images; b: 3600 of 10800 in 6; c: 2400 of 3600 in 2; the median is a's
    assert expected == pytest.approx([1.0, 7 / 12 / (1 / 3), 7 / 12 / (2 / 3)])
    parts = training.build_parts(job, CPU)
    assert parts.criterion.weight.tolist() == pytest.approx(expected)
    (saved,) = json.loads((run / FILE).read_text())
    assert saved["weights"] == expected and saved["classes"] == ["a", "b", "c"] and saved["images"] == 8
    assert saved["rule"] == "median_frequency" and saved["pixels"] == [8400, 3600, 2400]
    for i in range(8):
        write_mask(folder / f"labels/train/{i:02d}.png", (2,))
    again = training.build_parts(training.Job(run, cfg, build_dataset(cfg, "train", True), val, 0), CPU)
    assert torch.equal(again.criterion.weight, parts.criterion.weight)
    other = build_dataset(tiny(folder, {}, "data.labels={x: rest, c: c}"), "train", True)
    with refuses(f"{FILE}: holds no weights by median_frequency for these classes"):
        resolved_specs(cfg.loss, other, run)
    (run / FILE).write_text("[{")
    with refuses(f"{FILE}: damaged"):
        resolved_specs(cfg.loss, train, run)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, folder, monkeypatch):
    terms = [{"name": "cross_entropy", "class_weights": {"rule": "enet", "c": 1.1}}, {"name": "dice", "weight": 0.5}]
    cfg = tiny(folder, {"terms": terms})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for run in (whole, broken):
        run.mkdir()
        (run / "config.yaml").write_text(dump(cfg))
    train_single(cfg, whole, CPU)
    with monkeypatch.context() as m:
        real, calls = ckpt.save, []

        def dying(*args):
            real(*args)
            calls.append(args)
            if len(calls) == 2:  # best.pt and last.pt of the first epoch
                raise KeyboardInterrupt

        m.setattr(ckpt, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            train_single(cfg, broken, CPU)
    monkeypatch.setattr("engine.training.class_weighting.count_pixels", None)  # a resume counts nothing
    train_single(cfg, broken, CPU)
    equal_runs(whole, broken)


def test_folds_count_their_own_images_and_stages_have_their_own_rule(tmp_path, folder):
    stages = [{"loss.class_weights": "enet"}, {"loss.class_weights": "inverse_sqrt"}]
    cfg = tiny(folder, {}, "cv.folds=2", "cv.start_share=0.25", "cv.select_share=0.25")
    cfg.cv.stages = stages
    study = open_study(cfg, tmp_path, CPU)
    for stage, rule in enumerate(("enet", "inverse_sqrt")):
        assert stage_config(cfg, stage).loss.options["class_weights"] == rule
        for fold in range(2):
            job = cross_validation.fold_job(study, stage, fold, None)
            weights = training.build_parts(job, CPU).criterion.weight
            own = count_pixels(build_dataset(cfg, "train", True))[study.folds[fold]["train"]]
            assert weights.tolist() == pytest.approx(class_weights(rule, own))
            assert json.loads((job.folder / FILE).read_text())[0]["images"] == len(own)


def test_shares_come_from_the_masks_alone(folder):
    """At the masks' own size, independent of `data.size` and augmentation; images are not read."""
    for image in folder.rglob("images/**/*.png"):
        image.write_bytes(b"no image")
    shares = class_shares(build_dataset(config("folder", folder, size=(64, 64), augment="standard"), "train", True))
    assert shares == {"a": pytest.approx(8400 / 14400), "b": pytest.approx(0.25), "c": pytest.approx(2400 / 14400)}


# --- the command ------------------------------------------------------------------------------------------------------


def call(*words: object) -> int:
    return command.run(class_weights_command.main, class_weights_command.build_parser(), [str(w) for w in words])


def test_command_prints_the_table_and_writes_files(tmp_path, folder, capsys):
    path, out = tmp_path / "a.yaml", tmp_path / "w.json"
    path.write_text(yaml.safe_dump({**BASE, "data": {**BASE["data"], "root": str(folder)}}))
    assert call(path, "--json", out, "--plot", tmp_path / "w.png") == 0
    text = capsys.readouterr().out
    assert "folder train: 8 images, 14400 pixels with a class" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines()[1:6]}
    assert rows["class"][5:] == list(RULES) and rows["b"][1:4] == ["3600", "25.000", "6"]
    written = json.loads(out.read_text())
    assert written["pixels"] == [8400, 3600, 2400]
    assert written["weights"]["enet"][1] == pytest.approx(1 / math.log(1.02 + 0.25))
    assert f"{written['weights']['enet'][1]:.4f}" in rows["b"]
    assert (tmp_path / "w.png").stat().st_size > 5000
    sets = ["--set", "cv.folds=2", "--set", "cv.start=none"]
    assert call(path, "--rule", "enet", "--fold", 1, *sets) == 0
    assert "folder train, fold 1: " in capsys.readouterr().out
    for wrong, said in (
        (["--rule", "enett"], "did you mean 'enet'"),
        (["--fold", "2", *sets], "cv.folds 2, so 0..1"),
    ):
        assert call(path, *wrong) == 2
        assert said in capsys.readouterr().err


def test_command_without_matplotlib(tmp_path, folder, capsys, monkeypatch):
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({**BASE, "data": {**BASE["data"], "root": str(folder)}}))
    monkeypatch.setattr("engine.report.plots.available", lambda: False)
    assert call(path, "--rule", "enet", "--plot", tmp_path / "w.png") == 0
    assert "plots skipped" in capsys.readouterr().out and not (tmp_path / "w.png").exists()


def test_real_camvid_counts(seg_data):
    """The shares of CamVid's training pixels; road and building first, bicyclists last."""
    dataset = build_dataset(config("camvid", seg_data / "camvid"), "train", False)
    counts = count_pixels(dataset, cache=False)
    total = 367 * 360 * 480
    assert (100 * counts.sum(0) / total).tolist() == pytest.approx(
        [16.85, 23.26, 0.98, 31.66, 4.49, 9.72, 1.17, 1.13, 5.87, 0.64, 0.29], abs=0.006
    )
    weights = class_weights("median_frequency", counts)
    assert np.argmin(weights) == 3 and np.argmax(weights) == 10 and sorted(weights)[5] == pytest.approx(1)
