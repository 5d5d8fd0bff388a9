"""Check every pair of a config's data set, even if a fault keeps a split from being built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from data import build_dataset, configured_labels
from data.check.file_rules import file_findings
from data.check.scan import LEVELS, Facts, Finding, scan
from data.check.value_rules import value_findings
from data.files import JPEG_SUFFIXES, SPLITS, Record, files_by_name
from data.labels import CAMVID, LabelTable
from data.sets.folder import read_classes

SIDES = {"folder": ("images/{}", "labels/{}"), "camvid": ("{}", "{}annot")}  # their pairs can be found one by one


@dataclass(frozen=True)
class Checked:
    """Facts of the pairs read, and findings, the worst first."""

    facts: list[Facts]
    labels: LabelTable | None
    findings: list[Finding]

    def count(self, level: str) -> int:
        return sum(f.level == level for f in self.findings)

    def worst_files(self) -> list[tuple[Path, list[Finding]]]:
        """Files named by findings; more and graver findings first."""
        named: dict[Path, list[Finding]] = {}
        for finding in self.findings:
            for path in finding.files:
                named.setdefault(path, []).append(finding)
        return sorted(named.items(), key=lambda item: [-sum(f.level == level for f in item[1]) for level in LEVELS])


def check_config(cfg, splits: Sequence[str] = SPLITS, limit: int = 0, workers: int = 4, progress=None):
    """Check every pair of every split; every file is read in full. limit: the first n pairs per split, 0: all.

    Raises: UserError if there is nothing to read: no such data set, no classes.yaml, no split with an image.
    """
    found: list[Facts] = []
    findings: list[Finding] = []
    labels: LabelTable | None = None
    absent: list[UserError] = []
    for split in splits:
        try:
            dataset = build_dataset(cfg, split, train=False)
            records, table = dataset.records, dataset.labels
        except UserError as e:
            records, table, faults = _pairs_one_by_one(cfg, split, e)
            if not records:
                absent.append(e)
                if split != "test":  # a data set may have no test split
                    findings.append(Finding("error", "split cannot be read", f"{split}: {e}", "data.root: FOLDER"))
                continue
            findings += faults
        labels = table or labels
        unlabelled = sum(r.label is None for r in records)
        if unlabelled == len(records):
            level = "note" if split == "test" else "error"
            text = f"{split} has {len(records)} images and no labels: it can be predicted, not trained or scored"
            findings.append(Finding(level, "no labels", text, "data.sample: [N, N, 0] draws a split from train"))
        found += scan(records[:limit] if limit else records, split, workers, progress)
    if not found:
        raise absent[0]
    return apply_rules(found, labels, findings)


def apply_rules(found: list[Facts], labels: LabelTable, findings: Sequence[Finding] = ()) -> Checked:
    """Apply all rules to the facts; findings are sorted by level."""
    everything = [*findings, *file_findings(found), *value_findings([f for f in found if f.label_hw], labels)]
    return Checked(found, labels, sorted(everything, key=lambda f: LEVELS.index(f.level)))


def _pairs_one_by_one(cfg, split: str, error: UserError) -> tuple[list[Record], LabelTable | None, list[Finding]]:
    """(complete pairs, label table, findings about the other files) of a split that `build_dataset` refuses;
    ([], None, []) if the layout gives no pairs."""
    if cfg.data.name not in SIDES or cfg.data.sample or not cfg.data.root:
        return [], None, []
    root = Path(cfg.data.root).expanduser()
    image_dir, label_dir = (root / side.format(split) for side in SIDES[cfg.data.name])
    images, masks = files_by_name(image_dir), files_by_name(label_dir)
    if not images or not masks:
        return [], None, []
    table = CAMVID if cfg.data.name == "camvid" else read_classes(root / "classes.yaml")
    table = configured_labels(cfg.data, table)
    findings = _unpaired(split, images, masks) + _twice(split, images, masks)
    pairs = [Record(images[n][0], masks[n][0], n, n) for n in images if n in masks]
    jpeg = any(p.suffix.lower() in JPEG_SUFFIXES for paths in masks.values() for p in paths)
    if not findings and not jpeg:  # refused for another reason: report that one
        findings = [Finding("error", "split cannot be read", f"{split}: {error}")]
    return pairs, table, findings


def _unpaired(split: str, images: dict, masks: dict) -> list[Finding]:
    out = []
    for fault, here, there, other in (
        ("image without label", images, masks, "label"),
        ("label without image", masks, images, "image"),
    ):
        if not (names := [n for n in here if n not in there]):
            continue
        text = f"{len(names)} {fault.replace(' ', 's ', 1)} in {split} (first: {here[names[0]][0].name})"
        near = next((n for n in there if n.startswith(names[0]) or names[0].startswith(n)), None)
        text += f"; '{near}' is there: do the names differ in an ending?" if near else ""
        fix = f"add the {other}, with the same name, or remove the file"
        out.append(Finding("error", fault, text, fix, tuple(here[n][0] for n in names)))
    return out


def _twice(split: str, images: dict, masks: dict) -> list[Finding]:
    out = []
    for side in (images, masks):
        if double := [paths for paths in side.values() if len(paths) > 1]:
            text = f"{len(double)} names of {split} have two files ({', '.join(p.name for p in double[0])})"
            files = tuple(p for paths in double for p in paths)
            out.append(Finding("error", "two files, one name", text, "remove one of each", files))
    return out
