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
from data.check.before_training import check_before_training
from data.dataset import limited
from engine import checkpoint as ckpt
from engine import config as config_module
from engine.config import Config, load_config, stage_config, start_config
from engine.evaluation.networks import chosen_checkpoint, networks
from engine.evaluation.scores import excluded
from engine.evaluation.views import amp_dtype
from engine.folds.cross_validation import cross_validate, start_seed
from engine.folds.roles import draw_splits
from engine.report.html_report import write_html
from engine.report.markdown_report import write_report
from engine.report.samples import write_pictures
from engine.report.score_tables import candidates_table
from engine.run_folder import lock, make_run, open_run, warn_of_changes
from engine.training import trackers
from engine.training.class_weighting import placeholder_specs
from engine.training.job import Prepared, first_network
from engine.training.resume import MAY_CHANGE
from engine.training.single_run import single_seed, train_single
from engine.training.teacher import load_teacher
from losses import build_loss
from models.checkpoints.known import locate


def main(args: argparse.Namespace) -> None:
    command.end_on_sigterm()
    distributed.start()
    cfg, run = config_and_run(args)
    for item in args.set:
        say(f"set {item}")
    device = distributed.own_device(resolve_device(cfg.device))
    prepared = check_before(cfg, device, new=run is None)
    if run is None:
        pretrained = prepared.network.pretrained
        facts = {"pretrained": asdict(pretrained)} if pretrained else {}
        run = distributed.from_main(make_run(cfg, command.command_line(), **facts) if distributed.is_main() else None)
    handle = lock(run) if distributed.is_main() else None  # noqa: F841  held until the process ends
    say(f"run: {run}  device: {device}  threads: {torch.get_num_threads()}")
    make_deterministic(cfg)
    try:
        train_and_report(cfg, run, device, prepared)
    except KeyboardInterrupt as e:  # Ctrl-C or SIGTERM
        raise type(e)(f"go on with  python train.py --resume {run}") from None
    except RuntimeError as e:
        if not command.is_lost_worker(e):
            raise
        raise UserError(f"{command.LOST_WORKER}; go on with  python train.py --resume {run}") from None
    distributed.stop()


def train_and_report(cfg: Config, run: Path, device: torch.device, prepared: Prepared) -> None:
    started = time.perf_counter()
    results = (cross_validate if cfg.cv.folds else train_single)(cfg, run, device, prepared)
    if not distributed.is_main():
        return
    models = [prepared.network.model]
    if cfg.cv.folds:
        say(candidates_table(results))
        models = networks(ckpt.load_ours(chosen_checkpoint(run)), cfg, prepared.val.num_classes, device)
    write_pictures(run, cfg, models, limited(prepared.val, cfg.data.limit), device, results)
    report = write_report(run)  # draws the plots that report.html holds too
    write_html(run)
    say(f"report: {report}, report.html  ({(time.perf_counter() - started) / 60:.1f} minutes)")


def config_and_run(args: argparse.Namespace) -> tuple[Config, Path | None]:
    """The config, and the run to resume, if any. A resumed run keeps its own config."""
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


def check_before(cfg: Config, device: torch.device, new: bool = True) -> Prepared:
    """Find what is wrong with data, splits, model or loss within seconds, before a run folder exists.

    Returns what it built on the way; training uses the same objects.
    """
    train, val = build_dataset(cfg, "train", train=True), build_dataset(cfg, "val", train=False)
    for dataset in (train, val):
        excluded(cfg.eval.exclude, dataset.class_names)
    line = check_before_training([train, val])
    if distributed.is_main():
        say(line)
    if cfg.cv.folds and new:  # a resumed run keeps its splits
        draw_splits(cfg, train)
    teachers: dict = {}
    for c in [cfg, start_config(cfg), *[stage_config(cfg, i) for i in range(len(cfg.cv.stages))]]:
        for spec in placeholder_specs(c.loss, train.num_classes):
            build_loss(spec, train.num_classes, train.ignore_index)
        if c.loss.teacher and c.loss.teacher not in teachers:
            teachers[c.loss.teacher] = load_teacher(c.loss.teacher, train, device)
        build_transform(c.data.augment, c.data.size, crop=c.data.crop)
    amp_dtype(cfg.train, device)
    if cfg.log.tracker != "none":
        trackers.module(cfg.log.tracker)
    if cfg.model.pretrained:  # only one process downloads
        distributed.from_main(str(locate(cfg.model.pretrained)) if distributed.is_main() else None)
    network = first_network(cfg, train, start_seed(cfg) if cfg.cv.folds else single_seed(cfg))
    if network.pretrained:
        say(str(network.pretrained))
    return Prepared(train, val, network, teachers)


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
