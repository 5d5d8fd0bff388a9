"""The drawn city: a small Cityscapes that needs no download. 17 of the 19 classes, 28 cities, seven kinds of weather.

`ensure()` draws it once, in seconds, into a cache in the Cityscapes folder layout, which the Cityscapes loader reads.
Reading order: canvas (camera, canvas) -> city (materials, layout of a street) -> town, buildings, plants -> traffic,
people, signs -> weather (sky, light, lens).

The same (seed, split, city, frame) gives the same frame on every machine: integer polygons, numpy's PCG64, no fonts.
(Pillow's releases end very sharp corners differently: up to three label pixels per frame differ between 10.2 and 13.)
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.lock import lock_file
from data.streets.canvas import EGO, Canvas, disc, lit
from data.streets.city import City, make_camera, make_city, make_plan
from data.streets.scene import draw_life
from data.streets.town import draw_backdrop, draw_ground, draw_lots
from data.streets.weather import develop, make_weather, paint_sky

VERSION = 1  # part of the cache's name: raise it whenever a pixel changes
SEED = 7
HEIGHT, WIDTH = 256, 512
FRAMES = {"train": 12, "val": 8, "test": 8}  # images per city
CITIES = {
    "train": (
        "alderbrook barenfels castelmar dunhaven elmsford farrowgate glimmerau harrowby isenburg juniper "
        "kestrelton larkspur mirefield northolm ostermark pellworth quillon ravensee silverton thornau"
    ).split(),
    "val": "ashmere brixholm corvane dellingen eastmoor".split(),
    "test": "umberfeld vellmar westergate yarrowdale zinnwald".split(),
}


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(list(key)))


@functools.lru_cache(maxsize=64)
def _city(seed: int, split: str, city: str) -> City:
    return make_city(_rng(seed, *_place(split, city)))


def _place(split: str, city: str) -> tuple[int, int]:
    """(split, city) as numbers. Raises: KeyError, ValueError for a name that is not in CITIES."""
    return list(CITIES).index(split), CITIES[split].index(city)


def draw_frame(seed: int, split: str, city: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one frame of a city -> picture (256, 512, 3) uint8 RGB, Cityscapes labelIds (256, 512) uint8."""
    town = _city(seed, split, city)
    rng = _rng(seed, *_place(split, city), 1 + frame)
    weather = make_weather(town, rng)
    plan = make_plan(town, rng)
    camera = make_camera(town, plan, rng, HEIGHT, WIDTH)
    canvas = Canvas(camera, weather.sun, weather.lamps)
    sky = paint_sky(weather, rng, HEIGHT, WIDTH, camera.horizon)
    canvas.background(sky)
    draw_ground(canvas, town, plan, rng)
    draw_backdrop(canvas, town, rng, sky)
    draw_lots(canvas, town, plan, rng)
    draw_life(canvas, town, plan, rng)
    if town.bonnet is not None:
        _bonnet(canvas, town)
    return develop(canvas, weather, rng)


def _bonnet(canvas: Canvas, city: City) -> None:
    """The front of the filming car; its label (ego vehicle) is ignored."""
    middle, wide = WIDTH * 0.5, WIDTH * 0.62
    for drop, tone in ((0.0, 0.8), (2.5, 1.25), (4.5, 1.0)):
        shape = disc(middle, HEIGHT + 22 + drop, wide, 36, 48)
        canvas.poly(shape, lit(city.bonnet, tone), EGO, 1.0)


def default_root() -> Path:
    """Where the drawn city is kept: $XDG_CACHE_HOME or ~/.cache, in a folder named by version and size."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "segmentation-streets" / f"v{VERSION}-{HEIGHT}x{WIDTH}"


def ensure(root: Path | None = None, processes: int | None = None) -> Path:
    """The folder of the drawn city, in the Cityscapes layout; draws all 320 frames if it is empty or missing.

    Frames are drawn beside `root` and moved there in one rename, so that a killed draw leaves no partial data set.
    Other processes that need it wait. processes: None uses every core we may use.
    Raises: UserError if the folder cannot be written, or holds something else.
    """
    root = Path(root).expanduser() if root else default_root()
    if _drawn(root):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(root.parent / f".{root.name}.lock", wait=True):
            if not _drawn(root):  # else another process drew it while we waited
                _draw_all(root, processes or _cores())
    except OSError as error:
        raise UserError(f"cannot draw the streets data set in '{root}': {error.strerror or error}") from error
    return root


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if _LINUX else os.cpu_count() or 1


_LINUX = sys.platform == "linux"
_MARK, _MARKED = "streets.txt", f"streets v{VERSION} {HEIGHT}x{WIDTH}\n"


def _drawn(root: Path) -> bool:
    """Whether `root` holds this version. Raises: UserError if it holds anything else."""
    if not root.exists() or root.is_dir() and not any(root.iterdir()):
        return False
    mark = root / _MARK
    if not mark.is_file():
        raise UserError(f"data.root '{root}' holds no drawn city: name an empty or new folder, or set data.name")
    if mark.read_text() != _MARKED:
        raise UserError(
            f"data.root '{root}' holds {mark.read_text().strip()}, this code draws {_MARKED.strip()}: delete it"
        )
    return True


def _draw_all(root: Path, processes: int) -> None:
    """Draw every frame into a temporary folder and rename it to `root`. Called with the lock held."""
    for stale in root.parent.glob(f".{root.name}-*"):  # of a draw that was killed
        shutil.rmtree(stale, ignore_errors=True)
    began, folder = time.time(), Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    jobs = [(folder, split, city, i) for split in CITIES for city in CITIES[split] for i in range(FRAMES[split])]
    print(f"drawing the streets data set, {len(jobs)} images, once, into {root}", file=sys.stderr)
    try:
        for folder_ in {path.parent for job in jobs for path in frame_paths(*job)}:
            folder_.mkdir(parents=True, exist_ok=True)
        if processes > 1:
            # Children only use numpy and Pillow, so forking is safe even after torch has been imported.
            context = multiprocessing.get_context("fork" if _LINUX else "spawn")
            with context.Pool(processes) as pool:
                for _ in pool.imap_unordered(_draw_file, jobs, chunksize=8):
                    pass
        else:
            for job in jobs:
                _draw_file(job)
        (folder / _MARK).write_text(_MARKED)
        folder.chmod(0o755)  # mkdtemp makes it private
        folder.rename(root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"drawn in {time.time() - began:.0f} s", file=sys.stderr)


def frame_paths(root: Path, split: str, city: str, frame: int) -> tuple[Path, Path]:
    """-> (picture, labelIds) files of a frame."""
    name = f"{city}_{frame:06d}_000019"
    picture = root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
    return picture, root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png"


def _draw_file(job: tuple[Path, str, str, int]) -> None:
    for path, pixels in zip(frame_paths(*job), draw_frame(SEED, *job[1:])):
        Image.fromarray(pixels).save(path, compress_level=1)
