"""A run without folds: train on the training split, keep the best epoch on val (or the last), score it there.

The best epoch is chosen on the images it is scored on, so its result is slightly optimistic; the report says so.
"""

from __future__ import annotations

from pathlib import Path

import torch

from common import distributed
from common.console import say
from common.files import write_json
from common.memory import peak_memory
from common.seeds import derive_seed
from data import build_dataset, sampled_names
from data.class_weights import class_shares
from data.dataset import SegmentationDataset, limited
from data.splits import Splits, make_splits
from engine import checkpoint as ckpt
from engine.config import Config
from engine.evaluation.evaluate import score_models
from engine.evaluation.networks import networks
from engine.evaluation.protocol import protocol
from engine.evaluation.scores import scores
from engine.evaluation.views import Views
from engine.training.job import Job, finished
from engine.training.log import open_log
from engine.training.train import fit


def train_single(cfg: Config, run: Path, device: torch.device) -> dict:
    """Train (or go on with) a single run; returns what results.json holds."""
    train = limited(build_dataset(cfg, "train", train=True), cfg.data.limit)
    val = limited(build_dataset(cfg, "val", train=False), cfg.data.limit)
    splits = run / "splits.json"
    if splits.exists():
        saved = Splits.load(splits)
        saved.check(train.names)
        saved.check_sample(sampled_names(cfg.data))
    elif distributed.is_main():
        drawn = make_splits(train, cfg.seed, 0, 0.0, 0.0)
        drawn.sample = sampled_names(cfg.data)
        drawn.save(splits)
    say(f"images: train {len(train)}, val {len(val)}")
    seed = derive_seed(cfg.seed, "single")
    job, log = Job(run, cfg, train.subset(range(len(train)), seed=seed), val, seed), open_log(run, cfg)
    if distributed.is_main():
        log.cut(ckpt.load_ours(run / "last.pt")["info"]["log_bytes"] if (run / "last.pt").exists() else 0)
    done = distributed.from_main(finished(run))
    if not done:
        fit(job, log, device)
    log.close()
    return distributed.from_main(score_best(cfg, run, val, device) if distributed.is_main() else None)


def score_best(cfg: Config, run: Path, val: SegmentationDataset, device: torch.device) -> dict:
    """Score best.pt on val; returns and writes results.json."""
    best = ckpt.load_ours(run / "best.pt")
    models = networks(best, cfg, val.num_classes, device)
    score = score_models(models, cfg, val, device, Views.of(cfg.eval), cfg.eval.extra)
    results = {
        "class_names": list(val.class_names),
        "palette": [list(map(int, c)) for c in val.palette],
        "protocol": protocol(cfg, val, Views.of(cfg.eval)),
        "best_epoch": best["epoch"],
        "select": None,
        **scores(score, val.class_names, cfg.eval.absent, cfg.eval.exclude),
        "class_frequency": class_shares(limited(build_dataset(cfg, "train", train=False), cfg.data.limit)),
        "seconds": ckpt.load_ours(run / "last.pt")["info"]["seconds"],
        "peak_memory": peak_memory(device),
    }
    write_json(run / "results.json", results)
    say(f"{cfg.train.keep} epoch {best['epoch']}: val mIoU {100 * results['miou']:.2f} %")
    return results
