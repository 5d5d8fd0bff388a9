"""Which plots a run's files allow, and the caption that teaches how to read each."""

from __future__ import annotations

from pathlib import Path

from engine.evaluation.protocol import describe
from engine.report import plots, probability_plots, score_plots
from engine.report.run_results import best_row, latest, section, shown_candidates, winners
from engine.report.tables import all_labels

CAPTIONS = {
    "curves": "Training left, validation right; one colour a fold, the dot is its best epoch. A validation curve that "
    "turns while the dashed training curve goes on is overfitting. Training scores come from augmented batches while "
    "the weights still move, so at first they lie below validation.",
    "learning_rate": "What the optimiser was given. A jump between phases restarts the schedule, not the weights.",
    "candidates": "Left: a diamond ranks, a dot is reported, a cross is the same average with BatchNorm statistics "
    "averaged too instead of re-estimated: the gap from cross to dot is what re-estimation is worth. Right: the "
    "difference to the best single fold; an interval that crosses 0 is no evidence of a difference.",
    "folds": "Bars rank; the band is one standard deviation (ddof 1) around the mean. Differences between folds that "
    "are smaller than the band are luck of the split.",
    "stages": "Each stage starts every fold from the best network of the one before (not its ensemble). "
    "The grey bar is mean and standard deviation of the folds; a winner above it is what averaging added.",
    "line": "Each point is an average of the two best folds' weights, BatchNorm re-estimated, on a few images. A curve "
    "at or above the dashed line: both lie in one basin and may be averaged. A sag in the middle: they may not.",
    "class_iou": "Sorted by the first candidate. Thin and rare things (poles, signs, fences) usually stand at the "
    "bottom: mIoU counts each class the same, however few pixels it has.",
    "confusion_matrix": "Read along a row: of all pixels of this class, how many percent went where. A bright cell off "
    "the diagonal names the pair to work on; a column that is bright in many rows is a class predicted too often.",
    "frequency_iou": "Right and high: common and easy. A class far below others that are as rare is hard for another "
    "reason than rarity: thin, see-through, or labelled inconsistently.",
    "roc": "Each class against the rest, from its softmax probability: a curve near the upper left corner ranks nearly "
    "all of its pixels above the others. Rare classes look better here than in IoU: false positives are divided by all "
    "the other pixels, which are many.",
    "reliability": "Bars on the dashed line: of the pixels predicted with 70 % confidence, 70 % are right. Bars below "
    "it: the network is surer than it should be, which is the rule after long training.",
    "per_image": "Every image by itself: a long tail to the left is a kind of image that the network cannot do (night, "
    "rain, a rare place), which the sum over all pixels hides. The worst ones stand in report.html.",
    "samples": "Look for what the numbers hide: edges one pixel off, whole objects missed, labels that are wrong.",
}  # fmt: skip


def pictures(run: Path, drawn: list[str]) -> list[str]:
    """The plots that exist, each with its caption."""
    if (run / "plots" / "samples.png").is_file():
        drawn = [*drawn, "samples"]
    out = ["## Plots"] if drawn else []
    for name in drawn:
        title = name.replace("_", " ")
        out.append(f"![{title}](plots/{name}.png)")
        out.append(f"*{title}.* {CAPTIONS[name]}")
    return out


def draw_plots(run: Path, facts: dict) -> list[str]:
    """Draw what the files allow into plots/; returns the names. One line is printed where matplotlib is missing."""
    if not section(facts["config"], "log").get("plots", True):
        return []
    if not plots.available():
        print(plots.SKIPPED, flush=True)
        return []
    config, results, folder, drawn = facts["config"], latest(facts), run / "plots", []
    data = section(config, "data")
    size = "x".join(str(v) for v in data.get("size") or ())
    name = f"{config.get('name', run.name)}: {section(config, 'model').get('name', '?')}"

    def draw(kind: str, function, *args, note: str, **options) -> None:
        function(*args, folder / f"{kind}.png", note, **options)
        drawn.append(kind)

    if facts["log"]:
        note = f"{name} on {data.get('name', '?')}, {size} (H x W)"
        draw("curves", plots.curves, facts["log"], note=note)
        draw("learning_rate", plots.learning_rate, facts["log"], note=note)
    if results is None:
        return drawn
    note, split = f"{name} | {describe(results['protocol'])}", results["protocol"]["split"]
    best = best_row(results)
    if "candidates" in results:
        note = _labelled(note, results)
        draw("candidates", score_plots.candidates, results["candidates"], note=note, split=split)
        spread = (results.get("fold_mean"), results.get("fold_sd"))
        draw("folds", plots.folds, results["folds"], *spread, note=note, split=split)
        if len(facts["stages"]) > 1:
            rows = [
                {**s, "winner": w["name"], "miou": w["miou"], "select_miou": w["select_miou"]}
                for s, w in winners(facts)
            ]
            draw("stages", plots.stages, rows, note=note, split=split)
        if results.get("line"):
            line = results["line"]
            where = f"{name} | {data.get('name', '?')}, {line['images']} images of {line['split']}, {size} (H x W)"
            draw("line", plots.line, line, note=where)
    class_names, palette = results["class_names"], results["palette"]
    draw("class_iou", score_plots.class_iou, class_names, palette, shown_candidates(results), note=note)
    mine = f"{best['name']} of {note}" if "name" in best else note
    draw("confusion_matrix", score_plots.confusion, best["confusion_matrix"], class_names, note=mine)
    if best.get("roc"):
        draw("roc", probability_plots.roc, best["roc"], best["auc"], palette, note=mine)
        draw("reliability", probability_plots.reliability, best["reliability"], best["ece"], note=mine)
    if any(v is not None for v in best.get("per_image", {}).get("miou", [])):
        draw("per_image", score_plots.per_image, best, note=mine)
    if results.get("class_frequency"):
        frequency = results["class_frequency"]
        draw("frequency_iou", score_plots.frequency_iou, frequency, best["per_class"], palette, note=mine)
    return drawn


def _labelled(note: str, results: dict) -> str:
    labels = all_labels(results)
    return f"{note} | {', '.join(labels)}" if labels else note
