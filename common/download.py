"""Download files, continuing where a broken download stopped, and unpack archives that may be malicious."""

from __future__ import annotations

import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from common.errors import UserError


class NotThere(UserError):
    """The server, or the file system, has no such file."""


TIMEOUT, CHUNK = 60, 1 << 20  # seconds, bytes
WAIT = 2.0  # seconds before the second try, doubled after each


# --- downloading ----------------------------------------------------------------------------------------------------


def open_from(url: str, start: int) -> tuple[BinaryIO, int, int | None]:
    """Open a URL at byte `start` if the server can. Returns (stream, first byte it sends, full size if known)."""
    if urllib.parse.urlsplit(url).scheme == "file":
        path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
        size, stream = path.stat().st_size, path.open("rb")
        start = start if start <= size else 0
        stream.seek(start)
        return stream, start, size
    headers = {"User-Agent": "semantic-segmentation"} | ({"Range": f"bytes={start}-"} if start else {})
    response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    if response.status != 206:  # the server sends the whole file
        start = 0
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        response.close()
        raise HTTPException(f"asked for bytes from {start}, got {response.headers.get('Content-Range')}")
    length = response.headers.get("Content-Length")
    return response, start, None if length is None else start + int(length)


def download(url: str, target: Path, tries: int = 4) -> None:
    """Download a URL to `target`, through target.part, which a later call continues.

    Raises: UserError for a URL that cannot be had (NotThere: no such file), and after `tries` broken connections.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise UserError(f"cannot download {url}: only http, https and file")
    part = target.with_name(target.name + ".part")
    for attempt in range(tries):
        try:
            fetch_once(url, part)
            part.replace(target)
            return
        except urllib.error.HTTPError as e:
            problem = f"the server says {e.code} {e.reason}"
            if e.code == 416:  # target.part is longer than the file
                part.unlink(missing_ok=True)
            elif e.code < 500 and e.code != 429:  # trying again will not help
                kind = NotThere if e.code in (401, 404) else UserError  # 401: what the Hugging Face hub says
                raise kind(f"cannot download {url}: {problem}") from None
        except FileNotFoundError:
            raise NotThere(f"cannot download {url}: no such file") from None
        except (OSError, HTTPException) as e:  # URLError, timeouts and broken connections among them
            problem = str(getattr(e, "reason", e)) or type(e).__name__
        if attempt + 1 < tries:
            time.sleep(WAIT * 2**attempt)
    raise UserError(f"cannot download {url}: {problem}; run the command again to go on")


def fetch_once(url: str, part: Path) -> None:
    """Append the missing bytes to `part`. Raises: HTTPException if the connection ends early."""
    stream, start, size = open_from(url, part.stat().st_size if part.exists() else 0)
    with stream, part.open("r+b" if start else "wb") as file:
        file.truncate(start)
        file.seek(start)
        options = {"initial": start, "total": size, "unit": "B", "unit_scale": True, "disable": None, "leave": False}
        with tqdm(desc=part.stem, **options) as bar:
            while chunk := stream.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        got = file.tell()
    if size is not None and got < size:
        raise HTTPException(f"the connection ended after {got} of {size} bytes")


# --- unpacking ------------------------------------------------------------------------------------------------------


def members(archive: Path) -> Iterator[tuple[str, Callable[[], BinaryIO | None]]]:
    """(name, open) of each regular file in a zip or tar archive; links, devices and folders are skipped."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as z:
            for info in z.infolist():
                is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
                if not info.is_dir() and not is_link:
                    yield info.filename, lambda i=info: z.open(i)
    else:
        with tarfile.open(archive) as t:
            for member in t:
                if member.isfile():
                    yield member.name, lambda m=member: t.extractfile(m)


def unpack(archive: Path, folder: Path, place: Callable[[PurePosixPath], str | None]) -> int:
    """Write the archive's members under `folder`, each where place(name) says (None: skip it). Returns their number.

    Raises: UserError for a damaged archive, and for a member whose path leads out of the folder.
    """
    count = 0
    try:
        for name, opened in members(archive):
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in name:
                raise UserError(f"{archive}: refused, the member '{name}' points outside of the folder")
            target = place(path)
            if target is None:
                continue
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            with opened() as source, (folder / target).open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
            count += 1
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as e:
        raise UserError(f"{archive}: damaged or cut off: {str(e).splitlines()[0] or type(e).__name__}") from None
    return count
