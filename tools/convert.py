"""Convert a run's checkpoint to a file that another project's code can load.

python -m tools.convert runs/segformer-streets-20261121-120000/best.pt --to nvlabs --out segformer.pth
python -m tools.convert best.pt --to hf --out folder        (with config.json, for from_pretrained)
python -m tools.convert best.pt --to timm --encoder --out encoder.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from common import command
from common.console import say
from common.errors import UserError
from common.files import write_atomically, write_json
from engine import checkpoint as ckpt
from engine.config import config_from
from models.checkpoints.convert import ALIASES, container, convert, hub_config
from models.checkpoints.safetensors import write_safetensors
from models.forms import FORMS

TORCH = (".pth", ".pt", ".bin")


def main(args: argparse.Namespace) -> None:
    checkpoint, out = ckpt.load_ours(args.checkpoint), Path(args.out)
    if len(checkpoint.get("ensemble", [])) > 1:
        count = len(checkpoint["ensemble"])
        raise UserError(f"{args.checkpoint}: an ensemble of {count} networks; convert one of them, or an average")
    if out.suffix not in (".safetensors", *TORCH, ""):
        raise UserError(f"--out {out}: give a name in .pth, .pt, .bin or .safetensors, or a folder's for --to hf")
    model, names = config_from(checkpoint["config"]).model, list(checkpoint["class_names"])
    state, accept = checkpoint["model"], args.accept_differences
    found = convert(state, model.name, model.options, args.to, args.encoder, accept)
    if out.suffix in TORCH:
        content = container(found, names, checkpoint["palette"])  # the publisher's keys only, no hash of ours
        write_atomically(out, lambda f: torch.save(content, f))
    elif out.suffix == ".safetensors":
        write_safetensors(out, found.state, {"format": "pt"})
    else:
        config = hub_config(found, names)  # before anything is written: it may refuse
        write_safetensors(out / "model.safetensors", found.state, {"format": "pt"})
        write_json(out / "config.json", config)
    say(f"{found.layout.title}: {found.name}, {len(found.state)} tensors -> {out}")
    for note in found.notes:
        say(f"note: {note}")


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tools.convert", __doc__)
    p.add_argument("checkpoint", metavar="OURS.pt", help="best.pt, last.pt or aggregate/NAME.pt of a run")
    p.add_argument("--to", required=True, metavar="PUBLISHER", help=" | ".join([*ALIASES, *FORMS]))
    p.add_argument("--out", required=True, metavar="FILE", help=".pth, .pt, .bin, .safetensors; a folder for --to hf")
    p.add_argument("--encoder", action="store_true", help="the encoder alone")
    words = "write it even if their code computes something slightly different"
    p.add_argument("--accept-differences", action="store_true", help=words)
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
