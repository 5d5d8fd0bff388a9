"""report.md and plots/*.png from the files of a run folder, and from nothing else.

A report can be written at any time, for a finished run, a stopped one, or one that is still training: what is missing
is said to be missing. Every number stands beside what it depends on (data, split, size, rule for absent classes, who
ranked whom), and every plot has a caption that says how to read it.
"""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from common.tables import format_table, markdown_table
from engine.evaluation.protocol import describe
from engine.report.report_plots import draw_plots, pictures
from engine.report.run_results import best_row, latest, read_run, section, shown_candidates, winners
from engine.report.tables import (
    BY_CLASS,
    MORE,
    SUMMARY,
    all_labels,
    candidate_headers,
    candidate_rows,
    candidates_table,
    class_table,
    pct,
)

__all__ = ["candidates_table", "class_table", "format_table", "write_report"]

LABELS = {
    "contaminated": "**contaminated**: images that rank or report were also trained on, or one split both ranks and "
    "reports; the scores are too good to compare with honest ones.",
    "unconnected": "**unconnected**: the members share no training, so the average of their weights is no network that "
    "anyone trained; it is shown for the lesson (docs/averaging.md).",
}


def write_report(run_dir: Path) -> Path:
    """Write report.md (and plots/, where matplotlib is installed) into a run folder; returns the report's path.

    Reads config.yaml, environment.json, splits.json, log.jsonl and results.json or stageN/results.json; all but the
    first may be missing. Raises UserError if the folder is no run, or a file in it is damaged.
    """
    run = Path(run_dir)
    facts = read_run(run)
    drawn = draw_plots(run, facts)
    parts = [headline(run, facts), outcome(facts), training(facts), pictures(run, drawn), provenance(run, facts)]
    path = run / "report.md"
    try:
        path.write_text("\n\n".join(p for part in parts for p in part) + "\n", encoding="utf-8")
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}") from None
    return path


# --- sections: each returns paragraphs ------------------------------------------------------------------------------


def headline(run: Path, facts: dict) -> list[str]:
    config, results = facts["config"], latest(facts)
    folds = int(section(config, "cv").get("folds") or 0)
    kind = f"{folds}-fold cross-validation" if folds else "single run"
    model, data = section(config, "model").get("name", "?"), section(config, "data").get("name", "?")
    out = [f"# {config.get('name', run.name)}: {model} on {data}, {kind}"]
    out += [f"> {missing}" for missing in unfinished(facts, folds)]
    if results is None:
        return out
    protocol = results["protocol"]
    if folds:
        winner = next(c for c in results["candidates"] if c["name"] == results["winner"])
        score, where = winner["miou"], f"`{winner['name']}`, ranked first on {_ranked_on(protocol)}"
    else:
        chosen = section(facts["config"], "train").get("keep", "best") == "best"
        how = "chosen on these same images: a little too good" if chosen else "the last one, not chosen by its score"
        score, where = results["miou"], f"epoch {results['best_epoch']}, {how}"
    out.append(f"**{protocol['split']} mIoU {pct(score)} %** ({where}).")
    out.append(f"Protocol: {describe(protocol)}. Data hash `{str(protocol.get('data_hash', '?'))[:12]}`.")
    if folds:
        out.append(_roles(facts, protocol))
    out += [LABELS.get(label, f"**{label}**") for label in all_labels(results)]
    return out


def unfinished(facts: dict, folds: int) -> list[str]:
    """One sentence for what is missing, none if the run is complete."""
    stages = max(1, len(section(facts["config"], "cv").get("stages") or []))
    done = len(facts["stages"]) if folds else int(facts["single"] is not None)
    total = stages if folds else 1
    if done >= total:
        return []
    what = f"{done} of {total} stages are scored" if folds else "it has not been scored"
    return [f"**This run is not finished:** {what}, {len(facts['log'])} epochs are in the log. Go on with `--resume`."]


def _ranked_on(protocol: dict) -> str:
    return (
        f"the {protocol['split']} images themselves" if protocol.get("select") == "val" else "images of role `select`"
    )


def _roles(facts: dict, protocol: dict) -> str:
    starts = {
        "role": "common weights trained on images of role `start`",
        "train": "common weights trained on all training images",
        "none": "each fold from its own random weights",
        "pretrained": "common public weights",
    }
    text = f"Start: {starts.get(protocol.get('start'), protocol.get('start'))}; folds and candidates ranked on "
    text += f"{_ranked_on(protocol)}; members are each fold's `{protocol.get('member')}` epoch"
    splits = facts["splits"]
    if splits:
        text += "; images by role: " + ", ".join(f"{name} {len(ids)}" for name, ids in splits["roles"].items())
    return text + "."


def outcome(facts: dict) -> list[str]:
    """Candidates, folds, stages, distances and line of a cross-validation; then classes, of either kind of run."""
    results, out = latest(facts), []
    if results is None:
        return out
    if "candidates" in results:
        out += candidates_section(results) + folds_section(results)
        if len(facts["stages"]) > 1:
            rows = [[s["stage"], w["name"], pct(w["select_miou"]), pct(w["miou"])] for s, w in winners(facts)]
            out += [
                "## Winner after each stage",
                markdown_table(rows, ["stage", "winner", "select mIoU", f"{results['protocol']['split']} mIoU"]),
            ]
        out += distance_section(results)
    return out + classes_section(results)


def candidates_section(results: dict) -> list[str]:
    more = {k: SUMMARY[k] for k in ("fw_iou", "pixel_accuracy")} | MORE
    more = {k: label for k, label in more.items() if any(c.get(k) is not None for c in results["candidates"])}
    headers = [*candidate_headers(results), *more.values()]
    extra = [[pct(c.get(key)) for key in more] for c in results["candidates"]]
    rows = [a + b for a, b in zip(candidate_rows(results), extra)]
    labels = [c.get("labels", []) for c in results["candidates"]]
    if any(labels):
        headers, rows = [*headers, "labels"], [[*r, ", ".join(x)] for r, x in zip(rows, labels)]
    notes = [f"{c['name']}: {note}." for c in results["candidates"] for note in c.get("notes", [])]
    legend = (
        f"In percent; `*` is first on select. *raw*: the {results['protocol']['split']} mIoU of the same weights with "
        "averaged instead of re-estimated BatchNorm statistics (the same number where nothing was averaged). "
        "Differences in points, with a paired bootstrap over groups of images."
    )
    return [f"## Candidates (stage {results['stage']})", markdown_table(rows, headers), legend, *notes]


def folds_section(results: dict) -> list[str]:
    protocol = results["protocol"]
    if results["stage"] > 0 or protocol.get("start") == "train":
        held_out = "out-of-fold mIoU (contaminated)"
        why = "The start of this stage was trained on images of every fold, so its out-of-fold scores are contaminated."
    elif protocol.get("member") == "best":
        held_out = "out-of-fold mIoU (slightly optimistic)"
        why = "Out-of-fold scores are slightly optimistic: the same images chose the epoch."
    else:
        held_out, why = "out-of-fold mIoU", "Out-of-fold scores are honest: these images chose nothing."
    headers = ["fold", "best epoch", held_out, "select mIoU", f"{protocol['split']} mIoU", "minutes"]
    rows = [
        [f["fold"], f["best_epoch"], *(pct(f.get(k)) for k in ("val_miou", "select_miou", "miou")), _minutes(f)]
        for f in results["folds"]
    ]
    mean, sd = pct(results.get("fold_mean")), pct(results.get("fold_sd"))
    return [
        f"## Folds (stage {results['stage']})",
        markdown_table(rows, headers),
        f"Mean on select {mean} %, standard deviation {sd} points ({len(rows)} folds, ddof 1). {why}",
    ]


def _minutes(row: dict) -> str:
    return "-" if row.get("seconds") is None else f"{row['seconds'] / 60:.1f}"


def distance_section(results: dict) -> list[str]:
    out, folds = [], results["folds"]
    matrix = results.get("pairwise_distance")
    if matrix:
        away = [f.get("distance_from_start") for f in folds]
        rows = [
            [f["fold"], "-" if d is None else f"{d:.2f}", *(f"{v:.2f}" for v in row)]
            for f, d, row in zip(folds, away, matrix)
        ]
        headers = ["fold", "from the start", *(f"to fold {f['fold']}" for f in folds)]
        text = (
            "Euclidean distance over all trained parameters. Members about 1.4 times as far from each other as from "
            "the start went their ways at right angles to each other, which is what averaging profits from."
        )
        out += ["## Distances", markdown_table(rows, headers), text]
    if results.get("line"):
        data = results["line"]
        rows = [[f"{t:.2f}", pct(m)] for t, m in zip(data["t"], data["miou"])]
        a, b = data["folds"]
        where = f"{data['images']} images of {data['split']}"
        headers = [f"share of fold {b}", "mIoU"]
        out += [f"## Along the line from fold {a} to fold {b} ({where})", markdown_table(rows, headers)]
    return out


def classes_section(results: dict) -> list[str]:
    frequency, shown = results.get("class_frequency") or {}, shown_candidates(results)
    out, best = results["protocol"].get("exclude") or (), best_row(results)
    more = {label: best[key] for key, label in BY_CLASS.items() if key in best}
    rows = [
        [
            f"({name})" if name in out else name,
            pct(frequency.get(name)),
            *(pct(values.get(name)) for values in (*shown.values(), *more.values())),
        ]
        for name in results["class_names"]
    ]
    headers = ["class", "share of training pixels", *(f"IoU, {name}" for name in shown), *more]
    legend = "In percent; `-`: in neither target nor prediction." + (" In brackets: not in the means." if out else "")
    legend += f" {' and '.join(more)}: of {best.get('name', 'this run')}." if more else ""
    parts = ["## Classes", markdown_table(rows, headers), legend]
    if "candidates" in results:
        return parts
    means = [[label, pct(results[key])] for key, label in (SUMMARY | MORE).items() if key in results]
    return [f"## Scores of epoch {results['best_epoch']}", markdown_table(means, ["score", "%"]), *parts]


def training(facts: dict) -> list[str]:
    """How long it took, and the last row of the log."""
    rows = facts["log"]
    if not rows:
        return ["No epoch has been logged yet."]
    seconds = sum(r.get("seconds") or 0 for r in rows)
    rates = sorted(r["images/s"] for r in rows if r.get("images/s"))
    rate = f", {rates[len(rates) // 2]:.1f} images a second (median)" if rates else ""
    return ["## Training", f"{len(rows)} epochs in all jobs together, {seconds / 60:.1f} minutes{rate}."]


def provenance(run: Path, facts: dict) -> list[str]:
    env = facts["environment"]
    out = ["## Where and how"]
    if env:
        keys = ("device", "threads", "cores", "torch", "torchvision", "python", "platform", "git", "started")
        keys = [k for k in keys if env.get(k) is not None]
        out.append(markdown_table([[k, env[k]] for k in keys], ["", ""]))
    seed = facts["config"].get("seed")
    lines = [env.get("command") or f"python train.py {run.name}/config.yaml"]
    if int(section(facts["config"], "cv").get("folds") or 0):
        lines.append(f"python eval.py --run runs/{run.name} --aggregate all")
    else:
        lines.append(f"python eval.py --run runs/{run.name}")
    text = f"To reproduce (seed {seed}; the resolved config is `config.yaml` in this folder):"
    return [*out, text, "```\n" + "\n".join(lines) + "\n```"]
