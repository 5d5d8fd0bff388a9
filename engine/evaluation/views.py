"""From images to predictions: one model or an ensemble, one view of the image or several, any target size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from engine.config.keys import EvalConfig, TrainConfig
from engine.evaluation.score_strips import classes, strips


@dataclass(frozen=True)
class Views:
    """Test-time augmentation: the class probabilities of scaled, mirrored and windowed views are averaged."""

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None  # (H, W) in pixels, at each scale
    blend: str = "mean"  # of overlapping windows: equal weights, in steps of 2/3 of a window; `gaussian`: steps of 1/2
    stride: tuple[int, int] | None = None  # (H, W) in pixels from one window to the next, instead of those steps

    @staticmethod
    def of(cfg: EvalConfig) -> Views:
        if cfg.window and (len(cfg.window) != 2 or min(cfg.window) < 64):
            raise UserError(
                f"eval.window: {cfg.window}: expected [H, W] of at least 64 px, the smallest input of a network"
            )
        return Views(tuple(cfg.scales), cfg.flip, tuple(cfg.window) or None, cfg.blend, tuple(cfg.stride) or None)

    def steps(self) -> tuple[int, int] | None:
        """(H, W) in pixels from one window to the next; None without windows."""
        if self.window is None or self.stride:
            return self.stride
        share = 1 / 2 if self.blend == "gaussian" else 2 / 3
        return tuple(max(1, int(side * share)) for side in self.window)

    def covers(self, size: Sequence[int]) -> bool:
        """Whether a window covers the whole image of this size (H, W)."""
        return self.window is None or (self.window[0] >= size[0] and self.window[1] >= size[1])

    def single(self, size: Sequence[int]) -> bool:
        """Whether there is one forward pass only: then scores are logits, else probabilities."""
        return self.scales == (1.0,) and not self.flip and self.covers(size)


WHOLE = Views()  # one view, the whole image


@torch.inference_mode()
def predict_scores(models: Sequence[nn.Module], images: Tensor, views: Views = WHOLE) -> Tensor:
    """Scores (B, C, H, W) for images (B, 3, H, W); their argmax is the prediction. Models must be in eval mode.

    One model and one view: its logits, in its own precision. Otherwise the mean of softmax probabilities over models
    and views in float32, each view resized to H x W (bilinear, align_corners=False) before averaging. Memory beyond a
    view's logits: one map for the mean (with windows one more), and a strip.
    """
    size = images.shape[-2:]
    if len(models) == 1 and views.single(size):
        return models[0](images)["out"]
    total = None
    for model in models:
        for scale in views.scales:
            scaled, shape = images, [max(64, round(s * scale)) for s in size]
            if shape != list(size):
                scaled = F.interpolate(images, size=shape, mode="bilinear", align_corners=False, antialias=scale < 1)
            for mirrored in (False, True) if views.flip else (False,):
                view = scaled.flip(-1) if mirrored else scaled
                whole = views.covers(shape)
                scores = model(view)["out"] if whole else _windows(model, view, views)
                if total is None:
                    total = torch.zeros(*scores.shape[:2], *size, device=scores.device)
                for top, bottom, part in strips(scores, size, softmax=whole, mirrored=mirrored):
                    total[:, :, top:bottom] += part
                del scores  # before the next forward
    return total.div_(len(models) * len(views.scales) * (2 if views.flip else 1))


def predict_classes(
    models: Sequence[nn.Module], images: Tensor, views: Views, size: Sequence[int], amp: torch.dtype | None = None
) -> Tensor:
    """The class of each pixel, (B, h, w) int64: scores are resized to `size` (h, w) before the argmax."""
    with autocast(images.device, amp):
        scores = predict_scores(models, images, views)
    return classes(scores, size)


def _windows(model: nn.Module, images: Tensor, views: Views) -> Tensor:
    """Weighted mean of softmax probabilities over windows that cover the image, (B, C, H, W) float32."""
    height, width = images.shape[-2:]
    h, w = min(views.window[0], height), min(views.window[1], width)
    down, right = views.steps()
    weight = window_weights(h, w, views.blend).to(images.device)
    total, weights = None, torch.zeros(height, width, device=images.device)
    for top in window_starts(height, h, down):
        for left in window_starts(width, w, right):
            here = (..., slice(top, top + h), slice(left, left + w))
            probs = model(images[here])["out"].float().softmax(1)
            total = probs.new_zeros(*probs.shape[:2], height, width) if total is None else total
            total[here] += probs.mul_(weight)
            weights[here] += weight
    return total.div_(weights)


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Offsets of windows that cover 0..length, `stride` apart; the last window ends at the border."""
    return [*range(0, length - window, stride), length - window]


def window_weights(h: int, w: int, blend: str) -> Tensor:
    """(h, w): the weight of a window's pixels where windows overlap, at most 1.

    gaussian: the importance map of nnU-Net (Isensee et al., Nature Methods 2021; compute_gaussian in its
    sliding_window_prediction.py), with a standard deviation of 1/8 of the window's sides: a network sees the least
    context at the border of its input. Theirs is a filtered impulse centred on pixel n // 2, ours the exact function.
    """
    if blend == "mean":
        return torch.ones(h, w)
    sides = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in (h, w)]
    return sides[0][:, None] * sides[1]


def autocast(device: torch.device, amp: torch.dtype | None) -> AbstractContextManager:
    """Autocast to dtype `amp`; None: disabled, by the same code path."""
    return torch.autocast(device.type, dtype=amp or torch.bfloat16, enabled=amp is not None)


def amp_dtype(cfg: TrainConfig, device: torch.device) -> torch.dtype | None:
    """The autocast dtype of train.amp. auto: bf16 on GPUs that support it natively, else fp16; none on the CPU, where
    neither is faster. Raises: UserError for fp16 on the CPU."""
    if cfg.amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if cfg.amp == "fp16" and device.type == "cpu":
        raise UserError("train.amp=fp16 needs a GPU; on the CPU use none or bf16")
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[cfg.amp]
