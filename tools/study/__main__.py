"""Train every config of a folder, and write the table that compares them.

python -m tools.study configs/a_fine_structures
python -m tools.study configs/a_fine_structures --seeds 0 1 2 --only 0_cross_entropy 1_hybrid

train.py trains each config in a process of its own. A finished run is not trained again, an interrupted one resumes,
and a run whose config has changed since is replaced by a new one. Table and pictures go to runs/study-FOLDER/. An
optional study.json in the folder names a title, the classes in focus, methods, quoted figures, and the start of each
config (docs/studies.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common import command
from common.console import say
from common.device import resolve_device
from common.errors import UserError, unknown
from common.files import write_json
from common.spread import evenly_spaced
from common.tables import format_table
from engine import checkpoint as ckpt
from engine.evaluation.networks import chosen_checkpoint, networks
from engine.evaluation.protocol import protocol_line
from engine.report import plots
from engine.report.picture_pages import predictions_page
from engine.report.samples import predict_samples
from engine.run_folder import RUNS
from tools.study.comparison import RULE, Entry, best_of, class_names, entry, protocols, summary, validation
from tools.study.plots import accuracy_by_cost, confusion_panels, epoch_curves, roc_panels
from tools.study.runs import finished_run, run_title
from tools.study.tables import PICTURES, extras_cells, main_cells, study_page, write_csv


def main(args: argparse.Namespace) -> None:
    folder = Path(args.folder)
    configs = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not configs:
        raise UserError(f"{folder}: no configs (*.yaml) in it")
    for name in args.only:
        if name not in configs:
            raise UserError(f"{folder}: no config {name}; there are: {', '.join(configs)}")
    facts, failed, entries = read_facts(folder), [], []
    for name in [name for members in facts["families"].values() for name in members]:
        if name not in configs:
            raise unknown(f"config in {folder}/study.json, families", name, configs)
    for name in [name for name in configs if not args.only or name in args.only]:
        runs = [finished_run(folder, name, seed, facts["needs"], args) for seed in args.seeds or [None]]
        failed += [name] if None in runs else []
        if None not in runs:
            say(f"scoring {name}")
            methods, quoted = dict.fromkeys(facts["methods"].get(name, []), True), facts["quoted"].get(name, {})
            device = resolve_device(args.device or "auto")
            entries.append(entry(name, runs, device, args.extra, methods=methods, quoted=quoted))
    if entries:
        write_study(RUNS / f"study-{run_title(folder, folder)}", facts, entries, args)
    if failed:
        raise UserError(f"not finished: {', '.join(failed)} (see above); call the same command again")


def read_facts(folder: Path) -> dict:
    """The folder's study.json, with defaults for the keys it lacks; all defaults if there is none."""
    facts = {"title": folder.name, "focus": [], "methods": {}, "quoted": {}, "quoted_on": "", "needs": {}}
    facts |= {"families": {}, "cumulative": False}
    path = folder / "study.json"
    if not path.exists():
        return facts
    try:
        return facts | json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path}: not JSON: {e}") from None


def write_study(out: Path, facts: dict, entries: list[Entry], args: argparse.Namespace) -> None:
    out.mkdir(parents=True, exist_ok=True)
    protocol = protocols(entries)
    rows = summary(entries, facts["focus"])
    write_json(out / "study.json", {"title": facts["title"], "protocol": protocol, "rows": rows})
    write_csv(out / "table.csv", rows)
    say(format_table(*main_cells(rows, facts)))
    if any("mean_auc" in r for r in rows):
        say(format_table(*extras_cells(rows, facts["focus"])))
    if plots.available():
        write_plots(out, facts, entries, rows, protocol_line(protocol))
    else:
        say(plots.SKIPPED)
    write_predictions(out / "predictions.png", entries, resolve_device(args.device or "auto"), args.images)
    drawn = [name for name in PICTURES if (out / f"{name}.png").exists()]
    (out / "table.md").write_text(study_page(facts, protocol, rows, drawn), encoding="utf-8")
    say(f"written: {out}/table.md, table.csv, study.json and pictures")


def write_plots(out: Path, facts: dict, entries: list[Entry], rows: list[dict], note: str) -> None:
    """Draw every plot that the entries allow; remove plots of an earlier call that they do not allow."""
    for name in ("accuracy", "curves", "best", "roc"):
        (out / f"{name}.png").unlink(missing_ok=True)
    if points := {r["config"]: (r["gflops"], r["miou"]) for r in rows if r["miou"] is not None}:
        accuracy_by_cost(points, out / "accuracy.png", note, f"{RULE} rule")
    if single := [e for e in entries if not e.cfg.cv.folds]:
        epoch_curves({e.name: e.trained[0].log for e in single}, out / "curves.png", note)
    best = best_of(facts["families"], single)
    if len(best) > 1:
        logs = {f"{family}: {e.name}": e.trained[0].log for family, e in best.items()}
        epoch_curves(logs, out / "best.png", note, "The best of each family by epoch")
    confusion_panels({e.name: e.confusion() for e in entries}, class_names(entries[0]), out / "confusion.png", note)
    if found := {e.name: binned for e in entries if (binned := e.probabilities())}:
        roc_panels(found, facts["focus"] or class_names(entries[0]), out / "roc.png", note)


def write_predictions(path: Path, entries: list[Entry], device, images: int) -> None:
    """The predictions of every config's first run for the same validation images, side by side."""
    columns: dict = {}
    for e in entries:
        dataset, run = validation(e.cfg), e.trained[0].run
        models = networks(ckpt.load_ours(chosen_checkpoint(run)), e.cfg, dataset.num_classes, device)
        samples = predict_samples(models, e.cfg, dataset, device, evenly_spaced(len(dataset), images)).values()
        if not columns:
            columns = {"image": [s[0] for s in samples], "target": [s[1] for s in samples]}
            first = dataset
        columns[e.name] = [s[2] for s in samples]
    predictions_page(columns, first.palette, first.class_names, path, first.ignore_index)


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.study configs/a_fine_structures --seeds 0 1 2")
    p.add_argument("folder", help="the configs directly in it are run; those of subfolders are not")
    p.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="train each config with these seeds")
    words = "change a key of the starts that lie in other folders (--set changes the rows)"
    p.add_argument("--set-start", action="append", default=[], metavar="SECTION.KEY=VALUE", help=words)
    p.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these configs (file names without .yaml)")
    p.add_argument("--extra", action="store_true", help="ROC, AUC, calibration, boundary IoU, as eval.extra (slower)")
    p.add_argument("--images", type=int, default=4, metavar="N", help="images on the page of predictions")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
