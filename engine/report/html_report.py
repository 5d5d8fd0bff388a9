"""report.html: one file per run that opens in any browser, with no server and no network.

It holds the tables and plots of report.md. Here tables sort by a click, the confusion matrix tells what its cells mean,
and the best, median and worst images switch between image, target, prediction and error.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

import yaml

from engine.evaluation.protocol import protocol_line
from engine.report.html_page import buttons, data_uri, html_table, legend, note, score_cell, swatch, write_page
from engine.report.markdown_report import label_notes, title
from engine.report.run_plots import shown_plots, skipped_plots
from engine.report.run_results import best_row, latest, read_run
from engine.report.score_tables import candidate_cells, class_columns, class_label, class_legend, fold_cells, mean_cells

KINDS = {"image": "image.jpg", "target": "target.png", "prediction": "prediction.png", "error": "error.png"}


def write_html(run_dir: Path) -> Path:
    """Write report.html into a run folder; returns its path. It embeds the plots that write_report drew before.

    Raises: UserError if the folder is not a run, or a file in it is damaged.
    """
    run = Path(run_dir)
    facts = read_run(run)
    results = latest(facts)
    parts = [headline(run, facts, results)]
    if results is not None:
        parts += [candidates(results), classes(results), confusion(results), cases(run, results)]
    parts += [plots(run, facts), provenance(facts)]
    body = "\n".join(part for part in parts if part)
    return write_page(run / "report.html", facts["config"].get("name", run.name), body)


# --- sections: each returns HTML --------------------------------------------------------------------------------------


def headline(run: Path, facts: dict, results: dict | None) -> str:
    head = f"<h1>{html.escape(title(run, facts))}</h1>"
    if results is None:
        return f"{head}<p>Nothing is scored yet.</p>"
    row, protocol = best_row(results), results["protocol"]
    cards = [(f"{score} %", label) for label, score in mean_cells(row) if score != "-"]
    cards.append((f"{sum(r.get('seconds') or 0 for r in facts['log']) / 60:.1f} min", "training"))
    inner = "".join(f'<div class="card"><b>{v}</b><span>{html.escape(label)}</span></div>' for v, label in cards)
    notes = [f"candidate {row['name']}, ranked first"] if "candidates" in results else []
    notes += [protocol_line(protocol), f"data hash {str(protocol.get('data_hash', '?'))[:12]}"]
    notes += [f"{label}: {text}" for label, text in label_notes(results).items()]
    return f'{head}<div class="cards">{inner}</div>{"".join(map(note, notes))}'


def candidates(results: dict) -> str:
    if "candidates" not in results:
        return ""
    rows, headers = candidate_cells(results)
    cells = [[html.escape(cell) for cell in row] for row in rows]
    how = note("* ranked first on select; raw: BatchNorm statistics averaged instead of re-estimated.")
    folds = html_table(*fold_cells(results), "sortable")
    return f"<h2>Candidates</h2>{html_table(cells, headers, 'sortable')}{how}<h2>Folds</h2>{folds}"


def classes(results: dict) -> str:
    columns, left_out = class_columns(results), results["protocol"].get("exclude") or ()
    rows = []
    for name, colour in zip(results["class_names"], results["palette"]):
        cells = [score_cell(v.get(name), bar(v.get(name)) if h.startswith("IoU") else "") for h, v in columns.items()]
        rows.append([swatch(colour) + html.escape(class_label(name, left_out)), *cells])
    table = html_table(rows, ["class", *columns], "sortable")
    return f"<h2>Classes</h2>{table}{note(class_legend(results) + ' A click on a header sorts.')}"


def bar(value: float | None) -> str:
    return f'<span class="track"><span class="bar" style="width:{4 * (value or 0):.2f}em"></span></span>'


def confusion(results: dict) -> str:
    """The confusion matrix; a pointed or clicked cell is explained in words above it."""
    names, rows = results["class_names"], []
    for i, counts in enumerate(best_row(results)["confusion_matrix"]):
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
        f"<h2>Confusion matrix</h2>{note('Rows: target, in percent of its pixels. Columns: prediction.')}"
        '<p id="cell">Point at a cell.</p><div class="scroll"><table class="confusion"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def cases(run: Path, results: dict) -> str:
    """The best, median and worst images, four pictures each, of which one shows."""
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
        caption = f"{case['where']}: {html.escape(case['name'])}, mIoU {100 * case['miou']:.2f} %"
        figures.append(f"<figure>{''.join(images)}<figcaption>{caption}</figcaption></figure>")
    how = note(f"Of {found['images']} images, by their own mIoU. Error: orange is wrong, black is ignored.")
    return (
        f"<h2>Best, median and worst</h2>{how}{buttons(list(KINDS), 'prediction')}"
        f'<div class="cases">{"".join(figures)}</div>{legend(results["class_names"], results["palette"])}'
    )


def plots(run: Path, facts: dict) -> str:
    """Every plot of report.md with its caption, embedded."""
    figures, skipped = [], skipped_plots(facts)
    for name, caption in shown_plots(run).items():
        text, data = name.replace("_", " "), data_uri((run / "plots" / f"{name}.png").read_bytes(), "image/png")
        below = f"<figcaption><b>{text}.</b> {html.escape(caption)}</figcaption>"
        figures.append(f'<figure><img alt="{text}" src="{data}">{below}</figure>')
    if not figures and not skipped:
        return ""
    return f'<h2>Plots</h2>{note(skipped + ".") if skipped else ""}<div class="plots">{"".join(figures)}</div>'


def provenance(facts: dict) -> str:
    config = yaml.safe_dump(facts["config"], sort_keys=False, default_flow_style=None, width=100)
    rows = [[html.escape(str(v)) for v in item] for item in facts["environment"].items()
            if not isinstance(item[1], dict | list)]  # fmt: skip
    environment = f"<h2>Environment</h2>{html_table(rows, ['', ''])}" if rows else ""
    details = f"<details><summary>every key</summary><pre>{html.escape(config)}</pre></details>"
    return f"<h2>Config</h2>{details}{environment}"
