"""What report.html draws of probabilities and of single images: ROC, reliability, the spread of the images' mIoU."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from engine.report import svg
from engine.report.plots import BLUE, ORANGE
from engine.report.score_plots import histogram
from engine.report.tables import pct


def probabilities(row: dict, palette: Sequence[Sequence[int]]) -> str:
    """ROC and reliability diagram of a run or candidate, with eval.extra; else nothing."""
    if not row.get("roc"):
        return ""
    ece = f"calibration error {pct(row['ece'])} %: how far the bars are from the dashed line, weighted by their pixels"
    figures = [
        (_roc(row["roc"], row["auc"], palette), "ROC: true against false positive rate, each class against the rest"),
        (_reliability(row["reliability"]), f"reliability: share of right pixels by confidence; {ece}"),
    ]
    body = "".join(f"<figure>{picture}<figcaption>{text}</figcaption></figure>" for picture, text in figures)
    return f'<h2>Probabilities</h2><div class="charts">{body}</div>{_legend(row["auc"], palette)}'


def _roc(curves: dict, auc: dict, palette: Sequence[Sequence[int]]) -> str:
    out, at = svg.unit_square("ROC of each class")
    for (name, curve), colour in zip(curves.items(), palette):
        if curve is not None:
            points, title = list(zip(curve["fpr"], curve["tpr"])), f"{name}: area {auc[name]:.3f}"
            out.append(svg.polyline(points, at, _visible(colour), title=title))
    return "".join(out) + "</svg>"


def _visible(colour: Sequence[int]) -> str:
    """A line in the class's colour; grey for what a white or a dark page would swallow."""
    return "rgb({},{},{})".format(*colour) if 90 < max(colour) and min(colour) < 220 else "#808080"


def _legend(auc: dict, palette: Sequence[Sequence[int]]) -> str:
    """Classes by their area, best first."""
    colours = dict(zip(auc, palette))
    known = sorted((n for n in auc if auc[n] is not None), key=lambda n: -auc[n])
    items = [
        f'<span class="item"><span class="swatch" style="background:{_visible(colours[n])}"></span>'
        f"{html.escape(n)} {auc[n]:.3f}</span>"
        for n in known
    ]
    return f'<p class="legend">Area under the curve: {"".join(items)}</p>' if items else ""


def _reliability(diagram: dict) -> str:
    out, at = svg.unit_square("reliability diagram")
    width, total = diagram["upper"][0], max(sum(diagram["pixels"]), 1)
    for upper, pixels, accuracy, confidence in zip(
        *(diagram[k] for k in ("upper", "pixels", "accuracy", "confidence"))
    ):
        if accuracy is not None:
            said = f"confidence {confidence:.3f}, {pct(accuracy)} % right, {100 * pixels / total:.1f} % of the pixels"
            out.append(svg.bar((upper - width, upper), accuracy, at, BLUE, said))
            x, y = at(upper - width / 2, confidence)
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{ORANGE}"/>')
    return "".join(out) + "</svg>"


def images(row: dict) -> str:
    """How the images' own mIoU spread; nothing where they were not kept."""
    found = row.get("per_image") or {}
    mious = {n: v for n, v in zip(found.get("names", []), found.get("miou", [])) if v is not None}
    if not mious:
        return ""
    bins = histogram(list(mious.values()))
    step = math.ceil(svg.round_step(max(n for _, _, n in bins)))  # images are whole
    top = step * -(-max(n for _, _, n in bins) // step)
    out, at = svg.frame((100 * bins[0][0], 100 * bins[-1][1]), top, step, _ticks(bins), "images by their mIoU")
    for low, high, n in bins:
        if n:
            said = f"{n} images from {100 * low:.0f} to {100 * high:.0f} %"
            out.append(svg.bar((100 * low, 100 * high), n, at, BLUE, said))
    worst, best = min(mious, key=mious.get), max(mious, key=mious.get)
    ends = [f"{word} {html.escape(n)} ({pct(mious[n])} %)" for word, n in (("worst", worst), ("best", best))]
    mean = f"mean of the images {pct(row.get('miou_per_image'))} %, mIoU of the whole set {pct(row.get('miou'))} %"
    text = f"{len(mious)} images by their own mIoU, in %: {'; '.join([mean, *ends])}"
    body = f"<figure>{''.join(out)}</svg><figcaption>{text}</figcaption></figure>"
    return f'<h2>Images one by one</h2><div class="charts">{body}</div>'


def _ticks(bins: Sequence[tuple]) -> list[float]:
    edges = [100 * bins[0][0], *(100 * high for _, high, _ in bins)]
    return [round(e) for e in edges if round(e) % 10 == 0 or len(edges) < 6]
