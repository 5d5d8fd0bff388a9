"""SSIM between probability maps and one-hot maps: agreement of local structure, which matters for thin classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from losses.regions import at_least_float32, labelled_pixels

C1, C2 = 0.01**2, 0.03**2  # the constants of Wang et al., for values between 0 and 1


class SSIM(nn.Module):
    """1 - mean over classes and labelled pixels of the structural similarity of p = softmax(logits) and the one-hot q.

    Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to Structural Similarity (IEEE
    Trans. Image Processing 13(4), 2004), with its Gaussian window (11 x 11 px, sigma 1.5, sum 1):
        SSIM = (2 mu_p mu_q + C1) (2 cov + C2) / ((mu_p^2 + mu_q^2 + C1) (var_p + var_q + C2)),
    with means, variances (at least 0) and covariance over the window around each pixel; the image is reflected at its
    border. Ignored pixels are left out: the window's weights on labelled pixels are scaled to sum 1, and the mean runs
    over labelled pixels. Four blurred maps (p, p^2, q, p q) replace five, because q^2 = q.
    Shapes: logits (B, C, H, W) with H, W > window // 2, target (B, H, W) int64 -> scalar.
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
        with torch.autocast(logits.device.type, enabled=False):  # autocast would run the convolutions in half precision
            loss = self.mean_cost(at_least_float32(logits), target)
        self.parts = {"ssim": loss.detach()}
        return loss

    def mean_cost(self, logits: Tensor, target: Tensor) -> Tensor:
        labelled, index = labelled_pixels(target, self.ignore_index)
        labelled = labelled.unsqueeze(1)  # (B, 1, H, W)
        # each channel's blur is fastest in this layout on the CPU
        p = logits.softmax(1).contiguous(memory_format=torch.channels_last) * labelled  # (B, C, H, W)
        with torch.no_grad():
            classes = torch.arange(self.num_classes, device=logits.device)
            q = ((index.unsqueeze(3) == classes).permute(0, 3, 1, 2) & labelled).to(p.dtype)  # (B, C, H, W)
            blur_q = self.blur(q)
            seen = self.blur(labelled.to(p.dtype)).where(labelled, 1.0)  # (B, 1, H, W): labelled part of each window
            count = labelled.sum() * self.num_classes
            weight = labelled / count.clamp(min=1).to(p.dtype)  # (B, 1, H, W)
        similarity = Similarity.apply(self.blur(p), self.blur(p * p), self.blur(p * q), blur_q, seen, weight)
        return (count > 0).to(p.dtype) - similarity

    def blur(self, maps: Tensor) -> Tensor:
        """Weighted mean over the window around each pixel; the map is reflected at its border. Keeps (B, C, H, W)."""
        channels, k = maps.shape[1], len(self.window)
        line = self.window.to(maps.dtype).expand(channels, 1, k)  # (C, 1, k): a Gaussian is one row times one column
        maps = reflected(maps, k // 2)
        maps = F.conv2d(maps, line.unsqueeze(2), groups=channels)
        return F.conv2d(maps, line.unsqueeze(3), groups=channels)


def reflected(maps: Tensor, margin: int) -> Tensor:
    """Reflection padding without repeating the border: (B, C, H, W) -> (B, C, H + 2 margin, W + 2 margin)."""
    if not (maps.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.pad(maps, [margin] * 4, mode="reflect")
    return by_flips(maps, margin)  # the gradient of F.pad is summed in no fixed order on CUDA


def by_flips(maps: Tensor, margin: int) -> Tensor:
    for dim in (2, 3):
        before = maps.narrow(dim, 1, margin).flip(dim)
        after = maps.narrow(dim, maps.shape[dim] - 1 - margin, margin).flip(dim)
        maps = torch.cat([before, maps, after], dim)
    return maps


class Similarity(torch.autograd.Function):
    """Sum of weight * SSIM, from the blurred maps. The derivatives are written out: autograd makes twice as many passes
    over memory, and these passes take most of the time.

    P, PP, X, Q are the blurred p, p^2, p q, q, and s is the labelled part of the window, so means are P / s and so on.
    After cancelling s^4, SSIM = A1 A2 / (B1 B2) with
        A1 = 2 P Q + C1 s^2, A2 = 2 (X s - P Q) + C2 s^2, B1 = P^2 + Q^2 + C1 s^2, B2 = V + (Q s - Q^2) + C2 s^2,
        V = max(PP s - P^2, 0).
    Shapes: P, PP, X, Q (B, C, H, W), s and weight (B, 1, H, W) -> scalar.
    """

    @staticmethod
    def forward(ctx, P: Tensor, PP: Tensor, X: Tensor, Q: Tensor, s: Tensor, weight: Tensor) -> Tensor:
        c1, c2 = C1 * s**2, C2 * s**2
        PQ, P2, Q2 = P * Q, P * P, Q * Q
        V = (PP * s).sub_(P2)
        slopes_up = V > 0
        B2 = V.clamp_(min=0).addcmul_(Q, s).sub_(Q2).add_(c2)
        B1 = P2.add_(Q2).add_(c1)
        A2 = (X * s).sub_(PQ).mul_(2).add_(c2)
        A1 = PQ.mul_(2).add_(c1)
        scale = (weight / B1).div_(B2)
        ssim = (A1 * A2).mul_(scale)  # times weight
        by_X = (A1 * scale).mul_(2 * s)
        by_PP = (ssim / B2).mul_(slopes_up).mul_(-s)
        # the product P Q is in A1 and A2, the square P^2 in B1 and V
        by_P = A2.sub_(A1).mul_(scale).mul_(Q).addcmul_(P, by_PP / s + ssim / B1, value=-1).mul_(2)
        ctx.save_for_backward(by_P, by_PP, by_X)
        return ssim.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        return *(grad * slope for slope in ctx.saved_tensors), None, None, None
