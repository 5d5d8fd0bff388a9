"""Distillation: a network learns from the logits of a teacher network in addition to the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import UserError
from losses.regions import at_least_float32


class Distillation(nn.Module):
    """Common to both: the teacher's logits are a third argument of the call and get no gradient.

    Without them (validation, the auxiliary head) the loss is 0. Only labelled pixels count; with `everywhere` all do,
    as in the originals, because the teacher predicts ignored pixels and padding too.
    Shapes: logits and teacher (B, C, H, W), target (B, H, W) int64 -> scalar.
    """

    distils = True  # needs the teacher's logits

    def __init__(
        self, num_classes: int, ignore_index: int = 255, temperature: float = 1.0, everywhere: bool = False
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature must be above 0, got {temperature}")
        self.ignore_index, self.temperature, self.everywhere = ignore_index, temperature, everywhere
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> Tensor:
        logits = at_least_float32(logits)
        if teacher is None:
            loss = (logits * 0).sum()
        elif teacher.shape != logits.shape:
            raise ValueError(f"teacher: logits {tuple(teacher.shape)}, the network's are {tuple(logits.shape)}")
        else:
            counted = torch.ones_like(target, dtype=torch.bool) if self.everywhere else target != self.ignore_index
            teacher = teacher.detach().to(logits.dtype)
            loss = self.divergence(logits / self.temperature, teacher / self.temperature, counted)
            loss = loss * self.temperature**2  # keeps the gradient's size independent of the temperature
        self.parts = {self.name: loss.detach()}
        return loss


class KD(Distillation):
    """Mean over pixels of T^2 KL(softmax(teacher / T) || softmax(logits / T)), the softmax over classes.

    Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (arXiv 1503.02531), sec. 2, pixel by pixel.
    """

    name = "kd"

    def divergence(self, logits: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
        t, s = teacher.log_softmax(1), logits.log_softmax(1)
        per_pixel = (t.exp() * (t - s)).sum(1)  # (B, H, W)
        return (per_pixel * counted).sum() / counted.sum().clamp(min=1)


class CWD(Distillation):
    """Mean over images and channels of T^2 KL(softmax(teacher / T) || softmax(logits / T)), softmax over *positions*.

    Shu, Liu, Gao, Yan, Shen, Channel-wise Knowledge Distillation for Dense Prediction (arXiv 2011.13256), with logits
    as the maps: each class's map says where the class is, and its strongest places count most. The default temperature
    is system E's. It uses logits at the images' size; the original takes them before upsampling.
    """

    name = "cwd"

    def __init__(
        self, num_classes: int, ignore_index: int = 255, temperature: float = 4.0, everywhere: bool = False
    ) -> None:
        super().__init__(num_classes, ignore_index, temperature, everywhere)

    def divergence(self, logits: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
        counted = counted.flatten(1).unsqueeze(1)  # (B, 1, H W)
        # -1e30 instead of -inf, so that an image without any counted position gives no nan
        t, s = (x.flatten(2).masked_fill(~counted, -1e30).log_softmax(2) for x in (teacher, logits))  # (B, C, H W)
        per_channel = (t.exp() * (t - s)).masked_fill(~counted, 0).sum(2)  # (B, C)
        images = counted.any(2).sum().clamp(min=1)
        return per_channel.mean(1).sum() / images
