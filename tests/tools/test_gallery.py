"""tools.gallery: one file with the scores of eval.py and tools.compare, the requested images, and working buttons."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import eval as eval_command
from common import command
from common.files import write_json
from engine.evaluation.paired_bootstrap import result_differences
from engine.training.single_run import train_single
from models import build_model
from models.checkpoints.convert import convert
from tests.engine.test_training import run_in, tiny
from tests.helpers import make_folder
from tools.gallery import __main__ as gallery_command
from tools.gallery import images as gallery_images
from tools.gallery.images import choose_images
from tools.gallery.networks import Side, name_of, number_equal_labels

NAMES = ("road & path", "<b>car</b>", "sky")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Finished runs: `a` and `b` with one protocol, `large` at another size, `other` on other classes, `folds` with
    candidates; and `public.pth`, a public file."""
    place = tmp_path_factory.mktemp("gallery")
    root = make_folder(place / "data", n=7, names=NAMES)
    make_folder(place / "other", n=7, names=("a", "b", "c"))
    for name, folder, *sets in (
        ("a-20260101-120000", root, "train.epochs=1"),
        ("b-20260101-130000", root, "train.epochs=3", "seed=1"),
        ("large-20260101-140000", root, "train.epochs=1", "data.size=[64, 96]"),
        ("other-20260101-150000", place / "other", "train.epochs=1"),
    ):
        cfg = tiny(folder, *sets)
        train_single(cfg, run_in(place, cfg, name), CPU)
    folds = place / "folds-20260101-160000"
    shutil.copytree(place / "b-20260101-130000", folds)
    (folds / "aggregate").mkdir()
    (folds / "best.pt").rename(folds / "aggregate" / "top3.pt")
    write_json(folds / "stage0" / "results.json", {"stage": 0, "stages": 1, "winner": "top3"})
    (folds / "results.json").unlink()
    torch.manual_seed(0)
    model = build_model("segformer_b0", 3, form="nvlabs")
    torch.save(convert(model.state_dict(), "segformer_b0", {"form": "nvlabs"}, "nvlabs").state, place / "public.pth")
    return place


class Page(HTMLParser):
    """Collects images, texts and table cells; fails if tags do not close in order."""

    EMPTY = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.images, self.tables, self.links, self.words = [], [], [], [], {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[k] for k in ("src", "href") if k in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag == "table":
            self.tables.append([])
        if tag == "tr" and self.tables:
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if any(t in ("td", "th") for t in self.open):
            self.tables[-1][-1][-1] += data
        elif self.open:
            self.words.setdefault(self.open[-1], []).append(data)


def run(place: Path, *words) -> tuple[int, Page | None]:
    """Run the command with these words; names of runs and files in `place` become paths."""
    known = {path.name.partition("-2026")[0]: str(path) for path in [*place.glob("*-2026*"), place / "public.pth"]}
    words = [known.get(str(word), str(word)) for word in words]
    out = place / "gallery.html"
    out.unlink(missing_ok=True)
    code = command.run(
        gallery_command.main,
        gallery_command.build_parser(),
        [*words, "--out", str(out), "--json", str(place / "g.json")],
    )
    return code, Page(out.read_text()) if out.exists() else None


def evaluated(place: Path, name: str) -> dict:
    path = next(place.glob(f"{name}-2026*/best.pt"))
    args = ["--checkpoint", str(path), "--json", str(place / "e.json")]
    assert command.run(eval_command.main, eval_command.build_parser(), args) == 0
    return json.loads((place / "e.json").read_text())


def test_the_page_says_what_eval_and_compare_say(place, capsys):
    code, page = run(place, "a", "b", "--images", "3")
    assert code == 0
    a, b = evaluated(place, "a"), evaluated(place, "b")
    gap = result_differences(a, b)
    text = (place / "gallery.html").read_text()
    page_text = re.sub(r"base64,[^\"]*", "", text)  # base64 may contain any word by chance
    assert all(link.startswith("data:image/") for link in page.links)
    assert "@import" not in page_text and "http" not in page_text
    assert "<b>car</b>" not in text and page.words["h3"] == [a["per_image"]["names"][i] for i in (0, 2, 4)]
    totals, classes = page.tables
    assert totals[0][:4] == ["network", "mIoU", "difference to a [95 %]", "frequency-weighted IoU"]
    assert [row[0] for row in totals[1:]] == ["a", "b"] and totals[1][2] == "reference"
    shown = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * gap["miou"][k] for k in ("difference", "low", "high")))
    assert totals[2][1:3] == [f"{100 * b['miou']:.2f}", shown]
    assert [row[0] for row in classes[1:]] == list(NAMES)
    for row, name in zip(classes[1:], NAMES):
        assert row[1:3] == [f"{100 * r['per_class'][name]:.2f}" for r in (a, b)]
        assert row[3].startswith(f"{100 * (b['per_class'][name] - a['per_class'][name]):+.2f} [")
    captions = "".join(page.words["figcaption"] + page.words["b"])
    for i in (0, 2, 4):
        assert all(f"{100 * r['per_image']['miou'][i]:.2f}" in captions for r in (a, b))
    saved = json.loads((place / "g.json").read_text())
    assert saved["networks"][1]["difference"] == gap and saved["networks"][0]["miou"] == a["miou"]
    out = capsys.readouterr().out
    assert shown in out and "absent classes are left out" in out
    assert "absent classes are left out" in text and a["protocol"]["data_hash"][:12] in text


def test_pictures_are_of_the_images_shown_and_of_no_others(place, monkeypatch):
    seen, real = [], gallery_images.sample_of
    monkeypatch.setattr(gallery_images, "sample_of", lambda *args: seen.append(args[-1]) or real(*args))
    code, page = run(place, "a", "b", "folds", "--names", "05", "--set", "data.limit=5")
    assert code == 2 and not seen
    code, page = run(place, "a", "b", "folds", "--names", "05", "train/01.png")
    assert code == 0 and seen == [5, 1] * 3 and page.words["h3"] == ["05", "01"]
    kinds = [image.get("data-kind") for image in page.images]
    assert kinds == [None, None, *["prediction", "error"] * 3] * 2  # image and target are always there
    assert [("hidden" in image) for image in page.images[:8]] == [False, False, *[False, True] * 3]
    b, folds = ([page.images[k + 8 * i]["src"] for i in (0, 1)] for k in (4, 6))
    assert b == folds and b != [page.images[2 + 8 * i]["src"] for i in (0, 1)]  # the candidate is b's network
    assert [row[0] for row in page.tables[0][1:]] == ["a", "b", "folds (top3)"]


def test_which_images():
    groups = ["x", "y", "y", "x", "z"]
    results = [
        {"per_image": {"miou": m, "groups": groups}} for m in ([0.5, 0.2, None, 0.9, 0.2], [0.6, 0.9, 0.1, 0.2, None])
    ]
    assert choose_images("worst", 2, results) == [1, 4] and choose_images("worst", 9, results) == [1, 4, 0, 3]
    assert choose_images("disagreement", 9, results) == [1, 3, 0]  # .7 apart twice: the first of them first
    assert choose_images("spread", 3, results) == [0, 1, 3]
    assert choose_images("worst", 9, results, True) == [1, 4, 0]
    assert choose_images("disagreement", 9, results, True) == [1, 3]
    assert choose_images("spread", 2, results, True) == [0, 1]


def test_by_worst_and_by_disagreement(place):
    a, b = (evaluated(place, name)["per_image"] for name in "ab")
    code, page = run(place, "a", "b", "--worst", "--images", "2")
    order = sorted(range(7), key=lambda i: (a["miou"][i], i))
    assert code == 0 and page.words["h3"] == [a["names"][i] for i in order[:2]]
    code, page = run(place, "a", "b", "--by", "disagreement", "--images", "2")
    order = sorted(range(7), key=lambda i: (-abs(a["miou"][i] - b["miou"][i]), i))
    assert code == 0 and page.words["h3"] == [a["names"][i] for i in order[:2]]


def test_what_cannot_be_compared_is_one_line(place, capsys):
    for words, expected in (
        (("a", "other"), "a and other: other classes: road & path, <b>car</b>, sky; a, b, c"),
        (("a", "large"), r"different protocols \(size: \[64, 64\] and \[64, 96\]\); --set eval.native=true"),
        (("a", "b", "--labels", "x"), "1 labels for 2 runs"),
        (("a", "--by", "disagreement"), "needs two runs"),
        (("a", "b", "--names", "1"), r"not among the 7 images of folder val: did you mean '0?1?'"),
        (("a", "public.pth"), "say with --config CONFIG"),
        (("a", "nowhere.pt"), "not found"),
        (("a", "b", "--split", "test"), "test"),
    ):
        code, page = run(place, *words)
        err = capsys.readouterr().err
        assert code == 2 and page is None and err.count("\n") == 1 and re.search(expected, err), (words, err)


def test_sizes_may_differ_where_targets_are_native_and_anyway_says_what_differs(place):
    code, page = run(place, "a", "large", "--set", "eval.native=true")
    assert code == 0 and "network input 64x96" in str(page.words["p"]) and "NOT THE SAME" not in str(page.words["p"])
    code, page = run(place, "a", "large", "--anyway")
    assert code == 0 and "NOT THE SAME PROTOCOL: large: size: [64, 64] and [64, 96]" in page.words["p"]


def test_public_files_and_ours_by_one_config(place):
    config = next(place.glob("large-*/config.yaml"))
    code, page = run(place, "a", "public.pth", "--config", str(config), "--images", "1", "--labels", "mine", "theirs")
    assert code == 0 and [row[0] for row in page.tables[0][1:]] == ["mine", "theirs"]
    assert "scored at 64x96" in str(page.words["p"])  # a too, which saw 64x64 in training
    assert "segformer_b0" in str(page.words["p"])


def test_names_of_columns():
    assert name_of("runs/x-20260101-120000-2", Path("runs/x-20260101-120000-2/best.pt"), True) == "x"
    assert name_of("runs/x-20260101-120000", Path("runs/x-20260101-120000/aggregate/mean.pt"), True) == "x (mean)"
    assert name_of("nvidia/mit-b0", Path("pytorch_model.bin"), False) == "mit-b0"
    assert name_of("runs/x-20260101-120000/best.pt", Path("runs/x/best.pt"), False) == "x-20260101-120000/best.pt"
    sides = [Side(label, Path("."), None, None) for label in ("x", "y", "x")]
    number_equal_labels(sides)
    assert [s.label for s in sides] == ["x #1", "y", "x #2"]


@pytest.mark.browser
def test_it_works_in_a_browser(place):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert chromium, "the browser tests need Chromium"
    assert run(place, "a", "b", "--images", "2")[0] == 0
    clicks = """<script>
    document.querySelector('button[data-kind=error]').click();
    const data = document.body.dataset, seen = () => document.querySelector('dialog img');
    document.querySelectorAll('.gallery figure')[2].querySelector('img:not([hidden])').click();
    data.open = document.querySelector('dialog').open; data.first = seen().alt;
    document.querySelector('dialog').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
    data.second = seen().alt;
    document.querySelector('dialog').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
    data.third = seen().alt;
    document.querySelector('dialog').close();
    document.querySelectorAll('table.sortable')[1].querySelectorAll('th')[1].click();
    data.wide = document.documentElement.scrollWidth > innerWidth;
    </script></body>"""
    page = place / "page.html"
    page.write_text((place / "gallery.html").read_text().replace("</body>", clicks))
    options = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,900", "--dump-dom"]
    dom = subprocess.run([*options, f"file://{page}"], capture_output=True, text=True, timeout=120).stdout
    body = re.sub(r'src="data:[^"]*"', "", dom)
    seen = dict(re.findall(r'data-(open|first|second|third|wide)="([^"]*)"', re.search(r"<body[^>]*>", body)[0]))
    assert seen == {"open": "true", "first": "error of a", "second": "error of b", "third": "image", "wide": "false"}
    hidden = re.findall(r'<img data-kind="(\w+)"[^>]*hidden', body)
    assert hidden == ["prediction"] * 4
    assert 'aria-sort="descending"' in body
