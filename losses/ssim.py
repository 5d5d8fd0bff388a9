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
        self.register_buffer("window", (line / line.sum()).float(), persistent=False)  # (window,)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        margin = len(self.window) // 2
        if min(target.shape[-2:]) <= margin:
            size = f"{target.shape[-2]}x{target.shape[-1]}"
            raise ValueError(f"ssim: a window of {len(self.window)} px needs more than {margin} px a side, got {size}")
        with torch.autocast(logits.device.type, enabled=False):  # which would run the convolutions in half precision
            loss = self.mean_cost(at_least_float32(logits), target)
        self.parts = {"ssim": loss.detach()}
        return loss

    def mean_cost(self, logits: Tensor, target: Tensor) -> Tensor:
        labelled, index = labelled_pixels(target, self.ignore_index)
        labelled = labelled.unsqueeze(1)  # (B, 1, H, W)
        # channels last: the layout in which a blur of each channel is fastest, on the CPU by far
        p = logits.contiguous(memory_format=torch.channels_last).softmax(1) * labelled  # (B, C, H, W)
        with torch.no_grad():
            classes = torch.arange(self.num_classes, device=logits.device)
            q = (index.unsqueeze(3) == classes).permute(0, 3, 1, 2) & labelled  # (B, C, H, W)
            blur_q = self.blur(q.to(p.dtype))
            # s: how much of each window is labelled. Means are blur / s; both sides of the fraction stand times s^4
            s = self.blur(labelled.to(p.dtype))  # (B, 1, H, W)
            c1, c2, var_q = C1 * s**2, C2 * s**2, blur_q * s - blur_q**2
        blur_p, blur_pp, blur_pq = self.blur(p), self.blur(p * p), self.blur(p * q)
        product, square = blur_p * blur_q, blur_p**2
        alike = (2 * product + c1) * (2 * (blur_pq * s - product) + c2)
        apart = (square + blur_q**2 + c1) * ((blur_pp * s - square).clamp(min=0) + var_q + c2)
        count = labelled.sum() * self.num_classes
        similarity = (alike / apart.where(labelled, 1.0) * labelled).sum() / count.clamp(min=1)
        return (count > 0).to(p.dtype) - similarity

    def blur(self, maps: Tensor) -> Tensor:
        """The weighted mean over the window around each pixel, the map reflected at its border; keeps (B, C, H, W)."""
        channels, k = maps.shape[1], len(self.window)
        line = self.window.to(maps.dtype).expand(channels, 1, k)  # (C, 1, k): a Gaussian is one row times one column
        maps = F.pad(maps, [k // 2] * 4, mode="reflect")
        maps = F.conv2d(maps, line.unsqueeze(2), groups=channels)
        return F.conv2d(maps, line.unsqueeze(3), groups=channels)
