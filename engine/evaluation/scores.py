"""The result of an evaluation, and its scores as plain values for tables and JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch

from common.errors import UserError, unknown
from engine.evaluation.boundary_iou import BoundaryIoU
from engine.evaluation.calibration import BinnedScores
from engine.evaluation.per_image import PerImage, image_miou
from engine.evaluation.score_strips import row_softmax, strips
from engine.metrics import ConfusionMatrix, none_if_nan


@dataclass
class Score:
    """What an evaluation returns: confusion matrices of the set, of each group (for the bootstrap), of each image."""

    confusion: ConfusionMatrix
    per_image: PerImage = field(default_factory=PerImage)
    groups: dict[str, ConfusionMatrix] = field(default_factory=dict)
    loss: float | None = None
    images: int = 0
    non_finite: int = 0  # images whose scores hold NaN or inf: their labels mean nothing, and so does any score
    seconds: float = 0.0
    binned: BinnedScores | None = None  # with `extra`: for ROC, AUC, calibration
    boundary: BoundaryIoU | None = None  # with `extra`

    def add_image(self, name: str, group: str, pred: torch.Tensor, target: torch.Tensor) -> None:
        """Count one image: in the sum, and by itself."""
        total = self.confusion
        matrix = ConfusionMatrix(total.num_classes, total.ignore_index, total.void_rule)
        matrix.update(pred, target)
        total.merge(matrix)
        self.per_image.add(name, group, matrix)

    def require_finite(self, what: str) -> None:
        """Raises: UserError if the network gave NaN or inf."""
        if self.non_finite:
            images = f"{self.non_finite} of {self.images} images"
            raise UserError(f"{what}: its logits are not finite (NaN or inf) on {images}; a score would mean nothing")

    def image_mious(self, exclude: Collection[int] = ()) -> torch.Tensor:
        """(N,) float64: of each image its own mIoU (see image_miou); nan where it is undefined."""
        matrices = self.per_image.matrices(self.confusion)  # with the set's rule for void pixels
        return torch.tensor([image_miou(m, exclude) for m in matrices], dtype=torch.float64)

    def add_extra(self, scores: torch.Tensor, logits: bool, pred: torch.Tensor, target: torch.Tensor) -> None:
        """Bin a batch's scores (B, C, h, w), logits or probabilities, at the target's size; count its boundaries."""
        total = self.confusion
        self.binned = self.binned or BinnedScores(total.num_classes, total.ignore_index)
        for top, bottom, part in strips(scores, target.shape[-2:]):
            self.binned.update(row_softmax(part) if logits else part, target[:, top:bottom])
        for one_pred, one_target in zip(pred, target):
            self.add_boundary(one_pred, one_target)

    def add_boundary(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        self.boundary = self.boundary or BoundaryIoU(self.confusion.num_classes, self.confusion.ignore_index)
        self.boundary.update(pred, target)


def excluded(names: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the classes that `eval.exclude` leaves out of the means. Raises: UserError for an unknown name."""
    for name in names:
        if name not in class_names:
            raise unknown("class in eval.exclude", name, class_names)
    if set(names) >= set(class_names):
        raise UserError("eval.exclude: all classes are excluded, none is left for the mean")
    return tuple(class_names.index(name) for name in dict.fromkeys(names))


def metrics(
    confusion: ConfusionMatrix, class_names: Sequence[str], absent: str = "nan", exclude: Sequence[str] = ()
) -> dict:
    """Every score of a confusion matrix as plain JSON values (nan becomes null).

    exclude: names of classes that miou, mean_accuracy and dice leave out of their means. Their pixels still count: in
    pixel accuracy, in frequency-weighted IoU, and as errors of other classes. Where they are not empty, the result
    also has `no_class` (pixels of each class predicted as none) and `void_predictions` (predictions on void pixels,
    where these count as errors).
    """
    left_out = excluded(exclude, list(class_names))
    result = {
        "miou": none_if_nan(confusion.miou(absent, left_out)),
        "pixel_accuracy": none_if_nan(confusion.pixel_accuracy()),
        "mean_accuracy": none_if_nan(confusion.mean_accuracy(left_out)),
        "dice": none_if_nan(confusion.mean_dice(left_out)),
        "fw_iou": none_if_nan(confusion.frequency_weighted_iou()),
        "per_class": {n: none_if_nan(v) for n, v in zip(class_names, confusion.iou().tolist())},
        "confusion_matrix": confusion.matrix.tolist(),
    }
    for key, part in (("no_class", confusion.counts[:, -1]), ("void_predictions", confusion.void)):
        if part.any():
            result[key] = part.tolist()
    return result


def scores(score: Score, class_names: Sequence[str], absent: str = "nan", exclude: Sequence[str] = ()) -> dict:
    """Scores of the set and of each image, as eval.py and tools/score.py write them."""
    left_out = excluded(exclude, list(class_names))
    of_images = score.image_mious(left_out)
    result = metrics(score.confusion, class_names, absent, exclude)
    result["miou_per_image"] = none_if_nan(of_images.nanmean().item())
    if score.boundary:
        per_class = [none_if_nan(v) for v in score.boundary.iou().tolist()]
        result["boundary_miou"] = none_if_nan(score.boundary.miou(absent, left_out))
        result["boundary_iou"] = dict(zip(class_names, per_class))
    if score.binned:
        result |= score.binned.to_json(class_names, absent, left_out)
    per_image = score.per_image.to_json() | {"miou": [none_if_nan(v) for v in of_images.tolist()]}
    return result | {"per_image": per_image, "images": score.images, "seconds": score.seconds}
