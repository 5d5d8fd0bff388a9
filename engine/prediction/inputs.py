"""Find and read the inputs of predict.py: image files, folders, globs, videos and webcams, each with an output name.

Only videos and webcams need another package: OpenCV (`pip install opencv-python`) or imageio with a video plugin (`pip
install imageio[ffmpeg]`).
"""

from __future__ import annotations

import glob
import importlib.util
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from data.files import EXIF_ORIENTATION, SUFFIXES, open_image, read_image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
CAMERA = "camera:"  # camera:0 is the first webcam


@dataclass(frozen=True)
class Input:
    name: str  # of its outputs, a path inside the output folder
    path: Path | int  # a file, or a camera's number
    video: bool = False


def find_inputs(entries: list[str], out: Path) -> tuple[list[Input], list[Path]]:
    """(inputs to segment, files in folders that are neither picture nor video by their suffix).

    A file's output is named by its stem, in a folder by its path in it without suffix; if two would get the same name,
    both keep their suffix ('a_png'). Hidden files and files in `out` are skipped.
    Raises: UserError for an entry that does not exist, and for two inputs with the same output name.
    """
    found: list[Input] = []
    aside: list[Path] = []
    for entry in entries:
        if entry.startswith(CAMERA):
            found.append(Input(entry.replace(":", ""), _camera(entry), video=True))
            continue
        for path in _expand(entry):
            if not path.is_dir():
                found.append(_input(path.stem, path))
                continue
            for below in _files(path, out):
                if below.suffix.lower() in (*SUFFIXES, *VIDEO_SUFFIXES):
                    found.append(_input(str(below.relative_to(path).with_suffix("")), below))
                else:
                    aside.append(below)
    found = _distinct(list(dict.fromkeys(found)))
    if not found:
        raise UserError(f"no images ({', '.join(SUFFIXES)}) or videos in {', '.join(entries)}")
    return found, aside


def _camera(entry: str) -> int:
    number = entry.removeprefix(CAMERA)
    if not number.isdigit():
        raise UserError(f"{entry}: expected a camera's number, e.g. {CAMERA}0")
    return int(number)


def _expand(entry: str) -> list[Path]:
    path = Path(entry).expanduser()
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True))
    if not matches:
        raise UserError(f"input not found: {entry}" + (" (no file matches)" if glob.has_magic(entry) else ""))
    return [Path(m) for m in matches]


def _files(folder: Path, out: Path) -> list[Path]:
    """Files below a folder; a dangling link counts as a file, so that the summary names it."""
    out = out.resolve()
    files = (p for p in sorted(folder.rglob("*")) if not p.is_dir())
    visible = (p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    return [p for p in visible if out == folder.resolve() or out not in p.absolute().parents]


def _input(name: str, path: Path) -> Input:
    return Input(name, path, video=path.suffix.lower() in VIDEO_SUFFIXES)


def _distinct(found: list[Input]) -> list[Input]:
    times = Counter(i.name for i in found)
    named = [replace(i, name=f"{i.name}_{Path(i.path).suffix[1:]}") if times[i.name] > 1 else i for i in found]
    seen: dict[str, Input] = {}
    for item in named:
        if item.name in seen:
            other = seen[item.name].path
            raise UserError(f"{other} and {item.path} would both be written as {item.name}; run them separately")
        seen[item.name] = item
    return named


def read_picture(path: Path) -> tuple[np.ndarray, list[str]]:
    """(picture (H, W, 3) uint8, upright; notes on conversions that the user may not expect).

    Raises: UserError, one line, for anything that cannot be read as a picture.
    """
    try:
        with open_image(path) as image:
            notes = _notes(image)
        return read_image(path), notes
    except UserError:
        raise
    except Exception as e:  # decoders raise many types for damaged bytes; all mean that the file is bad
        first = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"{path}: the image is damaged or of an unsupported kind: {first}") from None


def _notes(image: Image.Image) -> list[str]:
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} frames")
    if image.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1):
        notes.append("rotated upright by its EXIF entry")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        notes.append("transparency dropped")
    if image.mode.startswith("I"):
        notes.append("16 bits cut to the upper 8")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        notes.append(f"{image.mode} converted to RGB")
    return notes


def video_frames(source: Path | int) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 RGB of a video file, or of a webcam by its number.

    Raises: UserError if neither OpenCV nor imageio is installed, or if the source cannot be opened.
    """
    if importlib.util.find_spec("cv2"):
        yield from _opencv_frames(source)
    elif importlib.util.find_spec("imageio"):
        yield from _imageio_frames(source)
    else:
        raise UserError(
            f"{_called(source)}: videos and webcams need OpenCV (pip install opencv-python) "
            "or imageio (pip install imageio[ffmpeg]); neither is installed"
        )


def _called(source: Path | int) -> str:
    return f"camera {source}" if isinstance(source, int) else str(source)


def _opencv_frames(source: Path | int) -> Iterator[np.ndarray]:
    import cv2

    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    try:
        if not capture.isOpened():
            raise UserError(f"{_called(source)}: OpenCV cannot open it as a video")
        while True:
            there, frame = capture.read()  # (H, W, 3) uint8, BGR
            if not there:
                return
            yield np.ascontiguousarray(frame[..., ::-1])
    finally:
        capture.release()


def _imageio_frames(source: Path | int) -> Iterator[np.ndarray]:
    import imageio.v3 as iio

    try:
        for frame in iio.imiter(f"<video{source}>" if isinstance(source, int) else str(source)):
            yield np.ascontiguousarray(frame[..., :3])
    except (OSError, ValueError, ImportError, RuntimeError) as e:
        why = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"{_called(source)}: imageio cannot read it as a video: {why}") from None
