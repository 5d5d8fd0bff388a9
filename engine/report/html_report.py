"""report.html: one file a run that opens anywhere, with no server and no network. Pictures and scripts are inside it.

It shows what report.md shows, to be handled: tables to sort, a confusion matrix to point at, the best, median and worst
images with target, prediction and error. Curves are drawn here as SVG, so that it needs no matplotlib.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

import yaml

from engine.evaluation.protocol import describe
from engine.report import report_charts, svg
from engine.report.html_page import buttons, data_uri, legend, write_page
from engine.report.html_page import swatch as _swatch
from engine.report.html_page import table as _table
from engine.report.plots import SERIES, timeline
from engine.report.report import headline
from engine.report.run_results import best_row, latest, read_run, shown_candidates
from engine.report.tables import BY_CLASS, MORE, SUMMARY, candidate_headers, candidate_rows, pct

PANELS = (("loss", "train_loss", "val_loss", 1.0), ("mIoU, %", "train_miou", "val_miou", 100.0))
KINDS = {"image": "image.jpg", "target": "target.png", "prediction": "prediction.png", "error": "error.png"}


def write_html(run_dir: Path) -> Path:
    """Write report.html into a run folder, from its files; returns its path. Raises: UserError as write_report does."""
    run = Path(run_dir)
    facts = read_run(run)
    results = latest(facts)
    parts = [_head(run, facts, results), _curves(facts)]
    if results is not None:
        row = best_row(results)
        parts += [_candidates(results), _classes(results), _confusion(results)]
        parts += [report_charts.probabilities(row, results["palette"]), report_charts.images(row), _cases(run, results)]
    parts.append(_provenance(facts))
    body = "\n".join(part for part in parts if part)
    return write_page(run / "report.html", facts["config"].get("name", run.name), body)


def _head(run: Path, facts: dict, results: dict | None) -> str:
    title = headline(run, facts)[0].removeprefix("# ")
    out = [f"<h1>{html.escape(title)}</h1>"]
    if results is None:
        return "\n".join([*out, "<p>Nothing is scored yet.</p>"])
    row, protocol = best_row(results), results["protocol"]
    cards = [(f"{pct(row.get(key))} %", label) for key, label in (SUMMARY | MORE).items() if row.get(key) is not None]
    seconds = sum(r.get("seconds") or 0 for r in facts["log"])
    cards.append((f"{seconds / 60:.1f} min", "training"))
    inner = "".join(f'<div class="card"><b>{v}</b><span>{html.escape(label)}</span></div>' for v, label in cards)
    notes = [describe(protocol), f"data hash {str(protocol.get('data_hash', '?'))[:12]}"]
    if "candidates" in results:
        notes.insert(0, f"candidate {row['name']}, ranked first")
    out.append(f'<div class="cards">{inner}</div>')
    return "\n".join([*out, *(f'<p class="note">{html.escape(note)}</p>' for note in notes)])


# --- curves -----------------------------------------------------------------------------------------------------------


def _curves(facts: dict) -> str:
    if not facts["log"]:
        return ""
    series, phases = timeline(facts["log"])
    charts = []
    for label, train, val, scale in (
        ("loss", "train_loss", "val_loss", 1.0),
        ("mIoU, %", "train_miou", "val_miou", 100.0),
    ):
        lines = []
        for (_, fold), points in series.items():
            colour = _colour(fold)
            for key, dash in ((train, "4 3"), (val, "")):
                kept = [(x, scale * row[key]) for x, row in points if row.get(key) is not None]
                lines += [(kept, colour, dash)] if kept else []
        caption = f"{label}: training batches dashed, validation solid"
        charts.append(f"<figure>{svg.by_epoch(lines, label)}<figcaption>{caption}</figcaption></figure>")
    folds = dict.fromkeys(fold for _, fold in series)
    legend = "" if len(folds) < 2 else "".join(
        f'<span class="item">{_swatch(_rgb(fold))}{"start" if fold == "start" else f"fold {fold}"}</span>'
        for fold in folds)  # fmt: skip
    note = "" if len(phases) < 2 else '<p class="note">Phases: ' + ", ".join(
        f"{html.escape(name)} from epoch {x + 0.5:.0f}" for name, x in phases) + "</p>"  # fmt: skip
    return f'<h2>Curves</h2><div class="charts">{"".join(charts)}</div><p class="legend">{legend}</p>{note}'


def _colour(fold: int | str | None) -> str:
    return SERIES[(fold if isinstance(fold, int) else 7 if fold == "start" else 0) % len(SERIES)]


def _rgb(fold: int | str | None) -> tuple[int, ...]:
    return tuple(int(_colour(fold)[k : k + 2], 16) for k in (1, 3, 5))


# --- tables -----------------------------------------------------------------------------------------------------------


def _candidates(results: dict) -> str:
    if "candidates" not in results:
        return ""
    rows = [[html.escape(cell) for cell in row] for row in candidate_rows(results)]
    folds = [
        [str(f["fold"]), str(f["best_epoch"]), pct(f["val_miou"]), pct(f["select_miou"]), pct(f["miou"])]
        for f in results["folds"]
    ]
    split = results["protocol"].get("split", "val")
    headers = ["fold", "best epoch", "own validation fold", "select mIoU", f"{split} mIoU"]
    return (
        "<h2>Candidates</h2>" + _table(rows, candidate_headers(results), "sortable")
        + '<p class="note">* ranked first on select; raw: BatchNorm statistics averaged instead of re-estimated.</p>'
        + "<h2>Folds</h2>" + _table(folds, headers, "sortable")
    )  # fmt: skip


def _classes(results: dict) -> str:
    shown, frequency = shown_candidates(results), results.get("class_frequency") or {}
    out, rows, best = results["protocol"].get("exclude") or (), [], best_row(results)
    more = {label: best[key] for key, label in BY_CLASS.items() if key in best}
    for name, colour in zip(results["class_names"], results["palette"]):
        text = f"({html.escape(name)})" if name in out else html.escape(name)
        row: list = [_swatch(colour) + text, (frequency.get(name, ""), pct(frequency.get(name)))]
        for per_class in shown.values():
            value = per_class.get(name)
            bar = f'<span class="bar" style="width:{0 if value is None else 4 * value:.2f}em"></span>'
            row.append(("" if value is None else value, f'{pct(value)}<span class="track">{bar}</span>'))
        known = [values.get(name) for values in more.values()]
        rows.append(row + [("" if v is None else v, pct(v)) for v in known])
    headers = ["class", "share of training pixels", *(f"IoU, {name}" for name in shown), *more]
    note = '<p class="note">In percent. A click on a head sorts.' + (" In brackets: not in the means." if out else "")
    note += f" {html.escape(' and '.join(more))}: of {best.get('name', 'this run')}." if more else ""
    return "<h2>Classes</h2>" + _table(rows, headers, "sortable") + note + "</p>"


def _confusion(results: dict) -> str:
    best = best_row(results)
    names, rows = results["class_names"], []
    for i, counts in enumerate(best["confusion_matrix"]):
        total, cells = sum(counts), []
        for j, n in enumerate(counts):
            share = 100 * n / total if total else 0.0
            said = f"{share:.1f} % of {names[i]} ({n:,} of {total:,} pixels) predicted as {names[j]}"
            shade = f"rgba({'0,114,178' if i == j else '213,94,0'},{min(share / 100, 1) ** 0.5:.2f})"
            text, ink = (f"{share:.0f}" if share >= 0.5 else ""), (";color:#fff" if share > 45 else "")
            cells.append(f'<td style="background:{shade}{ink}" title="{html.escape(said)}">{text}</td>')
        rows.append(f"<tr><th>{html.escape(names[i])}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(n)}</th>" for n in names)
    return (
        '<h2>Confusion matrix</h2><p class="note">Rows: target, in percent of its pixels. Columns: prediction.</p>'
        '<p id="told">Point at a cell.</p><div class="scroll"><table class="confusion"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


def _cases(run: Path, results: dict) -> str:
    path = run / "cases" / "cases.json"
    if not path.is_file():
        return ""
    found, figures = json.loads(path.read_text(encoding="utf-8")), []
    for k, case in enumerate(found["cases"]):
        images = []
        for kind, file in KINDS.items():
            mime, hidden = ("jpeg" if file.endswith("jpg") else "png"), "" if kind == "prediction" else " hidden"
            data = data_uri((run / "cases" / f"{k}_{file}").read_bytes(), f"image/{mime}")
            images.append(f'<img data-kind="{kind}" alt="{kind}" src="{data}"{hidden}>')
        caption = f"{case['where']}: {html.escape(case['name'])}, mIoU {pct(case['miou'])} %"
        figures.append(f"<figure>{''.join(images)}<figcaption>{caption}</figcaption></figure>")
    note = f"Of {found['images']} images, by their own mIoU. Error: orange is wrong, black is ignored."
    return (
        f'<h2>Best, median and worst</h2><p class="note">{note}</p>{buttons(list(KINDS), "prediction")}'
        f'<div class="cases">{"".join(figures)}</div>{legend(results["class_names"], results["palette"])}'
    )


def _provenance(facts: dict) -> str:
    config = yaml.safe_dump(facts["config"], sort_keys=False, default_flow_style=None, width=100)
    env = facts["environment"]
    rows = [[html.escape(str(k)), html.escape(str(v))] for k, v in env.items() if not isinstance(v, dict | list)]
    return f"<h2>Config</h2><details><summary>every key</summary><pre>{html.escape(config)}</pre></details>" + (
        "<h2>Environment</h2>" + _table(rows, ["", ""]) if rows else ""
    )
