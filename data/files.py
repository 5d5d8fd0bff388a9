"""Files: read images and masks, and find pairs of them by name. Every fault is a UserError that names the file.

Masks are data, not pictures. Palette ('P') and grey ('L', 16-bit) masks hold indices and are read as they are; colours
of a colour mask are looked up in the palette. JPEG masks are refused: compression invents classes along every edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common.errors import UserError
from data.labels import LabelTable

SPLITS = ("train", "val", "test")
JPEG_SUFFIXES = (".jpg", ".jpeg")
SUFFIXES = (".png", *JPEG_SUFFIXES, ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


@dataclass(frozen=True)
class Record:
    """One sample on disk.

    label: None where a split has no labels. group: images of one group (a city, a stretch of video) stay on one side of
    every split. name: the path inside the split without suffix; unique, and the same on every machine.
    """

    image: Path
    label: Path | None
    group: str
    name: str


def open_image(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise UserError(f"{path}: not a readable image (truncated, or another format?): {_first_line(exc)}") from None


def _decode(image: Image.Image, path: Path) -> None:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as exc:
        raise UserError(f"{path}: the image is damaged or truncated: {_first_line(exc)}") from None


def _first_line(exc: Exception) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0]


def read_image(path: Path) -> np.ndarray:
    """A photograph as (H, W, 3) uint8 RGB, upright (its EXIF rotation applied, as every viewer shows it).

    Grey becomes three equal channels, alpha is dropped, 16-bit grey keeps its high byte. Masks carry no EXIF: a mask
    drawn on the unrotated pixels has swapped sides and is reported as a size mismatch.
    """
    with open_image(path) as image:
        return upright_rgb(image, path)


def upright_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """The pixels of an opened photograph, as `read_image` returns them. `path` is for messages."""
    _decode(image, path)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise UserError(f"{path}: floating-point images are not supported: save it with 8 or 16 bits per channel")
    if image.mode.startswith("I"):  # 16-bit grey ('I;16', or 'I' in older Pillow); convert() would clip at 255
        grey = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P":  # via RGBA: a transparent palette entry has a colour too
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def refuse_jpeg(path: Path, image_format: str | None = None) -> None:
    """Raises: UserError for a JPEG mask, by its suffix or by the format of what was opened."""
    if image_format == "JPEG" or path.suffix.lower() in JPEG_SUFFIXES:
        raise UserError(f"{path}: JPEG masks are refused: lossy compression invents label values; save masks as PNG")


def check_mask_header(image: Image.Image, path: Path) -> None:
    """Raises: UserError for what the header alone rules out: JPEG masks, and pixel formats that hold no class."""
    refuse_jpeg(path, image.format)
    if image.mode == "1":
        raise UserError(f"{path}: a 1-bit mask: save it with 8 bits (mode L) and class indices 0, 1, ... as values")
    if image.mode not in ("L", "P", "I", "I;16", "I;16B", "LA", "RGB", "RGBA"):
        raise UserError(
            f"{path}: a mask of mode {image.mode}: expected P or L (class indices) or RGB (palette colours)"
        )


def read_raw_mask(path: Path) -> np.ndarray:
    """The values of a mask as stored: (H, W) integers, or (H, W, 3) uint8 for a colour mask."""
    with open_image(path) as image:
        check_mask_header(image, path)
        _decode(image, path)
        raw = np.array(image)
    if image.mode in ("LA", "RGBA"):
        if (raw[..., -1] != 255).any():
            raise UserError(f"{path}: the mask has transparent pixels: save it without alpha, void pixels as a value")
        raw = raw[..., 0] if image.mode == "LA" else raw[..., :3]
    return raw


def read_mask(path: Path, labels: LabelTable) -> np.ndarray:
    """A mask as class indices (H, W) uint8, 255 where ignored. Raises: UserError for anything outside the table."""
    return labels.map_mask(read_raw_mask(path), path)


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of the upright image, from the header alone."""
    with open_image(path) as image:
        width, height = image.size  # PIL sizes are (W, H)
        # A PNG's EXIF may stand behind the pixels, so asking for it would decode them: trusted only from `info`.
        asks = image.format != "PNG" or "exif" in image.info
        sideways = asks and image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
    return (width, height) if sideways else (height, width)


def size_mismatch(record: Record, image_hw: tuple[int, int], label_hw: tuple[int, int]) -> UserError:
    hint = ""
    if label_hw == image_hw[::-1]:
        hint = " (sides swapped: the photograph is rotated by its EXIF entry, the mask is not)"
    return UserError(
        f"{record.label}: label is {label_hw[0]}x{label_hw[1]} but its image {record.image.name} is "
        f"{image_hw[0]}x{image_hw[1]} (H x W){hint}"
    )


def files_by_name(folder: Path, ending: str = "") -> dict[str, list[Path]]:
    """{path inside `folder` without `ending` and suffix: image files of that name}, sorted; hidden files are skipped.

    `ending`: what file names carry before the suffix ('_leftImg8bit'); files without it are left out.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        stem = inside.with_suffix("").as_posix()
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in SUFFIXES and not hidden and stem.endswith(ending):
            found.setdefault(stem.removesuffix(ending), []).append(path)
    return dict(sorted(found.items()))


def list_images(folder: Path, ending: str = "") -> dict[str, Path]:
    """As `files_by_name`, one file per name. Raises: UserError where two files differ only in their suffix."""
    found = files_by_name(folder, ending)
    for first, *others in found.values():
        if others:
            raise UserError(f"{others[0]}: two files for one name (the other is {first.name}): remove one of them")
    return {name: paths[0] for name, paths in found.items()}


def pair(
    images: dict[str, Path], masks: dict[str, Path] | None, image_dir: Path, label_dir: Path | None
) -> list[Record]:
    """The records of images and masks with equal names, each its own group. `masks` None: the split has no labels.

    Raises: UserError for no image at all, an image without a mask, a mask without an image, or a JPEG mask.
    """
    if not images:
        raise UserError(f"{image_dir}: no images found (expected {', '.join(SUFFIXES[:4])}, ...)")
    if masks is None:
        return [Record(image, None, name, name) for name, image in images.items()]
    for kind, other, here, there in (("image", "label", images, masks), ("label", "image", masks, images)):
        unpaired = [name for name in here if name not in there]
        if unpaired:
            where = label_dir if kind == "image" else image_dir
            more = f" ({len(unpaired)} such files)" if len(unpaired) > 1 else ""
            raise UserError(
                f"{here[unpaired[0]]}: {kind} without {other}: expected '{unpaired[0]}' under {where}{more}"
            )
    for path in masks.values():
        refuse_jpeg(path)
    return [Record(image, masks[name], name, name) for name, image in images.items()]


def pair_folders(image_dir: Path, label_dir: Path | None, layout: str, source: str) -> list[Record]:
    """The records of two folders with equal names inside. `label_dir` None or no folder: the split has no labels."""
    require_folder(image_dir, layout, source)
    masks = list_images(label_dir) if label_dir and label_dir.is_dir() else None
    return pair(list_images(image_dir), masks, image_dir, label_dir)


def require_folder(folder: Path, layout: str, source: str) -> None:
    """Raises: UserError that says which layout is expected and where to get the data set."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder; expected layout: {layout}; {source}")


def read_names(path: Path, layout: str, source: str) -> list[str]:
    """The first word of every line of a list file, without empty lines and `#` comments.

    Raises: UserError for a missing or empty file, or a name that is listed twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such list of images; expected layout: {layout}; {source}") from None
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise UserError(f"{path}: the list names no image")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: '{next(n for n in names if names.count(n) > 1)}' is listed twice")
    return names


def listed(names: list[str], image_dir: Path, label_dir: Path | None, listing: Path) -> list[Record]:
    """Records of NAME.jpg and NAME.png for each name, each its own group. `label_dir` None: the split has no labels.

    Raises: UserError for the first name without its image or its label.
    """
    records = []
    for name in names:
        image, label = image_dir / f"{name}.jpg", None if label_dir is None else label_dir / f"{name}.png"
        for path in (image, label):
            if path is not None and not path.is_file():
                raise UserError(f"{path}: no such file, but {listing.name} names '{name}'")
        records.append(Record(image, label, name, name))
    return records
