"""Run folders: which one is taken when none is named, locks with and without fcntl, and what a resume warns of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import files, lock
from common.errors import UserError
from engine import run_folder
from engine.config import Config, dump
from tests.helpers import refuses

ROOT = Path(__file__).parents[2]


def make(folder: Path, age: int, *names: str) -> Path:
    """A run whose log was last written `age` seconds ago, holding empty files."""
    for name in ("config.yaml", "log.jsonl", *names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    os.utime(folder / "log.jsonl", (1e9 - age, 1e9 - age))
    return folder


# --- the newest run ---------------------------------------------------------------------------------------------------


def test_a_finished_run_comes_before_a_newer_one_that_was_killed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done = make(Path("runs/done"), 100, "best.pt", "results.json")
    make(Path("runs/older"), 200, "best.pt", "results.json")
    make(Path("runs/killed"), 10, "best.pt", "last.pt")
    make(Path("runs/barely"), 5)
    assert run_folder.newest_run() == done
    assert "runs/barely is newer, but has no results yet" in capsys.readouterr().err
    folds = make(Path("runs/folds"), 1, "stage0/results.json", "stage0/fold0/best.pt", "stage1/fold0/last.pt")
    assert run_folder.newest_run() == folds  # its first stage has results
    assert capsys.readouterr().err == ""


def test_where_no_run_is_finished_the_newest_with_weights_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refuses("no run found"):
        run_folder.newest_run()
    barely = make(Path("runs/barely"), 5)
    assert run_folder.newest_run() == barely
    killed = make(Path("runs/killed"), 10, "best.pt")
    make(Path("runs/earlier"), 20, "best.pt")
    assert run_folder.newest_run() == killed


def test_with_folds_a_finished_stage_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(Path("runs/single"), 1, "best.pt", "results.json")
    with refuses("holds no cross-validated run"):
        run_folder.newest_run(with_folds=True)
    killed = make(Path("runs/killed"), 5, "stage0/fold0/best.pt")
    assert run_folder.newest_run(with_folds=True) == killed
    done = make(Path("runs/done"), 50, "stage0/fold0/best.pt", "stage0/results.json")
    assert run_folder.newest_run(with_folds=True) == done


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_run_in_use_is_refused_and_is_free_afterwards(tmp_path):
    handle = run_folder.lock(tmp_path)
    with refuses("is in use by another process"):
        run_folder.lock(tmp_path)
    handle.close()
    run_folder.lock(tmp_path).close()


def test_windows_locks_with_msvcrt(tmp_path, monkeypatch):
    class Windows:
        LK_NBLCK, held, calls = 2, False, []

        def locking(self, number, mode, size):
            self.calls.append((mode, size))
            if self.held:
                raise PermissionError(13, "Permission denied")

    windows = Windows()
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "msvcrt", windows)
    run_folder.lock(tmp_path).close()
    windows.held = True
    with refuses("is in use by another process"):
        run_folder.lock(tmp_path)
    assert windows.calls == [(2, 1), (2, 1)]


def test_waiting_for_a_lock_ends_when_it_is_free(tmp_path):
    """Another process holds the lock, then ends."""
    code = "import sys; from pathlib import Path; from common.lock import lock_file; h = lock_file(Path(sys.argv[1])); "
    code += "print('held', flush=True); sys.stdin.readline()"
    words = [sys.executable, "-c", code, str(tmp_path / "x")]
    other = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    assert lock.lock_file(tmp_path / "x") is None
    other.stdin.close()
    lock.lock_file(tmp_path / "x", wait=True).close()
    assert other.wait(10) == 0


def test_without_fcntl_the_commands_start_and_runs_can_be_locked(tmp_path):
    code = "import sys; sys.modules['fcntl'] = sys.modules['msvcrt'] = None; import train, eval, predict, pathlib; "
    code += "from engine.run_folder import lock; lock(pathlib.Path(sys.argv[1])).close(); "
    code += "from data import streets; from common import command; "
    code += "command.run(predict.main, predict.build_parser(), ['--help'])"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--aggregate" in done.stdout and (tmp_path / ".lock").exists()


# --- what a killed process leaves -------------------------------------------------------------------------------------


def test_what_a_killed_write_left_is_removed_when_the_run_is_locked(tmp_path):
    """A process is killed in the middle of writing last.pt."""
    code = "import os, sys; from pathlib import Path; from common.files import write_atomically; "
    code += f"write_atomically(Path(sys.argv[1]), lambda f: (f.write(b'half'), os.kill(os.getpid(), {signal.SIGKILL})))"
    path = tmp_path / "stage0" / "fold1" / "last.pt"
    files.write_atomically(path, lambda f: f.write(b"whole"))
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and len(list(path.parent.iterdir())) == 2
    run_folder.lock(tmp_path).close()
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"] and path.read_bytes() == b"whole"


# --- before a resume --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["torch", "torchvision", "pillow", "device", "threads"])
def test_a_resume_names_what_has_changed(tmp_path, capsys, key):
    cfg = Config(device="cpu")
    (tmp_path / "config.yaml").write_text(dump(cfg))
    saved = run_folder.environment(cfg, "")
    files.write_json(tmp_path / "environment.json", saved)
    run_folder.warn_of_changes(tmp_path, cfg)
    assert capsys.readouterr().err == ""
    files.write_json(tmp_path / "environment.json", saved | {key: "0.1"})
    run_folder.warn_of_changes(tmp_path, cfg)
    assert f"{key} was 0.1 and is {saved[key]}" in capsys.readouterr().err
    saved.pop(key)  # runs made before it was written down
    (tmp_path / "environment.json").write_text(json.dumps(saved))
    run_folder.warn_of_changes(tmp_path, cfg)
    assert capsys.readouterr().err == ""


# --- hashes -----------------------------------------------------------------------------------------------------------


def test_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.file_hash(tmp_path / "a", "md5") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, appendix A.5
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180, example
    assert files.file_hash(tmp_path / "a") == sha256
    with pytest.raises(UserError, match="cannot write"):
        files.write_json(tmp_path / "a" / "b", 1)
