"""The loop: a killed run goes on as if nothing had happened, bit for bit; stops that must be clean are clean."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from common.errors import UserError
from engine import checkpoint as ckpt
from engine import config as config_module
from engine.config import config_from
from engine.metrics import ConfusionMatrix
from engine.report.markdown_report import write_report
from engine.training import job, train
from engine.training.log import Log
from engine.training.single_run import train_single
from tests.helpers import make_folder, write_mask

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def tiny(root: Path, *sets: str) -> config_module.Config:
    """A config that trains in well under a second an epoch."""
    base = {
        "name": "tiny",
        "model": {"name": "unet", "base_channels": 4},
        "data": {"name": "folder", "root": str(root), "size": [64, 64], "augment": "standard"},
        "optim": {"lr": 1e-2, "clip_norm": 1.0},
        "train": {"epochs": 3, "batch_size": 3},
        "log": {"plots": False},
    }
    return config_from(base, sets)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data"), n=7)


def run_in(tmp_path: Path, cfg, name: str) -> Path:
    run = tmp_path / name
    run.mkdir()
    (run / "config.yaml").write_text(config_module.dump(cfg))
    return run


def same(a: object, b: object) -> bool:
    """Equal trees of plain values and tensors, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def equal_runs(a: Path, b: Path) -> None:
    """Every checkpoint of two runs is equal but for `info`, and so is the log but for its times."""
    names = sorted(p.relative_to(a) for p in a.rglob("*.pt"))
    assert names and names == sorted(p.relative_to(b) for p in b.rglob("*.pt"))
    for name in names:
        left, right = (torch.load(r / name, weights_only=True) for r in (a, b))
        for side in (left, right):
            side.pop("info", None)
            side.pop("config", None)
        assert same(left, right), f"{name} differs"
    logs = [[json.loads(line) for line in (r / "log.jsonl").read_text().splitlines()] for r in (a, b)]
    for rows in logs:
        for row in rows:
            row.pop("seconds"), row.pop("images/s")
    assert logs[0] == logs[1]


@pytest.mark.parametrize("dies", ["in the epoch", "after best.pt", "after the log row"])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, folder, monkeypatch, dies):
    draws = ["data.augment=kitti_transfer", "data.copy_paste=0.5", "data.sampling=rare_class"]  # all that is random
    if dies == "after best.pt":  # the second epoch must be better: as it is without
        draws = []
    cfg = tiny(folder, "schedule.name=plateau", "schedule.patience=0", "train.early_stopping=5", *draws)
    whole, broken = run_in(tmp_path, cfg, "whole"), run_in(tmp_path, cfg, "broken")
    train_single(cfg, whole, CPU)

    class Killed(Exception):
        pass

    calls = {"n": 0}

    def after(function, times):
        def wrapped(*args, **kwargs):
            out = function(*args, **kwargs)
            calls["n"] += 1
            if calls["n"] == times:
                raise Killed
            return out

        return wrapped

    with monkeypatch.context() as m:
        if dies == "in the epoch":  # 7 images in batches of 3, the left-over one sits out: steps 3, 4 are epoch 2
            m.setattr(train, "set_lr", after(train.set_lr, 4))
        elif dies == "after best.pt":
            m.setattr(ckpt, "save", after(ckpt.save, 3))
        else:
            m.setattr(Log, "append", after(Log.append, 2))
        with pytest.raises(Killed):
            train_single(cfg, broken, CPU)
    assert torch.load(broken / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    torch.manual_seed(99)  # a new process has other random states
    train_single(cfg, broken, CPU)
    equal_runs(whole, broken)


def test_same_seed_same_run_other_seed_other_run(tmp_path, folder):
    results = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        cfg = tiny(folder, f"seed={seed}", "train.epochs=1")
        run = run_in(tmp_path, cfg, name)
        train_single(cfg, run, CPU)
        results.append(ckpt.state_hash(ckpt.load(run / "last.pt")["model"]))
    assert results[0] == results[1] != results[2]


def test_workers_change_nothing(tmp_path, folder):
    runs = []
    for workers in (0, 2):
        cfg = tiny(folder, f"train.workers={workers}", "train.epochs=2")
        runs.append(run_in(tmp_path, cfg, f"w{workers}"))
        train_single(cfg, runs[-1], CPU)
    equal_runs(*runs)


def test_a_finished_run_is_not_trained_again(tmp_path, folder):
    cfg = tiny(folder, "train.epochs=1")
    run = run_in(tmp_path, cfg, "run")
    first = train_single(cfg, run, CPU)
    before = (run / "last.pt").stat().st_mtime_ns
    again = train_single(cfg, run, CPU)
    assert again | {"peak_memory": 0} == first | {"peak_memory": 0}  # the process held more since
    assert (run / "last.pt").stat().st_mtime_ns == before


def test_log_rows_hold_the_contract(tmp_path, folder):
    sets = ["loss.terms=[{name: cross_entropy}, {name: dice, weight: 0.5}]", "train.validate_every=2"]
    cfg = tiny(folder, *sets)
    run = run_in(tmp_path, cfg, "run")
    train_single(cfg, run, CPU)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    keys = (
        "epoch fold stage lr train_loss train_cross_entropy train_dice train_miou val_loss val_miou val_fw_iou seconds"
    )
    for row in rows:
        assert set(row) == {*keys.split(), "images/s"}
        assert row["train_loss"] == pytest.approx(row["train_cross_entropy"] + 0.5 * row["train_dice"], rel=1e-4)
    assert [r["val_miou"] is None for r in rows] == [True, False, False]  # every second epoch, and the last


def test_best_is_the_epoch_with_the_best_val_miou(tmp_path, folder):
    cfg = tiny(folder, "train.epochs=4")
    run = run_in(tmp_path, cfg, "run")
    result = train_single(cfg, run, CPU)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda r: r["val_miou"])
    assert result["best_epoch"] == best["epoch"]
    assert result["miou"] == pytest.approx(best["val_miou"], abs=1e-9)


def test_early_stopping_counts_validations(tmp_path, folder):
    cfg = tiny(folder, "train.epochs=30", "train.early_stopping=2", "optim.lr=0")  # nothing improves after epoch 1
    cfg.model.options["base_channels"] = 2
    run = run_in(tmp_path, cfg, "run")
    train_single(cfg, run, CPU)
    assert 3 <= len((run / "log.jsonl").read_text().splitlines()) < 30


def test_non_finite_loss_stops_and_names_batch_and_term(tmp_path, folder, monkeypatch):
    cfg = tiny(folder, "loss.terms=[{name: cross_entropy}, {name: dice}]", "optim.clip_norm=0")
    run = run_in(tmp_path, cfg, "run")
    original, steps = train.autocast, []

    def poison(device, amp):  # inf in the weights before the second step
        steps.append(1)
        if len(steps) == 2:
            for p in model[0].parameters():
                p.data.fill_(float("inf"))
        return original(device, amp)

    model, build = [], job.seeded_model
    monkeypatch.setattr(job, "seeded_model", lambda *a: model.append(build(*a)) or model[0])
    monkeypatch.setattr(train, "autocast", poison)
    with pytest.raises(UserError) as e:
        train_single(cfg, run, CPU)
    text = str(e.value)
    assert "non-finite" in text and "cross_entropy = nan" in text and "epoch 1" in text and "\n" not in text
    assert "iteration 1" in text and "batch of 0" in text  # names of images
    assert not (run / "last.pt").exists()


def test_gradient_clipping_bounds_the_step():
    model = torch.nn.Conv2d(3, 2, 1)
    criterion = job.build_loss("cross_entropy", 2)

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return {"out": self.inner(x)}

    images, target = torch.randn(2, 3, 8, 8) * 100, torch.randint(2, (2, 8, 8))
    for clip in (0.0, 0.1):
        optimizer = job.build_optimizer(
            model, config_from({}, ["optim.name=sgd", "optim.momentum=0", "optim.weight_decay=0"]).optim
        )
        before = [p.detach().clone() for p in model.parameters()]
        train.train_one_epoch(
            Wrapped(), [(images, target)], criterion, optimizer, torch.amp.GradScaler("cpu", enabled=False),
            lambda i: 1.0, job.Progress(), ConfusionMatrix(2), device=CPU, clip_norm=clip,
        )  # fmt: skip
        moved = math.sqrt(sum((p - b).square().sum().item() for p, b in zip(model.parameters(), before)))
        assert (moved <= 0.1 + 1e-4) == (clip > 0)


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_amp_dtypes_on_the_cpu(folder, tmp_path, amp):
    cfg = tiny(folder, f"train.amp={amp}", "train.epochs=1")
    run = run_in(tmp_path, cfg, amp)
    assert train_single(cfg, run, CPU)["miou"] >= 0
    with pytest.raises(UserError, match="fp16"):
        job.amp_dtype(config_from({}, ["train.amp=fp16"]).train, CPU)
    assert job.amp_dtype(config_from({}).train, CPU) is None


def command(*words: str, cwd: Path, **env: str) -> subprocess.Popen:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **env}
    return subprocess.Popen(
        [sys.executable, *words], cwd=cwd, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


STRUCK = """
import os, runpy, signal, sys
from engine import checkpoint as ckpt
from engine.training import train

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
script, how, place, *words = sys.argv[1:]
save, set_lr, since = ckpt.save, train.set_lr, []

def watched_save(content, path):
    save(content, path)
    if path.as_posix().endswith(place):
        since.append(0)  # iterations begun since this file was written for the first time

def watched_set_lr(*args):
    set_lr(*args)
    if since:
        since[0] += 1
        if since[0] == 2:
            os.kill(os.getpid(), int(how))

ckpt.save, train.set_lr, sys.argv = watched_save, watched_set_lr, [script, *words]
runpy.run_path(script, run_name="__main__")
"""


def struck(how: signal.Signals, place: str, *words: str, cwd: Path) -> subprocess.Popen:
    """train.py, hit by a signal in the second iteration after it first wrote a file whose path ends in `place`.
    Sent from outside, the signal may come when a fast training is over."""
    variables = {"PYTHONPATH": str(ROOT)}
    return command("-c", STRUCK, str(ROOT / "train.py"), str(int(how)), place, *words, cwd=cwd, **variables)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_resumes_to_the_same_weights(tmp_path, folder, how):
    """The whole command, killed in the middle of training, then --resume."""
    cfg = tiny(folder)
    (tmp_path / "tiny.yaml").write_text(config_module.dump(cfg))
    script = str(ROOT / "train.py")
    process = struck(how, "last.pt", "tiny.yaml", "--name", "killed", cwd=tmp_path)
    _, err = process.communicate(timeout=120)
    (run,) = tmp_path.glob("runs/killed-*")
    assert len((run / "log.jsonl").read_text().splitlines()) < cfg.train.epochs and not (run / "results.json").exists()
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130 and f"--resume runs/{run.name}" in err
    resumed = command(script, "--resume", f"runs/{run.name}", cwd=tmp_path)
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    torch.set_num_threads(1)
    whole = run_in(tmp_path, cfg, "whole")
    train_single(cfg, whole, CPU)
    equal_runs(whole, run)


def test_the_last_epoch_can_be_kept_instead_of_the_best(tmp_path, folder):
    """With an absurd learning rate in the end, the last epoch is not the best one."""
    for keep in ("best", "last"):
        cfg = tiny(folder, f"train.keep={keep}", "schedule.name=warm_restarts", "optim.lr=1")
        results = train_single(cfg, run_in(tmp_path, cfg, keep), CPU)
        saved = torch.load(tmp_path / keep / "best.pt", weights_only=True)
        rows = [json.loads(line) for line in (tmp_path / keep / "log.jsonl").read_text().splitlines()]
        wanted = 3 if keep == "last" else max(rows, key=lambda r: (r["val_miou"], -r["epoch"]))["epoch"]
        assert saved["epoch"] == results["best_epoch"] == wanted
        assert results["miou"] == pytest.approx(rows[wanted - 1]["val_miou"])


def test_probabilities_of_a_single_run_stand_in_its_report(tmp_path, folder):
    cfg = tiny(folder, "eval.extra=true", "train.epochs=1", "log.plots=true", "log.samples=0")
    run = run_in(tmp_path, cfg, "run")
    results = train_single(cfg, run, CPU)
    assert set(results["auc"]) == {"a", "b", "c"} and 0 <= results["ece"] <= 1 and results["per_image"]
    text = write_report(run).read_text()
    for kind in ("roc", "reliability"):
        assert f"plots/{kind}.png" in text and Image.open(run / "plots" / f"{kind}.png").size[0] > 500
    plain = train_single(tiny(folder, "train.epochs=1"), run_in(tmp_path, tiny(folder), "plain"), CPU)
    assert "roc" not in plain and plain["miou"] == pytest.approx(results["miou"])


def test_without_a_defined_score_the_latest_epoch_is_kept(tmp_path):
    """No validation pixel has a label: every val mIoU is undefined, and early stopping has nothing to wait for."""
    folder = make_folder(tmp_path / "data", n=4)
    for path in (folder / "labels" / "val").iterdir():
        write_mask(path, (255,))
    cfg = tiny(folder, "train.epochs=3", "train.early_stopping=1")
    run = run_in(tmp_path, cfg, "run")
    results = train_single(cfg, run, CPU)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["val_miou"] for row in rows] == [None, None, None]
    best, last = (torch.load(run / f"{name}.pt", weights_only=True) for name in ("best", "last"))
    assert best["epoch"] == 3 and same(best["model"], last["model"])
    assert results["miou"] is None and results["best_epoch"] == 3
