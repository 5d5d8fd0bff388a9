"""Memory and time that evaluation adds to the network's own forward pass, at 1024x2048 with 19 classes.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --model segformer_b0 --cases whole flip

Each case runs in a fresh process. Memory is the peak resident size (VmHWM) while one image is scored, minus the peak of
a process that only runs the same forward on the same image. `--model pointwise` (the default) is one 1x1 convolution:
its forward holds only images and logits, so that no peak inside the network hides the evaluation's. `plain` is the
computation without strips (resize, softmax and argmax of whole maps), for comparison.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import torch
from torch import nn

from common.memory import process_bytes
from engine.evaluation.evaluate import evaluate
from engine.evaluation.views import Views
from engine.metrics import ConfusionMatrix
from models import build_model
from models.tensors import resize

CLASSES, SIZE = 19, (1024, 2048)
HALF = tuple(n // 2 for n in SIZE)
CASES = {  # name: network input, views
    "forward": (SIZE, None),
    "whole": (SIZE, Views()),
    "flip": (SIZE, Views(flip=True)),
    "scales": (SIZE, Views((0.75, 1.0), True)),
    "extra": (SIZE, Views()),
    "windows": (SIZE, Views(window=(512, 1024), blend="gaussian")),
    "plain": (SIZE, None),
    "plain flip": (SIZE, Views(flip=True)),
    "half forward": (HALF, None),
    "half whole": (HALF, Views()),
    "half plain": (HALF, None),
}


class Pointwise(nn.Conv2d):
    def forward(self, images):
        return {"out": super().forward(images)}


@torch.inference_mode()
def plain(model: nn.Module, images: torch.Tensor, target: torch.Tensor, flip: bool) -> None:
    scores = model(images)["out"]
    if flip:
        scores = (scores.softmax(1) + model(images.flip(-1))["out"].softmax(1).flip(-1)) / 2
    ConfusionMatrix(CLASSES).update(resize(scores, SIZE).argmax(1), target)


def measure(case: str, name: str) -> dict:
    """Peak bytes and seconds of one case, in this process."""
    torch.manual_seed(0)
    size, views = CASES[case]
    model = (Pointwise(3, CLASSES, 1) if name == "pointwise" else build_model(name, CLASSES)).eval()
    images, target = torch.randn(1, 3, *size), torch.randint(CLASSES, (1, *SIZE))
    started = time.perf_counter()
    if "plain" in case:
        plain(model, images, target, bool(views))
    elif views is None:
        with torch.inference_mode():
            model(images)
    else:
        cpu = torch.device("cpu")
        evaluate(model, [(images, target)], CLASSES, cpu, views=views, groups=["0"], extra=case == "extra")
    return {"seconds": time.perf_counter() - started, "peak": process_bytes("VmHWM")}


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__.splitlines()[0])
    p.add_argument("--model", default="pointwise", help="pointwise, or a row of models.MODELS")
    p.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    p.add_argument("--one", choices=list(CASES), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.model)))
        return
    forward: dict[str, dict] = {}
    for case in dict.fromkeys(["forward", "half forward", *args.cases]):
        command = [sys.executable, "-m", "benchmarks.evaluation", "--model", args.model, "--one", case]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        base = forward.setdefault("half" if case.startswith("half") else "whole", found)
        more = (found["peak"] - base["peak"]) / 1e9
        print(f"{case:14s} peak {found['peak'] / 1e9:6.3f} GB  {more:+6.3f} GB  {found['seconds']:6.2f} s", flush=True)


if __name__ == "__main__":
    main()
