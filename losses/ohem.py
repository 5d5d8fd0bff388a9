"""Online hard example mining (OHEM): the loss counts only the hard pixels."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from common.errors import UserError, unknown


@dataclass(frozen=True)
class HardPixels:
    """Which labelled pixels of a batch count. Shrivastava et al., arXiv 1604.03540, for pixels as in mmsegmentation.

    With a threshold: the pixels whose true class has a probability below it, and at least `min_kept` times the number
    of images, the least probable first. Without: that many pixels with the highest loss. They come from the batch as a
    whole, so one image may give more than another. divide_by "kept": the mean is over the kept pixels; "labelled": the
    sum is divided as if all were kept, as in system E's original, so the gradient shrinks as the network learns.
    """

    threshold: float | None = None
    min_kept: int = 100_000  # pixels per image
    divide_by: str = "kept"

    @classmethod
    def of(cls, options: dict | None) -> HardPixels | None:
        """Builds and checks the options from a config's mapping. Raises: UserError."""
        if options is None:
            return None
        names = [f.name for f in fields(cls)]
        if not isinstance(options, dict):
            raise UserError(f"ohem: expected a mapping of {', '.join(names)}, got {options!r}")
        for key in options.keys() - set(names):
            raise unknown("option of ohem", key, names)
        out = cls(**options)
        if out.threshold is not None and not (isinstance(out.threshold, int | float) and 0 < out.threshold <= 1):
            raise UserError(f"ohem: threshold must be above 0 and at most 1, or null, got {out.threshold!r}")
        lowest = 1 if out.threshold is None else 0
        if not isinstance(out.min_kept, int) or out.min_kept < lowest:
            raise UserError(f"ohem: min_kept must be a whole number of at least {lowest}, got {out.min_kept!r}")
        if out.divide_by not in ("kept", "labelled"):
            raise unknown("value of ohem.divide_by", out.divide_by, ["kept", "labelled"])
        return out

    @torch.no_grad()
    def select(self, cost: Tensor, p_true: Tensor, labelled: Tensor) -> Tensor:
        """cost, probability of the true class and labelled, each (B, H, W) -> which pixels count, (B, H, W) bool."""
        count = min(self.min_kept * len(cost), cost.numel())
        hardness = (cost if self.threshold is None else -p_true).masked_fill(~labelled, -torch.inf)
        kept = torch.zeros_like(labelled).flatten()
        kept[hardness.flatten().topk(count, sorted=False).indices] = True
        kept = kept.view_as(labelled)
        if self.threshold is not None:
            kept |= p_true < self.threshold
        return kept & labelled
