"""Trained networks, opened from a run, a checkpoint of this project, or a public file."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common import command
from common.device import resolve_device
from common.errors import UserError
from common.files import file_error
from common.imagenet import MEAN, STD
from engine import checkpoint as ckpt
from engine.config import Config, config_from
from engine.evaluation.class_lists import class_names, palette
from engine.run_folder import newest_run, open_run
from models import build_model
from models.checkpoints.known import locate
from models.checkpoints.load import Report, load_container, open_container
from models.checkpoints.normalisation import PER_IMAGE, normalisation


def build_network(cfg: Config, num_classes: int) -> nn.Module:
    """The config's model, its encoder frozen where model.freeze says so."""
    model = build_model(cfg.model.name, num_classes, **cfg.model.options)
    if cfg.model.freeze == "encoder":
        if not hasattr(model, "freeze_encoder"):
            raise UserError(f"model.freeze=encoder: {cfg.model.name} is a whole network, it has no encoder")
        model.freeze_encoder()
    return model


def network(cfg: Config, num_classes: int, state: dict, device: torch.device) -> nn.Module:
    """The config's model with the weights `state`, in eval mode on the device."""
    model = build_network(cfg, num_classes)
    model.load_state_dict(state)
    return model.to(device).eval()


def networks(checkpoint: dict, cfg: Config, num_classes: int, device: torch.device) -> list[nn.Module]:
    """The network of a checkpoint of ours, or all networks of an ensemble."""
    return [network(cfg, num_classes, s, device) for s in checkpoint.get("ensemble", [checkpoint["model"]])]


def chosen_checkpoint(run: Path) -> Path:
    """best.pt of a single run; of a cross-validated one the last stage's candidate with the best select score."""
    if (run / "best.pt").exists():
        return run / "best.pt"
    stages = sorted(run.glob("stage*/results.json"), key=lambda p: int(p.parent.name.removeprefix("stage")))
    if not stages:
        raise UserError(f"{run}: nothing to use yet; go on with  python train.py --resume {run}")
    results = json.loads(stages[-1].read_text())
    return candidate_path(run, results["stage"], results["stages"], results["winner"])


def candidate_path(run: Path, stage: int, stages: int, name: str) -> Path:
    """The last stage's candidates have plain names; those before carry their stage."""
    prefix = f"stage{stage}-" if stage < stages - 1 else ""
    return run / "aggregate" / f"{prefix}{name}.pt"


@dataclass(frozen=True)
class Opened:
    """What a tool needs of a trained network."""

    network: nn.Module  # images normalised as here -> {"out": logits (B, C, H, W)}; in eval mode, on `device`
    inner: nn.Module  # the network without what turns our images into its publisher's: its parts, by their names
    path: Path
    title: str  # one line: whose, which architecture
    class_names: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    size: tuple[int, int] | None  # (H, W) it was trained at; None where the file does not say
    device: torch.device


def open_network(args: argparse.Namespace, device: str = "auto") -> Opened:
    """The network that --run and --checkpoint name; without either that of the newest run.

    device: where to, unless --device says. Raises: UserError for a file that cannot be read, and for an ensemble, which
    is not one network.
    """
    if args.run and args.checkpoint:
        raise UserError("give --run or --checkpoint, not both")
    path = locate(args.checkpoint) if args.checkpoint else chosen_checkpoint(run_of(args))
    place = resolve_device(args.device or device)
    if not ckpt.is_ours(path) and args.checkpoint:
        public = open_public(path)
        network, report = public.network.to(place), public.report
        title = f"{report.architecture} ({report.layout})"
        names, palette = tuple(public.class_names), public.palette
        return Opened(network, network.model, path, title, names, palette, None, place)
    checkpoint = ckpt.load_ours(path)
    cfg = config_from(checkpoint["config"], command.overrides(args))
    members = networks(checkpoint, cfg, len(checkpoint["class_names"]), place)
    if len(members) > 1:
        raise UserError(f"checkpoint {path}: an ensemble of {len(members)} networks; name one of them by --checkpoint")
    palette = [tuple(colour) for colour in checkpoint["palette"]]
    names = tuple(checkpoint["class_names"])
    return Opened(members[0], members[0], path, cfg.model.name, names, palette, tuple(cfg.data.size), place)


def run_of(args: argparse.Namespace) -> Path:
    return open_run(args.run) if args.run else newest_run()


@dataclass(frozen=True)
class Public:
    """A public file as these commands use it."""

    network: nn.Module  # images normalised as here -> {"out": logits (B, num_classes, H, W)}, in eval mode
    num_classes: int
    class_names: tuple[str, ...]  # "class 0", .. where nothing tells them
    palette: list[tuple[int, int, int]]
    report: Report
    note: str  # where the names are from


def open_public(path: str | Path) -> Public:
    """Raises: UserError for what cannot be read, is of no known layout, or is an encoder, which segments nothing."""
    container, words = open_container(path)
    model, report = load_container(container, words, path)
    if report.num_classes is None:
        problem = f"an encoder ({report.layout}, {report.architecture}), it segments nothing"
        raise file_error(path, f"{problem}; train a head on it with model.pretrained")
    count = max(report.num_classes, 2)  # one channel: the class against everything else
    names, origin = class_names(container.meta, count)
    return Public(
        network=AsPublished(model, normalisation(report.options["form"], words)).eval(),
        num_classes=count,
        class_names=names or tuple(f"class {i}" for i in range(count)),
        palette=palette(container.meta, count),
        report=report,
        note=origin or "not in the file",
    )


class AsPublished(nn.Module):
    """Images normalised as in this house -> as the publisher's network expects them -> its logits.

    A network with one channel of logits z says by sigmoid(z) > 0.5 whether a pixel is its class: the same as two
    channels (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)). Shapes: (B, 3, H, W) -> (B, max(C, 2), H, W).
    """

    def __init__(self, model: nn.Module, wanted) -> None:
        super().__init__()
        self.model, self.per_image = model, wanted is PER_IMAGE
        mean, std = ((0.0,) * 3, (1.0,) * 3) if self.per_image else wanted
        scale = [ours / theirs for ours, theirs in zip(STD, std)]
        shift = [(ours - theirs) / s for ours, theirs, s in zip(MEAN, mean, std)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)
        self.same = not self.per_image and (mean, std) == (MEAN, STD)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.per_image:  # whatever scale and shift the images come with fall out
            std, mean = torch.std_mean(images, (2, 3), correction=0, keepdim=True)
            images = (images - mean) / std.clamp(min=1e-6)
        elif not self.same:
            images = images * self.scale + self.shift
        logits = self.model(images)["out"]
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)  # (B, 2, H, W)
        return {"out": logits}
