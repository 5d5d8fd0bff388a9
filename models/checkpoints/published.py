"""What publishers say their files score, by the ids of known.py, and how they scored them.

Every number was looked up where `source` says (November 2026), every protocol in the publisher's own test code or
config; multi-scale scores are left out. A file that others converted without changing its weights has the score of the
original, and says so. Not in the table: files for which no number of single-scale mIoU was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import file_hash
from models.checkpoints.known import KNOWN, Known
from models.checkpoints.load import Report

ON_HUBS = ("pytorch_model.bin", "model.safetensors")  # what every file is called there


@dataclass(frozen=True)
class Published:
    """One score and its protocol, in the words of a result's protocol (engine/evaluation/scoring.py)."""

    miou: float  # percent, to as many digits as published
    source: str
    data: str = "cityscapes"  # the data set here whose classes these are
    images: int | None = 500
    size: tuple = (1024, 2048)  # (H, W) at which the network is shown an image; or one text, where that varies
    native: bool = True  # scored at the labels' own size
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    flip: bool = False
    absent: str = "nan"
    notes: tuple[str, ...] = ()  # what they do that no key here does

    def protocol(self) -> dict:
        return {
            "data": self.data, "split": "val", "images": self.images, "size": list(self.size), "native": self.native,
            "window": self.window and list(self.window), "stride": self.stride and list(self.stride),
            "blend": "mean" if self.window else None, "scales": [1.0], "flip": self.flip, "absent": self.absent,
            "void": "ignore", "exclude": [], "background": "train",
        }  # fmt: skip


LOGITS = "where windows overlap they average logits, we average probabilities"
ALIASED = "they shrink images by OpenCV's bilinear resize, which reads 2 x 2 pixels; ours averages over the whole cell"
SAME_WEIGHTS = "the paper's number: the publisher of this file gives none, its weights are those of the paper"
SLIDE = dict(window=(1024, 1024), stride=(768, 768))

# --- SegFormer: the authors' files, and the same weights on the Hugging Face hub ------------------------------------

PAPER = "SegFormer, arXiv 2105.15203, {} (single scale); protocol: NVlabs/SegFormer, local_configs/segformer"
CITY = (76.2, 78.5, 81.0, 81.7, 82.3, 82.4)  # B0 to B5, table 1a
ADE = (37.4, 42.2, 46.5, 49.4, 50.3, 51.0)
MIDDLE = "the number is a row of table 2 between those of short side 1024 and 512; the paper does not name its size"


def _segformer() -> dict[str, Published]:
    rows: dict[str, tuple[str, Published]] = {}  # NVlabs' name without "segformer." -> the hub's, score
    for i, miou in enumerate(CITY):
        row = Published(miou, PAPER.format("table 1a"), notes=(LOGITS,), **SLIDE)
        rows[f"b{i}.1024x1024.city.160k"] = (f"b{i}-finetuned-cityscapes-1024-1024", row)
    source = PAPER.format("table 2")
    small = {
        "512x1024": Published(71.9, source, size=(512, 1024), notes=(ALIASED,)),
        "640x1280": Published(73.7, source, size=(640, 1280), notes=(MIDDLE, ALIASED)),
        "768x768": Published(75.3, source, size=(768, 1536), window=(768, 768), stride=(768, 768),
                             notes=(MIDDLE, ALIASED)),
    }  # fmt: skip
    for size, row in small.items():
        rows[f"b0.{size}.city.160k"] = (f"b0-finetuned-cityscapes-{size.replace('x', '-')}", row)
    for i, miou in enumerate(ADE):
        side = 640 if i == 5 else 512
        size = (f"short side {side}, long side at most 2048, both to multiples of 32",)
        row = Published(miou, PAPER.format("table 1a"), "ade20k", 2000, size, notes=(ALIASED,))
        rows[f"b{i}.{side}x{side}.ade.160k"] = (f"b{i}-finetuned-ade-{side}-{side}", row)
    found = {f"nvlabs/segformer.{name}": row for name, (_, row) in rows.items()}
    for hub, row in rows.values():
        found[f"nvidia/segformer-{hub}"] = _copied(row)
    found["smp-hub/segformer-b2-1024x1024-city-160k"] = _copied(rows["b2.1024x1024.city.160k"][1])
    return found


def _copied(row: Published) -> Published:
    return Published(**{**vars(row), "notes": (SAME_WEIGHTS, *row.notes)})


# --- MMSegmentation -------------------------------------------------------------------------------------------------

MMSEG = {  # id without "mmseg/" -> mIoU (single scale), configs/<model>/metafile.yaml
    "segformer_mit-b0_8x1_1024x1024_160k_cityscapes": 76.54,
    "segformer_mit-b1_8x1_1024x1024_160k_cityscapes": 78.56,
    "segformer_mit-b2_8x1_1024x1024_160k_cityscapes": 81.08,
    "segformer_mit-b3_8x1_1024x1024_160k_cityscapes": 81.94,
    "segformer_mit-b4_8x1_1024x1024_160k_cityscapes": 81.89,
    "segformer_mit-b5_8x1_1024x1024_160k_cityscapes": 82.25,
    "deeplabv3plus_r18-d8_512x1024_80k_cityscapes": 76.89,
    "deeplabv3plus_r50-d8_512x1024_40k_cityscapes": 79.61,
    "deeplabv3plus_r101-d8_512x1024_40k_cityscapes": 80.21,
    "pspnet_r18-d8_512x1024_80k_cityscapes": 74.87,
    "pspnet_r50-d8_512x1024_40k_cityscapes": 77.85,
    "pspnet_r101-d8_512x1024_40k_cityscapes": 78.34,
    "fcn_r50-d8_512x1024_40k_cityscapes": 72.25,
    "fcn_r101-d8_512x1024_40k_cityscapes": 75.45,
    "fcn_unet_s5-d16_4x4_512x1024_160k_cityscapes": 69.10,
}


def _mmseg() -> dict[str, Published]:
    """SegFormers by sliding windows, CNNs on whole images: test_cfg of their configs."""
    rows = {}
    for name, miou in MMSEG.items():
        folder = "unet" if "unet" in name else name.partition("_")[0]
        source = f"open-mmlab/mmsegmentation, configs/{folder}/metafile.yaml"
        slides = dict(notes=(LOGITS,), **SLIDE) if folder == "segformer" else {}
        rows[f"mmseg/{name}"] = Published(miou, source, **slides)
    return rows


# --- torchvision, VainF, hszhao -------------------------------------------------------------------------------------

TORCHVISION = {
    "fcn_resnet50_coco-1167a1af": 60.5, "fcn_resnet101_coco-7ecb50ca": 63.7,
    "deeplabv3_resnet50_coco-cd0a2569": 66.4, "deeplabv3_resnet101_coco-586e9e4e": 67.4,
}  # fmt: skip
VAINF = {
    "deeplabv3_resnet50_voc": 76.9, "deeplabv3_resnet101_voc": 77.3, "deeplabv3plus_resnet50_voc": 77.2,
    "deeplabv3plus_resnet101_voc": 78.3,
}  # fmt: skip


def _others() -> dict[str, Published]:
    rows = {}
    on_coco = "their images are those of COCO val2017, with COCO's labels of VOC's 20 classes: other images than VOC's"
    for name, miou in TORCHVISION.items():
        source = "torchvision, weights' meta: COCO-val2017-VOC-labels; protocol: references/segmentation/presets.py"
        size = ("short side 520",)
        rows[f"torchvision/{name}"] = Published(miou, source, "voc", None, size, native=False, notes=(on_coco,))
    for name, miou in VAINF.items():
        cut = "they see and score the central 513x513 of the image at short side 513"
        source = "VainF/DeepLabV3Plus-Pytorch, README, Pascal VOC2012 Aug"
        rows[f"vainf/{name}"] = Published(miou, source, "voc", 1449, (513, 513), native=False, notes=(cut,))
    rows["vainf/deeplabv3plus_resnet101_cityscapes"] = Published(
        76.2, "VainF/DeepLabV3Plus-Pytorch, README, Cityscapes; scored whole at 1024x2048"
    )
    rows["hszhao/pspnet50_cityscapes"] = Published(
        77.30, "hszhao/semseg, README, Cityscapes (ss); protocol: tool/test.py, which mirrors every window",
        window=(713, 713), stride=(476, 476), flip=True, absent="zero",
    )  # fmt: skip
    return rows


PUBLISHED: dict[str, Published] = {**_segformer(), **_mmseg(), **_others()}


# --- whose file is it? ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whose:
    """Which known files a file may be. One id where that is sure; `how` it was told."""

    ids: tuple[str, ...]
    how: str
    sure: bool


def whose(source: str | Path, path: Path, report: Report) -> Whose:
    """Told by the id it was asked for with, by its sha256, by its name; else every known file of the same layout,
    architecture and classes.

    A file whose sha256 is not that of a known one is not that one, whatever its name; a name decides only between
    files of which no sha256 is known.
    """
    if str(source) in KNOWN:
        return Whose((str(source),), "asked for by its id", True)
    fits, how = [known for known in KNOWN.values() if _fits(known, report)], "by layout, architecture and classes alone"
    if path.is_file() and any(known.sha256_prefix for known in fits):
        digest = file_hash(path)
        for known in fits:
            if known.sha256_prefix and digest.startswith(known.sha256_prefix):
                return Whose((known.id,), f"told by its sha256, {known.sha256_prefix}..", True)
        fits = [known for known in fits if not known.sha256_prefix]
        how += f", and by its sha256, {digest[:8]}.., that is none of the known ones'"
    named = [known.id for known in fits if _named(known, path)]
    if len(named) == 1:
        return Whose((named[0],), "told by its name alone", True)
    return Whose(tuple(known.id for known in fits), f"told {how}", False)


def _fits(known: Known, report: Report) -> bool:
    return (known.form, known.architecture, known.classes) == (
        report.options.get("form"), report.architecture, report.num_classes
    )  # fmt: skip


def _named(known: Known, path: Path) -> bool:
    """By its file's name; on hubs, where all files have one name, by a folder's: NAME, OWNER--NAME or the hub's cache's
    models--OWNER--NAME."""
    if known.path.name not in ON_HUBS:
        return path.name == known.path.name
    last = known.id.rpartition("/")[2]
    return any(part.rpartition("--")[2] == last for part in path.parts)


def with_numbers(ids: Sequence[str], data: str) -> dict[str, Published]:
    """Of these ids the ones with a published score on a data set."""
    return {id: PUBLISHED[id] for id in ids if id in PUBLISHED and PUBLISHED[id].data == data}
