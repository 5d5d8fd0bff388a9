"""Score a run, a checkpoint, or every way of averaging a run's folds.

python eval.py --aggregate top3
python eval.py --run runs/unet-streets-20261121-120000 --flip --scales 0.75 1.0 1.25 --json scores.json
python eval.py --checkpoint segformer.b2.1024x1024.city.160k.pth --config configs/cityscapes/deeplabv3plus_single.yaml
"""

from __future__ import annotations

import common.openmp  # noqa: F401  before torch

# isort: split
import argparse
import sys
import time
from pathlib import Path

from common import command
from common.console import say
from common.device import resolve_device
from common.errors import UserError
from common.files import write_json
from data import build_dataset
from data.dataset import limited
from engine.config import config_from, load_config, to_dict
from engine.evaluation.class_lists import shared_classes
from engine.evaluation.evaluate import score_models
from engine.evaluation.networks import open_networks
from engine.evaluation.protocol import protocol
from engine.evaluation.scores import scores
from engine.evaluation.views import Views
from engine.folds.aggregate import parse_name
from engine.folds.candidates import LONG, aggregate_stage, finished_stages
from engine.folds.roles import open_study
from engine.metrics import VOID
from engine.prediction import pictures
from engine.report.score_tables import candidates_table, class_table, pct, scores_table
from engine.run_folder import lock, newest_run, open_run

# keys of a candidate's row that are not scores
OF_A_CANDIDATE = ("name", "members", "weights", "select_miou", "miou_raw", "bootstrap", "labels", "notes")


def main(args: argparse.Namespace) -> None:
    args.run = open_run(args.run) if args.run else None
    result = score_aggregate(args) if args.aggregate else score_checkpoint(args)
    if args.json:
        write_json(Path(args.json), result)
        say(f"written: {args.json}")


def score_aggregate(args: argparse.Namespace) -> dict:
    """Score all candidates of the run's last finished stage; the named one gives the top level of the result."""
    started = time.perf_counter()
    if args.checkpoint or args.config:
        raise UserError("--aggregate scores the folds of a run by its own config: leave out --checkpoint and --config")
    parse_name(args.aggregate, 1)  # refuses an unknown name before anything is loaded
    run = args.run or newest_run(with_folds=True)
    saved = load_config(run / "config.yaml")
    cfg = config_from(to_dict(saved), settings(args))
    if not cfg.cv.folds:
        raise UserError(f"{run} has no folds (cv.folds: 0); leave out --aggregate")
    handle = lock(run)  # noqa: F841  held until the process ends
    say(f"run: {run}  split: {args.split}")
    name, k = parse_name(args.aggregate, cfg.cv.folds)
    study = open_study(cfg, run, resolve_device(cfg.device), args.split, Views.of(cfg.eval))
    stages = finished_stages(study)
    if not stages:
        raise UserError(f"{run}: no stage is finished yet; go on with  python train.py --resume {run}")
    results = aggregate_stage(study, stages[-1], top=name if k else "top3", keep=cfg == saved, detail=name)
    say(candidates_table(results))
    name = results["winner"] if name == "all" else name
    if args.save:
        opened = open_networks(study.candidate_path(stages[-1], name), settings(args), on=cfg)
        pictures.save_dataset(opened.networks, cfg, study.report, study.device, args.save)
    return shown_result(results, name, run, args.split) | {"seconds": time.perf_counter() - started}


def shown_result(results: dict, name: str, run: Path, split: str) -> dict:
    """Print the scores of the candidate `name`; returns what --json holds: its scores on top, then all candidates."""
    row = next(c for c in results["candidates"] if c["name"] == name)
    say(f"{name}: {split} mIoU {pct(row['miou'])} %")
    if "ece" in row:  # eval.extra
        say(scores_table(row, results["protocol"]["exclude"]))
    return {
        "protocol": results["protocol"] | {"run": str(run), "stage": results["stage"], "candidate": name},
        **{key: value for key, value in row.items() if key not in OF_A_CANDIDATE},
        "images": results["images"],
        "candidates": [{k: v for k, v in r.items() if k not in LONG} for r in results["candidates"]],
    }


def score_checkpoint(args: argparse.Namespace) -> dict:
    """Score one checkpoint, the given file or a run's best (of a cross-validated run: its best candidate).

    The network is always the file's own. --config says which data to score it on and how; without it, a checkpoint of
    this project is scored as its own config says.
    """
    on = load_config(args.config) if args.config else None
    opened = open_networks(args.checkpoint or args.run or newest_run(), settings(args), on)
    if opened.report and on is None:
        what = "not written by this project; say with --config CONFIG what to score it on"
        raise UserError(f"checkpoint {opened.path}: {what}")
    cfg, views = opened.config, Views.of(opened.config.eval)
    dataset = limited(build_dataset(cfg, args.split, train=False), cfg.data.limit)
    opened.require_classes(dataset)
    if opened.report:
        say(str(opened.report))
        if len(shared_classes(dataset.class_names, opened.class_names)) < dataset.num_classes:
            names = ", ".join(opened.class_names)
            say(f"class names: those of the data; the file's ({opened.names_from}): {names}")
    say(f"checkpoint: {opened.path}  split: {args.split}")
    score = score_models(opened.networks, cfg, dataset, opened.device, views, cfg.eval.extra)
    score.require_finite(f"checkpoint {opened.path}")
    result = scores(score, dataset.class_names, cfg.eval.absent, cfg.eval.exclude)
    facts = protocol(cfg, dataset, views) | {"checkpoint": str(opened.path)}
    say(class_table(result, facts))
    if args.save:
        pictures.save_dataset(opened.networks, cfg, dataset, opened.device, args.save)
    return {"protocol": facts, **result}


def settings(args: argparse.Namespace) -> list[str]:
    """What this command changes in a config, as SECTION.KEY=VALUE."""
    given = {key: getattr(args, key) for key in ("scales", "window", "blend", "flip", "native", "void", "extra")}
    return command.overrides(args) + [f"eval.{key}={value}" for key, value in given.items() if value]


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__.splitlines()[0], "python eval.py --aggregate top3 --json scores.json")
    p.add_argument("--run", help="run folder (default: the newest under runs/; with --aggregate the newest with folds)")
    p.add_argument("--checkpoint", metavar="FILE", help="this file instead of a run: ours, or any public one")
    command.add_weights(p)
    p.add_argument(
        "--config", metavar="FILE", help="take data and eval from this config; the model stays the file's own"
    )
    p.add_argument("--aggregate", metavar="NAME", help="best | mean | topK | greedy | weighted | ensemble | all")
    p.add_argument("--split", choices=("val", "test"), default="val")
    p.add_argument("--scales", nargs="+", type=float, metavar="S", help="test-time scales, e.g. 0.75 1.0 1.25")
    p.add_argument("--flip", action="store_true", help="average with the mirrored image")
    p.add_argument("--window", nargs=2, type=int, metavar=("H", "W"), help="sliding window in pixels")
    p.add_argument("--blend", choices=("mean", "gaussian"), help="how overlapping windows are weighted")
    p.add_argument("--native", action="store_true", help="score at the labels' own size")
    p.add_argument("--void", choices=VOID, help="error: predictions on void pixels are false positives")
    p.add_argument("--extra", action="store_true", help="boundary IoU, ROC and AUC by class, calibration (slower)")
    p.add_argument("--save", metavar="DIR", help="write predictions (label ids, colour, overlay)")
    p.add_argument("--json", metavar="FILE", help="write the scores")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
