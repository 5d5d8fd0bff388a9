"""SSIM between probability maps and one-hot maps: agreement of local structure, which thin classes live by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import UserError
from losses.pixels import at_least_float32, labelled_pixels

C1, C2 = 0.01**2, 0.03**2  # the constants of Wang et al., for values between 0 and 1


class SSIM(nn.Module):
    """1 - mean over classes and labelled pixels of the structural similarity of p = softmax(logits) and the one-hot q.

    Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to Structural Similarity (IEEE
    Trans. Image Processing 13(4), 2004), Eq. 13, with its Gaussian window (11 x 11 px, sigma 1.5, sum 1):
        SSIM = (2 mu_p mu_q + C1) (2 cov + C2) / ((mu_p^2 + mu_q^2 + C1) (var_p + var_q + C2)),
    means, variances (at least 0) and covariance over the window around each pixel, the image reflected at its border.
    Ignored pixels are not there: the window's weights of the labelled ones are scaled to sum 1, and the mean runs over
    labelled pixels. Four blurred maps do for five, p, p^2, q and p q, since q^2 = q.
    Shapes: logits (B, C, H, W) with H, W > window // 2, target (B, H, W) int64 -> scalar in float32 at least. Nothing
    labelled: exactly 0, with a gradient of 0.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, window: int = 11, sigma: float = 1.5) -> None:
        super().__init__()
        if window < 3 or window % 2 == 0 or sigma <= 0:
            raise UserError(f"ssim: window must be odd and at least 3, sigma above 0, got {window} and {sigma}")
        offsets = torch.arange(window, dtype=torch.float64) - window // 2  # px
        line = torch.exp(-(offsets**2) / (2 * sigma**2))
        line = line / line.sum()
        self.register_buffer("window", (line[:, None] * line).float()[None, None], persistent=False)  # (1, 1, k, k)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):  # which would run the convolutions in half precision
            loss = self.mean_cost(at_least_float32(logits), target)
        self.parts = {"ssim": loss.detach()}
        return loss

    def mean_cost(self, logits: Tensor, target: Tensor) -> Tensor:
        labelled, index = labelled_pixels(target, self.ignore_index)
        labelled = labelled.unsqueeze(1)  # (B, 1, H, W)
        p = logits.softmax(1) * labelled  # (B, C, H, W)
        with torch.no_grad():
            classes = torch.arange(self.num_classes, device=logits.device)[:, None, None]
            q = ((index.unsqueeze(1) == classes) & labelled).to(p.dtype)  # (B, C, H, W)
            seen = self.blur(labelled.to(p.dtype))  # (B, 1, H, W): share of each window that is labelled
            scale = labelled / seen.clamp(min=1e-12)
            mean_q = self.blur(q) * scale
            var_q = mean_q - mean_q**2  # of zeros and ones: never below 0
        mean_p = self.blur(p) * scale
        var_p = (self.blur(p * p) * scale - mean_p**2).clamp(min=0)
        cov = self.blur(p * q) * scale - mean_p * mean_q
        alike = (2 * mean_p * mean_q + C1) * (2 * cov + C2)
        apart = (mean_p**2 + mean_q**2 + C1) * (var_p + var_q + C2)
        cost = (1 - alike / apart) * labelled  # (B, C, H, W)
        return cost.sum() / (labelled.sum() * self.num_classes).clamp(min=1)

    def blur(self, maps: Tensor) -> Tensor:
        """The weighted mean over the window around each pixel, the map reflected at its border; keeps (B, C, H, W)."""
        channels, margin = maps.shape[1], self.window.shape[-1] // 2
        if min(maps.shape[-2:]) <= margin:
            size = f"{maps.shape[-2]}x{maps.shape[-1]}"
            raise ValueError(f"ssim: a window of {2 * margin + 1} px needs more than {margin} px a side, got {size}")
        maps = F.pad(maps, [margin] * 4, mode="reflect")
        window = self.window.to(maps.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(maps, window, groups=channels)
