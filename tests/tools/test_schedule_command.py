"""tools.schedule: the rates that train.py would set, phase by phase."""

from __future__ import annotations

import pytest
import yaml

from common import command
from engine.config import load_config
from engine.training import job, schedules
from engine.training.optim import set_lr
from tests.helpers import make_folder
from tools import schedule
from tools.lr_find.trial import open_trial, training_images


@pytest.fixture
def write(tmp_path):
    root = make_folder(tmp_path / "data", n=22)

    def config(**sections):
        base = {
            "model": {"name": "segformer_b0", "decoder_dim": 16},
            "data": {"name": "folder", "root": str(root), "size": [64, 64]},
            "optim": {"lr": 1e-3, "head_lr_factor": 10},
            "schedule": {"name": "poly", "warmup_iters": 3},
            "train": {"epochs": 4, "batch_size": 4},
        }
        for key, value in sections.items():
            base[key] = {**base.get(key, {}), **value}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(base))
        return tmp_path / "config.yaml"

    return config


def test_rates_are_those_the_optimiser_gets(write):
    cfg = load_config(write())
    (found,) = schedule.phases(cfg)
    trial = open_trial(cfg, training_images(cfg), 9)
    per_epoch = len(trial.parts.loader)
    assert (found.per_epoch, found.iterations) == (per_epoch, 4 * per_epoch) == (6, 24)
    for i in (0, 2, 3, 10, 23):
        set_lr(trial.parts.optimizer, cfg.optim.lr * schedules.factor(cfg.schedule, i, 24, 6))
        used = {group["lr"] for group in trial.parts.optimizer.param_groups}
        assert used == {found.lrs["encoder"][i], found.lrs["head"][i]}
        assert found.lrs["head"][i] == pytest.approx(10 * found.lrs["encoder"][i])


def test_groups_hold_every_parameter_once(write):
    cfg = load_config(write())
    found = schedule.groups_of(cfg, 3)
    model = job.build_network(cfg, 3)
    assert sum(g.parameters for g in found) == sum(p.numel() for p in model.parameters())
    assert {(g.part, g.weight_decay) for g in found} == {(p, w) for p in ("encoder", "head") for w in (1e-4, 0.0)}
    frozen = load_config(write(model={"freeze": "encoder"}))
    assert {g.part for g in schedule.groups_of(frozen, 3)} == {"head"}


def test_phases_of_a_cross_validation(write):
    cv = {"folds": 2, "group": "none", "start_epochs": 3, "stages": [{"train.epochs": 2}, {"optim.lr": 1e-4}]}
    cfg = load_config(write(cv=cv, schedule={"warmup_iters": 0}))
    found = schedule.phases(cfg)
    assert [(p.name, p.cfg.train.epochs) for p in found] == [("start", 3), ("stage 0", 2), ("stage 1", 4)]
    assert max(found[2].lrs["encoder"]) == 1e-4 and max(found[1].lrs["encoder"]) == 1e-3
    assert all(0 < p.images < 22 for p in found)
    pretrained = load_config(write(cv={"folds": 2, "group": "none", "start": "none"}))
    assert [p.name for p in schedule.phases(pretrained)] == ["stage 0"]


def test_command(write, capsys, tmp_path, monkeypatch):
    out = tmp_path / "lr.png"
    words = [str(write(schedule={"name": "plateau", "warmup_iters": 20})), "--out", str(out)]
    assert command.run(schedule.main, schedule.build_parser(), words) == 0
    said = capsys.readouterr().out
    assert "shown without these falls" in said and out.stat().st_size > 1000
    assert "20 of its 24 iterations are warm-up" in said
    assert "24 (6 an epoch)" in said and "1.00e-02" in said
    out.unlink()
    monkeypatch.setattr(schedule.plots, "available", lambda: False)
    assert command.run(schedule.main, schedule.build_parser(), words) == 0
    assert "matplotlib is not installed" in capsys.readouterr().out and not out.exists()
    assert command.run(schedule.main, schedule.build_parser(), [words[0], "--out", "/nowhere/a.png"]) == 2
