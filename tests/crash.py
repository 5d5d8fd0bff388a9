"""Kill a small cross-validation at random moments, resume it each time, and compare with a run that nobody killed.

python -m tests.crash                (make crash)
python -m tests.crash --kills 5 --seed 7

Every process is ended by SIGKILL, which it cannot see coming. When a run reaches its end, its weights, log and results
must equal those of the uninterrupted run bit for bit; then the next run begins, until the kills are used up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

import train
from common import command
from engine.config import dump
from tests.engine.test_cross_validation import config
from tests.engine.test_training import equal_runs
from tests.helpers import make_folder

TIMES = ("seconds", "images/s", "peak_memory")  # what two equal runs may differ in


def child(words: list[str], wait: float | None) -> bool:
    """Run train.py in a fork of this process, which has imported torch; kill it after `wait` seconds (None: never).
    Returns whether it came to its end. Raises: SystemExit if it failed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with open("output.txt", "a") as output, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                code = command.run(train.main, train.build_parser(), words)
            except BaseException:
                traceback.print_exc()
        os._exit(code)
    end = time.monotonic() + (wait if wait is not None else 1e9)
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"train.py {' '.join(words)} failed:\n{Path('output.txt').read_text()[-3000:]}")
            return True
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


def plain(value):
    """A result without its times."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in TIMES}
    return [plain(v) for v in value] if isinstance(value, list) else value


def compare(whole: Path, run: Path) -> None:
    equal_runs(whole, run)
    for path in sorted(whole.rglob("results.json")):
        a, b = (json.loads((r / path.relative_to(whole)).read_text()) for r in (whole, run))
        assert plain(a) == plain(b), f"{path.relative_to(whole)} differs"
    left = [p for p in run.rglob("*") if p.name.endswith((".tmp", ".damaged"))]
    assert not left, f"left behind: {left}"


def crash(kills: int, seed: int, *sets: str, say=print) -> None:
    """Works in the current folder. Raises: AssertionError where a resumed run is not the uninterrupted one."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    root = make_folder(Path("data"), n=12)
    cfg = config(
        root, "train.epochs=2", "model.base_channels=2", "cv.line_points=0", "data.cache=false", "log.samples=0"
    )
    Path("cv.yaml").write_text(dump(cfg))
    started = time.monotonic()
    child(["cv.yaml", "--name", "whole"], None)
    length = time.monotonic() - started
    (whole,) = Path("runs").glob("whole-*")
    say(f"uninterrupted: {length:.1f} s, {len((whole / 'log.jsonl').read_text().splitlines())} epochs")
    done = runs = 0
    while done < kills:
        shutil.rmtree("runs/next", ignore_errors=True)
        shutil.copytree(whole, "runs/next", ignore=lambda folder, names: [n for n in names if n != "config.yaml"])
        finished, moments, words = False, [], ["--resume", "runs/next"]
        while not finished:
            wait = draw.uniform(0, length) if done < kills else None
            finished = child(words, wait)
            if not finished:
                done += 1
                moments.append(f"{wait:.2f}")
        runs += 1
        compare(whole, Path("runs/next"))
        say(f"run {runs}: killed {len(moments)} times, after {', '.join(moments)} s; the same bits")
    say(f"{done} kills, {runs} runs: weights, log and results equal the uninterrupted run's")


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        crash(args.kills, args.seed, say=lambda text: print(text, flush=True))


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tests.crash", __doc__)
    p.add_argument("--kills", type=int, default=20, metavar="N", help="how many times a run is killed (default: 20)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of the random moments (default: 0)")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
