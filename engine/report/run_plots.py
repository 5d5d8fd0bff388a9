"""Which plots the files of a run allow, and the caption that says how to read each."""

from __future__ import annotations

from pathlib import Path

from engine.evaluation.protocol import protocol_line
from engine.report import fold_plots, plots, probability_plots, score_plots, training_plots
from engine.report.run_results import all_labels, best_row, latest, section, shown_candidates, winners

CAPTIONS = {
    "curves": "Training on the left, validation on the right, one colour per fold; the dot is the best epoch. If a "
    "validation curve turns while the dashed training curve goes on, the network overfits. Training scores come from "
    "augmented batches while the weights still move, so at first they lie below validation.",
    "learning_rate": "The rate that the optimiser used. A jump between phases restarts the schedule, not the weights.",
    "candidates": "Left: a diamond is the score that ranks, a dot the score that is reported, a cross the same average "
    "with BatchNorm statistics averaged instead of re-estimated. The gap from cross to dot is what re-estimation is "
    "worth. Right: the difference to the best single fold; an interval that crosses 0 is no evidence of a difference.",
    "folds": "Bars are the scores that rank; the band is one standard deviation (ddof 1) around their mean. "
    "Differences smaller than the band come from the luck of the split.",
    "stages": "Each stage starts every fold from the best network of the stage before (not its ensemble). The grey bar "
    "is mean and standard deviation of the folds; what the winner has above it, averaging added.",
    "line": "Each point averages the weights of the two best folds, with BatchNorm re-estimated, on a few images. If "
    "the curve stays at or above the dashed line, both folds lie in one basin and their average works. If it sags in "
    "the middle, it does not.",
    "class_iou": "Sorted by the first candidate. Thin and rare classes (poles, signs, fences) are usually at the "
    "bottom: mIoU counts each class the same, however few pixels it has.",
    "confusion_matrix": "Read along a row: where the pixels of this class went, in percent. A bright cell off the "
    "diagonal is a pair of classes that the network confuses; a column that is bright in many rows is a class that it "
    "predicts too often.",
    "frequency_iou": "Upper right: common and easy classes. A class far below others that are as rare is hard for "
    "another reason than rarity: it is thin, transparent, or labelled inconsistently.",
    "roc": "Each class against the rest, by its softmax probability. A curve near the upper left corner ranks nearly "
    "all pixels of the class above the others. Rare classes look better here than in IoU, because false positives are "
    "divided by all other pixels, which are many.",
    "reliability": "Bars on the dashed line: of the pixels predicted with 70 % confidence, 70 % are right. Bars below "
    "the line: the network is too confident, which is usual after long training.",
    "per_image": "The mIoU of every single image. A long tail to the left is a kind of image that the network cannot "
    "handle (night, rain, a rare place) and that the sum over all pixels hides. report.html shows the worst images.",
    "samples": "Look for what the numbers hide: edges one pixel off, whole objects missed, labels that are wrong.",
}  # fmt: skip


def shown_plots(run: Path) -> dict[str, str]:
    """{name: caption} of the plots in the run's plots/, in the order in which the reports show them."""
    return {name: text for name, text in CAPTIONS.items() if (run / "plots" / f"{name}.png").is_file()}


def skipped_plots(facts: dict) -> str:
    """One line if the config asks for plots and matplotlib is missing, else an empty string."""
    return plots.SKIPPED if section(facts["config"], "log").get("plots", True) and not plots.available() else ""


def draw_plots(run: Path, facts: dict) -> None:
    """Draw the plots that a run's files allow into its plots/, in place of all earlier ones. Without matplotlib: print
    one line and draw nothing. With log.plots false: draw nothing."""
    if skipped := skipped_plots(facts):
        print(skipped, flush=True)
        return
    if not section(facts["config"], "log").get("plots", True):
        return
    folder = run / "plots"
    for name in CAPTIONS.keys() - {"samples"}:
        (folder / f"{name}.png").unlink(missing_ok=True)
    config, results = facts["config"], latest(facts)
    name = f"{config.get('name', run.name)}: {section(config, 'model').get('name', '?')}"
    draw_training(folder, name, facts)
    if results is not None:
        labels = all_labels(results)
        note = " | ".join([name, protocol_line(results["protocol"]), *([", ".join(labels)] if labels else [])])
        if "candidates" in results:
            draw_folds(folder, name, note, facts, results)
        draw_scores(folder, note, results)


def draw_training(folder: Path, name: str, facts: dict) -> None:
    if facts["log"]:
        note = f"{name} on {_data(facts)}"
        training_plots.curves(facts["log"], folder / "curves.png", note)
        training_plots.learning_rate(facts["log"], folder / "learning_rate.png", note)


def _data(facts: dict, images: str = "") -> str:
    data = section(facts["config"], "data")
    return f"{data.get('name', '?')}, {images}{'x'.join(str(v) for v in data.get('size') or ())} (H x W)"


def draw_folds(folder: Path, name: str, note: str, facts: dict, results: dict) -> None:
    split, spread = results["protocol"]["split"], (results.get("fold_mean"), results.get("fold_sd"))
    fold_plots.candidates(results["candidates"], folder / "candidates.png", note, split)
    fold_plots.folds(results["folds"], *spread, folder / "folds.png", note, split)
    if len(facts["stages"]) > 1:
        rows = [{**s, "winner": w["name"], "miou": w["miou"], "select_miou": w["select_miou"]}
                for s, w in winners(facts)]  # fmt: skip
        fold_plots.stages(rows, folder / "stages.png", note, split)
    if line := results.get("line"):
        where = _data(facts, f"{line['images']} images of {line['split']}, ")
        fold_plots.line(line, folder / "line.png", f"{name} | {where}")


def draw_scores(folder: Path, note: str, results: dict) -> None:
    best, class_names, palette = best_row(results), results["class_names"], results["palette"]
    score_plots.class_iou(class_names, palette, shown_candidates(results), folder / "class_iou.png", note)
    note = f"{best['name']} of {note}" if "name" in best else note
    score_plots.confusion(best["confusion_matrix"], class_names, folder / "confusion_matrix.png", note)
    if frequency := results.get("class_frequency"):
        score_plots.frequency_iou(frequency, best["per_class"], palette, folder / "frequency_iou.png", note)
    if best.get("roc"):
        probability_plots.roc(best["roc"], best["auc"], palette, folder / "roc.png", note)
        probability_plots.reliability(best["reliability"], best["ece"], folder / "reliability.png", note)
    if any(v is not None for v in best.get("per_image", {}).get("miou", [])):
        score_plots.per_image(best, folder / "per_image.png", note)
