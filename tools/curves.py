"""Draw loss and mIoU of several runs by epoch into one plot.

python -m tools.curves runs/scratch-20261121-094154 runs/fine-tuned-20261121-094154 --out curves.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import command
from common.console import say
from common.errors import UserError
from engine.evaluation.protocol import protocol_line
from engine.report import plots
from engine.report.run_results import latest, read_run
from engine.run_folder import open_run
from tools.study.plots import epoch_curves


def main(args: argparse.Namespace) -> None:
    if not plots.available():
        raise UserError(plots.SKIPPED)
    facts = {str(run): read_run(open_run(run)) for run in args.runs}
    names = args.names or [fact["config"].get("name", run) for run, fact in facts.items()]
    if len(set(names)) != len(facts):
        raise UserError(f"{len(facts)} runs need as many different --names, got {', '.join(names)}")
    results = latest(next(iter(facts.values())))
    note = protocol_line(results["protocol"]) if results else ""
    say(f"written: {epoch_curves(dict(zip(names, (f['log'] for f in facts.values()))), Path(args.out), note)}")


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tools.curves", __doc__)
    p.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    p.add_argument("--names", nargs="+", metavar="NAME", help="what to call them (default: their configs' names)")
    p.add_argument("--out", default="curves.png", metavar="FILE", help="the picture (default: curves.png)")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
