"""Walk one image through a model: what every part does to it, and what that costs.

python -m tools.summary segformer_b2 --size 512 1024
python -m tools.summary deeplabv3plus_resnet50 --set form=mmseg --rule fvcore --depth 2

Indented rows belong to the row above them. A row without a name of its own is a function its part calls; a convolution
that has taken a BatchNorm in (models/inference/fold.py) is named after both. Stride: pixels of the image per pixel
here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from common.command import run
from common.errors import UserError
from engine.analysis.cost import PUBLIC_FILES, RULES, Count, count
from engine.analysis.operation_trace import Step
from engine.config.coerce import coerce_options, parse_override
from models import ENCODERS, build_model, list_models, model_options
from models.segmenter import SMALLEST

COLUMNS = ("part", "what it does", "output", "stride", "parameters", "multiply-adds")


# --- the table --------------------------------------------------------------------------------------------------------


def rows(counted: Count, size: tuple[int, int], depth: int) -> list[dict]:
    """The walk as rows, `depth` levels of parts; what lies deeper is in the numbers of its part."""
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
            single = len(inner) == 1 and inner[0].module is None  # a module that is one function: one row
            yield level, part_of(step, parent), inner[0].what if single else what_of(step), step
            if level + 1 < depth and not single:
                yield from _visit(step, level + 1, depth)


def is_idle(step: Step) -> bool:
    """Nothing to show: activations, dropout, and weights put in order."""
    if step.module is None:
        return step.name == "free" and step.what.startswith("weights")
    return not step.parameters and all(is_idle(s) for s in step.steps)


def part_of(step: Step, parent: Step) -> str:
    """A module by its path below its parent; a function by the modules whose parameters it uses."""
    names = [step.name] if step.module is not None else list(dict.fromkeys(n.rpartition(".")[0] for n in step.used))
    names = [n.removeprefix(parent.name).removeprefix(".") for n in names]
    return " + ".join(names if len(names) < 4 else [*names[:2], f"{len(names) - 2} more"])


def what_of(step: Step) -> str:
    if isinstance(step.module, nn.Sequential) and type(step.module) is nn.Sequential:
        kinds = [type(m).__name__ for m in step.module]
        return f"{len(kinds)} x {kinds[0]}" if len(set(kinds)) == 1 else " + ".join(dict.fromkeys(kinds))
    return step.what


def stride(shape: tuple[int, ...] | None, size: tuple[int, int]) -> int | None:
    """Of a map (B, C, h, w) or of tokens (B, h, w, C) relative to the image; None for other shapes."""
    for h, w in [shape[2:], shape[1:3]] if shape and len(shape) == 4 else []:
        for s in (1, 2, 4, 8, 16, 32, 64):
            if all(n in (side // s, -(-side // s)) for n, side in zip((h, w), size)):
                return s
    return None


def in_words(n: int) -> str:
    """1234567 -> 1.235 M."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= scale:
            return f"{n / scale:.3f} {unit}"
    return str(n) if n else "-"


def table(lines: list[dict]) -> str:
    cells = [COLUMNS]
    for r in lines:
        output = " x ".join(map(str, r["output"][r["output"][0] == 1 :])) if r["output"] else ""  # batch of 1 left out
        numbers = (f"{r['stride'] or ''}", f"{r['parameters']:,}" if r["parameters"] else "-")
        cells.append(("  " * r["depth"] + r["part"], r["what"], output, *numbers, in_words(r["multiply_adds"])))
    widths = [max(len(c[i]) for c in cells) for i in range(len(COLUMNS))]
    aligned = ["{:<{}}", "{:<{}}", "{:<{}}", "{:>{}}", "{:>{}}", "{:>{}}"]
    cells.insert(1, tuple("-" * w for w in widths))
    return "\n".join("  ".join(a.format(c, w) for a, c, w in zip(aligned, row, widths)).rstrip() for row in cells)


# --- the command ------------------------------------------------------------------------------------------------------


def options_of(args: argparse.Namespace) -> dict:
    """--set and --encoder, typed by the signatures that receive them."""
    given = dict(parse_override(item) for item in args.set)
    if args.encoder:
        given["encoder"] = args.encoder
    raw = {key: given[key] for key in ("encoder", "form") if key in given}
    return coerce_options(given, model_options(args.name, **raw), args.name)


def summarise(args: argparse.Namespace) -> dict:
    """What --json writes; `main` prints the same."""
    options, size = options_of(args), tuple(args.size)
    if min(size) < SMALLEST:
        raise UserError(f"--size: expected at least {SMALLEST} {SMALLEST}, got {size[0]} {size[1]}")
    if args.depth < 1:
        raise UserError(f"--depth: expected at least 1, got {args.depth}")
    if args.json and not args.json.parent.is_dir():
        raise UserError(f"--json: there is no folder {args.json.parent}")
    with torch.device("meta"):  # shapes without numbers: no model is too large
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
        "rows": rows(counted, size, args.depth),
    }
    if public:
        found["unused_in_public_file"] = {"parameters": public.unused(args.classes), "what": public.what}
    return found


def totals(found: dict) -> str:
    """The lines under the table."""
    (h, w), rule = found["size"], found["rule"]
    kinds = ", ".join(f"{kind} {in_words(n)}" for kind, n in sorted(found["by_kind"].items(), key=lambda x: -x[1]))
    lines = [
        f"{found['model']}, {found['classes']} classes, one image of {h}x{w}",
        f"parameters: {found['parameters']:,}",
        f"multiply-adds by the {rule} rule: {found['multiply_adds'] / 1e9:.3f} G ({kinds})",
        f"  {rule}: {RULES[rule]}",
    ]
    if rule != "house":
        lines[2] = lines[2].replace(" rule:", " rule, the published computation:")
        lines += [f"what ours spends, by the house rule: {found['house_multiply_adds'] / 1e9:.3f} G"]
        lines += [f"  house: {RULES['house']}"]
    if unused := found.get("unused_in_public_file"):
        whole = found["parameters"] + unused["parameters"]
        lines += [f"public file: {whole:,} parameters, of which {unused['parameters']:,} unused ({unused['what']})"]
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    found = summarise(args)
    print(table(found["rows"]), totals(found), sep="\n\n")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def build_parser() -> argparse.ArgumentParser:
    example = "python -m tools.summary segformer_b2 --size 512 512 --set form=nvlabs --rule fvcore"
    p = argparse.ArgumentParser(
        prog="python -m tools.summary", description=__doc__.splitlines()[0], epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
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
    sys.exit(run(main, build_parser()))
