"""tools.overfit and tools.lr_find: they take train.py's step, explain failures, and leave no files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from common import command
from engine import checkpoint as ckpt
from engine.config import load_config
from engine.training.job import Job, Progress, member_checkpoint
from engine.training.train import NonFiniteLoss, epoch_of
from tests.helpers import make_folder, refuses, write_image, write_mask
from tools import overfit
from tools.lr_find import __main__ as lr_find
from tools.lr_find.trial import endless, open_trial, training_images


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Images whose left part is dark and whose right part is bright: two classes that a few steps can tell apart."""
    root = make_folder(tmp_path_factory.mktemp("halves"), n=6, hw=(64, 64), names=("dark", "bright"))
    for split in ("train", "val"):
        for i in range(6):
            edge, rng = 20 + 4 * i, np.random.default_rng(i)
            pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            pixels[:, edge:] += 150
            target = np.zeros((64, 64), np.uint8)
            target[:, edge:] = 1
            Image.fromarray(pixels).save(root / "images" / split / f"{i:02d}.png")
            write_mask(root / "labels" / split / f"{i:02d}.png", target)
    return root


@pytest.fixture
def write(halves, tmp_path):
    def config(root=None, **sections):
        base = {
            "model": {"name": "unet", "base_channels": 4},
            "data": {"name": "folder", "root": str(root or halves), "size": [64, 64], "augment": "standard"},
            "optim": {"lr": "1e-2"},
            "train": {"batch_size": 2},
        }
        for key, value in sections.items():
            base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(base))
        return path

    return config


def run(tool, *words) -> int:
    return command.run(tool.main, tool.build_parser(), [str(w) for w in words])


def fails(capsys, tool, *words) -> str:
    assert run(tool, *words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# --- overfit ----------------------------------------------------------------------------------------------------------


def test_a_good_config_overfits(write, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write()
    assert run(overfit, path, "--iterations", 150) == 0
    out = capsys.readouterr().out
    assert "batch: 2 images of 64x64, 0.0 % ignored, pixels: dark 2816, bright 5376" in out
    assert "the config can learn" in out
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]  # nothing is left behind


@pytest.mark.parametrize(
    "lr, expected", [("1e-8", "the loss does not fall"), ("30", "optim.lr / 10|the learning rate is too high")]
)  # fmt: skip
def test_learning_rates_that_are_far_off(write, capsys, lr, expected):
    err = fails(capsys, overfit, write(optim={"lr": lr, "name": "adam"}, model={"dropout": 0}), "--iterations", 30)
    assert any(words in err for words in expected.split("|")), err


def test_a_rate_ten_times_too_low_is_reported(write, capsys):
    err = fails(capsys, overfit, write(optim={"lr": 5e-4}), "--iterations", 50)
    assert "with one change, optim.lr x 10, it reaches" in err


def test_labels_all_ignored(write, capsys, tmp_path):
    root = make_folder(tmp_path / "void", n=2, values=(255,))
    assert "every pixel of the batch is ignored (00, 01)" in fails(capsys, overfit, write(root))


def test_a_batch_of_one_class(write, capsys, tmp_path):
    root = make_folder(tmp_path / "one", n=2, values=(1,))
    assert "one class only (b)" in fails(capsys, overfit, write(root))


def test_no_rate_no_learning(write, capsys):
    assert "optim.lr is 0" in fails(capsys, overfit, write(optim={"lr": 0}))


def test_detail_finer_than_the_head_is_reported(write, capsys, tmp_path):
    root = make_folder(tmp_path / "fine", n=2, hw=(64, 64), names=("a", "b"), values=(0, 1))  # lines of one pixel
    for i in range(2):
        write_image(root / "images" / "train" / f"{i:02d}.png", (64, 64), seed=i)
    path = write(root)
    raw = yaml.safe_load(path.read_text())
    raw["model"] = {"name": "segformer_b0", "decoder_dim": 16}
    path.write_text(yaml.safe_dump(raw))
    trial = open_trial(load_config(path), training_images(load_config(path), "none"), 9)
    images, target = (torch.stack(x) for x in zip(*[trial.data[i] for i in range(2)]))
    limit, stride = overfit.resolution_limit(trial.parts.model, images, target, 255)
    assert stride == 4 and 0.2 < limit < 0.6  # the lines vanish between logits 4 pixels apart
    found = overfit.Fit(losses=[0.7, 0.69], mious={2: 0.97 * limit})
    reason = overfit.explain(found, {}, (limit, stride), found)
    assert "logits have stride 4" in reason


def test_a_smooth_target_has_no_limit(write):
    cfg = load_config(write())
    model = open_trial(cfg, training_images(cfg, "none"), 9).parts.model
    assert overfit.resolution_limit(model, torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64).long(), 255) == (1.0, 1)


def test_parameters_without_gradient_are_named(write):
    cfg = load_config(write())
    trial = open_trial(cfg, training_images(cfg, "none"), 9)
    trial.parts.model.unused = torch.nn.Linear(2, 2)
    images, target = (x[None] for x in trial.data[0])
    trial.step(torch.cat([images, images]), torch.cat([target, target]), 1e-3)
    assert overfit.without_gradient(trial) == ["unused.weight", "unused.bias"]


# --- what it tries with -----------------------------------------------------------------------------------------------


def test_a_trial_starts_where_train_py_does_and_scoring_changes_nothing(write):
    cfg = load_config(write())
    one, two = (open_trial(cfg, training_images(cfg), 9) for _ in range(2))
    state = {k: v.clone() for k, v in one.parts.model.state_dict().items()}
    images, target = next(endless(one))
    overfit.score(one, images, target, training=True), overfit.score(one, images, target)
    for key, value in two.parts.model.state_dict().items():
        assert torch.equal(value, state[key]) and torch.equal(one.parts.model.state_dict()[key], state[key]), key


def write_teacher(write, path):
    """The checkpoint of a network at its first weights."""
    cfg = load_config(write())
    trial = open_trial(cfg, training_images(cfg), 9)
    job = Job(path.parent, cfg, trial.data, trial.data, 0)
    ckpt.save(member_checkpoint(job, trial.parts, Progress(), None, {}), path)


def test_steps_are_those_of_train_py_with_ramps_aux_and_teacher(write, tmp_path):
    write_teacher(write, tmp_path / "teacher.pt")
    terms = [
        {"name": "cross_entropy", "weight": [1.0, 0.2]},
        {"name": "dice", "weight": [0.0, 0.8]},
        {"name": "kd", "weight": 1.0},
    ]
    loss = {"terms": terms, "teacher": str(tmp_path / "teacher.pt"), "aux": {"name": "dice"}, "aux_weight": 0.7}
    path = write(model={"name": "deeplabv3plus_resnet18", "aux": True}, loss=loss, schedule={"name": "constant"})
    raw = yaml.safe_load(path.read_text())
    del raw["model"]["base_channels"]
    raw["train"]["epochs"] = 2
    path.write_text(yaml.safe_dump(raw))
    cfg = load_config(path)
    trial, twin = (open_trial(cfg, training_images(cfg), 6) for _ in range(2))  # 2 epochs of 3 batches
    torch.manual_seed(0)  # dropout
    steps = [trial.step(images, target, cfg.optim.lr) for (images, target), _ in zip(endless(trial), range(6))]
    job, progress = Job(tmp_path, twin.cfg, twin.data, twin.data, 0), Progress()
    torch.manual_seed(0)
    for epoch in range(2):
        row = epoch_of(job, twin.parts, progress)
        assert row["train_kd"] > 0 and {"train_dice", "train_aux"} <= row.keys()
        for key in ("loss", "cross_entropy", "dice", "kd", "aux"):
            mean = sum(step[key] for step in steps[3 * epoch : 3 * epoch + 3]) / 3
            assert row[f"train_{key}"] == pytest.approx(mean, rel=1e-9), (epoch, key)


@pytest.mark.parametrize(("iterations", "whole", "last"), [(8, True, 7 / 8), (8, False, 7 / 30), (40, False, 39 / 40)])
def test_weights_that_change_stay_in_their_range(write, iterations, whole, last):
    terms = [{"name": "cross_entropy", "weight": [1.0, 0.0]}, {"name": "dice", "weight": [0.0, 1.0]}]
    cfg = load_config(write(loss={"terms": terms}, train={"batch_size": 2, "epochs": 10}))  # 30 iterations
    trial = open_trial(cfg, training_images(cfg), iterations, whole)
    for _, (images, target) in zip(range(iterations), endless(trial)):
        step = trial.step(images, target, 1e-3)
        done = trial.parts.criterion.progress
        assert 0 <= done < 1
        assert step["loss"] == pytest.approx((1 - done) * step["cross_entropy"] + done * step["dice"])
    assert done == pytest.approx(last)


def test_class_weights_by_a_rule_leave_no_file(write, tmp_path, monkeypatch):
    path = write(loss={"name": "cross_entropy", "class_weights": "median_frequency"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class_weights.json").write_text("of another run")
    cfg = load_config(path)
    trial = open_trial(cfg, training_images(cfg), 1)
    assert not torch.equal(trial.parts.criterion.weight, torch.ones(2))
    assert (tmp_path / "class_weights.json").read_text() == "of another run"


def test_batches_go_on_over_epochs(write):
    cfg = load_config(write())
    trial = open_trial(cfg, training_images(cfg), 9)
    stream = endless(trial)
    batches = [next(stream)[0] for _ in range(6)]  # 3 batches an epoch
    assert not torch.equal(torch.cat(batches[:3]), torch.cat(batches[3:]))


# --- lr_find ----------------------------------------------------------------------------------------------------------


def curve(lr: float) -> float:
    """Flat at 3, from 1e-4 down to 1 at 1e-2, flat, and up from 0.3."""
    return 3 - max(0, min(2, 1 + math.log10(lr / 1e-3))) + 20 * max(0, lr - 0.3)


def test_bounds_of_a_known_curve():
    lrs = lr_find.rates(1e-6, 1.0, 120)
    found = lr_find.read(lrs, [curve(lr) for lr in lrs], "")
    assert 1e-4 < found.falls < 4e-4
    assert 1e-4 < found.steepest < 1e-2
    assert 5e-3 < found.slows < 3e-2
    assert lr_find.suggestion(found) <= min(found.steepest, found.slows / 10) * 1.2


def test_rates_are_a_constant_factor_apart():
    lrs = lr_find.rates(1e-5, 1e-1, 5)
    assert lrs == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


def test_a_loss_that_never_falls_is_an_error():
    lrs = lr_find.rates(1e-6, 1.0, 50)
    with refuses("made the loss fall"):
        lr_find.read(lrs, [2.0 + 0.3 * (i % 2) for i in range(50)], "")
    with refuses("only 4 steps before"):
        lr_find.read(lrs, [2.0] * 4, "the loss was no number any more at 1.0e-05")


def test_the_sweep_ends_when_the_loss_diverges():
    class Fake:
        def __init__(self, losses):
            self.losses = iter(losses)
            self.parts = type("P", (), {"loader": FakeLoader()})

        def step(self, images, target, lr):
            loss = next(self.losses)
            if not math.isfinite(loss):
                raise NonFiniteLoss
            return {"loss": loss}

    class FakeLoader(list):
        batch_sampler = type("S", (), {"set_epoch": lambda self, epoch: None})()

        def __iter__(self):
            return iter([(None, None)] * 3)

    lrs = lr_find.rates(1e-6, 1.0, 50)
    losses, ended = lr_find.sweep(Fake([1.0] * 10 + [50.0] * 40), lrs)
    assert len(losses) == 11 and "times its lowest" in ended
    losses, ended = lr_find.sweep(Fake([1.0] * 10 + [math.nan]), lrs)
    assert len(losses) == 10 and "no number" in ended


def test_lr_find_writes_a_plot_and_a_suggestion(write, capsys, tmp_path, monkeypatch):
    path = write()
    words = [path, "--iterations", 60, "--from", 1e-5, "--out", tmp_path / "lr.png"]
    assert run(lr_find, *words) == 0
    out = capsys.readouterr().out
    suggested = float(out.split("--set optim.lr=")[1].split()[0])
    assert 1e-4 < suggested < 0.5 and (tmp_path / "lr.png").stat().st_size > 1000
    monkeypatch.setattr(lr_find.plots, "available", lambda: False)
    assert run(lr_find, *words) == 0
    again = capsys.readouterr().out
    assert "matplotlib is not installed" in again and f"optim.lr={suggested:.0e}" in again


def test_lr_find_refuses_nonsense(write, capsys):
    assert "--from must be above 0" in fails(capsys, lr_find, write(), "--from", 1, "--to", 0.1)
    assert "--iterations: expected at least 20" in fails(capsys, lr_find, write(), "--iterations", 5)
