"""Show what every part of a model does to an image, and what that costs in parameters and multiply-adds.

python -m tools.summary segformer_b2 --size 512 1024
python -m tools.summary deeplabv3plus_resnet50 --set form=mmseg --rule fvcore --depth 2

Indented rows belong to the row above them. A row with an empty name is a function that its part calls; a convolution
with a BatchNorm folded into it has the names of both. Stride: pixels of the image per pixel of the map.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from common import command
from common.tables import format_table
from engine.analysis.cost import PUBLIC_FILES, RULES, Count, count
from engine.analysis.operation_trace import Step
from engine.config.coerce import coerce_options, parse_override
from models import ENCODERS, build_model, list_models, model_options
from models.segmenter import SMALLEST

COLUMNS = ("part", "what it does", "output", "stride", "parameters", "multiply-adds")


def part_rows(counted: Count, size: tuple[int, int], depth: int) -> list[dict]:
    """One row per part, `depth` levels deep; the numbers of a part include everything in it."""
    return [
        {
            "depth": level,
            "part": part,
            "what": what,
            "output": list(step.shape) if step.shape else None,
            "stride": stride(step.shape, size),
            "parameters": step.parameters,
            "multiply_adds": counted.total(step),
        }
        for level, part, what, step in _visit(counted.steps, 0, depth)
    ]


def _visit(parent: Step, level: int, depth: int) -> Iterator[tuple[int, str, str, Step]]:
    for step in parent.steps:
        if not is_idle(step):
            inner = [s for s in step.steps if not is_idle(s)]
            single = len(inner) == 1 and inner[0].module is None  # a module that calls one function is one row
            yield level, part_of(step, parent), inner[0].what if single else what_of(step), step
            if level + 1 < depth and not single:
                yield from _visit(step, level + 1, depth)


def is_idle(step: Step) -> bool:
    """Whether there is nothing to show: activations, dropout, and weights that are only reshaped."""
    if step.module is None:
        return step.name == "free" and step.what.startswith("weights")
    return not step.parameters and all(is_idle(s) for s in step.steps)


def part_of(step: Step, parent: Step) -> str:
    """A module's path below its parent; for a function the modules whose parameters it uses."""
    names = [step.name] if step.module is not None else list(dict.fromkeys(n.rpartition(".")[0] for n in step.used))
    names = [n.removeprefix(parent.name).removeprefix(".") for n in names]
    return " + ".join(names if len(names) < 4 else [*names[:2], f"{len(names) - 2} more"])


def what_of(step: Step) -> str:
    if isinstance(step.module, nn.Sequential) and type(step.module) is nn.Sequential:
        kinds = [type(m).__name__ for m in step.module]
        return f"{len(kinds)} x {kinds[0]}" if len(set(kinds)) == 1 else " + ".join(dict.fromkeys(kinds))
    return step.what


def stride(shape: tuple[int, ...] | None, size: tuple[int, int]) -> int | None:
    """Pixels of the image per pixel of a map (B, C, h, w) or tokens (B, h, w, C); None for other shapes."""
    for h, w in [shape[2:], shape[1:3]] if shape and len(shape) == 4 else []:
        for s in (1, 2, 4, 8, 16, 32, 64):
            if all(n in (side // s, -(-side // s)) for n, side in zip((h, w), size)):
                return s
    return None


def with_unit(n: int) -> str:
    """1234567 -> 1.235 M."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= scale:
            return f"{n / scale:.3f} {unit}"
    return str(n) if n else "-"


def part_table(rows: list[dict]) -> str:
    cells = []
    for r in rows:
        output = " x ".join(map(str, r["output"][r["output"][0] == 1 :])) if r["output"] else ""  # without a batch of 1
        numbers = [r["stride"] or "", f"{r['parameters']:,}" if r["parameters"] else "-", with_unit(r["multiply_adds"])]
        cells.append(["  " * r["depth"] + r["part"], r["what"], output, *numbers])
    return format_table(cells, COLUMNS)


def options_of(args: argparse.Namespace) -> dict:
    """--set and --encoder, with the types of the parameters that receive them."""
    given = dict(parse_override(item) for item in args.set) | ({"encoder": args.encoder} if args.encoder else {})
    raw = {key: given[key] for key in ("encoder", "form") if key in given}
    return coerce_options(given, model_options(args.name, **raw), args.name)


def summarise(args: argparse.Namespace) -> dict:
    """The content of --json, which `main` prints too."""
    options, size = options_of(args), tuple(args.size)
    command.check_at_least(SMALLEST, size=size)
    command.check_at_least(1, depth=args.depth)
    if args.json:
        command.check_output("--json", args.json)
    with torch.device("meta"):  # shapes without numbers, so no model is too large
        model = build_model(args.name, args.classes, **options)
    public = PUBLIC_FILES.get((args.name, options.get("form")))
    counted = count(model, size, args.rule, public.blind if public else "")
    found = {
        "model": args.name,
        "options": options,
        "classes": args.classes,
        "size": list(size),
        "rule": args.rule,
        "parameters": counted.steps.parameters,
        "multiply_adds": counted.total(),
        "by_kind": counted.by_kind(),
        "house_multiply_adds": count(model, size).total(),
        "rows": part_rows(counted, size, args.depth),
    }
    if public:
        found["unused_in_public_file"] = {"parameters": public.unused(args.classes), "what": public.what}
    return found


def totals(found: dict) -> str:
    """The lines below the table."""
    (h, w), rule = found["size"], found["rule"]
    kinds = ", ".join(f"{kind} {with_unit(n)}" for kind, n in sorted(found["by_kind"].items(), key=lambda x: -x[1]))
    lines = [
        f"{found['model']}, {found['classes']} classes, one image of {h}x{w}",
        f"parameters: {found['parameters']:,}",
        f"multiply-adds by the {rule} rule: {found['multiply_adds'] / 1e9:.3f} G ({kinds})",
        f"  {rule}: {RULES[rule]}",
    ]
    if rule != "house":
        lines[2] = lines[2].replace(" rule:", " rule, the published computation:")
        lines += [f"what our code spends, by the house rule: {found['house_multiply_adds'] / 1e9:.3f} G"]
        lines += [f"  house: {RULES['house']}"]
    if unused := found.get("unused_in_public_file"):
        whole = found["parameters"] + unused["parameters"]
        lines += [f"public file: {whole:,} parameters, of which {unused['parameters']:,} unused ({unused['what']})"]
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    found = summarise(args)
    print(part_table(found["rows"]), totals(found), sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tools.summary", __doc__)
    p.add_argument("name", metavar="NAME", help=f"one of: {', '.join(list_models())}")
    p.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="pixels; default 512 512")
    p.add_argument("--classes", type=int, default=19, metavar="N", help="default 19")
    p.add_argument("--rule", choices=list(RULES), default="house", help="how multiply-adds are counted; default house")
    p.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="an option; repeatable")
    p.add_argument("--encoder", metavar="NAME", help=f"for a bare head; one of: {', '.join(ENCODERS)}")
    p.add_argument("--depth", type=int, default=3, metavar="N", help="levels of parts to show; default 3")
    p.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
