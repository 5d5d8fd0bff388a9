"""Repeat a training step that gave NaN or inf, and say where the first one appears: which module, in which direction.

python -m tools.replay runs/unet-streets-20261121-120000/bad_step.pt

train.py writes the file when a loss, a gradient or a weight is not finite: the batch, the weights before the step, the
random states. The step runs on the CPU. A step that was recorded on a CPU gives the same bits again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from common import command
from common.console import say
from common.errors import UserError
from engine import checkpoint as ckpt
from engine.config import config_from
from engine.evaluation.networks import build_network
from engine.training.bad_step import NonFiniteLoss, outcome_of, problem_after
from engine.training.optim import build_optimizer, load_state, set_lr
from engine.training.train import train_step
from losses import build_loss

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Stands for the teacher of a distillation: gives the logits that were recorded."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.logits}


def main(args: argparse.Namespace) -> None:
    recorded = read(args.file)
    where = recorded["where"]
    torch.set_num_threads(where["threads"])
    say(f"{args.file}: {recorded['job']}, epoch {recorded['progress']['epoch'] + 1}")
    say(f"recorded   {recorded['problem']}")
    first, problem, outcome = replay(recorded)
    say(f"repeated   {problem or 'all is finite'}")
    say(f"first      {first or 'no NaN or inf appeared'}")
    different = [key for key, value in recorded["outcome"].items() if repr(outcome.get(key)) != repr(value)]
    if different:
        here = {"device": "cpu", "torch": str(torch.__version__), "processor": torch.backends.cpu.get_cpu_capability()}
        reasons = [f"{key} {where.get(key)}, here {value}" for key, value in here.items() if where.get(key) != value]
        because = f": recorded with {', '.join(reasons)}" if reasons else ""
        raise UserError(f"{args.file}: not the same bits as recorded ({', '.join(different)} differ){because}")
    say(f"the same bits as recorded: {', '.join(recorded['outcome'])}")


def read(path: str | Path) -> dict:
    """Raises: UserError for a file that train.py did not write for a bad step."""
    recorded = ckpt.load(path)
    wanted = "model config class_names optimizer scaler rng lr progress images target teacher losses outcome where"
    if missing := [key for key in wanted.split() if key not in recorded]:
        raise UserError(f"{path}: not the file of a bad step (no {', '.join(missing[:3])})")
    return recorded


def replay(recorded: dict) -> tuple[str, str, dict]:
    """Run the step. Returns where the first NaN or inf appeared ("": nowhere), the problem, and the step's outcome."""
    cfg, classes = config_from(recorded["config"]), len(recorded["class_names"])
    model = build_network(cfg, classes)
    model.load_state_dict(recorded["model"])
    optimizer = build_optimizer(model, cfg.optim)
    load_state(optimizer, recorded["optimizer"], model, cfg.optim)
    scaler = torch.amp.GradScaler("cpu", enabled=bool(recorded["scaler"]))
    scaler.load_state_dict(recorded["scaler"])
    criterion, aux = (build_loss(spec, classes, recorded["ignore_index"]) for spec in recorded["losses"])
    criterion.val_iou = aux.val_iou = recorded["progress"]["val_iou"]
    before = set(ckpt.non_finite(model.state_dict()))  # running statistics that the bad batch is part of
    model.train()
    set_lr(optimizer, recorded["lr"])
    torch.set_rng_state(recorded["rng"]["cpu"])
    with ExitStack() as stack:
        seen = watch(model, recorded["images"], stack)
        try:
            _, terms = train_step(
                model, recorded["images"], recorded["target"], criterion, optimizer, scaler, device=CPU,
                amp=getattr(torch, recorded["amp"]) if recorded["amp"] else None, clip_norm=cfg.optim.clip_norm,
                aux_weight=cfg.loss.aux_weight, aux_criterion=aux,
                teacher=None if recorded["teacher"] is None else Fixed(recorded["teacher"]),
                progress=recorded["progress"]["iteration"] / recorded["max_iters"],
            )  # fmt: skip
        except NonFiniteLoss as e:
            bad = next(name for name in [*list(e.parts)[1:], "loss"] if not abs(e.parts[name]) < float("inf"))
            return (seen or [f"forward: the loss ({bad}); all logits are finite"])[0], str(e), {"parts": e.parts}
    after = [name for name in ckpt.non_finite(model.state_dict()) if name not in before]
    seen += [f"update: {name}, from finite gradients" for name in after]
    return (seen or [""])[0], problem_after(model, scaler.is_enabled()), outcome_of(model, terms)


def watch(model: nn.Module, images: Tensor, stack: ExitStack) -> list[str]:
    """Listen to all modules until `stack` closes. The list gets one line for each NaN or inf, in their order."""
    seen = [f"input: the images ({count})" for count in bad_values(images)]

    def forward(module: nn.Module, args: tuple, out: object, name: str) -> None:
        title = f"{name or 'the network'} ({type(module).__name__})"
        for value in tensors(out):
            inputs = [x for x in tensors(args) if x.numel()]
            largest = max((x.detach().abs().max().item() for x in inputs), default=0.0)
            seen.extend(f"forward: {title}, {count}; its largest input is {largest:.3g}" for count in bad_values(value))
            if value.requires_grad:
                value.register_hook(lambda g: backward(g, f"gradient at the output of {title}"))

    def backward(gradient: Tensor, what: str) -> None:
        seen.extend(f"backward: {what}, {count}" for count in bad_values(gradient))

    for name, module in model.named_modules():
        hook = lambda m, args, out, name=name: forward(m, args, out, name)  # noqa: E731
        stack.callback(module.register_forward_hook(hook).remove)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            hook = lambda g, name=name: backward(g, f"gradient of {name}")  # noqa: E731
            stack.callback(weight.register_hook(hook).remove)
    return seen


def tensors(value: object) -> Iterator[Tensor]:
    """The floating tensors in what a module takes or gives."""
    if isinstance(value, Tensor) and value.is_floating_point():
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)


def bad_values(value: Tensor) -> list[str]:
    """[how many values are NaN or inf], [] if none is."""
    return list(ckpt.non_finite({"": value.detach()}).values())


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tools.replay", __doc__)
    p.add_argument("file", metavar="FILE", help="bad_step.pt, which train.py writes into the folder of a run")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
