"""Our score of a public file beside its publisher's, with both protocols and what differs between them."""

from __future__ import annotations

from pathlib import Path

from engine.evaluation.protocol import describe
from engine.evaluation.views import Views
from models.checkpoints.load import Report
from models.checkpoints.published import Published, whose, with_numbers

WORDS = {  # of a protocol: what it is called, and the key that sets it
    "split": ("split", None), "images": ("images", None), "size": ("network input", "data.size"),
    "native": ("scored at the labels' own size", "eval.native"), "window": ("sliding window", "eval.window"),
    "stride": ("stride", "eval.stride"), "blend": ("blend of windows", "eval.blend"),
    "scales": ("test-time scales", "eval.scales"), "flip": ("mirrored image averaged in", "eval.flip"),
    "absent": ("absent classes", "eval.absent"), "void": ("void pixels", "eval.void"),
    "exclude": ("classes left out of the mean", "eval.exclude"),
}  # fmt: skip


def beside(result: dict, views: Views, source: str, path: Path, report: Report) -> dict:
    """What is published about a scored file: {"whose", "sure", "entries"}, an entry a number on this data set.

    result: of eval.py, with its protocol. An entry: id, miou (a fraction), source, protocol, differs (lines), keys
    (KEY=VALUE that would score it as they did).
    """
    found, facts = whose(source, path, report), result["protocol"]
    entries = []
    for id, row in with_numbers(found.ids, facts["data"]).items():
        differs, keys = differing(facts, views, row)
        entries.append({"id": id, "miou": row.miou / 100, "source": row.source, "protocol": row.protocol(),
                        "differs": differs, "keys": keys})  # fmt: skip
    return {"whose": list(found.ids), "how": found.how, "sure": found.sure, "entries": entries}


def differing(ours: dict, views: Views, row: Published) -> tuple[list[str], list[str]]:
    """(lines on what differs, KEY=VALUE of what can be set). A window as large as the image is none."""
    mine, theirs = dict(ours), row.protocol()
    mine["stride"] = list(views.steps()) if views.window else None
    if views.scales == (1.0,) and views.covers(ours["size"]):
        mine |= {"window": None, "stride": None, "blend": None}
    both, lines, keys = mine["window"] and theirs["window"], [], []
    for name, (words, key) in WORDS.items():
        a, b = mine.get(name), theirs[name]
        if a == b or (name == "images" and b is None):
            continue
        if both or name not in ("stride", "blend"):  # else that goes without saying
            lines.append(f"{words}: {_text(b)} there, {_text(a)} here")
        if key and not (name == "size" and isinstance(b[0], str)) and not (name == "blend" and b is None):
            keys.append(f"{key}={_value(b)}")
    return [*lines, *row.notes], keys


def _text(value) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value)) or "none"
    return "none" if value is None else ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _value(value) -> str:
    """As --set takes it, without spaces."""
    if value is None:
        return "[]"
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def text(found: dict, result: dict, report: Report) -> str:
    """For people: one block a number, ours and theirs, protocols, differences."""
    ours, what = result["miou"], f"{report.architecture}, {report.num_classes} classes ({report.layout})"
    if not found["entries"]:
        if found["sure"]:
            return f"published: no number known on {result['protocol']['data']} for {found['whose'][0]}"
        return f"published: no number known on {result['protocol']['data']} for a file of {what}"
    lines = []
    if not found["sure"]:
        lines += [f"published: which file this is, is not sure, {found['how']} ({what}); these fit:"]
    for entry in found["entries"]:
        gap = "-" if ours is None else f"{100 * (ours - entry['miou']):+.2f}"
        here = "-" if ours is None else f"{100 * ours:.2f}"
        told = f" ({found['how']})" if found["sure"] else ""
        lines += [
            f"published: mIoU {100 * entry['miou']:g} % for {entry['id']}{told}; here {here} %, difference {gap}",
            f"  theirs   {describe(entry['protocol'])}",
            f"  ours     {describe(result['protocol'])}",
            f"  source   {entry['source']}",
            *(f"  differs  {line}" for line in entry["differs"] or ["nothing that is known"]),
        ]
        if entry["keys"]:
            lines.append(f"  to score as they did: {' '.join(f'--set {key}' for key in entry['keys'])}")
    return "\n".join(lines)
