"""The training loop. `train_one_epoch` is one pass over the batches; `fit` repeats it, validates and saves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import nn
from tqdm import tqdm

from common import distributed
from common.console import say, warn
from common.files import keep_before
from engine import checkpoint as ckpt
from engine.evaluation.evaluate import evaluate
from engine.evaluation.scores import excluded
from engine.evaluation.views import autocast
from engine.metrics import ConfusionMatrix, none_if_nan
from engine.training import bad_step, schedules
from engine.training.bad_step import NonFiniteLoss
from engine.training.job import Job, Parts, Progress, build_parts, member_checkpoint, restore, rng_states
from engine.training.log import Log
from engine.training.optim import set_lr
from engine.training.resume import BEFORE


def train_one_epoch(
    model: nn.Module,
    batches: Callable,  # iterator of (images (B,3,H,W) float32, target (B,H,W) int64)
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    lr_at: Callable[[int], float],
    progress: Progress,
    confusion: ConfusionMatrix,
    *,
    device: torch.device,
    amp: torch.dtype | None = None,
    clip_norm: float = 0.0,
    aux_weight: float = 0.4,
    aux_criterion: nn.Module | None = None,  # None: the criterion
    teacher: nn.Module | None = None,
    max_iters: int = 1,  # of the whole training
) -> dict[str, float]:
    """One pass over the batches; returns mean loss and its terms, weighted by images. Fills `confusion` as it goes."""
    model.train()
    sums: dict[str, float] = {}
    seen = 0
    for images, target in batches:
        set_lr(optimizer, lr_at(progress.iteration))
        rng = rng_states(device)
        try:
            logits, parts = train_step(
                model, images, target, criterion, optimizer, scaler, device=device, amp=amp, clip_norm=clip_norm,
                aux_weight=aux_weight, aux_criterion=aux_criterion or criterion, teacher=teacher,
                progress=progress.iteration / max_iters,
            )  # fmt: skip
        except NonFiniteLoss as e:
            e.args, e.batch, e.rng = (f"{e} at iteration {progress.iteration}",), (images, target), rng
            raise
        confusion.update(logits.argmax(1), target.to(device))
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value * len(images)
        seen += len(images)
        progress.iteration += 1
    return {name: value / seen for name, value in sums.items()}


def train_step(
    model: nn.Module, images: torch.Tensor, target: torch.Tensor, criterion: nn.Module,
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, *, device: torch.device, amp: torch.dtype | None,
    clip_norm: float, aux_weight: float, aux_criterion: nn.Module, teacher: nn.Module | None, progress: float,
) -> tuple[torch.Tensor, dict[str, float]]:  # fmt: skip
    """One step on one batch: forward, loss, backward, update. progress: the part of the training that is done.

    Returns the logits and the loss with its terms. Raises: NonFiniteLoss, before anything is changed.
    """
    images = images.to(device, non_blocking=True)
    target = target.to(device, non_blocking=True)
    optimizer.zero_grad(set_to_none=True)
    criterion.progress = aux_criterion.progress = progress  # weights may change with it
    with autocast(device, amp):
        out = model(images)
    loss = criterion(out["out"], target, *teach(teacher, images, amp))
    parts = {"loss": loss.detach(), **criterion.parts}
    if "aux" in out:
        aux = aux_criterion(out["aux"], target)
        loss, parts["aux"] = loss + aux_weight * aux, aux.detach()
    parts = {k: float(v) for k, v in parts.items()}
    if not all(map(math.isfinite, parts.values())):
        raise NonFiniteLoss(parts)
    scaler.scale(loss).backward()
    if clip_norm > 0:
        scaler.unscale_(optimizer)  # the norm of the true gradients, not of the scaled ones
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    return out["out"].detach(), parts


@torch.no_grad()
def teach(teacher: nn.Module | None, images: torch.Tensor, amp: torch.dtype | None) -> tuple[torch.Tensor, ...]:
    """The teacher's logits (B, C, H, W) as the extra argument of the loss; empty if there is no teacher."""
    if teacher is None:
        return ()
    with autocast(images.device, amp):
        return (teacher(images)["out"],)


def fit(job: Job, log: Log, device: torch.device) -> Progress:
    """Train a job to its end, from its last checkpoint if there is one. Writes last.pt, best.pt and log rows."""
    parts, train = build_parts(job, device), job.cfg.train
    progress, seconds = restore(job, parts)
    while not progress.finished:
        started = time.perf_counter()
        row, improved = epoch_of(job, parts, progress), False
        if progress.epoch == train.epochs or progress.epoch % train.validate_every == 0:
            improved = distributed.is_main() and validate(job, parts, progress, row)
            row, progress, improved = distributed.from_main((row, progress, improved))
        progress.finished = progress.epoch >= train.epochs or 0 < train.early_stopping <= progress.waited
        row["seconds"] = round(time.perf_counter() - started, 2)
        seconds += row["seconds"]
        say(epoch_line(job, row, improved))
        if distributed.is_main():
            save(job, parts, progress, row, seconds, improved, log)
        distributed.from_main(None)  # all processes wait until the checkpoint is on the disk
    return progress


def save(job: Job, parts: Parts, progress: Progress, row: dict, seconds: float, improved: bool, log: Log) -> None:
    """Write the log row, then best.pt, then last.pt. After a kill in between, the resumed run repeats the epoch and
    overwrites what was already written."""
    log.append(row)
    info = {"seconds": seconds, "written": time.strftime("%Y-%m-%d %H:%M:%S")}
    weights = member_checkpoint(job, parts, progress, row["val_miou"], info)
    if improved or job.cfg.train.keep == "last" or not (job.folder / "best.pt").exists():
        ckpt.save(weights, job.folder / "best.pt")
    state = {"optimizer": parts.optimizer.state_dict(), "scaler": parts.scaler.state_dict()}
    if (job.folder / "last.pt").exists():  # should a disk spoil the new file, the run goes on from this one
        keep_before(job.folder / "last.pt", job.folder / BEFORE)
    ckpt.save({**weights, **state, "rng": rng_states(parts.device)}, job.folder / "last.pt")


def step_options(job: Job, parts: Parts) -> dict:
    """What train_step needs beside network, batch, loss and optimiser."""
    return {
        "device": parts.device, "amp": parts.amp, "clip_norm": job.cfg.optim.clip_norm, "teacher": parts.teacher,
        "aux_weight": job.cfg.loss.aux_weight, "aux_criterion": parts.aux_criterion,
    }  # fmt: skip


def epoch_of(job: Job, parts: Parts, progress: Progress) -> dict:
    """Train the next epoch. Returns its log row; `validate` fills in the validation scores."""
    cfg, started, first = job.cfg, time.perf_counter(), progress.iteration
    sampler, per_epoch = parts.loader.batch_sampler, len(parts.loader)
    sampler.set_epoch(progress.epoch)
    confusion = ConfusionMatrix(job.train.num_classes, job.train.ignore_index)

    def lr_at(iteration: int) -> float:
        max_iters, drops = cfg.train.epochs * per_epoch, progress.plateau.drops
        return cfg.optim.lr * schedules.factor(cfg.schedule, iteration, max_iters, per_epoch, drops)

    parts.criterion.val_iou = parts.aux_criterion.val_iou = progress.val_iou  # class weights may follow it
    row = {"epoch": progress.epoch + 1, "fold": job.fold, "stage": job.stage, "lr": lr_at(first)}
    title, quiet = f"{job.title()} epoch {row['epoch']}/{cfg.train.epochs}", None if distributed.is_main() else True
    bar = tqdm(parts.loader, title, leave=False, disable=quiet)
    try:
        means = train_one_epoch(
            parts.trained, bar, parts.criterion, parts.optimizer, parts.scaler, lr_at, progress, confusion,
            **step_options(job, parts), max_iters=cfg.train.epochs * per_epoch,
        )  # fmt: skip
        ckpt.require_finite(parts.model.state_dict(), "weights after the epoch")  # its last step may have spoilt them
    except (NonFiniteLoss, ckpt.NonFinite) as e:
        raise bad_step.explain(job, parts, progress, e, train_step, step_options, lr_at) from None
    progress.epoch += 1
    shares = distributed.gather((means, confusion.counts, sum(len(batch) for batch in sampler)))
    means = {
        k: sum(share[0][k] for share in shares) / len(shares) for k in means
    }  # every process has the same number of images
    confusion.counts = sum(share[1] for share in shares)
    row["train_loss"], left_out = means.pop("loss"), excluded(cfg.eval.exclude, job.train.class_names)
    row |= {f"train_{k}": v for k, v in means.items()} | {"train_miou": none_if_nan(confusion.miou(exclude=left_out))}
    rate = sum(share[2] for share in shares) / (time.perf_counter() - started)
    return row | {"val_loss": None, "val_miou": None, "val_fw_iou": None, "seconds": None, "images/s": round(rate, 1)}


def validate(job: Job, parts: Parts, progress: Progress, row: dict) -> bool:
    """Write the validation scores into `row`; update plateau and early stopping. Returns True for a new best epoch.

    An epoch whose logits are NaN or inf on a validation image, or whose loss is, has no score and is no improvement.
    """
    score = evaluate(
        parts.model, parts.val_loader, job.val.num_classes, parts.device,
        ignore_index=job.val.ignore_index, void=job.cfg.eval.void, amp=parts.amp, criterion=parts.criterion,
    )  # fmt: skip
    if score.non_finite or not math.isfinite(score.loss or 0.0):
        what = f"logits of {score.non_finite} images" if score.non_finite else "loss"
        warn(f"{job.title()}, epoch {progress.epoch}: not finite on the validation images ({what}); it counts as worse")
        progress.plateau.step(math.inf, job.cfg.schedule.patience)
        progress.waited += 1
        return False
    miou = score.confusion.miou(job.cfg.eval.absent, excluded(job.cfg.eval.exclude, job.val.class_names))
    row |= {"val_loss": none_if_nan(score.loss), "val_miou": none_if_nan(miou)}
    row["val_fw_iou"] = none_if_nan(score.confusion.frequency_weighted_iou())
    progress.val_iou = score.confusion.iou().tolist()
    progress.plateau.step(score.loss, job.cfg.schedule.patience)
    if math.isnan(miou) and progress.best_miou < 0:  # no epoch has a score yet: the latest one is kept
        progress.best_epoch, progress.waited = progress.epoch, 0
        return True
    if miou > progress.best_miou:
        progress.best_miou, progress.best_epoch, progress.waited = miou, progress.epoch, 0
        return True
    progress.waited += 1
    return False


def epoch_line(job: Job, row: dict, improved: bool) -> str:
    percent = lambda x: "     -" if x is None else f"{100 * x:6.2f}"  # noqa: E731
    return (
        f"{job.title():16s} epoch {row['epoch']:3d}/{job.cfg.train.epochs}  lr {row['lr']:.2e}  "
        f"loss {row['train_loss']:.4f}  train mIoU {percent(row['train_miou'])}  val mIoU {percent(row['val_miou'])}"
        f"{' *' if improved else '  '} {row['seconds']:6.1f} s  {row['images/s']:6.1f} images/s"
    )
