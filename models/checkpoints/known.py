"""Public files by id: URL, content and licence. `python -m tools.pretrained --list` prints the table.

An id is the publisher's own name for the file. Files without a direct URL (Google Drive and the like) are listed with
the page to fetch them from; once they are in torch.hub's folder under their name, they are found like the others. The
eight hex digits that publishers put before ".pth" are the first of the file's sha256 and are checked.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from common.download import NotThere
from common.errors import UserError
from common.files import file_error
from models.checkpoints.container import SUFFIXES
from models.checkpoints.download import cache_path
from models.checkpoints.hub import fetch_model, fetch_with_words, hub_id


@dataclass(frozen=True)
class Known:
    """One public file. `form` and `architecture` name its layout (models/checkpoints/layouts) and its network."""

    id: str
    url: str  # of the file, or of its page if manual
    form: str
    architecture: str  # of models.MODELS, or of ENCODERS where classes is None
    classes: int | None  # None: an ImageNet file, used as an encoder
    licence: str
    manual: str | None = None  # file name to save it under; None: the URL is the file's own

    @property
    def path(self) -> Path:
        """Where the downloaded file is kept."""
        return cache_path(self.url).with_name(self.manual) if self.manual else cache_path(self.url)

    @property
    def sha256_prefix(self) -> str | None:
        found = re.search(r"-([0-9a-f]{8})\.pth?$", self.url)
        return found[1] if found and not self.manual else None


def locate(source: str | Path) -> Path:
    """A path, a URL (http, https, file), an id of KNOWN or a model OWNER/NAME of the Hugging Face hub -> a local file
    or folder, downloaded if necessary. Raises: UserError."""
    path, text = Path(source).expanduser(), str(source)
    if path.exists():
        return path
    if urlsplit(text).scheme in ("http", "https", "file"):
        return fetch_model(hub_id(text)) if hub_id(text) else fetch_with_words(text)
    if text not in KNOWN:
        is_model = hub_id(text) and path.suffix not in SUFFIXES and not path.parent.is_dir()
        if not is_model and (path.suffix or path.is_absolute() or text.startswith(".") or path.parent.is_dir()):
            raise file_error(path, "not found")
        near = difflib.get_close_matches(text, KNOWN, n=1, cutoff=0.5)
        hint = f", did you mean '{near[0]}'?" if near else ""
        problem = f"no file and no known id: '{source}'{hint} (python -m tools.pretrained --list has all ids)"
        if not is_model:
            raise UserError(problem)
        try:
            return fetch_model(text)
        except UserError as e:
            also = "" if isinstance(e, NotThere) else ", with its config.json and preprocessor_config.json"
            raise UserError(f"{problem}; tried on the Hugging Face hub: {e}{also}") from None
    known = KNOWN[text]
    if known.manual and not known.path.exists():
        raise UserError(f"{known.id} is fetched by hand: from {known.url}, to be saved as {known.path}")
    return known.path if known.manual else fetch_with_words(known.url, known.sha256_prefix)


# --- licences of the weights, as their publishers state them; the training data may restrict their use further ------

NVIDIA = "NVIDIA Source Code License: non-commercial"
LICENCES = {
    "nvlabs": NVIDIA, "huggingface": NVIDIA, "mmseg": "Apache-2.0", "torchvision": "BSD-3-Clause", "timm": "Apache-2.0",
    "timm_tf": "Apache-2.0", "lukemelas": "Apache-2.0", "milesial": "GPL-3.0", "mateuszbuda": "MIT", "vainf": "MIT",
    "microsoft": "MIT", "hszhao": "MIT",
}  # fmt: skip


def _row(id: str, url: str, form: str, architecture: str, classes: int | None = None, **rest) -> Known:
    return Known(id, url, form, architecture, classes, rest.pop("licence", None) or LICENCES[form], **rest)


def _hub(id: str, form: str, architecture: str, classes: int | None = None, file="model.safetensors", **rest) -> Known:
    return _row(id, f"https://huggingface.co/{id}/resolve/main/{file}", form, architecture, classes, **rest)


# --- Hugging Face hub: SegFormer as NVIDIA put it there -------------------------------------------------------------


def _nvidia() -> list[Known]:
    rows = [_hub(f"nvidia/mit-b{i}", "huggingface", f"mit_b{i}", file="pytorch_model.bin") for i in range(6)]
    names = [(0, f"cityscapes-{size}", 19) for size in ("512-1024", "640-1280", "768-768")]
    names += [(i, "cityscapes-1024-1024", 19) for i in range(6)]
    names += [(i, "ade-640-640" if i == 5 else "ade-512-512", 150) for i in range(6)]
    for i, name, classes in names:
        id = f"nvidia/segformer-b{i}-finetuned-{name}"
        rows.append(_hub(id, "huggingface", f"segformer_b{i}", classes, file="pytorch_model.bin"))
    return rows


# --- MMSegmentation: <model>/<config>/<config><date>-<hash>.pth -----------------------------------------------------

OPENMMLAB = "https://download.openmmlab.com"
MMSEG = {  # config and the file's date and hash -> architecture; folder by the first word
    "segformer_mit-b0_8x1_1024x1024_160k_cityscapes_20211208_101857-e7f88502": "segformer_b0",
    "segformer_mit-b1_8x1_1024x1024_160k_cityscapes_20211208_064213-655c7b3f": "segformer_b1",
    "segformer_mit-b2_8x1_1024x1024_160k_cityscapes_20211207_134205-6096669a": "segformer_b2",
    "segformer_mit-b3_8x1_1024x1024_160k_cityscapes_20211206_224823-a8f8a177": "segformer_b3",
    "segformer_mit-b4_8x1_1024x1024_160k_cityscapes_20211207_080709-07f6c333": "segformer_b4",
    "segformer_mit-b5_8x1_1024x1024_160k_cityscapes_20211206_072934-87a052ec": "segformer_b5",
    "deeplabv3plus_r18-d8_512x1024_80k_cityscapes_20201226_080942-cff257fe": "deeplabv3plus_resnet18",
    "deeplabv3plus_r50-d8_512x1024_40k_cityscapes_20200605_094610-d222ffcd": "deeplabv3plus_resnet50",
    "deeplabv3plus_r101-d8_512x1024_40k_cityscapes_20200605_094614-3769eecf": "deeplabv3plus_resnet101",
    "pspnet_r18-d8_512x1024_80k_cityscapes_20201225_021458-09ffa746": "pspnet_resnet18",
    "pspnet_r50-d8_512x1024_40k_cityscapes_20200605_003338-2966598c": "pspnet_resnet50",
    "pspnet_r101-d8_512x1024_40k_cityscapes_20200604_232751-467e7cf4": "pspnet_resnet101",
    "fcn_r50-d8_512x1024_40k_cityscapes_20200604_192608-efe53f0d": "fcn_resnet50",
    "fcn_r101-d8_512x1024_40k_cityscapes_20200604_181852-a883d3a1": "fcn_resnet101",
    "fcn_unet_s5-d16_4x4_512x1024_160k_cityscapes_20211210_145204-6860854e": "unet",
}


def _mmseg() -> list[Known]:
    rows = []
    for file, architecture in MMSEG.items():
        config = re.sub(r"_\d{8}_\d{6}-\w{8}$", "", file)
        folder = "unet" if architecture == "unet" else config.partition("_")[0]
        url = f"{OPENMMLAB}/mmsegmentation/v0.5/{folder}/{config}/{file}.pth"
        licence = NVIDIA if folder == "segformer" else None  # trained from NVIDIA's encoder
        rows.append(_row(f"mmseg/{config}", url, "mmseg", architecture, 19, licence=licence))
    for name in ("resnet18_v1c-b5776b93", "resnet50_v1c-2cccc1ad", "resnet101_v1c-e67eebb6"):
        url = f"{OPENMMLAB}/pretrain/third_party/{name}.pth"
        rows.append(_row(f"open-mmlab/{name[:-9]}", url, "mmseg", name.partition("_")[0]))
    url = f"{OPENMMLAB}/mmsegmentation/v0.5/pretrain/segformer/mit_b2_20220624-66e8bf70.pth"
    return [*rows, _row("open-mmlab/mit_b2", url, "mmseg", "mit_b2", licence=NVIDIA)]


# --- torchvision: the file's own name is the id ---------------------------------------------------------------------

TORCHVISION = (
    "fcn_resnet50_coco-1167a1af", "fcn_resnet101_coco-7ecb50ca", "deeplabv3_resnet50_coco-cd0a2569",
    "deeplabv3_resnet101_coco-586e9e4e", "resnet18-f37072fd", "resnet34-b627a593", "resnet50-0676ba61",
    "resnet50-11ad3fa6", "resnet101-63fe2227", "resnet101-cd907fc2", "swin_t-704ceda3",
    "efficientnet_b0_rwightman-7f5810bc", "efficientnet_b1_rwightman-bac287d4", "efficientnet_b2_rwightman-c35c1473",
    "efficientnet_b3_rwightman-b3899882", "vgg16-397923af",
)  # fmt: skip


def _torchvision() -> list[Known]:
    rows = []
    for file in TORCHVISION:
        url, classes = f"https://download.pytorch.org/models/{file}.pth", 21 if "_coco-" in file else None
        architecture = re.sub("(_coco|_rwightman)?-.*", "", file)
        rows.append(_row(f"torchvision/{file}", url, "torchvision", architecture, classes))
    return rows


# --- smp-hub and timm: folders of the Hugging Face hub --------------------------------------------------------------


def _smp() -> list[Known]:
    other = "other: that of the weights it was made from"
    rows = [_hub("smp-hub/segformer-b2-1024x1024-city-160k", "smp", "segformer_b2", 19, licence=NVIDIA)]
    rows += [_hub(f"smp-hub/mit_b{i}.imagenet", "nvlabs", f"mit_b{i}") for i in range(6)]
    rows += [_hub(f"smp-hub/resnet{n}.imagenet", "torchvision", f"resnet{n}", licence=other) for n in (18, 34, 50, 101)]
    names = [(f"efficientnet-b{i}.{kind}", f"efficientnet_b{i}") for kind in ("imagenet", "advprop") for i in range(4)]
    return rows + [_hub(f"smp-hub/{id}", "lukemelas", name, licence=other) for id, name in names]


def _timm() -> list[Known]:
    rows = [("resnet18.a1_in1k", "torchvision", "resnet18"), ("resnet34.a1_in1k", "torchvision", "resnet34")]
    rows += [(f"resnet50.{kind}_in1k", "torchvision", "resnet50") for kind in ("a1", "tv", "tv2")]
    rows += [("resnet101.a1_in1k", "torchvision", "resnet101")]
    recipes = {"b0": "ra", "b1": "ft", "b2": "ra", "b3": "ra2"}
    rows += [(f"efficientnet_{b}.{kind}_in1k", "timm", f"efficientnet_{b}") for b, kind in recipes.items()]
    for kind in ("aa", "ap", "ns_jft"):
        rows += [(f"tf_efficientnet_b{i}.{kind}_in1k", "timm_tf", f"efficientnet_b{i}") for i in range(4)]
    rows += [(f"swin_tiny_patch4_window7_224.{kind}_in1k", "timm", "swin_t") for kind in ("ms", "ms_in22k_ft")]
    return [_hub(f"timm/{id}", form, name, licence="Apache-2.0") for id, form, name in rows]


# --- releases on GitHub ---------------------------------------------------------------------------------------------

GITHUB = "https://github.com"
RELEASES = [  # id, repository/tag/file, form, architecture, classes
    *[(f"milesial/{file}", f"milesial/Pytorch-UNet/releases/download/v3.0/{file}_epoch2.pth", "milesial", "unet", 2)
      for file in ("unet_carvana_scale0.5", "unet_carvana_scale1.0")],
    ("mateuszbuda/unet", "mateuszbuda/brain-segmentation-pytorch/releases/download/v1.0/unet-e012d006.pt",
     "mateuszbuda", "unet", 1),
    *[(f"microsoft/{file}", f"SwinTransformer/storage/releases/download/{tag}/{file}.pth", "microsoft", "swin_t", None)
      for tag, file in (("v1.0.0", "swin_tiny_patch4_window7_224"), ("v1.0.8", "swin_tiny_patch4_window7_224_22k"))],
    *[(f"lukemelas/{file[:-9]}", f"lukemelas/EfficientNet-PyTorch/releases/download/1.0/{file}.pth",
       "lukemelas", f"efficientnet_{file[-11:-9]}", None)
      for file in ("efficientnet-b0-355c32eb", "efficientnet-b1-f1951068", "efficientnet-b2-8bb594d6",
                   "efficientnet-b3-5fb5a3c3", "adv-efficientnet-b3-cdd7c0f4")],
]  # fmt: skip

# --- fetched by hand: no plain URL ----------------------------------------------------------------------------------

DRIVE = "https://drive.google.com/file/d/"
NVLABS_PAGE = f"{GITHUB}/NVlabs/SegFormer (its README links the folders on Google Drive and OneDrive)"
NVLABS = [f"segformer.b{i}.1024x1024.city.160k" for i in range(6)]
NVLABS += [f"segformer.b0.{size}.city.160k" for size in ("512x1024", "640x1280", "768x768")]
NVLABS += [f"segformer.b{i}.512x512.ade.160k" for i in range(5)] + ["segformer.b5.640x640.ade.160k"]
ORIGINALS = [  # systems B, D and E of docs/differences.md: id, link, form, architecture
    ("system_b/PreTrained_Seg_B3", f"{DRIVE}1UuB_nyVTNiRJ5NGKFB0FYx-upR9Vlzzg", "smp", "segformer_b3"),
    ("system_b/PreTrained_Seg_B2", f"{DRIVE}1PO-Y-k4nquA81Yg7TeMekW3HVsq5eA3s", "smp", "segformer_b2"),
    ("system_b/FinalModelSegFormerB3", f"{DRIVE}1z-ulHvBzkGzqB4NtuqZIwpvSfxn21Tte", "smp", "segformer_b3"),
    ("system_b/FinalModelSegFormerB2", f"{DRIVE}1ccKB8ZePN5G8Jylp5JgWHy21RrRJhZNt", "smp", "segformer_b2"),
    ("system_d/deeplabv3plus", f"{DRIVE}15Z5Ac-ldrhCouK37_xTnO7ewB0u7rK1F", "system_d", "deeplabv3plus_resnet34"),
    ("system_e/segformer_b0", "http://vmv.re/910Yk", "mmseg", "segformer_b0"),
    ("system_e/segformer_b2", "http://vmv.re/W9ldy", "mmseg", "segformer_b2"),
    ("system_e/segformer_b5", "http://vmv.re/vUwvf", "mmseg", "segformer_b5"),
    ("system_e/basic_180", "http://vmv.re/q4OtB", "system_e", "basic_seg_network"),
    ("system_e/basic_1000", "http://vmv.re/dPgO0", "system_e", "basic_seg_network"),
    ("system_e/unet", "http://vmv.re/bNQi9", "mmseg", "unet"),
    ("system_e/deeplabv3plus_r101", "http://vmv.re/Teioj", "mmseg", "deeplabv3plus_resnet101"),
    ("system_e/segformer_swin_t", "http://vmv.re/CPUJM", "mmseg", "segformer_swin_t"),
]  # fmt: skip


def _by_hand() -> list[Known]:
    mit = [f"mit_b{i}" for i in range(6)]
    rows = [_row(f"nvlabs/{name}", NVLABS_PAGE, "nvlabs", name, manual=f"{name}.pth") for name in mit]
    for name in NVLABS:
        size, classes = name.split(".")[1], 150 if ".ade." in name else 19
        rows.append(_row(f"nvlabs/{name}", NVLABS_PAGE, "nvlabs", f"segformer_{size}", classes, manual=f"{name}.pth"))
    page = f"{GITHUB}/VainF/DeepLabV3Plus-Pytorch"
    vainf = [("deeplabv3plus_resnet101", "cityscapes", f"{DRIVE}1t7TC8mxQaFECt4jutdq_NMnWxdm6B-Nb", 19)]
    vainf += [(f"{head}_resnet{n}", "voc", page, 21) for head in ("deeplabv3", "deeplabv3plus") for n in (50, 101)]
    for name, data, url, classes in vainf:
        rows.append(_row(f"vainf/{name}_{data}", url, "vainf", name, classes, manual=f"best_{name}_{data}_os16.pth"))
    page = f"{GITHUB}/hszhao/semseg (its README links the folder on Google Drive)"
    rows.append(_row("hszhao/resnet50_v2", page, "hszhao", "resnet50", manual="resnet50_v2.pth"))
    rows.append(_row("hszhao/pspnet50_cityscapes", page, "hszhao", "pspnet_resnet50", 19, manual="train_epoch_200.pth"))
    for id, url, form, architecture in ORIGINALS:
        file, licence = id.replace("/", "-") + ".pth", "not stated by its authors"
        rows.append(_row(id, url, form, architecture, 19, licence=licence, manual=file))
    return rows


RELEASED = [_row(id, f"{GITHUB}/{path}", *rest) for id, path, *rest in RELEASES]
ROWS = [*_nvidia(), *_mmseg(), *_torchvision(), *_smp(), *_timm(), *RELEASED, *_by_hand()]
KNOWN: dict[str, Known] = {row.id: row for row in ROWS}
