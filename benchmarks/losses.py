"""Speed of the losses against other forms of the same function, in one run.

    python -m benchmarks.losses                       # lovasz and ssim
    python -m benchmarks.losses ssim --repeats 15 --json out.json

Time: forward and backward, 19 classes, 2 x 512 x 512, float32, every pixel labelled and every class present, which is
the worst case for our Lovasz. Each round runs every candidate once, so a slow moment slows all of them; the median over
rounds counts. Values and gradients are compared first. Ratios above 1 are in our favour.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.models import medians, report, shared_parser
from benchmarks.peers import CLASSES, smp_lovasz
from common.tables import format_table
from losses import build_loss

Loss = Callable[[Tensor, Tensor], Tensor]


def five_map_ssim(device: str) -> Loss:
    """SSIM in its usual form: a two-dimensional window over p, q, p^2, q^2 and p q, one group per class."""
    line = torch.exp(-((torch.arange(11.0, device=device) - 5) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2).expand(CLASSES, 1, 11, 11).contiguous()

    def blur(maps: Tensor) -> Tensor:
        return F.conv2d(F.pad(maps, [5] * 4, mode="reflect"), window, groups=CLASSES)

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        p, q = logits.softmax(1), F.one_hot(target, CLASSES).permute(0, 3, 1, 2).to(logits.dtype)
        mean_p, mean_q = blur(p), blur(q)
        var_p, var_q = (blur(p * p) - mean_p**2).clamp(min=0), (blur(q * q) - mean_q**2).clamp(min=0)
        cov = blur(p * q) - mean_p * mean_q
        alike = (2 * mean_p * mean_q + 0.01**2) * (2 * cov + 0.03**2)
        return 1 - (alike / ((mean_p**2 + mean_q**2 + 0.01**2) * (var_p + var_q + 0.03**2))).mean()

    return loss


# name of a loss: {label: the same function in another form}
OTHERS: dict[str, dict[str, Callable[[str], Loss]]] = {
    "lovasz": {"segmentation_models_pytorch": lambda device: smp_lovasz()},
    "ssim": {"five maps": five_map_ssim},
}


def compare(name: str, args: argparse.Namespace) -> dict:
    """{"ms": {label: ms}, "ratio": {label: its time over ours}} of one loss."""
    g = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(args.batch, CLASSES, *args.size, generator=g)).to(args.device).requires_grad_()
    target = torch.randint(0, CLASSES, (args.batch, *args.size), generator=g).to(args.device)
    losses = {"ours": build_loss(name, CLASSES).to(args.device)}
    losses |= {label: make(args.device) for label, make in OTHERS[name].items()}
    check_equal(name, losses, logits, target)

    def step(loss: Loss) -> None:
        logits.grad = None
        loss(logits, target).backward()

    ms = medians({label: partial(step, loss) for label, loss in losses.items()}, args.repeats)
    return {"ms": ms, "ratio": {label: ms[label] / ms["ours"] for label in OTHERS[name]}}


def check_equal(name: str, losses: dict[str, Loss], logits: Tensor, target: Tensor) -> None:
    values = {label: loss(logits, target) for label, loss in losses.items()}
    gradients = {label: torch.autograd.grad(value, logits)[0] for label, value in values.items()}
    for label, other in values.items():
        difference = float((gradients["ours"] - gradients[label]).abs().max() / gradients[label].abs().max())
        if abs(values["ours"] - other) > 1e-4 * abs(other) or difference > 1e-2:
            message = f"{name}: {values['ours']:.6f} against {other:.6f} of {label}"
            raise SystemExit(f"{message}; gradients differ by {difference:.1e}")


def table(name: str, result: dict) -> str:
    ratios = {label: f"{ratio:.2f}x" for label, ratio in result["ratio"].items()}
    rows = [[label, f"{ms:.1f}", ratios.get(label, "")] for label, ms in result["ms"].items()]
    return "\n" + format_table(rows, [name, "ms", "ratio"])


def main() -> None:
    parser = shared_parser("losses", "LOSS", __doc__, OTHERS, size=(512, 512), repeats=9)
    parser.add_argument("--batch", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    time = f"forward and backward, {CLASSES} classes, {args.batch}x{args.size[0]}x{args.size[1]}, float32, "
    time += f"median of {args.repeats} interleaved rounds"
    report("losses", args, OTHERS, {"time": time}, compare, table)


if __name__ == "__main__":
    main()
