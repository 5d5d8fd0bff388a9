"""Distances between folds, and the mIoU along the line between two of them."""

from __future__ import annotations

from collections.abc import Sequence

from engine import checkpoint as ckpt
from engine.evaluation.networks import build_network
from engine.folds import aggregate
from engine.folds.batchnorm import refit
from engine.folds.roles import Study, ranking_split
from engine.metrics import best_first, none_if_nan


def trained_names(study: Study) -> list[str]:
    return [n for n, _ in build_network(study.cfg, study.train.num_classes).named_parameters()]


def start_distance(study: Study, stage: int, member: dict) -> float | None:
    """How far training moved a member from the common start of its stage; None where there is none."""
    path = study.start_path(stage)
    if not path.exists():
        return None
    return aggregate.distance(member["model"], ckpt.load(path)["model"], trained_names(study))


def pairwise_distances(study: Study, states: Sequence[aggregate.State]) -> list[list[float]]:
    names = trained_names(study)
    return [[aggregate.distance(a, b, names) if a is not b else 0.0 for b in states] for a in states]


def line_between(study: Study, states: Sequence[aggregate.State], select_mious: Sequence[float]) -> dict | None:
    """mIoU along the straight line between the two best folds, on a few `select` images; BatchNorm is re-estimated at
    every point, the ends included, so that only the weights differ."""
    cfg = study.cfg.cv
    if cfg.line_points < 2:
        return None
    a, b = best_first(select_mious)[:2]
    dataset = study.select
    step = max(1, len(dataset) // cfg.line_images)
    dataset = dataset.subset(list(range(0, len(dataset), step))[: cfg.line_images])
    ts = [i / (cfg.line_points - 1) for i in range(cfg.line_points)]
    mious = []
    for t in ts:
        state = refit(study, aggregate.average([states[a], states[b]], [1 - t, t]), [a, b])
        mious.append(none_if_nan(study.miou(study.score([state], dataset))))
    return {"folds": [a, b], "t": ts, "miou": mious, "images": len(dataset), "split": ranking_split(study.cfg)}
