"""Overfit one batch with a config until its mIoU passes .95, or explain why it does not.

python -m tools.overfit configs/unet_streets.yaml
python -m tools.overfit configs/deeplabv3plus_cv.yaml --images 4 --iterations 500 --set optim.lr=3e-4

A network that cannot fit two images will not learn from a thousand. Labels that are all ignored, a wrong learning
rate, frozen layers and losses without a gradient show here within minutes. The step is train.py's, with the config's
loss, teacher, optimiser and clipping. Augmentation is off, and the learning rate stays at optim.lr.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common import command
from common.console import say
from common.errors import UserError
from engine.config import Config, config_from, load_config, to_dict
from engine.evaluation.views import autocast
from engine.metrics import ConfusionMatrix
from engine.training.train import NonFiniteLoss
from models.tensors import resize
from tools.lr_find.trial import Trial, first_training, open_trial, training_images

ENOUGH = 0.95  # mIoU over the classes of the batch
ROOM = 0.02  # if the head's resolution allows less than ENOUGH + ROOM, it may be the reason


@dataclass
class Fit:
    """How one trial went. mIoU is over the classes in the batch, in eval mode."""

    losses: list[float] = field(default_factory=list)
    mious: dict[int, float] = field(default_factory=dict)  # by iteration
    ious: list[float] = field(default_factory=list)  # of each class at the end; nan: not in the batch
    trained_miou: float = 0.0  # at the end, with the batch's own statistics
    broke: str = ""  # why it ended early
    blind: list[str] = field(default_factory=list)  # parameters without a gradient in the first step
    dead: list[str] = field(default_factory=list)  # and in the last one

    @property
    def miou(self) -> float:
        return max(self.mious.values(), default=0.0)


def describe_batch(trial: Trial, target: Tensor) -> str:
    """One line on the labels. Raises: UserError if all pixels are ignored or of one class."""
    ignored = float((target == trial.data.ignore_index).double().mean())
    counts = torch.bincount(target[target != trial.data.ignore_index].flatten(), minlength=trial.data.num_classes)
    names = [f"{trial.data.class_names[i]} {n}" for i, n in enumerate(counts.tolist()) if n]
    if not names:
        masks = ", ".join(trial.data.names[:2])
        raise UserError(f"every pixel of the batch is ignored ({masks}): the masks or data.label_map have wrong values")
    if len(names) == 1:
        raise UserError(f"the batch has one class only ({names[0].rpartition(' ')[0]}): take more images with --images")
    h, w = target.shape[-2:]
    return f"batch: {len(target)} images of {h}x{w}, {100 * ignored:.1f} % ignored, pixels: {', '.join(names)}"


def describe_parameters(trial: Trial) -> str:
    """One line on the trained parameters. Raises: UserError if there are none."""
    parameters = list(trial.parts.model.parameters())
    whole, trained = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    if not trained:
        raise UserError("no parameter is trained: model.freeze leaves nothing")
    if trial.cfg.optim.lr == 0:
        raise UserError("optim.lr is 0: nothing will be learnt")
    frozen = "" if trained == whole else f"; {whole - trained:,} are frozen (model.freeze={trial.cfg.model.freeze})"
    return f"trained: {trained:,} parameters{frozen}"


def without_gradient(trial: Trial) -> list[str]:
    """After a step: trainable parameters whose gradient is missing or all zero."""
    named = [(n, p) for n, p in trial.parts.model.named_parameters() if p.requires_grad]
    return [n for n, p in named if p.grad is None or not p.grad.abs().sum() > 0]


def fit(trial: Trial, images: Tensor, target: Tensor, iterations: int, tell: bool = False) -> Fit:
    """Train on one batch until its mIoU is above ENOUGH, the iterations end, or the loss is not finite. tell: print a
    line at every tenth of the iterations."""
    found, lr, every = Fit(), trial.cfg.optim.lr, min(10, max(1, iterations // 10))
    for i in tqdm(range(1, iterations + 1), "one batch", leave=False, disable=None):
        try:
            found.losses.append(trial.step(images, target, lr)["loss"])
        except NonFiniteLoss as e:
            found.broke = str(e)
            break
        found.blind = found.blind if i > 1 else without_gradient(trial)
        if i % every == 0 or i == iterations:
            found.mious[i] = score(trial, images, target).miou()
            if tell and (i % max(every, iterations // 10) == 0 or found.mious[i] > ENOUGH):
                say(f"  iteration {i:4d}  loss {found.losses[-1]:8.4f}  mIoU {100 * found.mious[i]:6.2f} %")
            if found.mious[i] > ENOUGH:
                break
    found.dead = without_gradient(trial)
    found.ious = score(trial, images, target).iou().tolist()
    found.trained_miou = score(trial, images, target, training=True).miou()
    return found


@torch.no_grad()
def score(trial: Trial, images: Tensor, target: Tensor, training: bool = False) -> ConfusionMatrix:
    """Score one batch in eval mode. training: in training mode, with the batch's own statistics and dropout, as the
    last step saw it. Running statistics and the random state stay as they were."""
    p, confusion = trial.parts, ConfusionMatrix(trial.data.num_classes, trial.data.ignore_index)
    kept, rng = {k: v.clone() for k, v in p.model.named_buffers()}, torch.get_rng_state()
    p.model.train(training)
    with autocast(p.device, p.amp):
        logits = p.model(images.to(p.device))["out"]
    for name, buffer in p.model.named_buffers():
        buffer.copy_(kept[name])
    torch.set_rng_state(rng)
    confusion.update(logits.argmax(1), target.to(p.device))
    return confusion


def resolution_limit(model: torch.nn.Module, images: Tensor, target: Tensor, ignore_index: int) -> tuple[float, int]:
    """(the mIoU that logits at the head's resolution can reach, their stride); (1, 1) for a head at full resolution.

    Fits free logits of the head's size to the target, resized as the model resizes them. The loss is convex in them,
    so this is close to the best cross-entropy that any weights reach.
    """
    shapes, head = [], getattr(model, "head", None)
    if head is None or getattr(head, "full_size", False):
        return 1.0, 1
    handle = head.register_forward_hook(lambda m, args, out: shapes.append(out.shape))
    model.eval()
    with torch.no_grad():
        model(images)
    handle.remove()
    stride = round(images.shape[-1] / shapes[0][-1])
    if stride <= 1:
        return 1.0, 1
    free = torch.zeros(len(images), *shapes[0][1:], device=images.device, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.5)
    corners = getattr(model, "align_corners", False)
    for _ in range(100):
        optimizer.zero_grad()
        logits = resize(free, target.shape[-2:], corners)
        F.cross_entropy(logits, target, ignore_index=ignore_index).backward()
        optimizer.step()
    confusion = ConfusionMatrix(shapes[0][1], ignore_index)
    confusion.update(resize(free, target.shape[-2:], corners).argmax(1), target)
    return confusion.miou(), stride


def changes(cfg: Config) -> dict[str, list[str]]:
    """Changes to try when a config fails: description -> --set items. Leaves out what the config has already."""
    loss, optim, model = cfg.loss, cfg.optim, cfg.model
    other_loss = loss.terms or loss.options or loss.name != "cross_entropy"
    tries = (
        ("optim.lr x 10", True, [f"optim.lr={optim.lr * 10:g}"]),
        ("optim.lr / 10", True, [f"optim.lr={optim.lr / 10:g}"]),
        ("plain cross-entropy", other_loss, ["loss.name=cross_entropy"]),
        ("AdamW at 1e-3", optim.name == "sgd", ["optim.name=adamw", "optim.lr=1e-3"]),
        ("no clipping", optim.clip_norm, ["optim.clip_norm=0"]),
        ("no weight decay", optim.weight_decay > 0.01, ["optim.weight_decay=0"]),
        ("nothing frozen", model.freeze != "none", ["model.freeze=none"]),
        ("no dropout", model.options.get("dropout"), ["model.dropout=0"]),
    )
    return {words: items for words, applies, items in tries if applies}


def explain(found: Fit, tried: dict[str, Fit], limit: tuple[float, int], fitted: Fit) -> str:
    """The most likely reason, in a sentence. `fitted` is the config's own fit after as many iterations as the changes
    had."""
    first, last = found.losses[0] if found.losses else math.nan, min(found.losses, default=math.nan)
    best = max(tried, key=lambda name: tried[name].miou, default=None)
    if limit[0] <= ENOUGH and found.miou > 0.9 * limit[0]:
        return f"the head's logits have stride {limit[1]}; no such logits exceed {100 * limit[0]:.1f} % on this batch"
    if found.trained_miou > ENOUGH:
        return (
            f"it is learnt ({100 * found.trained_miou:.1f} % with the batch's own statistics) but BatchNorm's running "
            "statistics lag behind: give it more --iterations, or a larger bn_momentum"
        )
    if best is not None and (tried[best].miou > ENOUGH or tried[best].miou > fitted.miou + 0.1):
        return f"with one change, {best}, it reaches {100 * tried[best].miou:.1f} %"
    if found.broke:
        return f"{found.broke}: the learning rate is too high"
    if found.blind:
        return f"{len(found.blind)} parameters get no gradient, the first {found.blind[0]}"
    if len(found.dead) > len(found.blind):
        return f"{len(found.dead)} parameters have lost their gradient: the learning rate is too high"
    if not last < 0.98 * first:
        return f"the loss does not fall ({first:.4f} at first, {last:.4f} at best) whatever is changed"
    tail = found.losses[len(found.losses) * 3 // 4 :]
    if min(tail) <= last and tail[-1] < tail[0]:
        return f"the loss still falls (from {first:.4f} to {found.losses[-1]:.4f}): give it more --iterations"
    return f"the loss fell from {first:.4f} to {last:.4f} and stays there"


def check(cfg: Config, count: int, iterations: int) -> Fit:
    """Overfit `count` images and report progress. Raises: UserError with the reason if it fails."""
    data = training_images(cfg, augment="none")
    data = data.subset(range(min(count, len(data))))
    trial = open_trial(cfg, data, iterations, whole=True)
    images, target = (torch.stack(x) for x in zip(*[data[i] for i in range(len(data))]))
    say(describe_batch(trial, target))
    say(describe_parameters(trial))
    found = fit(trial, images, target, iterations, tell=True)
    if found.miou > ENOUGH:
        return found
    sizes = [int((target == i).sum()) for i in range(len(found.ious))]
    weakest = sorted((iou, n, name) for iou, n, name in zip(found.ious, sizes, data.class_names) if n)[:5]
    say("not reached; weakest: " + ", ".join(f"{name} {100 * iou:.0f} % of {n} pixels" for iou, n, name in weakest))
    device = trial.parts.device
    limit = resolution_limit(trial.parts.model, images.to(device), target.to(device), data.ignore_index)
    half = max(20, iterations // 2)
    fitted = Fit(mious={i: m for i, m in found.mious.items() if i <= half})
    tried: dict[str, Fit] = {}
    if limit[0] >= ENOUGH + ROOM or found.miou <= 0.9 * limit[0]:
        say(f"what would help? {half} iterations each (as it is: mIoU {100 * fitted.miou:.2f} %)")
        for words, items in changes(cfg).items():  # each change alone, from the same first weights
            other = open_trial(config_from(to_dict(cfg), items), data, iterations, whole=True)
            tried[words] = fit(other, images, target, half)
            say(f"  {words:22s} mIoU {100 * tried[words].miou:6.2f} %  {tried[words].broke}".rstrip())
    reason = explain(found, tried, limit, fitted)
    raise UserError(f"mIoU {100 * found.miou:.2f} % after {len(found.losses)} iterations on one batch: {reason}")


def main(args: argparse.Namespace) -> None:
    command.check_at_least(1, images=args.images, iterations=args.iterations)
    cfg, name = first_training(load_config(args.config, command.overrides(args)))
    if name != "run":
        say(f"cross-validation: with the keys of its first training ({name})")
    found = check(cfg, args.images, args.iterations)
    say(f"learnt: mIoU {100 * found.miou:.2f} % after {len(found.losses)} iterations; the config can learn")


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.overfit configs/unet_streets.yaml --images 4")
    p.add_argument("config", metavar="CONFIG", help="a YAML file under configs/")
    p.add_argument("--images", type=int, default=2, metavar="N", help="images in the batch; default 2")
    p.add_argument("--iterations", type=int, default=400, metavar="N", help="steps at most; default 400")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
