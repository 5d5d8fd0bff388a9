"""A run goes on when files that only inform are damaged, falls back to the checkpoint before, and refuses what would
make its result a function of no config."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import train as train_command
from common import command, files
from common.errors import DamagedFile, UserError
from engine import checkpoint as ckpt
from engine.config import dump
from engine.evaluation.networks import read_results
from engine.folds import cross_validation as cv
from engine.run_folder import warn_of_changes
from engine.training import train
from engine.training.log import Log
from engine.training.single_run import train_single
from tests.engine.test_cross_validation import config as cv_config
from tests.engine.test_cross_validation import folder as cv_folder  # noqa: F401  a fixture
from tests.engine.test_training import CPU, equal_runs, run_in, struck, tiny
from tests.helpers import make_folder, refuses, write_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data"), n=4)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run of two epochs. (run, config)"""
    cfg = tiny(folder, "train.epochs=2", "model.base_channels=2")
    run = run_in(tmp_path_factory.mktemp("runs"), cfg, "whole")
    train_single(cfg, run, CPU)
    return run, cfg


@pytest.fixture
def run(finished, tmp_path) -> Path:
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def flip(path: Path, share: float = 0.5) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_that_is_read_is_noticed(finished, tmp_path):
    whole = ckpt.load(finished[0] / "last.pt")
    noticed = 0
    for i in range(16):
        shutil.copy(finished[0] / "last.pt", tmp_path / "a.pt")
        flip(tmp_path / "a.pt", (i + 0.5) / 16)
        try:
            again = ckpt.load(tmp_path / "a.pt")
        except UserError as e:
            noticed += isinstance(e, DamagedFile)
        else:  # a byte that torch does not read, such as padding
            assert ckpt.content_hash(again) == ckpt.content_hash(whole)
    assert noticed > 8


def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, run, capsys):
    whole, cfg = finished
    assert ckpt.load(run / "previous.pt")["epoch"] == 1
    state = ckpt.load(run / "last.pt")
    info = state["info"] | {"format": ckpt.FORMAT, "hash": "0" * 64}
    torch.save({**state, "info": info}, run / "last.pt")
    train_single(cfg, run, CPU)
    err = capsys.readouterr().err
    assert "last.pt: damaged, its content does not match its hash; going on from epoch 1" in err
    assert (run / "last.pt.damaged").exists()
    equal_runs(whole, run)


def test_without_an_earlier_checkpoint_the_remedy_is_named(finished, run):
    (run / "previous.pt").unlink()
    (run / "last.pt").write_bytes(b"PK\x03\x04 cut off")
    with refuses("no earlier one is left, remove .*last.pt to train this part from its start"):
        train_single(finished[1], run, CPU)
    (run / "last.pt").unlink()
    train_single(finished[1], run, CPU)  # the remedy helps
    equal_runs_but_previous(finished[0], run)


def equal_runs_but_previous(a: Path, b: Path) -> None:
    assert ckpt.state_hash(ckpt.load(a / "last.pt")["model"]) == ckpt.state_hash(ckpt.load(b / "last.pt")["model"])


def test_a_newer_format_is_refused_and_the_oldest_opens(tmp_path):
    torch.save({"model": {}, "info": {"format": 3, "hash": ""}}, tmp_path / "new.pt")
    with refuses("new.pt: of format 3, this version of the code reads up to 2"):
        ckpt.load(tmp_path / "new.pt")
    torch.save({"model": {}, "info": {"seconds": 1.0}}, tmp_path / "old.pt")
    assert ckpt.load(tmp_path / "old.pt")["info"] == {"seconds": 1.0}


# --- files that only inform -------------------------------------------------------------------------------------------


def test_a_damaged_log_is_repaired(finished, run, capsys):
    rows = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    (run / "log.jsonl").write_bytes(b"\xff\x00 no row\n" + rows[1] + rows[1] + b'{"epoch": 3, "fold": null, "sta')
    train_single(finished[1], run, CPU)
    assert (run / "log.jsonl").read_bytes() == rows[1]
    err = capsys.readouterr().err
    assert "1 lines cannot be read and are left out" in err and "1 rows are missing (run epoch 1)" in err
    assert (run / "log.jsonl.damaged").read_bytes().startswith(b"\xff\x00")


def test_rows_after_the_last_checkpoint_are_dropped_in_silence(finished, run, capsys):
    before = (run / "log.jsonl").read_bytes()
    row = json.loads(before.splitlines()[-1])
    Log(run / "log.jsonl").append(row | {"epoch": 3})
    train_single(finished[1], run, CPU)
    assert (run / "log.jsonl").read_bytes() == before and capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\udcff"])
def test_a_damaged_environment_is_written_again(finished, run, capsys, text):
    (run / "environment.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    warn_of_changes(run, finished[1])
    assert "environment.json: damaged" in capsys.readouterr().err
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    assert (run / "environment.json.damaged").exists()


@pytest.fixture(scope="module")
def scored(cv_folder, tmp_path_factory):  # noqa: F811
    cfg = cv_config(cv_folder, "cv.line_points=0", "model.base_channels=2")
    run = run_in(tmp_path_factory.mktemp("runs"), cfg, "run")
    return cfg, run, cv.cross_validate(cfg, run, CPU)


@pytest.mark.parametrize("damage", ["cut off", "no candidates", "a candidate's file"])
def test_damaged_results_of_a_stage_are_scored_again(scored, damage, capsys):
    cfg, run, results = scored
    path = run / "stage0" / "results.json"
    before = json.loads(path.read_text())
    if damage == "a candidate's file":
        flip(run / "aggregate" / f"{results['winner']}.pt")
    else:
        path.write_text(
            path.read_text()[:500] if damage == "cut off" else '{"winner": "mean", "stage": 0, "stages": 1}'
        )
    again = cv.cross_validate(cfg, run, CPU)
    assert "damaged" in (err := capsys.readouterr().err) and "the stage is scored again" in err
    drop = ("seconds", "peak_memory")
    assert {k: v for k, v in again.items() if k not in drop} == {k: v for k, v in before.items() if k not in drop}
    ckpt.load_ours(run / "aggregate" / f"{results['winner']}.pt")


@pytest.mark.parametrize("text", ['{"winner": "mean"}', "[]", "null", "[" * 100_000])
def test_what_is_no_stage_result_is_damaged(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DamagedFile, match="results.json: damaged"):
        read_results(tmp_path / "results.json")


# --- what the result depends on ---------------------------------------------------------------------------------------


def test_an_edited_config_is_refused_where_results_depend_on_it(finished, run, folder, capsys):
    edited = tiny(folder, "train.epochs=2", "model.base_channels=2", "optim.lr=0.02")
    with refuses(r"config.yaml was changed since .*last.pt was trained \(optim.lr: 0.01 -> 0.02\): put the old value"):
        train_single(edited, run, CPU)
    harmless = tiny(folder, "train.epochs=2", "model.base_channels=2", "log.samples=1", "train.workers=1")
    train_single(harmless, run, CPU)
    assert "config.yaml was changed since" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "val"])
def test_replaced_images_are_refused_and_moved_ones_are_not(finished, run, folder, tmp_path, split, capsys):
    shutil.copytree(folder, tmp_path / "data")
    moved = tiny(tmp_path / "data", "train.epochs=2", "model.base_channels=2")
    train_single(moved, run, CPU)
    assert f"data.root: {folder} -> {tmp_path / 'data'}" in capsys.readouterr().err
    image = tmp_path / "data" / "images" / split / "02.png"
    size = image.stat().st_size
    write_image(image, seed=77)
    assert image.stat().st_size == size  # noise does not compress
    with refuses(rf"image or label of {split} '02' has changed since the run began \(1 of 4 have\)"):
        train_single(moved, run, CPU)


# --- signals, workers, disks ------------------------------------------------------------------------------------------


def test_sigterm_keeps_the_checkpoint_and_prints_the_resume_line(folder, tmp_path):
    (tmp_path / "tiny.yaml").write_text(dump(tiny(folder, "model.base_channels=2")))
    _, err = (process := struck(signal.SIGTERM, "last.pt", "tiny.yaml", cwd=tmp_path)).communicate(timeout=120)
    (run,) = tmp_path.glob("runs/*")
    assert process.returncode == 143 and err.strip().splitlines()[-1] == (
        f"terminated; go on with  python train.py --resume runs/{run.name}"
    )
    assert ckpt.load_ours(run / "last.pt")["epoch"] == 2 and not list(run.rglob("*.tmp"))


def test_a_killed_loader_worker_gives_one_line_with_the_resume_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(dump(tiny(folder, "train.workers=1", "model.base_channels=2")))
    set_lr = train.set_lr

    def kill_a_worker(*args):
        set_lr(*args)
        for child in torch.multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
            child.join()

    monkeypatch.setattr(train, "set_lr", kill_a_worker)
    before = signal.getsignal(signal.SIGTERM)
    assert command.run(train_command.main, train_command.build_parser(), ["tiny.yaml", "--set", "data.limit=4"]) == 2
    signal.signal(signal.SIGTERM, before)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    (run,) = Path("runs").iterdir()
    assert "a process that loads images was killed" in line and f"--resume {run}" in line and "train.workers=0" in line


def test_an_error_in_a_worker_is_no_lost_worker():
    assert not command.is_lost_worker(RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal"))
    assert command.is_lost_worker(RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly"))


def test_a_full_disk_says_so(tmp_path, monkeypatch):
    """torch.save alone says: PytorchStreamWriter failed writing file, or an unexpected position."""
    path = tmp_path / "a.pt"
    ckpt.save({"x": 1}, path)

    class FullDisk:
        def __init__(self, file):
            self.file, self.left = file, 3000

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    monkeypatch.setattr(files, "open", lambda p, mode="r": FullDisk(open(p, mode)), raising=False)
    with refuses("cannot write .*a.pt: No space left on device .the disk is full: the file from before is kept"):
        ckpt.save({"x": torch.ones(10_000)}, path)
    monkeypatch.undo()
    assert ckpt.load(path) == {"x": 1} and [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_only_our_own_temporary_files_are_removed(tmp_path):
    for name in (".last.pt.123.tmp", ".notes.tmp", "a.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".dir.5.tmp").mkdir()
    files.remove_temporaries(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".dir.5.tmp", ".notes.tmp", "a.tmp"]


def test_the_file_before_is_kept_without_hard_links_too(tmp_path, monkeypatch):
    for linked in (True, False):
        if not linked:
            monkeypatch.setattr(os, "link", lambda *a: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
        files.write_atomically(tmp_path / "last", lambda f: f.write(b"one"))
        files.keep_before(tmp_path / "last", tmp_path / "before")
        files.write_atomically(tmp_path / "last", lambda f: f.write(b"two"))
        assert (tmp_path / "before").read_bytes() == b"one" and (tmp_path / "last").read_bytes() == b"two"
