"""A single run, without folds: train on the training split, keep the best or the last epoch, score it on val.

The best epoch is chosen on val, where it is also scored, so the score is slightly optimistic. The report says so.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

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
from engine.evaluation.protocol import protocol
from engine.evaluation.scores import scores
from engine.evaluation.views import Views
from engine.training.job import Job, Prepared, finished, first_network
from engine.training.log import open_log
from engine.training.resume import prepare as prepare_resume
from engine.training.train import fit


def train_single(cfg: Config, run: Path, device: torch.device, prepared: Prepared | None = None) -> dict:
    """Train (or go on with) a single run; returns what results.json holds. `prepared.network` ends as the network that
    was scored."""
    prepared = prepared or prepare(cfg)
    train, val = (limited(data, cfg.data.limit) for data in (prepared.train, prepared.val))
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
    seed, log = single_seed(cfg), open_log(run, cfg)
    job = Job(run, cfg, train.subset(range(len(train)), seed=seed), val, seed)
    job.built, job.teachers = prepared.network, prepared.teachers
    if distributed.is_main():
        prepare_resume(run, [(run, cfg, None, None)], log, {"train": train, "val": val})
    done = distributed.from_main(distributed.is_main() and finished(run))
    if not done:
        fit(job, log, device)
    log.close()
    model = prepared.network.model.to(device)
    return distributed.from_main(score_best(cfg, run, train, val, model) if distributed.is_main() else None)


def single_seed(cfg: Config) -> int:
    return derive_seed(cfg.seed, "single")


def prepare(cfg: Config) -> Prepared:
    """Everything a single run trains with, unchecked."""
    train, val = build_dataset(cfg, "train", train=True), build_dataset(cfg, "val", train=False)
    return Prepared(train, val, first_network(cfg, train, single_seed(cfg)))


def score_best(cfg: Config, run: Path, train: SegmentationDataset, val: SegmentationDataset, model: nn.Module) -> dict:
    """Score best.pt, loaded into `model`, on val; returns and writes results.json."""
    best = ckpt.load_ours(run / "best.pt")
    ckpt.load_state(model.eval(), best["model"], run / "best.pt")
    device = next(model.parameters()).device
    score = score_models([model], cfg, val, device, Views.of(cfg.eval), cfg.eval.extra)
    score.require_finite(f"checkpoint {run / 'best.pt'}")
    results = {
        "class_names": list(val.class_names),
        "palette": [list(map(int, c)) for c in val.palette],
        "protocol": protocol(cfg, val, Views.of(cfg.eval)),
        "best_epoch": best["epoch"],
        "select": None,
        **scores(score, val.class_names, cfg.eval.absent, cfg.eval.exclude),
        "class_frequency": class_shares(train),
        "seconds": ckpt.load_ours(run / "last.pt")["info"]["seconds"],
        "peak_memory": peak_memory(device),
    }
    write_json(run / "results.json", results)
    miou = "undefined" if results["miou"] is None else f"{100 * results['miou']:.2f} %"
    say(f"{cfg.train.keep} epoch {best['epoch']}: val mIoU {miou}")
    return results
