"""A training step that gives NaN or inf, in one file: `python -m tools.replay FILE` repeats it, to see where it begins.

The training loop checks the loss of every step, and the weights once an epoch; no step checks gradients or weights.
When the loss alone is bad, the weights before the step are still there. When the weights are bad already, the step that
spoilt them is found by training the epoch again from its checkpoint, with a check of every step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common import distributed
from common.errors import UserError
from engine import checkpoint as ckpt
from engine import config as config_module
from engine.evaluation.views import autocast
from engine.training import job as jobs
from engine.training.class_weighting import resolved_specs
from engine.training.job import Job, Parts, Progress
from engine.training.optim import set_lr
from engine.training.resume import LAST

FILE = "bad_step.pt"


class NonFiniteLoss(ArithmeticError):
    """A loss term is inf or nan; `parts` has all terms, by name. The loop adds the batch and the random states."""

    def __init__(self, parts: dict[str, float] | None = None) -> None:
        parts = parts or {"loss": math.nan}
        bad = ", ".join(f"{k} = {v}" for k, v in parts.items() if not math.isfinite(v))
        super().__init__(f"non-finite loss ({bad})")
        self.parts, self.batch, self.rng = parts, None, {}


@dataclass
class Before:
    """What a step starts from, beside the config. States are copies, or those of a step that changed nothing."""

    model: dict[str, Tensor]
    optimizer: dict
    scaler: dict
    rng: dict[str, Tensor]
    lr: float
    progress: dict
    images: Tensor
    target: Tensor


@dataclass
class Bad:
    """The step that is to blame."""

    before: Before
    problem: str
    names: list[str]  # of the batch
    outcome: dict  # what a repetition must give again, to the bit (see outcome_of)


def explain(
    job: Job, parts: Parts, progress: Progress, error: Exception, step: Callable, options: Callable, lr_at: Callable
) -> UserError:
    """The error for an epoch that ended in NaN or inf. The step that is to blame is written to a file, if it is found.

    progress.iteration: the step at which the loop noticed. step, options: train_step and its options (train.py).
    """
    epoch, last, per_epoch = progress.epoch + 1, progress.iteration, len(parts.loader)
    names = batch_names(job, parts, last if isinstance(error, NonFiniteLoss) else last - 1)
    problem, found = f"{error} in the batch of {', '.join(names)}", None
    if isinstance(error, ckpt.NonFinite):
        problem = str(error)
    elif not ckpt.non_finite(dict(parts.model.named_parameters())):
        found = Bad(
            before_step(parts, progress, lr_at(last), *error.batch, error.rng), problem, names, {"parts": error.parts}
        )
    if found is None and distributed.world_size() == 1:
        found = search(job, parts, last, step, options, lr_at)
        problem = found.problem if found else f"{problem} (not again when the epoch was repeated)"
    if found:
        path = job.folder / (FILE if distributed.is_main() else f"rank{distributed.rank()}-{FILE}")
        write(path, job, parts, found, job.cfg.train.epochs * per_epoch)
        problem += f"; see where it begins:  python -m tools.replay {path}"
    advice = "try a lower optim.lr or optim.clip_norm=1 in a new run"
    if (job.folder / LAST).exists():
        advice = f"{job.folder / LAST} keeps epoch {epoch - 1}; {advice}"
    return UserError(f"{job.title()}, epoch {epoch}: {problem}; {advice}")


def batch_names(job: Job, parts: Parts, iteration: int) -> list[str]:
    batches = list(parts.loader.batch_sampler)  # of the epoch that was set last
    return [job.train.names[i] for _, i, *_ in batches[iteration % len(batches)]]


def search(job: Job, spoilt: Parts, last: int, step: Callable, options: Callable, lr_at: Callable) -> Bad | None:
    """Train the epoch again from its checkpoint, up to iteration `last`, and look at gradients and weights after every
    step. Returns the first bad step; None if all is finite this time."""
    job, device = replace(job, built=None), spoilt.device  # the first network of a run has been trained on
    parts = jobs.build_parts(job, device)
    if parts.init_hash != spoilt.init_hash:  # not the same start: whatever came out would prove nothing
        return None
    progress, _ = jobs.restore(job, parts)
    parts.loader.batch_sampler.set_epoch(progress.epoch)
    parts.criterion.val_iou = parts.aux_criterion.val_iou = progress.val_iou
    parts.trained.train()
    for images, target in parts.loader:
        if progress.iteration > last:
            return None
        set_lr(parts.optimizer, lr_at(progress.iteration))
        rng = jobs.rng_states(device)
        before = before_step(parts, progress, lr_at(progress.iteration), images, target, rng)
        at, names = f"at iteration {progress.iteration}", batch_names(job, parts, progress.iteration)
        fraction = progress.iteration / (job.cfg.train.epochs * len(parts.loader))
        try:
            _, terms = step(parts.trained, images, target, parts.criterion, parts.optimizer, parts.scaler,
                            **options(job, parts), progress=fraction)  # fmt: skip
            problem, outcome = problem_after(parts.model, parts.scaler.is_enabled()), {}
        except NonFiniteLoss as e:
            problem, outcome = str(e), {"parts": e.parts}
        if problem:
            outcome = outcome or outcome_of(parts.model, terms)
            return Bad(before, f"{problem} {at} in the batch of {', '.join(names)}", names, outcome)
        progress.iteration += 1
    return None


def before_step(parts: Parts, progress: Progress, lr: float, images: Tensor, target: Tensor, rng: dict) -> Before:
    """Copies of all that the step starts from. After a forward BatchNorm's running statistics include this batch, which
    changes nothing: a training step does not read them."""
    states = copy.deepcopy((parts.optimizer.state_dict(), parts.scaler.state_dict()))
    return Before(ckpt.cpu_state(parts.model), *states, rng, lr, asdict(progress), images, target)


def problem_after(model: nn.Module, scaled: bool) -> str:
    """What is not finite after a step: a gradient or a weight, by name; "" if nothing is. A scaled gradient (fp16) may
    overflow: the scaler leaves such a step out."""
    gradients = {} if scaled else ckpt.non_finite(gradients_of(model))
    weights = ckpt.non_finite(model.state_dict())
    for what, found in (("gradient", gradients), ("weights", weights)):
        if found:
            name, count = next(iter(found.items()))
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            return f"non-finite {what} after a step ({name}: {count}{more})"
    return ""


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def outcome_of(model: nn.Module, terms: dict[str, float]) -> dict:
    """What a repetition must give again, to the bit: loss terms, and hashes of the gradients and weights."""
    hashes = {"gradients": gradients_of(model), "weights": ckpt.cpu_state(model)}
    return {"parts": terms} | {name: ckpt.state_hash(state) for name, state in hashes.items()}


def write(path: Path, job: Job, parts: Parts, bad: Bad, max_iters: int) -> None:
    before = bad.before
    content = {
        "model": before.model,
        "config": config_module.to_dict(job.cfg),
        "class_names": list(job.train.class_names),
        "palette": [list(map(int, c)) for c in job.train.palette],
        **{key: getattr(before, key) for key in ("optimizer", "scaler", "rng", "lr", "progress")},
        "images": before.images.cpu(),
        "target": before.target.cpu(),
        "teacher": teacher_logits(parts, before.images),
        "ignore_index": job.train.ignore_index,
        "names": bad.names,
        "losses": list(resolved_specs(job.cfg.loss, job.train, job.folder)),
        "max_iters": max_iters,
        "amp": str(parts.amp).removeprefix("torch.") if parts.amp else None,
        "job": job.title(),
        "problem": bad.problem,
        "outcome": bad.outcome,
        "where": {
            "device": parts.device.type, "torch": str(torch.__version__), "threads": torch.get_num_threads(),
            "processor": torch.backends.cpu.get_cpu_capability(),
        },
    }  # fmt: skip
    ckpt.save(content, path, finite=False)


@torch.no_grad()
def teacher_logits(parts: Parts, images: Tensor) -> Tensor | None:
    if parts.teacher is None:
        return None
    with autocast(parts.device, parts.amp):
        return parts.teacher(images.to(parts.device))["out"].cpu()
