"""The protocol: everything a score depends on beside the weights."""

from __future__ import annotations

from data import data_hash
from engine.config import Config
from engine.evaluation.views import WHOLE, Views


def protocol(cfg: Config, dataset, views: Views = WHOLE) -> dict:
    """Everything a number depends on beside the weights."""
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


def describe(protocol: dict) -> str:
    """One line with everything a score depends on beside the weights."""
    size = "x".join(str(v) for v in protocol.get("size") or ())
    scored = "scored at the labels' own size" if protocol.get("native") else f"scored at {size} (H x W)"
    parts = [f"{protocol.get('data', '?')} {protocol.get('split', '?')}"]
    if protocol.get("sample"):
        counts = "/".join(str(n or "own") for n in protocol["sample"])
        parts += [f"splits {counts} drawn from train by {protocol['sample_by']}, seed {protocol['sample_seed']}"]
    parts += [f"{protocol['images']} images"] if protocol.get("images") else []
    parts += [f"network input {size}, {scored}" if protocol.get("native") else scored]
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


# what may differ: who is compared, and how it was made and chosen. Not the labels of a run with folds (contaminated)
WHO = {"checkpoint", "run", "stage", "candidate", "start", "select", "member", "predictions", "targets", "raw"}


def protocol_differences(a: dict, b: dict) -> list[str]:
    """What differs between two protocols beside who was scored, a line each."""
    keys = sorted((set(a) | set(b)) - WHO)
    values = [(k, a.get(k), b.get(k)) for k in keys]
    values = [v for v in values if v[0] != "labels" or v[1] or v[2]]  # one checkpoint has none, like an honest run
    return [f"{k}: {x} and {y}" for k, x, y in values if x != y]


ABSENT_RULE = {
    "nan": "absent classes are left out of the mean",
    "zero": "absent classes count 0",
    "one": "absent classes count 1",
}
