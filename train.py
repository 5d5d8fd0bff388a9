"""Train a config: one run, or a cross-validation with averaging.

python train.py configs/deeplabv3plus_cv.yaml
python train.py configs/unet_streets.yaml --set optim.lr=3e-4 --set train.epochs=5
python train.py --resume runs/deeplabv3plus-streets-20261121-120000
"""

from __future__ import annotations

import common.openmp  # noqa: F401  before torch

# isort: split
import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from common import command, distributed
from common.console import say
from common.device import resolve_device
from common.errors import UserError
from data import build_dataset
from data.augment.transforms import build_transform
from data.check.pairs import check_pairs
from data.check.quick import quick_check
from engine import config as config_module
from engine.config import Config, load_config, stage_config, start_config
from engine.evaluation.networks import build_network
from engine.evaluation.scores import excluded
from engine.evaluation.views import amp_dtype
from engine.folds.cross_validation import cross_validate
from engine.folds.roles import draw_splits
from engine.report.best_and_worst import write_cases
from engine.report.html_report import write_html
from engine.report.report import candidates_table, write_report
from engine.report.samples import write_samples
from engine.run_folder import lock, make_run, open_run, warn_of_changes
from engine.training import trackers
from engine.training.class_weighting import placeholder_specs
from engine.training.job import load_pretrained
from engine.training.single_run import train_single
from engine.training.teacher import load_teacher
from losses import build_loss
from models.checkpoints.known import locate

MAY_CHANGE = ("train.workers", "device", "name", "log.tracker")  # what a resumed run may do differently


def main(args: argparse.Namespace) -> None:
    distributed.start()
    cfg, run = prepare(args)
    for item in args.set:
        say(f"set {item}")
    device = distributed.own_device(resolve_device(cfg.device))
    facts = check_before(cfg)
    if run is None:
        run = distributed.from_main(make_run(cfg, command.command_line(), **facts) if distributed.is_main() else None)
    handle = lock(run) if distributed.is_main() else None  # noqa: F841  held until the process ends
    say(f"run: {run}  device: {device}  threads: {torch.get_num_threads()}")
    make_deterministic(cfg)
    try:
        train_and_report(cfg, run, device)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with  python train.py --resume {run}") from None
    distributed.stop()


def train_and_report(cfg: Config, run: Path, device: torch.device) -> None:
    started = time.perf_counter()
    results = (cross_validate if cfg.cv.folds else train_single)(cfg, run, device)
    if not distributed.is_main():
        return
    if cfg.cv.folds:
        say(candidates_table(results))
    write_samples(run, cfg, device)
    write_cases(run, cfg, device)
    write_html(run)
    say(f"report: {write_report(run)}, report.html  ({(time.perf_counter() - started) / 60:.1f} minutes)")


def prepare(args: argparse.Namespace) -> tuple[Config, Path | None]:
    """The config, and the run to go on with, if any; a resumed run keeps its own config."""
    if args.name:
        args.set.append(f"name={args.name}")
    if not args.resume:
        if not args.config:
            raise UserError("give a config, e.g.  python train.py configs/deeplabv3plus_cv.yaml")
        return load_config(args.config, command.overrides(args)), None
    run = open_run(args.resume)
    saved = load_config(run / "config.yaml")
    wanted = load_config(args.config or run / "config.yaml", command.overrides(args))
    differing = config_module.differences(saved, wanted, but=MAY_CHANGE)
    if differing:
        raise UserError(f"--resume {run}: the config differs, start a new run instead: {'; '.join(differing)}")
    saved.train.workers, saved.device, saved.log.tracker = wanted.train.workers, wanted.device, wanted.log.tracker
    warn_of_changes(run, saved)
    return saved, run


def check_before(cfg: Config) -> dict:
    """Tell what is wrong with data, splits, model or loss in seconds, before a run folder exists.

    Returns facts for environment.json: what was loaded from model.pretrained.
    """
    train, val = build_dataset(cfg, "train", train=True), build_dataset(cfg, "val", train=False)
    for dataset in (train, val):
        check_pairs(dataset)
        excluded(cfg.eval.exclude, dataset.class_names)
    if distributed.is_main():
        say(quick_check([train, val]))
    if cfg.cv.folds:
        draw_splits(cfg, train)
    for c in [cfg, start_config(cfg), *[stage_config(cfg, i) for i in range(len(cfg.cv.stages))]]:
        for spec in placeholder_specs(c.loss, train.num_classes):
            build_loss(spec, train.num_classes, train.ignore_index)
        load_teacher(c.loss.teacher, train, torch.device("cpu"))
        build_transform(c.data.augment, c.data.size, crop=c.data.crop)
    amp_dtype(cfg.train, resolve_device(cfg.device))
    if cfg.log.tracker != "none":
        trackers.module(cfg.log.tracker)
    if cfg.model.pretrained:  # one process downloads what is to be downloaded
        distributed.from_main(str(locate(cfg.model.pretrained)) if distributed.is_main() else None)
    pretrained = load_pretrained(build_network(cfg, train.num_classes), cfg, train)
    if pretrained is None:
        return {}
    say(str(pretrained))
    return {"pretrained": asdict(pretrained)}


def make_deterministic(cfg: Config) -> None:
    if cfg.train.deterministic == "strict":  # the CPU is deterministic as it is; this is for GPUs
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__.splitlines()[0], "python train.py configs/deeplabv3plus_cv.yaml --set optim.lr=3e-4")
    p.add_argument("config", nargs="?", help="a YAML file under configs/")
    p.add_argument("--resume", metavar="RUN", help="go on with this run folder from its last checkpoint")
    p.add_argument("--name", help="name of the run folder (default: the config's name)")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
