"""Evaluation: score one network or an ensemble on a data set. Memory does not grow with the number of pixels."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.loader import build_loader
from engine.config import Config
from engine.evaluation.score_strips import classes
from engine.evaluation.scores import Score
from engine.evaluation.views import WHOLE, Views, amp_dtype, autocast, predict_scores
from engine.metrics import ConfusionMatrix
from models.tensors import resize


@torch.inference_mode()
def evaluate(
    models: nn.Module | Sequence[nn.Module], loader: DataLoader, num_classes: int, device: torch.device, *,
    ignore_index: int = 255, void: str = "ignore", amp: torch.dtype | None = None, views: Views = WHOLE,
    criterion: nn.Module | None = None, groups: Sequence[str] | None = None, names: Sequence[str] | None = None,
    extra: bool = False,
) -> Score:  # fmt: skip
    """Score one model, or the ensemble of several, on a loader of (images (B,3,H,W), target (B,h,w)).

    Where the target has another size than the images (native scoring), scores are resized to it before the argmax.
    groups, names: one per image in the loader's order; with them the result has `Score.groups` and `Score.per_image`.
    extra: also bin the scores and count boundaries. criterion: also compute the mean loss per image (one model, whole
    images). Models run in eval mode; afterwards they are back in the mode they were in.
    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    modes = [m.training for m in models]
    score = Score(ConfusionMatrix(num_classes, ignore_index, void))
    started, loss_sum = time.perf_counter(), 0.0
    for model in models:
        model.eval()
    for images, target in loader:
        images, target = (x.to(device, non_blocking=True) for x in (images, target))
        with autocast(device, amp):
            scores = predict_scores(models, images, views)
        if criterion is not None:
            loss_sum += criterion(resize(scores.float(), target.shape[-2:]), target).item() * len(images)
        score.non_finite += non_finite_images(scores)
        pred = classes(scores, target.shape[-2:])
        if extra:
            score.add_extra(scores, len(models) == 1 and views.single(images.shape[-2:]), pred, target)
        del scores  # before the next forward
        if groups is None:
            score.confusion.update(pred, target)
        else:
            for i in range(len(images)):
                k = score.images + i
                score.add_image(names[k] if names else str(k), groups[k], pred[i], target[i])
        score.images += len(images)
    score.groups = score.per_image.by_group(score.confusion)
    for model, mode in zip(models, modes):
        model.train(mode)
    score.loss = loss_sum / score.images if criterion is not None and score.images else None
    score.seconds = time.perf_counter() - started
    return score


def non_finite_images(scores: Tensor) -> int:
    """How many of a batch's score maps (B, C, H, W) hold NaN or inf. An argmax calls such pixels class 0."""
    if all(math.isfinite(v) for v in scores.aminmax()):  # one pass, no copy; NaN goes through
        return 0
    return int((~torch.isfinite(scores).flatten(1).all(1)).sum())


def score_models(
    models: Sequence[nn.Module], cfg: Config, dataset, device: torch.device, views: Views = WHOLE, extra: bool = False
) -> Score:
    """Score one model or an ensemble on a data set, with one confusion matrix per image and per group.

    extra: boundary IoU, ROC and calibration too, which take several times as long as the argmax.
    """
    size = 1 if cfg.eval.native else cfg.eval.batch_size  # native targets may differ in size
    loader = build_loader(dataset, size, train=False, workers=cfg.train.workers)
    return evaluate(
        models, loader, dataset.num_classes, device, ignore_index=dataset.ignore_index,
        void=cfg.eval.void, amp=amp_dtype(cfg.train, device), views=views, groups=dataset.groups, names=dataset.names,
        extra=extra,
    )  # fmt: skip
