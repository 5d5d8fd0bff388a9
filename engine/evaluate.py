"""Scoring: a stream of images to confusion matrices. Nothing that grows with the number of pixels seen is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.data import DataLoader

from engine.errors import UserError, unknown
from engine.inference import WHOLE, Views, autocast, predict_scores, resize
from engine.metrics import ConfusionMatrix


@dataclass
class Score:
    """What evaluation gives: the matrix of everything, one matrix a group (for the bootstrap), the mean loss."""

    confusion: ConfusionMatrix
    groups: dict[str, ConfusionMatrix] = field(default_factory=dict)
    loss: float | None = None
    images: int = 0
    seconds: float = 0.0


@torch.inference_mode()
def evaluate(
    models: nn.Module | Sequence[nn.Module],
    loader: DataLoader,
    num_classes: int,
    device: torch.device,
    *,
    ignore_index: int = 255,
    amp: torch.dtype | None = None,
    views: Views = WHOLE,
    criterion: nn.Module | None = None,
    groups: Sequence[str] | None = None,
) -> Score:
    """Score one model, or the ensemble of several, on a loader of (images (B,3,H,W), target (B,h,w)).

    Where the target has another size than the images (native scoring), scores are resized to it before the argmax.
    groups: a group name for each image in the loader's order; gives `Score.groups`. criterion: gives the mean loss per
    image (of one model, whole images). Models are put in eval mode and left in the mode they came in.
    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    modes = [m.training for m in models]
    score = Score(ConfusionMatrix(num_classes, ignore_index))
    started, loss_sum = time.perf_counter(), 0.0
    for model in models:
        model.eval()
    for images, target in loader:
        images = images.to(device, non_blocking=True)
        target = target.to(device, non_blocking=True)
        with autocast(device, amp):
            scores = predict_scores(models, images, views)
        scores = resize(scores, target.shape[-2:])
        if criterion is not None:
            loss_sum += criterion(scores, target).item() * len(images)
        pred = scores.argmax(1)
        if groups is None:
            score.confusion.update(pred, target)
        else:
            for i in range(len(images)):
                name = groups[score.images + i]
                matrix = score.groups.setdefault(name, ConfusionMatrix(num_classes, ignore_index))
                matrix.update(pred[i], target[i])
        score.images += len(images)
    for matrix in score.groups.values():
        score.confusion.merge(matrix)
    for model, mode in zip(models, modes):
        model.train(mode)
    score.loss = loss_sum / score.images if criterion is not None and score.images else None
    score.seconds = time.perf_counter() - started
    return score


def excluded(names: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the classes that `eval.exclude` leaves out of the means. Raises: UserError for an unknown name."""
    for name in names:
        if name not in class_names:
            raise unknown("class in eval.exclude", name, class_names)
    if set(names) >= set(class_names):
        raise UserError("eval.exclude: every class is excluded: nothing is left for the mean")
    return tuple(class_names.index(name) for name in dict.fromkeys(names))


def metrics(
    confusion: ConfusionMatrix, class_names: Sequence[str], absent: str = "nan", exclude: Sequence[str] = ()
) -> dict:
    """Every score of a confusion matrix as plain JSON values (nan becomes null).

    exclude: names of classes that miou, mean_accuracy and dice leave out of their means. They are still pixels: the
    accuracy and frequency-weighted IoU count them, and mistaking another class for them costs that class.
    """
    left_out = excluded(exclude, list(class_names))
    number = lambda x: None if x != x else x  # noqa: E731  nan != nan
    return {
        "miou": number(confusion.miou(absent, left_out)),
        "pixel_accuracy": number(confusion.pixel_accuracy()),
        "mean_accuracy": number(confusion.mean_accuracy(left_out)),
        "dice": number(confusion.mean_dice(left_out)),
        "fw_iou": number(confusion.frequency_weighted_iou()),
        "per_class": {n: number(v) for n, v in zip(class_names, confusion.iou().tolist())},
        "confusion_matrix": confusion.matrix.tolist(),
    }
