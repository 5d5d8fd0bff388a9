"""From images to a prediction: one model or several, one view or several, any target size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config_keys import EvalConfig, TrainConfig
from engine.errors import UserError


@dataclass(frozen=True)
class Views:
    """Test-time views whose class probabilities are averaged: scales of the image, its mirror, sliding windows."""

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None  # (H, W) in pixels, at each scale; steps of 2/3 of it

    @staticmethod
    def of(cfg: EvalConfig) -> Views:
        return Views(tuple(cfg.scales), cfg.flip, tuple(cfg.window) or None)


WHOLE = Views()  # one look at the whole image


@torch.inference_mode()
def predict_scores(models: Sequence[nn.Module], images: Tensor, views: Views = WHOLE) -> Tensor:
    """Scores (B, C, H, W) float32 for images (B, 3, H, W), whose argmax is the prediction.

    One model and one view: its logits. Otherwise the mean of softmax probabilities over models and views, each view
    brought back to H x W (bilinear, align_corners=False) before averaging. Models must be in eval mode.
    """
    if len(models) == 1 and views == WHOLE:
        return models[0](images)["out"].float()
    total = None
    for model in models:
        for scale in views.scales:
            size = [max(64, round(s * scale)) for s in images.shape[-2:]]
            scaled = images
            if size != list(images.shape[-2:]):
                scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
            for mirrored in (False, True) if views.flip else (False,):
                probs = _probabilities(model, scaled.flip(-1) if mirrored else scaled, views.window)
                probs = probs.flip(-1) if mirrored else probs
                probs = resize(probs, images.shape[-2:])
                total = probs if total is None else total.add_(probs)
    return total / (len(models) * len(views.scales) * (2 if views.flip else 1))


def _probabilities(model: nn.Module, images: Tensor, window: tuple[int, int] | None) -> Tensor:
    """Softmax of the whole image, or the mean over overlapping windows that cover it."""
    height, width = images.shape[-2:]
    if window is None or (window[0] >= height and window[1] >= width):
        return model(images)["out"].float().softmax(1)
    h, w = min(window[0], height), min(window[1], width)
    total, times = None, images.new_zeros(1, 1, height, width)
    for top in window_starts(height, h):
        for left in window_starts(width, w):
            probs = model(images[..., top : top + h, left : left + w])["out"].float().softmax(1)
            total = probs.new_zeros(*probs.shape[:2], height, width) if total is None else total
            total[..., top : top + h, left : left + w] += probs
            times[..., top : top + h, left : left + w] += 1
    return total / times


def window_starts(length: int, window: int) -> list[int]:
    """Offsets of windows that overlap by a third and cover 0..length; the last one ends at the border."""
    stride = max(1, window * 2 // 3)
    return [*range(0, length - window, stride), length - window]


def resize(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of (B, C, H, W) to size (H, W); nothing where it already fits."""
    if tuple(scores.shape[-2:]) == tuple(size):
        return scores
    return F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=False)


def autocast(device: torch.device, amp: torch.dtype | None) -> AbstractContextManager:
    """Autocast in dtype `amp`; None: disabled, the same code path."""
    return torch.autocast(device.type, dtype=amp or torch.bfloat16, enabled=amp is not None)


def amp_dtype(cfg: TrainConfig, device: torch.device) -> torch.dtype | None:
    """auto: bf16 on GPUs that compute in it (not emulated), else fp16; none on the CPU, where neither is faster."""
    if cfg.amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if cfg.amp == "fp16" and device.type == "cpu":
        raise UserError("train.amp=fp16 needs a GPU; on the CPU use none or bf16")
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[cfg.amp]
