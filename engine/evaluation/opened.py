"""One trained network, opened for a tool: from a run, a checkpoint of ours or a public file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common import command
from common.errors import UserError
from engine import checkpoint as ckpt
from engine.config import config_from
from engine.evaluation.public import open_public
from engine.evaluation.scoring import chosen_checkpoint, networks
from engine.run_folder import newest_run, open_run, resolve_device
from models.checkpoints.known import locate


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


def add_arguments(p: argparse.ArgumentParser) -> None:
    """--run and --checkpoint."""
    p.add_argument("--run", metavar="RUN", help="run folder (default: the newest under runs/)")
    p.add_argument("--checkpoint", metavar="FILE", help="this file instead of a run: ours, or any public one")


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
