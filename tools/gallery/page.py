"""The gallery's HTML page: one row per image, one column per network, in one file (engine/report/html_page.py)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from engine.evaluation.protocol import protocol_line
from engine.report.html_page import buttons, html_table, legend, note, score_cell, swatch, write_page
from engine.report.score_tables import MORE, SUMMARY, class_label, interval, pct

HERE = Path(__file__).parent
AT_MOST = 6  # columns of pictures on a wide screen; further ones wrap
KINDS = ("prediction", "error")


def write_gallery(
    path: Path, labels: Sequence[str], results: Sequence[dict], gaps: Sequence[dict | None], chosen: Sequence[int],
    shown: Sequence[Sequence[dict]], palette, which: str, notes: Sequence[str] = (),
) -> Path:  # fmt: skip
    """Write the page.

    results: of networks.score_side; gaps: the others' differences to the first; chosen: indices of the images; which:
    how they were chosen, in words; shown[network][image]: its pictures. Raises: UserError if it cannot write the file.
    """
    facts = results[0]["protocol"]
    title = f"{facts['data']} {facts['split']}: {', '.join(labels)}"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        *map(note, [*protocols(labels, results), *notes]),
        "<h2>Totals</h2>" + html_table(*totals(labels, results, gaps), "sortable"),
        note_on(gaps),
        "<h2>Classes</h2>" + html_table(*classes(labels, results, gaps, palette), "sortable"),
        note("IoU in percent. A click on a header sorts."),
        f"<h2>Images</h2>{note_on_images(results, chosen, which)}",
        legend(list(results[0]["per_class"]), palette) + buttons(KINDS, "prediction"),
        *(row(k, i, labels, results, shown) for k, i in enumerate(chosen)),
    ]
    styles, script = ((HERE / f"gallery.{kind}").read_text() for kind in ("css", "js"))
    return write_page(path, f"Gallery: {title}", "\n".join(body), styles, script)


def protocols(labels: Sequence[str], results: Sequence[dict]) -> list[str]:
    """One line if all share a protocol, else one per network."""
    lines = [protocol_line(r["protocol"]) for r in results]
    if len(set(lines)) == 1:
        return [f"{lines[0]}; data hash {results[0]['protocol']['data_hash'][:12]}"]
    return [f"{label}: {line}" for label, line in zip(labels, lines)]


def totals(labels: Sequence[str], results: Sequence[dict], gaps: Sequence[dict | None]) -> tuple[list, list]:
    """(rows, headers): one row per network, in percent."""
    keys = {k: v for k, v in (SUMMARY | MORE).items() if all(k in r for r in results)}
    headers = ["network", *keys.values()]
    if len(results) > 1:
        headers.insert(2, f"difference to {labels[0]} [95 %]")
    rows = []
    for label, result, gap in zip(labels, results, [None, *gaps]):
        cells: list = [html.escape(label), *(score_cell(result[key]) for key in keys)]
        if len(results) > 1:
            cells.insert(2, "reference" if result is results[0] else _gap(gap and gap["miou"]))
        rows.append(cells)
    return rows, headers


def classes(labels: Sequence[str], results: Sequence[dict], gaps: Sequence[dict | None], palette) -> tuple[list, list]:
    """(rows, headers): one row per class with the IoU of each network and its difference to the first network."""
    left_out, rows = results[0]["protocol"].get("exclude") or (), []
    headers = ["class", labels[0]]
    for label in labels[1:]:
        headers += [label, f"{label} - {labels[0]} [95 %]"]
    for name, colour in zip(results[0]["per_class"], palette):
        text = html.escape(class_label(name, left_out))
        cells: list = [swatch(colour) + text, score_cell(results[0]["per_class"][name])]
        for result, gap in zip(results[1:], gaps):
            cells += [score_cell(result["per_class"][name]), _gap(gap and gap["per_class"][name])]
        rows.append(cells)
    return rows, headers


def _gap(found: dict | None) -> tuple:
    """A difference with its interval, coloured if the interval excludes 0."""
    if not found:
        return ("", "-")
    kind = "up" if found["low"] > 0 else "down" if found["high"] < 0 else "level"
    return (found["difference"], f'<span class="{kind}">{interval(found)}</span>')


def note_on(gaps: Sequence[dict | None]) -> str:
    first = next(filter(None, gaps), None)
    if not first:
        return ""
    text = f"In percent. Difference: paired bootstrap over {first['groups']} {first['by']}s, {first['samples']} draws; "
    text += "coloured where the interval excludes 0. A class that only one of two has counts 0 for the other."
    if first["by"] == "image":
        text += " All images are in one group; neighbouring images are alike, so the intervals are too narrow."
    return note(text)


def note_on_images(results: Sequence[dict], chosen: Sequence[int], which: str) -> str:
    count = len(results[0]["per_image"]["names"])
    return note(
        f"{len(chosen)} of {count} images, {which}. Under each prediction: its mIoU over the classes that the image "
        "or the prediction has. Error: orange is wrong, black is ignored. A click on a picture enlarges it; then "
        "arrow keys, or clicks on its left and right half, show the same image in the next column. A click beside "
        "it closes it."
    )


def row(k: int, i: int, labels: Sequence[str], results: Sequence[dict], shown: Sequence[Sequence[dict]]) -> str:
    """The k-th image shown, image i of the split: the image, its target, and each network's prediction and error."""
    name = html.escape(results[0]["per_image"]["names"][i])
    mious = [r["per_image"]["miou"][i] for r in results]
    best = max((m for m in mious if m is not None), default=None)
    figures = [_figure(kind, f'<img alt="{kind}" src="{shown[0][k][kind]}">') for kind in ("image", "target")]
    for label, miou, part in zip(labels, mious, shown):
        label = html.escape(label)
        images = "".join(
            f'<img data-kind="{kind}" alt="{kind} of {label}" src="{part[k][kind]}"{hidden}>'
            for kind, hidden in zip(KINDS, ("", " hidden"))
        )
        text = f"{label} <b>{pct(miou)}</b>" if miou is not None and miou == best else f"{label} {pct(miou)}"
        figures.append(_figure(text, images))
    columns = min(len(figures), AT_MOST)
    return f'<h3>{name}</h3><div class="cases gallery" style="--columns:{columns}">{"".join(figures)}</div>'


def _figure(caption: str, images: str) -> str:
    return f"<figure>{images}<figcaption>{caption}</figcaption></figure>"
