"""NaN and inf: refused by name where weights are saved, loaded, averaged or judged; the last good checkpoint stays."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

import eval as eval_command
import train as train_command
from common import command
from common.errors import UserError
from engine import checkpoint as ckpt
from engine.config import dump, to_dict
from engine.evaluation.networks import build_network, open_networks
from engine.folds import aggregate
from engine.folds import cross_validation as cv
from engine.training import bad_step, job, train
from engine.training.single_run import train_single
from tests.engine.test_cross_validation import config as cv_config
from tests.engine.test_cross_validation import folder as cv_folder  # noqa: F401  a fixture
from tests.engine.test_training import CPU, equal_runs, run_in, tiny
from tests.helpers import make_folder, refuses
from tools import replay

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data"), n=6)


def checkpoint(value: float, key: str = "model") -> dict:
    state = {"head.weight": torch.tensor([1.0, value]), "encoder.w": torch.ones(2)}
    content = {"model": {"head.weight": torch.ones(2)}, "config": {}, "class_names": ["a", "b"]}
    return content | {key: [content["model"], state] if key == "ensemble" else state}


@pytest.mark.parametrize("key", ["model", "ensemble"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_neither_saved_nor_loaded(tmp_path, key, value):
    path = tmp_path / "a.pt"
    ckpt.save(checkpoint(1.0), path)
    with refuses(r"a.pt is not written: not finite .* head.weight \(1 of 2 values\)"):
        ckpt.save(checkpoint(value, key), path)
    assert ckpt.load_ours(path)["model"]["head.weight"].isfinite().all()  # the good file is still there
    torch.save(checkpoint(value, key), path)  # as earlier versions did
    with refuses(r"checkpoint .*a.pt: not finite .* head.weight"):
        ckpt.load_ours(path)


def test_a_state_of_the_optimiser_is_looked_at_too(tmp_path):
    """Adam's mean of squares overflows before the weights do, and then stops every update."""
    state = {"state": {3: {"step": torch.tensor(1.0), "exp_avg_sq": torch.tensor([INF])}}, "param_groups": []}
    with refuses("optimiser state of parameter 3: not finite .* exp_avg_sq"):
        ckpt.save(checkpoint(1.0) | {"optimizer": state}, tmp_path / "a.pt")


def test_not_averaged():
    states = [{"w": torch.ones(2)}, {"w": torch.tensor([1.0, NAN])}]
    with refuses("member 1 cannot be averaged: not finite .* w "):
        aggregate.average(states)


@pytest.fixture(scope="module")
def spoilt(folder, tmp_path_factory, monkeypatch_module):
    """Two epochs of training; the last step of the second overflows. (run, config, its error)"""
    cfg = tiny(folder, "train.epochs=2", "optim.clip_norm=0", "data.augment=none")
    run = run_in(tmp_path_factory.mktemp("runs"), cfg, "run")
    with pytest.raises(UserError) as e, monkeypatch_module.context() as m:
        m.setattr(train, "train_step", overflowing(3))
        train_single(cfg, run, CPU)
    return run, cfg, str(e.value)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as m:
        yield m


def overflowing(iteration: int, train_step=train.train_step):
    """train_step in which the gradient of the logits overflows at one iteration; their values are finite."""

    class Spiked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * 1e38 * 1e38

    def step(model, images, target, criterion, optimizer, scaler, **options):
        if round(options["progress"] * 4) == iteration:  # of 4 iterations in two epochs
            handle = model.register_forward_hook(lambda m, args, out: {**out, "out": Spiked.apply(out["out"])})
            try:
                return train_step(model, images, target, criterion, optimizer, scaler, **options)
            finally:
                handle.remove()
        return train_step(model, images, target, criterion, optimizer, scaler, **options)

    return step


def test_an_overflow_in_an_epochs_last_step_is_found_and_nothing_is_overwritten(spoilt):
    run, _, text = spoilt
    assert "run, epoch 2: non-finite gradient after a step" in text and "iteration 3 in the batch of 0" in text
    assert "last.pt keeps epoch 1" in text and f"python -m tools.replay {run / 'bad_step.pt'}" in text
    assert "\n" not in text
    for name in ("best.pt", "last.pt"):
        assert ckpt.load_ours(run / name)["epoch"] == 1


def test_the_run_goes_on_from_the_last_finite_checkpoint(spoilt, tmp_path):
    run, cfg, _ = spoilt
    train_single(cfg, run, CPU)
    (run / "bad_step.pt").rename(tmp_path / "bad_step.pt")
    whole = run_in(tmp_path, cfg, "whole")
    train_single(cfg, whole, CPU)
    equal_runs(whole, run)
    (tmp_path / "bad_step.pt").rename(run / "bad_step.pt")


def test_replay_repeats_the_step_to_the_same_bits(spoilt, monkeypatch, capsys):
    run, _, _ = spoilt
    recorded = replay.read(run / "bad_step.pt")
    assert not ckpt.non_finite(recorded["model"]) and recorded["images"].shape == (3, 3, 64, 64)
    monkeypatch.setattr(replay, "train_step", overflowing(3))
    assert command.run(replay.main, replay.build_parser(), [str(run / "bad_step.pt")]) == 0
    out = capsys.readouterr().out
    assert "first      backward: gradient at the output of classifier (Conv2d), 36864 of 36864 values" in out
    assert "the same bits as recorded: parts, gradients, weights" in out
    monkeypatch.setattr(replay, "train_step", train.train_step)  # without the overflow the step is fine
    assert command.run(replay.main, replay.build_parser(), [str(run / "bad_step.pt")]) == 2
    out, err = capsys.readouterr()
    assert "all is finite" in out and "not the same bits as recorded (gradients, weights differ)" in err


def test_replay_of_a_loss_names_the_module_and_the_direction(folder, tmp_path, monkeypatch, capsys):
    """One weight so large that its convolution overflows: nothing is patched when the step is repeated."""
    cfg = tiny(folder, "train.epochs=1", "data.augment=none")
    run, build = run_in(tmp_path, cfg, "run"), job.seeded_model

    def large(made):
        model = build(made)
        with torch.no_grad():
            dict(model.named_parameters())[WEIGHT].fill_(3e38)
        return model

    WEIGHT = [n for n, p in build_network(cfg, 3).named_parameters() if p.ndim == 4][-1]
    monkeypatch.setattr(job, "seeded_model", large)
    with refuses(r"non-finite loss \(loss = .*iteration 0 in the batch of .*python -m tools.replay"):
        train_single(cfg, run, CPU)
    assert not (run / "last.pt").exists()
    assert command.run(replay.main, replay.build_parser(), [str(run / "bad_step.pt")]) == 0
    out = capsys.readouterr().out
    assert f"first      forward: {WEIGHT.rpartition('.')[0]} (Conv2d)" in out and "the same bits" in out


def test_another_file_is_no_bad_step(tmp_path):
    ckpt.save(checkpoint(1.0), tmp_path / "best.pt")
    with refuses("best.pt: not the file of a bad step"):
        replay.read(tmp_path / "best.pt")


def test_a_validation_that_overflows_is_no_improvement(folder, tmp_path, monkeypatch, capsys):
    """Epoch 2's logits overflow on the validation images, which would all be class 0."""
    cfg = tiny(folder, "train.epochs=2", "schedule.name=plateau", "schedule.patience=0")
    run, evaluate, calls = run_in(tmp_path, cfg, "run"), train.evaluate, []

    def overflow(model, *args, **options):
        calls.append(1)
        if len(calls) != 2:
            return evaluate(model, *args, **options)
        handle = model.register_forward_hook(lambda m, args, out: {"out": out["out"] * 1e38 * 1e38})
        score = evaluate(model, *args, **options)
        handle.remove()
        return score

    monkeypatch.setattr(train, "evaluate", overflow)
    train_single(cfg, run, CPU)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[0]["val_miou"] is not None and rows[1]["val_miou"] is None and rows[1]["val_loss"] is None
    last = ckpt.load_ours(run / "last.pt")["progress"]
    assert (last["best_epoch"], last["waited"], last["plateau"]["drops"]) == (1, 1, 1)
    assert ckpt.load_ours(run / "best.pt")["epoch"] == 1
    assert "not finite on the validation images (logits of 6 images)" in capsys.readouterr().err


# --- a cross-validation with NaN --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(cv_folder, tmp_path_factory):  # noqa: F811
    cfg = cv_config(cv_folder, "cv.line_points=0")
    run = run_in(tmp_path_factory.mktemp("runs"), cfg, "run")
    cv.cross_validate(cfg, run, CPU)
    return run


def plant(path: Path, names: list[str] | None = None) -> None:
    """Write NaN into a checkpoint, as an earlier version would have saved it: without a hash."""
    content = ckpt.load(path)
    for name in names or [n for n, v in content["model"].items() if v.is_floating_point()]:
        content["model"][name].fill_(NAN)
    torch.save(content, path)


@pytest.mark.parametrize("where", ["one fold", "all folds", "a classifier alone"])
def test_members_with_nan_are_refused_by_name(whole, tmp_path, where, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    classifier = [n for n in ckpt.load(run / "stage0/fold1/best.pt")["model"]][-2:]
    for fold in (0, 1) if where == "all folds" else (1,):
        plant(run / f"stage0/fold{fold}/best.pt", classifier if "classifier" in where else None)
    first = run / f"stage0/fold{0 if where == 'all folds' else 1}/best.pt"
    words = ["--run", str(run), "--aggregate", "all"]
    assert command.run(eval_command.main, eval_command.build_parser(), words) == 2
    assert command.run(eval_command.main, eval_command.build_parser(), ["--checkpoint", str(first)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and all(f"error: checkpoint {first}: not finite (NaN or inf): " in line for line in lines)
    assert ("a classifier alone" == where) == all(classifier[0] in line and "more" not in line for line in lines)
    with refuses("not finite"):
        open_networks(first)


def test_a_run_whose_folds_all_overflow_ends_with_one_line(cv_folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    cfg = cv_config(cv_folder, "cv.start=none", "optim.lr=1e30", "optim.name=sgd", "cv.line_points=0")
    (tmp_path / "cv.yaml").write_text(dump(cfg))
    monkeypatch.chdir(tmp_path)
    assert command.run(train_command.main, train_command.build_parser(), ["cv.yaml"]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(err) == 1 and "stage 0 fold 0, epoch 1: non-finite" in err[0] and "tools.replay" in err[0]
    assert not list(tmp_path.rglob("best.pt"))


def test_a_score_of_non_finite_logits_is_refused(folder, tmp_path, capsys):
    """Finite weights whose logits overflow."""
    cfg = tiny(folder)
    model = build_network(cfg, 3)
    with torch.no_grad():
        list(model.parameters())[-2].fill_(3e38)
    content = {"model": ckpt.cpu_state(model), "config": to_dict(cfg), "class_names": ["a", "b", "c"]}
    ckpt.save(content | {"palette": [[0, 0, 0]] * 3}, tmp_path / "a.pt")
    words = ["--checkpoint", str(tmp_path / "a.pt")]
    assert command.run(eval_command.main, eval_command.build_parser(), words) == 2
    assert "its logits are not finite (NaN or inf) on 6 of 6 images" in capsys.readouterr().err


def test_gradients_and_weights_are_named():
    layer = torch.nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    assert bad_step.problem_after(layer, scaled=False) == ""
    layer.weight.grad[0, 0] = INF
    assert bad_step.problem_after(layer, scaled=False) == "non-finite gradient after a step (weight: 1 of 2 values)"
    assert bad_step.problem_after(layer, scaled=True) == ""  # a scaler leaves the step out
    layer.bias.data.fill_(math.nan)
    assert "weights after a step (bias: 1 of 1 values)" in bad_step.problem_after(layer, scaled=True)
