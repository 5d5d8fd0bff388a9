"""Public checkpoints by id: list the known ones, download one, and report what a file is.

python -m tools.pretrained --list
python -m tools.pretrained --layouts
python -m tools.pretrained torchvision/resnet18-f37072fd
python -m tools.pretrained FILE_OR_URL
"""

from __future__ import annotations

import argparse
import sys

from common import command
from common.console import say
from common.errors import UserError
from common.tables import format_table
from models.checkpoints.known import KNOWN, Known, locate
from models.checkpoints.layouts import LAYOUTS
from models.checkpoints.load import load_public


def main(args: argparse.Namespace) -> None:
    if args.list:
        say(list_files())
    elif args.layouts:
        say(list_layouts())
    elif args.source:
        path = locate(args.source)
        say(f"{'file':15s} {path}\n{load_public(path, weights=args.weights)[1]}")
    else:
        raise UserError("give an id, a file or a URL, or --list or --layouts")


def list_files() -> str:
    """One line per file, by publisher: id, architecture, classes, layout, hash, licence, source."""
    rows = []
    for known in KNOWN.values():
        source = f"by hand: {known.url} -> {known.path.name}" if known.manual else known.url
        classes = "encoder" if known.classes is None else str(known.classes)
        layout, prefix = layout_of(known) or "-", known.sha256_prefix or "-"
        rows.append((known.id, known.architecture, classes, layout, prefix, known.licence, source))
    return format_table(rows, ["id", "architecture", "classes", "layout", "sha256", "licence", "from"])


def layout_of(known: Known) -> str | None:
    """The title of a known file's layout."""
    for layout in LAYOUTS:
        fits = layout.form == known.form and layout.encoder == (known.classes is None)
        if fits and known.architecture in layout.names:
            return layout.title
    return None


def list_layouts() -> str:
    """One line per layout: publisher, networks, and the keys it is recognised by."""
    rows = [(layout.title, layout.form, ", ".join(layout.names), ", ".join(layout.marks)) for layout in LAYOUTS]
    return format_table(rows, ["layout", "form", "networks", "recognised by"])


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tools.pretrained", __doc__)
    p.add_argument("source", nargs="?", metavar="ID", help="a known id, a file or a URL: download and describe it")
    command.add_weights(p)
    p.add_argument("--list", action="store_true", help="all known public files")
    p.add_argument("--layouts", action="store_true", help="all layouts of files that can be read")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
