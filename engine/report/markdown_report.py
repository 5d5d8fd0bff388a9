"""report.md and plots/*.png, written from the files of a run folder and from nothing else.

A report can be written at any time: for a finished run, a stopped one, or one that is still training. It says what is
missing. Every number comes with what it depends on (data, split, size, rule for absent classes, which images ranked
the candidates), and every plot has a caption that says how to read it.
"""

from __future__ import annotations

from pathlib import Path

from common.files import write_atomically
from common.tables import markdown_table
from engine.evaluation.protocol import protocol_line
from engine.report.run_plots import draw_plots, shown_plots, skipped_plots
from engine.report.run_results import all_labels, best_row, latest, read_run, section, winners
from engine.report.score_tables import (
    candidate_cells,
    candidate_notes,
    class_columns,
    class_legend,
    class_rows,
    fold_cells,
    mean_cells,
    pct,
)

LABELS = {
    "contaminated": "images that rank or report were also trained on, or one split both ranks and reports. The scores "
    "are too good to compare with honest ones.",
    "unconnected": "the members share no training, so the average of their weights is not a network that anyone "
    "trained. It is shown for the lesson (docs/averaging.md).",
}


def write_report(run_dir: Path) -> Path:
    """Write report.md (and plots/, where matplotlib is installed) into a run folder; returns the report's path.

    Reads config.yaml, environment.json, splits.json, log.jsonl and results.json or stageN/results.json; all but the
    first may be missing. Raises UserError if the folder is not a run, or a file in it is damaged.
    """
    run = Path(run_dir)
    facts = read_run(run)
    draw_plots(run, facts)
    parts = [headline(run, facts), scores(facts), training(facts), plots(run, facts), provenance(run, facts)]
    path = run / "report.md"
    text = "\n\n".join(p for part in parts for p in part) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


# --- sections: each returns paragraphs ------------------------------------------------------------------------------


def title(run: Path, facts: dict) -> str:
    config = facts["config"]
    folds = int(section(config, "cv").get("folds") or 0)
    kind = f"{folds}-fold cross-validation" if folds else "single run"
    model, data = section(config, "model").get("name", "?"), section(config, "data").get("name", "?")
    return f"{config.get('name', run.name)}: {model} on {data}, {kind}"


def headline(run: Path, facts: dict) -> list[str]:
    results = latest(facts)
    out = [f"# {title(run, facts)}", *(f"> {line}" for line in unfinished(facts))]
    if results is None:
        return out
    protocol, best = results["protocol"], best_row(results)
    if "candidates" in results:
        where = f"`{best['name']}`, ranked first on {_ranked_on(protocol)}"
    else:
        chosen = section(facts["config"], "train").get("keep", "best") == "best"
        how = "chosen on these same images, so a little too good" if chosen else "the last one, not chosen by its score"
        where = f"epoch {results['best_epoch']}, {how}"
    out.append(f"**{protocol['split']} mIoU {pct(best['miou'])} %** ({where}).")
    out.append(f"Protocol: {protocol_line(protocol)}. Data hash `{str(protocol.get('data_hash', '?'))[:12]}`.")
    if "candidates" in results:
        out.append(_roles(facts, protocol))
    return out + [f"**{label}**: {text}" for label, text in label_notes(results).items()]


def label_notes(results: dict) -> dict[str, str]:
    """{label: what it means} for the labels of a stage and of its candidates."""
    return {label: LABELS.get(label, "") for label in all_labels(results)}


def unfinished(facts: dict) -> list[str]:
    """One sentence that says what is missing; empty if the run is complete."""
    folds = int(section(facts["config"], "cv").get("folds") or 0)
    total = max(1, len(section(facts["config"], "cv").get("stages") or [])) if folds else 1
    done = len(facts["stages"]) if folds else int(facts["single"] is not None)
    if done >= total:
        return []
    what = f"{done} of {total} stages are scored" if folds else "it has not been scored"
    return [f"**This run is not finished:** {what}, {len(facts['log'])} epochs are in the log. Go on with `--resume`."]


def _ranked_on(protocol: dict) -> str:
    itself = protocol.get("select") == "val"
    return f"the {protocol['split']} images themselves" if itself else "images of role `select`"


def _roles(facts: dict, protocol: dict) -> str:
    starts = {
        "role": "common weights trained on images of role `start`",
        "train": "common weights trained on all training images",
        "none": "random weights, different ones in each fold",
        "pretrained": "common public weights",
    }
    text = f"Start: {starts.get(protocol.get('start'), protocol.get('start'))}. Folds and candidates are ranked on "
    text += f"{_ranked_on(protocol)}. Members: the `{protocol.get('member')}` epoch of each fold."
    if facts["splits"]:
        counts = ", ".join(f"{name} {len(ids)}" for name, ids in facts["splits"]["roles"].items())
        text += f" Images by role: {counts}."
    return text


def scores(facts: dict) -> list[str]:
    """Candidates, folds, stages, distances and line of a cross-validation; the classes of either kind of run."""
    results, out = latest(facts), []
    if results is None:
        return out
    if "candidates" in results:
        out += candidates(results) + folds(results)
        if len(facts["stages"]) > 1:
            rows = [[s["stage"], w["name"], pct(w["select_miou"]), pct(w["miou"])] for s, w in winners(facts)]
            headers = ["stage", "winner", "select mIoU", f"{results['protocol']['split']} mIoU"]
            out += ["## Winner after each stage", markdown_table(rows, headers)]
        out += distances(results)
    else:
        out += [f"## Scores of epoch {results['best_epoch']}", markdown_table(mean_cells(results), ["score", "%"])]
    return out + classes(results)


def candidates(results: dict) -> list[str]:
    legend = (
        f"In percent; `*` is first on select. *raw*: the {results['protocol']['split']} mIoU of the same weights with "
        "averaged instead of re-estimated BatchNorm statistics (the same number where nothing was averaged). "
        "Differences in points, with a paired bootstrap over groups of images."
    )
    notes = [f"{note}." for note in candidate_notes(results)]
    table = markdown_table(*candidate_cells(results, more=True))
    return [f"## Candidates (stage {results['stage']})", table, legend, *notes]


def folds(results: dict) -> list[str]:
    rows, headers = fold_cells(results)
    if "contaminated" in headers[2]:
        why = "The start of this stage was trained on images of every fold, so its out-of-fold scores are contaminated."
    elif "optimistic" in headers[2]:
        why = "Out-of-fold scores are slightly optimistic: the same images chose the epoch."
    else:
        why = "Out-of-fold scores are honest: these images chose nothing."
    mean, sd = pct(results.get("fold_mean")), pct(results.get("fold_sd"))
    return [
        f"## Folds (stage {results['stage']})",
        markdown_table(rows, headers),
        f"Mean on select {mean} %, standard deviation {sd} points ({len(rows)} folds, ddof 1). {why}",
    ]


def distances(results: dict) -> list[str]:
    """Distances between the folds' weights, and mIoU along the line between two of them."""
    out, rows = [], results["folds"]
    matrix = results.get("pairwise_distance")
    if matrix:
        away = [f.get("distance_from_start") for f in rows]
        lines = [["-" if d is None else f"{d:.2f}" for d in (first, *row)] for first, row in zip(away, matrix)]
        cells = [[f["fold"], *line] for f, line in zip(rows, lines)]
        headers = ["fold", "from the start", *(f"to fold {f['fold']}" for f in rows)]
        text = (
            "Euclidean distance over all trained parameters. Members about 1.4 times as far from each other as from "
            "the start moved at right angles to each other, and averaging gains most from that."
        )
        out += ["## Distances", markdown_table(cells, headers), text]
    if results.get("line"):
        data, (a, b) = results["line"], results["line"]["folds"]
        cells = [[f"{t:.2f}", pct(m)] for t, m in zip(data["t"], data["miou"])]
        out.append(f"## Along the line from fold {a} to fold {b} ({data['images']} images of {data['split']})")
        out.append(markdown_table(cells, [f"share of fold {b}", "mIoU"]))
    return out


def classes(results: dict) -> list[str]:
    columns, left_out = class_columns(results), results["protocol"].get("exclude") or ()
    table = markdown_table(class_rows(columns, results["class_names"], left_out), ["class", *columns])
    return ["## Classes", table, class_legend(results)]


def training(facts: dict) -> list[str]:
    """How long training took, over all jobs."""
    rows = facts["log"]
    if not rows:
        return ["No epoch has been logged yet."]
    seconds = sum(r.get("seconds") or 0 for r in rows)
    rates = sorted(r["images/s"] for r in rows if r.get("images/s"))
    rate = f", {rates[len(rates) // 2]:.1f} images a second (median)" if rates else ""
    return ["## Training", f"{len(rows)} epochs in all jobs together, {seconds / 60:.1f} minutes{rate}."]


def plots(run: Path, facts: dict) -> list[str]:
    shown, skipped = shown_plots(run), skipped_plots(facts)
    out = ["## Plots"] if shown or skipped else []
    out += [f"{skipped}."] if skipped else []
    for name, caption in shown.items():
        text = name.replace("_", " ")
        out += [f"![{text}](plots/{name}.png)", f"*{text}.* {caption}"]
    return out


def provenance(run: Path, facts: dict) -> list[str]:
    env = facts["environment"]
    out = ["## Where and how"]
    if env:
        keys = ("device", "threads", "cores", "torch", "torchvision", "python", "platform", "git", "started")
        out.append(markdown_table([[k, env[k]] for k in keys if env.get(k) is not None], ["", ""]))
    evaluate = f"python eval.py --run runs/{run.name}"
    evaluate += " --aggregate all" if int(section(facts["config"], "cv").get("folds") or 0) else ""
    lines = [env.get("command") or f"python train.py {run.name}/config.yaml", evaluate]
    text = f"To reproduce (seed {facts['config'].get('seed')}; the resolved config is `config.yaml` in this folder):"
    return [*out, text, "```\n" + "\n".join(lines) + "\n```"]
