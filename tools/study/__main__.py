"""Run, or go on with, every config of a folder, and write the table that compares them.

python -m tools.study configs/a_fine_structures
python -m tools.study configs/a_fine_structures --seeds 0 1 2 --only 0_cross_entropy 1_hybrid

Each config is trained by train.py in a process of its own; a run that is finished is not trained again, one that was
interrupted goes on, one whose config has changed since is made anew. The table and its pictures stand in
runs/study-FOLDER/. `study.json` in the folder may say more about it: "title", "focus" (classes whose mean is compared
too), "methods" {config: [what it has on]}, "quoted" {config: {"miou", "per_class"}}, "quoted_on" (which data),
"families" {name: [configs]} (the best of each are drawn in one plot), "cumulative" (true: each row adds to the one
above), and "needs" {config: {key: other config}}: the key is the checkpoint of the other's run, as in
{"2_fine_tuned": {"model.pretrained": "1_cityscapes"}}. The other is of the same folder and seed, or of another folder
("start/segformer_b0", "../start/fcn"): then it is no row of the table, and trained once with its own seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
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
from engine.config import differences, load_config
from engine.evaluation.networks import chosen_checkpoint, networks
from engine.evaluation.protocol import protocol_line
from engine.report import plots
from engine.report.picture_pages import predictions_page
from engine.report.run_results import latest, read_run
from engine.report.samples import predict_samples
from engine.run_folder import RUNS
from tools.study.comparison import RULE, Entry, best_of, class_names, entry, protocols, summary, validation
from tools.study.plots import confusions, curves, rocs, scatter
from tools.study.tables import PICTURES, extras_table, main_table, markdown, write_csv

TRAIN = Path(__file__).parents[2] / "train.py"
MAY_DIFFER = ("name", "device", "train.workers")


def main(args: argparse.Namespace) -> None:
    folder = Path(args.folder)
    configs = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not configs:
        raise UserError(f"{folder}: no configs (*.yaml) in it")
    for name in args.only:
        if name not in configs:
            raise UserError(f"{folder}: no config {name}; there are: {', '.join(configs)}")
    names = [name for name in configs if not args.only or name in args.only]
    facts, failed, entries = read_facts(folder), [], []
    for name in [name for members in facts["families"].values() for name in members]:
        if name not in configs:
            raise unknown(f"config in {folder}/study.json, families", name, configs)
    for name in names:
        runs = [train(folder, name, seed, facts["needs"], args) for seed in args.seeds or [None]]
        failed += [name] if None in runs else []
        if None not in runs:
            say(f"scoring {name}")
            more = {
                "methods": dict.fromkeys(facts["methods"].get(name, []), True),
                "quoted": facts["quoted"].get(name, {}),
            }
            entries.append(entry(name, runs, resolve_device(args.device or "auto"), args.extra, **more))
    if entries:
        write(RUNS / f"study-{title(folder, folder)}", facts, entries, args)
    if failed:
        raise UserError(f"not finished: {', '.join(failed)} (see above); call the same command again")


def read_facts(folder: Path) -> dict:
    """study.json of the folder, with every key there; an empty one if it has none."""
    facts = {"title": folder.name, "focus": [], "methods": {}, "quoted": {}, "quoted_on": "", "needs": {}}
    facts |= {"families": {}, "cumulative": False}
    path = folder / "study.json"
    if not path.exists():
        return facts
    try:
        return facts | json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path}: not JSON: {e}") from None


# --- training ---------------------------------------------------------------------------------------------------------


def train(folder: Path, name: str, seed: int | None, needs: dict, args: argparse.Namespace) -> Path | None:
    """The finished run of a config, and of what it needs before; None where train.py failed."""
    config, apart = folder / f"{name}.yaml", "/" in name
    seed = None if apart else seed
    run_name = f"study-{title(config, folder)}" + ("" if seed is None else f"-seed{seed}")
    sets = command.overrides(argparse.Namespace(set=args.set_start if apart else args.set, device=args.device))
    sets += [] if seed is None else [f"seed={seed}"]
    for key, other in needs.get(name, {}).items():
        if not (folder / f"{other}.yaml").exists():
            raise UserError(f"study.json: {name} needs {other}, and there is no {folder / other}.yaml")
        before = train(folder, other, seed, needs, args)
        if before is None:
            return None
        sets.append(f"{key}={chosen_checkpoint(before)}")
    run = newest(run_name)
    if run is not None and changed(run, config, sets):
        say(f"{name}: the config differs from {run}'s, training anew")
        run = None
    if run is None or latest(read_run(run)) is None:
        words = ["--resume", str(run)] if run else [str(config), "--name", run_name]
        for item in [] if run else sets:
            words += ["--set", item]
        say(f"python train.py {' '.join(words)}")
        if subprocess.run([sys.executable, str(TRAIN), *words]).returncode != 0:
            return None
        run = newest(run_name)
    return run


def title(path: Path, folder: Path) -> str:
    """The way from configs/ to a config, joined by dashes: c_pets-full-fcn_frozen; from the folder's parent where
    there is no configs/ above. Two studies that share a start give it one title, and train it once."""
    path = Path(os.path.normpath(path.absolute()))
    base = next((p for p in path.parents if p.name == "configs"), folder.absolute().parent)
    return "-".join(Path(os.path.relpath(path.with_suffix(""), base)).parts)


def newest(title: str) -> Path | None:
    """The last run folder of this name: runs/<title>-<date>-<time>."""
    runs = [p.parent for p in RUNS.glob(f"{title}-[0-9]*/config.yaml")]
    runs = [p for p in runs if p.name.removeprefix(f"{title}-").replace("-", "").isdigit()]
    return max(runs, key=lambda p: (p / "config.yaml").stat().st_mtime, default=None)


def changed(run: Path, path: Path, sets: list[str]) -> list[str]:
    return differences(load_config(run / "config.yaml"), load_config(path, sets), but=MAY_DIFFER)


# --- the table --------------------------------------------------------------------------------------------------------


def write(out: Path, facts: dict, entries: list[Entry], args: argparse.Namespace) -> None:
    out.mkdir(parents=True, exist_ok=True)
    protocol = protocols(entries)
    rows = summary(entries, facts["focus"])
    write_json(out / "study.json", {"title": facts["title"], "protocol": protocol, "rows": rows})
    write_csv(out / "table.csv", rows)
    say(format_table(*main_table(rows, facts)))
    if any("mean_auc" in r for r in rows):
        say(format_table(*extras_table(rows, facts["focus"])))
    if plots.available():
        write_plots(out, facts, entries, rows, protocol_line(protocol))
    else:
        say(plots.SKIPPED)
    write_predictions(out / "predictions.png", entries, resolve_device(args.device or "auto"), args.images)
    drawn = [name for name in PICTURES if (out / f"{name}.png").exists()]
    (out / "table.md").write_text(markdown(facts, protocol, rows, drawn), encoding="utf-8")
    say(f"written: {out}/table.md, table.csv, study.json and pictures")


def write_plots(out: Path, facts: dict, entries: list[Entry], rows: list[dict], note: str) -> None:
    """Every plot that the entries allow; one of an earlier call that they do not is removed."""
    for name in ("accuracy", "curves", "best", "roc"):
        (out / f"{name}.png").unlink(missing_ok=True)
    if points := {r["config"]: (r["gflops"], r["miou"]) for r in rows if r["miou"] is not None}:
        scatter(points, out / "accuracy.png", note, f"{RULE} rule")
    single = [e for e in entries if not e.cfg.cv.folds]
    if single:
        curves({e.name: e.trained[0].log for e in single}, out / "curves.png", note)
    best = best_of(facts["families"], single)
    if len(best) > 1:
        logs = {f"{family}: {e.name}": e.trained[0].log for family, e in best.items()}
        curves(logs, out / "best.png", note, "The best of each family by epoch")
    confusions({e.name: e.confusion() for e in entries}, class_names(entries[0]), out / "confusion.png", note)
    found = {e.name: e.probabilities() for e in entries}
    found = {name: probabilities for name, probabilities in found.items() if probabilities}
    if found:
        rocs(found, facts["focus"] or class_names(entries[0]), out / "roc.png", note)


def write_predictions(path: Path, entries: list[Entry], device, images: int) -> None:
    """The same validation images through the first run of every config, side by side."""
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
    p = command.parser(__doc__.splitlines()[0], "python -m tools.study configs/a_fine_structures --seeds 0 1 2")
    p.add_argument("folder", help="the configs directly in it are run; those of subfolders are not")
    p.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="train each config with these seeds")
    p.add_argument(
        "--set-start", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change a key of the starts that lie in other folders (--set changes the rows)",
    )  # fmt: skip
    p.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these configs (file names without .yaml)")
    p.add_argument("--extra", action="store_true", help="ROC, AUC, calibration, boundary IoU, as eval.extra (slower)")
    p.add_argument("--images", type=int, default=4, metavar="N", help="images on the page of predictions")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
