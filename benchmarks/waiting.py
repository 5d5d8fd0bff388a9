"""What OpenMP's way of waiting costs, quiet and beside busy processes: the numbers behind common/openmp.py.

    python -m benchmarks.waiting [--config configs/deeplabv3plus_cv.yaml] [--rounds 3] [--busy 0 1 2]

Every setting runs in processes of its own, in turn, with two threads: a training step of the config's network at its
batch and size, the same step fed by a loader with two workers (the drawn city), and a forward pass for evaluation.
Prints the median seconds over rounds, and the slowest round in brackets. Run nothing else beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SETTINGS = {
    "libgomp's own": {},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
MEASURES = ("training step", "step with 2 loader workers", "evaluation")


def measure(config: str, steps: int = 3) -> dict[str, float]:
    """Median seconds of each measure in this process, whose OpenMP is loaded here."""
    import torch
    import torch.nn.functional as F

    from data import build_dataset
    from data.loader import build_loader
    from engine.config import load_config
    from engine.evaluation.networks import build_network

    torch.set_num_threads(2)
    torch.manual_seed(0)
    cfg = load_config(config)
    data = build_dataset(cfg, "train", train=True)
    model, images = build_network(cfg, data.num_classes), torch.randn(cfg.train.batch_size, 3, *cfg.data.size)
    target = torch.randint(data.num_classes, (len(images), *cfg.data.size))
    batches = iter(build_loader(data, cfg.train.batch_size, train=True, workers=2))

    def train(images: torch.Tensor, target: torch.Tensor) -> None:
        model.train().zero_grad(set_to_none=True)
        F.cross_entropy(model(images)["out"], target, ignore_index=data.ignore_index).backward()

    def evaluate() -> None:
        with torch.no_grad():
            model.eval()(images)

    work = (lambda: train(images, target), lambda: train(*next(batches)), evaluate)
    return {name: median_seconds(step, steps) for name, step in zip(MEASURES, work)}


def median_seconds(step: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def run_child(config: str, setting: dict[str, str]) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | setting
    words = [sys.executable, "-m", "benchmarks.waiting", "--child", "--config", config]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(args: argparse.Namespace) -> None:
    from common.tables import format_table

    if args.child:
        print(json.dumps(measure(args.config)))
        return
    import torch

    machine = f"{os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}"
    print(f"{args.config}, {machine}, {args.rounds} rounds")
    for busy in args.busy:
        burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            rounds = [{name: run_child(args.config, s) for name, s in SETTINGS.items()} for _ in range(args.rounds)]
        finally:
            for burner in burners:
                burner.kill()
        rows = []
        for name in SETTINGS:
            times = [[found[name][m] for found in rounds] for m in MEASURES]
            rows.append([name, *(f"{statistics.median(t):.2f} ({max(t):.2f})" for t in times)])
        print(format_table(rows, [f"beside {busy} busy processes", *MEASURES]), flush=True)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="configs/deeplabv3plus_cv.yaml")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="busy processes beside it")
    p.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    main(p.parse_args())
