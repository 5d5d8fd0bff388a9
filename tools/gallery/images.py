"""The images of a gallery: which ones it shows, and their pictures (image, target, prediction, error)."""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence
from pathlib import PurePath

from PIL import Image

from common.errors import UserError
from common.spread import evenly_spaced
from data.dataset import SegmentationDataset
from engine.evaluation.views import Views
from engine.report.best_and_worst import shown_parts
from engine.report.html_page import data_uri
from engine.report.samples import sample_of
from tools.gallery.networks import Side


def find_images(names: Sequence[str], dataset: SegmentationDataset) -> list[int]:
    """Indices of images by their whole name, or by its last part if only one image has that.

    Raises: UserError for a name that no image has, or more than one.
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


def choose_images(by: str, count: int, results: Sequence[dict], one_per_group: bool = False) -> list[int]:
    """Indices of the images to show. spread: evenly over the split; worst: the lowest mIoU of the first network;
    disagreement: the largest gap between highest and lowest mIoU. Only `spread` shows images without labelled pixels.

    one_per_group: at most one image of each city or stretch of video, whose frames are alike.
    """
    mious, groups = [r["per_image"]["miou"] for r in results], results[0]["per_image"]["groups"]
    if by == "spread":
        key = dict.fromkeys(range(len(groups)), 0.0)
    elif by == "worst":
        key = {i: miou for i, miou in enumerate(mious[0]) if miou is not None}
    else:
        key = {i: min(m) - max(m) for i, m in enumerate(zip(*mious)) if None not in m}
    order = sorted(key, key=key.__getitem__)  # a stable sort: of equal images the first one comes first
    if one_per_group:
        seen: set[str] = set()
        order = [i for i in order if groups[i] not in seen and not seen.add(groups[i])]
    return [order[k] for k in evenly_spaced(len(order), count)] if by == "spread" else order[:count]


def draw_images(side: Side, chosen: Sequence[int]) -> list[dict[str, str]]:
    """{image, target, prediction, error: data: address} for each chosen image."""
    models, views, found = side.networks(), Views.of(side.cfg.eval), []
    for i in chosen:
        sample = sample_of(models, side.cfg, side.dataset, side.device, views, i)
        parts = shown_parts(*sample, side.dataset.palette, side.dataset.ignore_index)
        found.append({kind: encode_picture(part, kind) for kind, part in parts.items()})
    return found


def encode_picture(picture: Image.Image, kind: str) -> str:
    """Photographs and error maps as JPEG; class colours as PNG, which keeps them exact."""
    out, photo = io.BytesIO(), kind in ("image", "error")
    picture.save(out, "JPEG", quality=85) if photo else picture.save(out, "PNG", optimize=True)
    return data_uri(out.getvalue(), "image/jpeg" if photo else "image/png")
