"""The networks of a gallery: opened from runs and files, checked for one protocol, scored on the same images.

Scoring keeps confusion matrices alone; images.py predicts the chosen images again for their pictures. One network is
in memory at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch
from torch import nn

from common.device import resolve_device
from common.errors import UserError
from data import build_dataset
from data.dataset import SegmentationDataset, limited
from engine.config import Config
from engine.evaluation.class_lists import shared_classes
from engine.evaluation.evaluate import score_models
from engine.evaluation.networks import open_networks
from engine.evaluation.paired_bootstrap import require_same_images, result_differences
from engine.evaluation.protocol import protocol, protocol_differences
from engine.evaluation.scores import scores
from engine.evaluation.views import Views

STAMP = re.compile(r"-\d{8}-\d{6}(-\d+)?$")  # what run_folder.make_run puts behind the name


@dataclass
class Side:
    """One side of the comparison. Its network is loaded when it is needed, and not kept."""

    label: str
    path: Path
    cfg: Config
    dataset: SegmentationDataset
    notes: tuple[str, ...] = ()
    settings: Sequence[str] = ()
    common: Config | None = None

    @property
    def device(self) -> torch.device:
        return resolve_device(self.cfg.device)

    def networks(self) -> list[nn.Module]:
        """The network in eval mode on the device, or all members of an ensemble."""
        return open_networks(self.path, self.settings, self.common).networks

    def protocol(self) -> dict:
        return protocol(self.cfg, self.dataset, Views.of(self.cfg.eval)) | {"checkpoint": str(self.path)}


def open_side(source: str, split: str, common: Config | None, sets: Sequence[str], label: str | None = None) -> Side:
    """Open a run folder (of a cross-validation: its best candidate), a checkpoint of ours, or a public file, URL or id.

    common: a config whose data and eval sections replace the run's own; a public file needs one. sets: changes to keys
    of every config. Raises: UserError if something is missing, or if the classes are not those of the data.
    """
    settings = ["data.cache=false", *sets]  # every image is read once or twice; several caches would be in memory
    opened = open_networks(source, settings, common)
    if opened.report and not common:
        raise UserError(f"{source}: not written by this project; say with --config CONFIG what to score all of them on")
    cfg, notes = opened.config, ()
    dataset = limited(build_dataset(cfg, split, train=False), cfg.data.limit)
    opened.require_classes(dataset, source)
    if opened.report:
        notes += (f"{opened.report.architecture}, {opened.report.layout}", *opened.report.notes)
        if len(shared_classes(dataset.class_names, opened.class_names)) < dataset.num_classes:
            names = ", ".join(opened.class_names)
            notes += (f"class names: those of the data; the file's ({opened.names_from}): {names}",)
    label = label or name_of(source, opened.path, (Path(source) / "config.yaml").is_file())
    return Side(label, opened.path, cfg, dataset, notes, settings, common)


def name_of(source: str, path: Path, is_run: bool) -> str:
    """A short name: that of a run without its time (with the candidate, if the run has folds), or the last part of a
    file or id; with its folder where every run has a file of that name."""
    if is_run:
        name = STAMP.sub("", path.parents[path.parent.name == "aggregate"].resolve().name)
        return name if path.name == "best.pt" else f"{name} ({path.stem})"
    last = PurePath(source).name
    return f"{PurePath(source).parent.name}/{last}" if last in ("best.pt", "last.pt", "pytorch_model.bin") else last


def number_equal_labels(sides: Sequence[Side]) -> None:
    """Sides of the same label get numbers behind it."""
    for side in sides:
        twins = [s for s in sides if s.label == side.label]
        for k, twin in enumerate(twins if len(twins) > 1 else [], 1):
            twin.label = f"{twin.label} #{k}"


def require_one_protocol(sides: Sequence[Side], anyway: bool = False) -> list[str]:
    """Make all sides list their images in the order of the first; return lines on what else differs from the first.

    Raises: UserError for other classes or images, and for another protocol unless `anyway`. Where targets keep their
    own size (eval.native), networks may see the images at different sizes.
    """
    lines, first = [], sides[0]
    for side in sides[1:]:
        names = (first.label, side.label)
        require_same_images(unscored(first), unscored(side), names)
        where = {name: i for i, name in enumerate(side.dataset.names)}
        side.dataset = side.dataset.subset([where[name] for name in first.dataset.names])
        pair = unscored(first), unscored(side)
        parts = [p["protocol"] | ({"size": None} if p["protocol"]["native"] else {}) for p in pair]
        found = protocol_differences(*parts)
        if found and not anyway:
            hint = "--set eval.native=true scores all at the labels' own size; " if "size" in str(found) else ""
            raise UserError(
                f"{names[0]} and {names[1]} would be scored by different protocols ({'; '.join(found)}); {hint}"
                "--config CONFIG scores all by one, --anyway as they are"
            )
        lines += [f"{side.label}: {line}" for line in found]
    return lines


def unscored(side: Side) -> dict:
    """A result without its scores: classes, images, protocol."""
    classes = dict.fromkeys(side.dataset.class_names)
    return {"per_class": classes, "per_image": {"names": side.dataset.names}, "protocol": side.protocol()}


def score_side(side: Side) -> dict:
    """The same result as eval.py writes: scores of the set and of each image, and the protocol."""
    cfg, dataset = side.cfg, side.dataset
    found = score_models(side.networks(), cfg, dataset, side.device, Views.of(cfg.eval), cfg.eval.extra)
    return {"protocol": side.protocol(), **scores(found, dataset.class_names, cfg.eval.absent, cfg.eval.exclude)}


def differences_to_first(results: Sequence[dict]) -> list[dict | None]:
    """The paired bootstrap of each other result to the first (engine/evaluation/paired_bootstrap.py), over groups of
    images, or over images if all are in one group; None if there is only one image."""
    groups, images = len(set(results[0]["per_image"]["groups"])), len(results[0]["per_image"]["names"])
    if images < 2:
        return [None for _ in results[1:]]
    return [result_differences(results[0], other, "group" if groups > 1 else "image") for other in results[1:]]
