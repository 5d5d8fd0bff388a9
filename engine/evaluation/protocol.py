"""The protocol: everything a score depends on beside the weights."""

from __future__ import annotations

from data import data_hash
from engine.config import Config
from engine.evaluation.views import WHOLE, Views

ABSENT_RULE = {
    "nan": "absent classes are left out of the mean",
    "zero": "absent classes count 0",
    "one": "absent classes count 1",
}
# Keys that may differ between two scores that are compared: what was scored, and how it was trained and chosen. `labels`
# is not among them: a contaminated run must not be compared with an honest one.
WHO = {"checkpoint", "run", "stage", "candidate", "start", "select", "member", "predictions", "targets", "raw"}


def protocol(cfg: Config, dataset, views: Views = WHOLE) -> dict:
    """The protocol of a score on a data set, as plain values for JSON."""
    return {
        "data": cfg.data.name,
        "split": dataset.split,
        "images": len(dataset),
        "sample": list(cfg.data.sample),
        "sample_seed": cfg.data.sample_seed,
        "sample_by": cfg.data.sample_by,
        "size": list(cfg.data.size),
        "native": cfg.eval.native,
        "absent": cfg.eval.absent,
        "void": cfg.eval.void,
        "exclude": list(cfg.eval.exclude),
        "background": cfg.data.background,
        "scales": list(views.scales),
        "flip": views.flip,
        "window": list(views.window) if views.window else None,
        "stride": list(views.stride) if views.window and views.stride else None,
        "blend": views.blend if views.window else None,
        "data_hash": data_hash(dataset),
    }


def protocol_line(protocol: dict) -> str:
    """A protocol in one line: of a network's scores, or of label files (tools/score.py), which have no size or views."""
    images, of_files = protocol.get("images"), "predictions" in protocol
    parts = [protocol.get("data", "?") if of_files else f"{protocol.get('data', '?')} {protocol.get('split', '?')}"]
    if protocol.get("sample"):
        counts = "/".join(str(n or "own") for n in protocol["sample"])
        parts += [f"splits {counts} drawn from train by {protocol['sample_by']}, seed {protocol['sample_seed']}"]
    parts += [f"{images} {'label files' if of_files else 'images'}"] if images else []
    if not of_files:
        size = "x".join(str(v) for v in protocol.get("size") or ())
        native = protocol.get("native")
        parts += [f"network input {size}, scored at the labels' own size" if native else f"scored at {size} (H x W)"]
    scales = protocol.get("scales") or [1.0]
    parts += [f"test-time scales {', '.join(f'{s:g}' for s in scales)}"] if list(scales) != [1.0] else []
    parts += ["mirrored image averaged in"] if protocol.get("flip") else []
    parts += ["sliding window {}x{}".format(*protocol["window"])] if protocol.get("window") else []
    parts += ["stride {}x{}".format(*protocol["stride"])] if protocol.get("stride") else []
    parts += ["background ignored"] if protocol.get("background") == "ignore" else []
    parts += ["windows blended by a Gaussian"] if protocol.get("blend") == "gaussian" else []
    parts += ["void pixels count as errors"] if protocol.get("void") == "error" else []
    parts += [f"means without {', '.join(protocol['exclude'])}"] if protocol.get("exclude") else []
    return ", ".join([*parts, ABSENT_RULE.get(protocol.get("absent"), f"absent rule {protocol.get('absent')}")])


def protocol_differences(a: dict, b: dict) -> list[str]:
    """One line for each key in which two protocols differ, those in WHO aside."""
    keys = sorted((set(a) | set(b)) - WHO)
    values = [(k, a.get(k), b.get(k)) for k in keys]
    values = [v for v in values if v[0] != "labels" or v[1] or v[2]]  # one checkpoint has none, like an honest run
    return [f"{k}: {x} and {y}" for k, x, y in values if x != y]
