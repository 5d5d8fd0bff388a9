"""Compute class weights from rules, once per training; losses get numbers only.

The weights are saved as class_weights.json in the job's folder. A resumed run reads them there, so its loss stays the
same to the last bit even if the labels or the rule have changed.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

from common import distributed
from common.console import say
from common.errors import UserError
from common.files import write_json
from data.class_weights import class_weights, count_pixels, is_rule
from data.dataset import SegmentationDataset, data_hash
from engine.config import loss_spec
from engine.config.keys import LossConfig

FILE = "class_weights.json"
Specs = tuple[dict, dict]  # what losses.build_loss takes: the loss, and that of the auxiliary head


def loss_specs(loss: LossConfig) -> Specs:
    return loss_spec(loss), loss.aux or loss_spec(loss)


def rules_of(loss: LossConfig) -> list[str | dict]:
    """The distinct rules for class weights in a config's losses and their terms."""
    rules: list[str | dict] = []
    for part in [part for spec in loss_specs(loss) for part in _parts(spec)]:
        rule = part.get("class_weights")
        if is_rule(rule) and rule not in rules:
            rules.append(rule)
    return rules


def resolved_specs(loss: LossConfig, train: SegmentationDataset, folder: Path) -> Specs:
    """The losses with numbers in place of rules: computed from the job's training images (in a cross-validation the
    fold's), or read from the folder of a resumed job."""
    rules = rules_of(loss)
    if not rules:
        return loss_specs(loss)
    found = distributed.from_main(_found(rules, train, folder / FILE) if distributed.is_main() else None)
    return _filled(loss, lambda rule: next(row["weights"] for row in found if row["rule"] == rule))


def placeholder_specs(loss: LossConfig, num_classes: int) -> Specs:
    """The losses with weights of 1 in place of rules: for a check that builds them without reading data."""
    return _filled(loss, lambda rule: [1.0] * num_classes)


def _parts(spec: dict) -> list[dict]:
    return spec.get("terms") or [spec]


def _filled(loss: LossConfig, numbers) -> Specs:
    specs = copy.deepcopy(loss_specs(loss))
    for part in [part for spec in specs for part in _parts(spec)]:
        if is_rule(part.get("class_weights")):
            part["class_weights"] = numbers(part["class_weights"])
    return specs


def _found(rules: list, train: SegmentationDataset, path: Path) -> list[dict]:
    """One row per rule: read from the file if there is one, else computed, printed and saved."""
    if path.exists():
        return _read(rules, train, path)
    counts = count_pixels(train)
    facts = {"classes": list(train.class_names), "images": len(train), "data_hash": data_hash(train)}
    facts["pixels"] = counts.sum(0).tolist()
    rows = [{"rule": rule, "weights": class_weights(rule, counts), **facts} for rule in rules]
    for row in rows:
        shown = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(row["classes"], row["weights"]))
        say(f"class weights by {_title(row['rule'])} from {len(train)} images: {shown}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rows)
    return rows


def _read(rules: list, train: SegmentationDataset, path: Path) -> list[dict]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        known = [row["rule"] for row in rows if row["classes"] == list(train.class_names) and len(row["weights"])]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged; remove it to compute the weights again") from None
    if any(rule not in known for rule in rules):
        raise UserError(f"{path}: holds no weights by {_title(rules[0])} for these classes; start a new run")
    return rows


def _title(rule: str | dict) -> str:
    if isinstance(rule, str):
        return rule
    options = ", ".join(f"{k} {v}" for k, v in rule.items() if k != "rule")
    return f"{rule['rule']} ({options})" if options else str(rule["rule"])
