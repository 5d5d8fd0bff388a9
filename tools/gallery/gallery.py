"""Several networks on the same images: opened, held to one protocol, scored, and their pictures of a few images.

Two passes: the first scores every image and keeps confusion matrices alone, the second predicts the chosen images
again and keeps pictures of these. One network is in memory at a time.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch
from PIL import Image
from torch import nn

from common.device import resolve_device
from common.errors import UserError
from data import build_dataset
from data.dataset import SegmentationDataset, limited
from engine.config import Config
from engine.evaluation.class_lists import shared_classes
from engine.evaluation.evaluate import score_models
from engine.evaluation.networks import open_networks
from engine.evaluation.paired_bootstrap import compare, require_same_images
from engine.evaluation.protocol import protocol, protocol_differences
from engine.evaluation.scores import scores
from engine.evaluation.views import Views
from engine.report.best_and_worst import shown_parts
from engine.report.html_page import data_uri
from engine.report.samples import sample_of

STAMP = re.compile(r"-\d{8}-\d{6}(-\d+)?$")  # what run_folder.make_run puts behind the name


@dataclass
class Side:
    """One of those compared. Its network is loaded when it is needed, and not kept."""

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
        """In eval mode on the device; of an ensemble all members."""
        return open_networks(self.path, self.settings, self.common).networks

    def protocol(self) -> dict:
        return protocol(self.cfg, self.dataset, Views.of(self.cfg.eval)) | {"checkpoint": str(self.path)}


def open_side(source: str, split: str, common: Config | None, sets: Sequence[str], label: str | None = None) -> Side:
    """A run folder (of a cross-validation: its best candidate), a checkpoint of ours, or a public file, URL or id.

    common: whose data and eval sections replace the run's own; a public file has none and needs it. sets: changes to
    the keys of all. Raises: UserError where something is missing, or for other classes than the data's.
    """
    settings = ["data.cache=false", *sets]  # every image is read once or twice; several caches would be in memory
    opened = open_networks(source, settings, common)
    if opened.report and not common:
        raise UserError(f"{source}: not written by this project; say with --config CONFIG what to score all of them on")
    cfg, notes = opened.config, ()
    dataset = limited(build_dataset(cfg, split, train=False), cfg.data.limit)
    opened.require_classes(dataset, source)
    if opened.report:
        notes += (f"{opened.report.architecture}, {opened.report.layout}",)
        if len(shared_classes(dataset.class_names, opened.class_names)) < dataset.num_classes:
            names = ", ".join(opened.class_names)
            notes += (f"class names: those of the data; the file's ({opened.names_from}): {names}",)
    label = label or name_of(source, opened.path, (Path(source) / "config.yaml").is_file())
    return Side(label, opened.path, cfg, dataset, notes, settings, common)


def name_of(source: str, path: Path, is_run: bool) -> str:
    """A short name: of a run its own, without the time (and its candidate, if it has folds); of a file or id its last
    part, unless every run calls its file so."""
    if is_run:
        name = STAMP.sub("", path.parents[path.parent.name == "aggregate"].resolve().name)
        return name if path.name == "best.pt" else f"{name} ({path.stem})"
    last = PurePath(source).name
    return f"{PurePath(source).parent.name}/{last}" if last in ("best.pt", "last.pt", "pytorch_model.bin") else last


def told_apart(sides: Sequence[Side]) -> None:
    """Gives sides of the same label a number."""
    for side in sides:
        twins = [s for s in sides if s.label == side.label]
        for k, twin in enumerate(twins if len(twins) > 1 else [], 1):
            twin.label = f"{twin.label} #{k}"


def require_one_protocol(sides: Sequence[Side], anyway: bool = False) -> list[str]:
    """Lines on what differs from the first. Raises: UserError for other classes or images; for another protocol, unless
    `anyway`. Where targets keep their own size, the size that a network sees is its own affair. All sides then list
    their images in the first's order."""
    lines, first = [], sides[0]
    for side in sides[1:]:
        names = (first.label, side.label)
        require_same_images(facts(first), facts(side), names)
        where = {name: i for i, name in enumerate(side.dataset.names)}
        side.dataset = side.dataset.subset([where[name] for name in first.dataset.names])
        pair = facts(first), facts(side)
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


def facts(side: Side) -> dict:
    """What a result has, before there are any scores: classes, images, protocol."""
    classes = dict.fromkeys(side.dataset.class_names)
    return {"per_class": classes, "per_image": {"names": side.dataset.names}, "protocol": side.protocol()}


def score(side: Side) -> dict:
    """What eval.py writes: the scores of the set and of each image, and the protocol."""
    cfg, dataset = side.cfg, side.dataset
    found = score_models(side.networks(), cfg, dataset, side.device, Views.of(cfg.eval), cfg.eval.extra)
    return {"protocol": side.protocol(), **scores(found, dataset.class_names, cfg.eval.absent, cfg.eval.exclude)}


def differences(results: Sequence[dict]) -> list[dict | None]:
    """Of every result but the first its paired bootstrap to the first (engine/evaluation/paired_bootstrap.py), over groups, or over images
    where all are of one group; None where there is one image alone."""
    groups, images = len(set(results[0]["per_image"]["groups"])), len(results[0]["per_image"]["names"])
    if images < 2:
        return [None for _ in results[1:]]
    return [compare(results[0], other, "group" if groups > 1 else "image") for other in results[1:]]


# --- which images, and their pictures ---------------------------------------------------------------------------------


def spread(total: int, count: int) -> list[int]:
    """`count` indices, evenly spread from the first to the last."""
    count = min(count, total)
    return [round(k * (total - 1) / max(count - 1, 1)) for k in range(count)]


def named(names: Sequence[str], dataset: SegmentationDataset) -> list[int]:
    """Indices of images by name: all of it, or its last part where only one image has that.

    Raises: UserError for a name that is there not at all, or more than once.
    """
    chosen = []
    for name in names:
        last = PurePath(name).name
        whole = [i for i, n in enumerate(dataset.names) if n == name]
        found = whole or [i for i, n in enumerate(dataset.names) if PurePath(n).name in (last, PurePath(name).stem)]
        if len(found) > 1:
            where = ", ".join(dataset.names[i] for i in found[:3])
            raise UserError(f"--names {name}: {len(found)} images of {dataset.name} have this name: {where}")
        if not found:
            near = difflib.get_close_matches(name, dataset.names, n=1, cutoff=0.3)
            hint = f": did you mean '{near[0]}'?" if near else ""
            raise UserError(f"--names {name}: not among the {len(dataset)} images of {dataset.name}{hint}")
        chosen += found
    return list(dict.fromkeys(chosen))


def choose(by: str, count: int, results: Sequence[dict], one_per_group: bool = False) -> list[int]:
    """Indices of the images to show. spread: evenly over the split; worst: the lowest mIoU of the first; disagreement:
    where the highest and lowest mIoU lie farthest apart. Images without a score (no labelled pixel): `spread` only.

    one_per_group: of each city or stretch of video, whose frames are alike, the first that comes.
    """
    mious, groups = [r["per_image"]["miou"] for r in results], results[0]["per_image"]["groups"]
    if by == "spread":
        order = list(range(len(groups)))
    elif by == "worst":
        key = {i: miou for i, miou in enumerate(mious[0]) if miou is not None}
        order = sorted(key, key=lambda i: (key[i], i))
    else:
        key = {i: min(m) - max(m) for i, m in enumerate(zip(*mious)) if None not in m}
        order = sorted(key, key=lambda i: (key[i], i))
    if one_per_group:
        seen: set[str] = set()
        order = [i for i in order if groups[i] not in seen and not seen.add(groups[i])]
    return [order[k] for k in spread(len(order), count)] if by == "spread" else order[:count]


def pictures(side: Side, chosen: Sequence[int]) -> list[dict[str, str]]:
    """Of each chosen image: image, target, prediction, error as addresses that hold the picture."""
    models, views, found = side.networks(), Views.of(side.cfg.eval), []
    for model in models:
        model.eval()
    for i in chosen:
        sample = sample_of(models, side.cfg, side.dataset, side.device, views, i)
        parts = shown_parts(*sample, side.dataset.palette, side.dataset.ignore_index)
        found.append({kind: encode(part, kind) for kind, part in parts.items()})
    return found


def encode(picture: Image.Image, kind: str) -> str:
    """Photographs and error maps as JPEG; colours of classes as PNG, which leaves them as they are."""
    out, photo = io.BytesIO(), kind in ("image", "error")
    picture.save(out, "JPEG", quality=85) if photo else picture.save(out, "PNG", optimize=True)
    return data_uri(out.getvalue(), "image/jpeg" if photo else "image/png")
