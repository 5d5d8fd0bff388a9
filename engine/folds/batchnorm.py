"""BatchNorm statistics for an average: re-estimated on images that its members were trained on."""

from __future__ import annotations

from collections.abc import Sequence

from data.loader import build_loader
from engine import checkpoint as ckpt
from engine.folds import aggregate
from engine.folds.roles import Study


def batchnorm_images(study: Study, members: Sequence[int]) -> list[int]:
    """Indices of images that re-estimate BatchNorm for an average: the members' training folds and the start, spread
    evenly over them, at most cv.bn_images, in full batches; never an image of `select`."""
    chosen = {i for m in members for i in study.folds[m]["train"]}
    chosen |= set(study.roles["start"]) if study.cfg.cv.start == "role" else set()
    chosen -= set(study.roles["select"])
    pool, wanted = sorted(chosen), min(len(chosen), study.cfg.cv.bn_images)
    size = batchnorm_batch(study)
    wanted = wanted // size * size or wanted  # a trial with fewer images than one batch uses what there is
    return [pool[i * len(pool) // wanted] for i in range(wanted)]


def batchnorm_batch(study: Study) -> int:
    return max(8, study.cfg.train.batch_size)


def refit(study: Study, state: aggregate.State, members: Sequence[int]) -> aggregate.State:
    """The average with BatchNorm statistics of its own."""
    model = study.model(state)
    dataset = study.train.subset(batchnorm_images(study, members))
    loader = build_loader(
        dataset, batchnorm_batch(study), train=False, seed=study.cfg.seed, workers=study.cfg.train.workers
    )
    aggregate.reestimate_batchnorm(model, loader, study.device)
    return ckpt.cpu_state(model)
