"""predict.py on the odd files people have in their folders: 33 kinds, globs, videos; nothing crashes."""

from __future__ import annotations

import csv
import io
import sys
import types
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

import predict as predict_command
from common import command
from engine import checkpoint as ckpt
from engine.config import Config
from engine.evaluation.class_lists import class_names, palette
from engine.prediction import inputs
from engine.prediction.inputs import find_inputs, video_frames
from engine.prediction.output_folder import Writer
from engine.prediction.pictures import side_by_side
from engine.prediction.segmenter import Segmenter, network_size
from models import build_model
from tests.helpers import refuses, write_image

NAMES = ["sky", "road", "car"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of a tiny network with random weights."""
    torch.manual_seed(0)
    cfg = Config()
    cfg.model.name, cfg.model.options, cfg.data.size = "unet", {"base_channels": 4}, (64, 96)
    path = tmp_path_factory.mktemp("net") / "best.pt"
    config = asdict(cfg)
    config["model"] = {"name": "unet", "base_channels": 4}
    config["loss"] = {"name": "cross_entropy"}
    palette = [[70, 130, 180], [128, 64, 128], [0, 0, 142]]
    state = build_model("unet", 3, base_channels=4).state_dict()
    ckpt.save({"model": state, "config": config, "class_names": NAMES, "palette": palette}, path)
    return path


def predict(*words) -> int:
    return command.run(predict_command.main, predict_command.build_parser(), [str(w) for w in words])


def jpeg_bytes(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def photo(width: int = 60, height: int = 40) -> Image.Image:
    image = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (image, image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), image))


def odd_folder(folder):
    """(names of pictures: (W, H) of the prediction, names of files that are none)."""
    folder.mkdir()
    rgb, good = photo(), {}

    def put(file: str, image: Image.Image, size=None, **options) -> None:
        image.save(folder / file, **options)
        good[file.rsplit(".", 1)[0]] = size or image.size

    for orientation in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        put(f"exif{orientation}.jpg", rgb, (60, 40) if orientation == 3 else (40, 60), exif=exif)
    put("cmyk.jpg", rgb.convert("CMYK"))
    put("cmyk_tiff.tif", rgb.convert("CMYK"))
    put("grey.jpg", rgb.convert("L"))
    put("grey_alpha.png", rgb.convert("LA"))
    put("rgba.png", rgb.convert("RGBA"))
    put("palette.png", rgb.convert("P"))
    transparent = rgb.convert("P")
    put("palette_clear.png", transparent, transparency=3)
    put("bilevel.png", rgb.convert("1"))
    put("sixteen.png", Image.fromarray(np.linspace(0, 65535, 2400).reshape(40, 60).astype(np.uint16)))
    put("sixteen_tiff.tif", Image.fromarray(np.linspace(0, 65535, 2400).reshape(40, 60).astype(np.uint16)))
    put("int32.tif", Image.fromarray(np.arange(2400, dtype=np.int32).reshape(40, 60)))
    put("ycbcr.jpg", rgb.convert("YCbCr"))
    put("moving.gif", rgb, save_all=True, append_images=[photo(60, 40).rotate(a) for a in (90, 180)])
    put("moving_webp.webp", rgb, save_all=True, append_images=[rgb.rotate(180)])
    put("pages.tif", rgb, save_all=True, append_images=[rgb.rotate(180)])
    put("pixel.png", Image.new("RGB", (1, 1), (9, 8, 7)))
    put("column.png", Image.new("RGB", (1, 700)))
    put("row.png", Image.new("RGB", (700, 1)))
    put("big.jpg", Image.new("RGB", (8000, 6000), (90, 120, 60)))
    put("naïve größe 道.png", rgb)
    put("CAPITALS.JPG", rgb)
    put("bitmap.bmp", rgb)
    put("twice.png", rgb)
    del good["twice"]
    rgb.save(folder / "twice.jpg")
    good |= {"twice_png": (60, 40), "twice_jpg": (60, 40)}
    (folder / "really_a_png.jpg").write_bytes((folder / "bitmap.bmp").read_bytes())
    good["really_a_png"] = (60, 40)
    (folder / "deep").mkdir()
    put("deep/inside.png", rgb)

    whole = jpeg_bytes(Image.effect_noise((200, 200), 90).convert("RGB"))
    bad = {
        "truncated.jpg": whole[: len(whole) // 2],
        "truncated.png": (folder / "rgba.png").read_bytes()[:-40],
        "text.jpg": b"this is no picture\n" * 20,
        "empty.png": b"",
        "header_only.png": b"\x89PNG\r\n\x1a\n",
        "zeros.bmp": bytes(500),
        "damaged.tif": (folder / "cmyk_tiff.tif").read_bytes()[:60],
        "page.gif": b"<html><body>404 not found</body></html>",
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "float.tif")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "notes.txt").write_text("shopping")
    (folder / ".hidden.png").write_bytes(b"never looked at")
    return good, [*bad, "float.tif", "gone.png"]


def test_a_folder_of_odd_files(checkpoint, tmp_path, capsys):
    good, bad = odd_folder(tmp_path / "in")
    assert len(good) + len(bad) >= 30
    out = tmp_path / "out"
    assert predict(tmp_path / "in", "--checkpoint", checkpoint, "--out", out) == 0
    said = capsys.readouterr().out
    assert f"segmented: {len(good)}\n" in said and f"not segmented: {len(bad)}\n" in said
    for name in bad:
        assert said.count(f"/{name}: ") == 1, name  # one line, with the reason
    for name, size in good.items():
        ids = Image.open(out / f"{name}_ids.png")
        assert ids.mode == "L" and ids.size == size, name
        for kind in ("color", "overlay"):
            picture = Image.open(out / f"{name}_{kind}.png")
            assert picture.mode == "RGB" and picture.size == size, (name, kind)
        assert (out / f"{name}_side.png").is_file()
    for name, note in (
        ("moving", "the first of 3 frames"), ("exif6", "upright"), ("rgba", "transparency"), ("sixteen", "16 bits"),
        ("cmyk", "CMYK"), ("pages", "the first of 2 frames"),
    ):  # fmt: skip
        assert any(f" {name}: " in line and note in line for line in said.splitlines()), name
    assert "notes.txt" in said and ".hidden" not in said

    rows = {row["image"]: row for row in csv.DictReader(open(out / "shares.csv", encoding="utf-8"))}
    assert set(rows) == set(good)
    ids = np.asarray(Image.open(out / "rgba_ids.png"))
    for i, name in enumerate(NAMES):
        assert float(rows["rgba"][name]) == pytest.approx((ids == i).mean(), abs=1e-6)
    assert (rows["exif6"]["height"], rows["exif6"]["width"]) == ("60", "40")


def test_a_second_run_does_not_take_its_own_output_for_input(checkpoint, tmp_path, monkeypatch):
    write_image(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert predict(".", "--checkpoint", checkpoint, "--out", "out", "--write", "ids", "side") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_ids.png", "a_side.png", "shares.csv"]


def test_globs_and_clashing_names(tmp_path):
    for name in ("a1.png", "a2.png", "b.png", "sub/a1.png"):
        write_image(tmp_path / name)
    found, _ = find_inputs([str(tmp_path / "a*.png")], tmp_path / "out")
    assert [i.name for i in found] == ["a1", "a2"]
    found, _ = find_inputs([str(tmp_path / "a1.png"), str(tmp_path / "a*.png")], tmp_path / "out")
    assert [i.name for i in found] == ["a1", "a2"]  # named twice, done once
    with refuses("no file matches"):
        find_inputs([str(tmp_path / "z*.png")], tmp_path / "out")
    with refuses("would both be written as a1_png"):
        find_inputs([str(tmp_path / "a1.png"), str(tmp_path / "sub" / "a1.png")], tmp_path / "out")
    with refuses("camera's number"):
        find_inputs(["camera:front"], tmp_path / "out")


def test_no_image_at_all_is_exit_code_2(checkpoint, tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("no picture")
    assert predict(tmp_path / "a.jpg", "--checkpoint", checkpoint, "--out", tmp_path / "out") == 2
    assert "nothing was segmented" in capsys.readouterr().err


def test_a_picture_too_large_for_memory_is_skipped(tmp_path, capsys):
    def segment(image):
        if image.shape[0] > 50:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return np.zeros(image.shape[:2], np.uint8)

    segmenter = Segmenter(segment, ("a", "b"), np.zeros((2, 3), np.uint8))
    with Writer(segmenter, tmp_path, ["ids"]) as writer:
        for size in (60, 40):
            with writer.problems_of(inputs.Input("x", tmp_path / f"{size}.png")):
                writer.add(str(size), np.zeros((size, size, 3), np.uint8))
        with pytest.raises(RuntimeError, match="shape"), writer.problems_of(inputs.Input("x", tmp_path)):
            raise RuntimeError("shape mismatch")  # a bug is not hidden
    assert writer.written == 1 and "60.png: does not fit into memory" in writer.summary()


def test_public_networks_see_at_most_four_megapixels():
    assert network_size((300, 500)) == (300, 500) and network_size((1, 5000)) == (64, 5000)
    height, width = network_size((6000, 8000))
    assert height * width <= 1.01 * 2048 * 2048 and abs(height / width - 0.75) < 0.001


def test_side_by_side_shows_both_halves_and_only_the_classes_there():
    pred = np.zeros((30, 200), np.uint8)
    pred[:, 100:] = 2
    palette = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    page = np.asarray(side_by_side(np.full((30, 200, 3), 77, np.uint8), pred, palette, ("a", "b", "c")))
    assert (page[:30, :200] == 77).all() and page.shape[1] >= 400
    colours = {tuple(c) for c in page.reshape(-1, 3).tolist()}
    assert (255, 0, 0) in colours and (0, 0, 255) in colours and (0, 255, 0) not in colours


# --- videos ---------------------------------------------------------------------------------------------------------


class FakeCapture:
    """cv2.VideoCapture over five frames whose blue channel counts."""

    def __init__(self, source):
        self.source, self.left = source, list(range(5))

    def isOpened(self):
        return "broken" not in str(self.source)

    def read(self):
        if not self.left:
            return False, None
        frame = np.zeros((20, 30, 3), np.uint8)
        frame[..., 0] = 10 * self.left.pop(0)  # BGR
        return True, frame

    def release(self):
        pass


@pytest.fixture
def opencv(monkeypatch):
    module = types.ModuleType("cv2")
    module.VideoCapture = FakeCapture
    monkeypatch.setitem(sys.modules, "cv2", module)
    monkeypatch.setattr(inputs.importlib.util, "find_spec", lambda name: name == "cv2")


def test_a_video_is_its_frames_in_rgb(opencv, checkpoint, tmp_path, capsys):
    (tmp_path / "drive.mp4").write_bytes(b"video")
    assert [int(f[0, 0, 2]) for f in video_frames(tmp_path / "drive.mp4")] == [0, 10, 20, 30, 40]
    out = tmp_path / "out"
    assert predict(tmp_path / "drive.mp4", "camera:0", "--every", 2, "--frames", 2,
                   "--checkpoint", checkpoint, "--out", out) == 0  # fmt: skip
    for name in ("drive", "camera0"):
        assert sorted(p.name for p in (out / name).glob("*_ids.png")) == ["000000_ids.png", "000002_ids.png"]
    (tmp_path / "broken.avi").write_bytes(b"video")
    assert predict(tmp_path / "broken.avi", "--checkpoint", checkpoint, "--out", out) == 2
    assert "cannot open" in capsys.readouterr().err


def test_without_a_video_reader_one_line_says_what_to_install(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inputs.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "drive.mp4").write_bytes(b"video")
    assert predict(tmp_path / "drive.mp4", "--checkpoint", checkpoint, "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "pip install opencv-python" in err and err.count("\n") == 1


# --- names and colours ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "first", "colour"), [
    (19, "road", (128, 64, 128)), (150, "wall", (120, 120, 120)), (21, "background", (0, 0, 0)),
    (11, "Sky", (128, 128, 128)),
])  # fmt: skip
def test_public_class_lists_are_known_by_their_number(count, first, colour):
    names, origin = class_names({}, count)
    assert len(names) == count and names[0] == first and str(count) in origin
    assert len(palette({}, count)) == count and palette({}, count)[0] == colour


def test_class_lists_by_name_and_by_file(checkpoint, tmp_path, capsys):
    image = write_image(tmp_path / "a.png")
    words = [image, "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    assert predict(*words, "--classes", "pets") == 0
    assert (tmp_path / "out" / "shares.csv").read_text().startswith("image,height,width,pet,background,border")
    assert predict(*words, "--classes", "camvid") == 2
    assert "11 classes, the network has 3" in capsys.readouterr().err
    assert predict(*words, "--classes", "citiscapes") == 2
    assert "did you mean 'cityscapes'" in capsys.readouterr().err
    (tmp_path / "classes.yaml").write_text("names: [x, y, z]\n")
    assert predict(*words, "--classes", tmp_path / "classes.yaml") == 0
    assert "width,x,y,z" in (tmp_path / "out" / "shares.csv").read_text()
