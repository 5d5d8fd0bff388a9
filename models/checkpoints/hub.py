"""Models of the Hugging Face hub: the weights of OWNER/NAME with the files beside them that say what they are.

HF_ENDPOINT names another server, as for Hugging Face's own tools, or a folder of files (file://).
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from pathlib import Path

from common.console import warn
from common.download import NotThere
from common.errors import UserError
from models.checkpoints.container import HUB_FILES, WORDS, is_inside
from models.checkpoints.download import fetch

HUB = "https://huggingface.co"
ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
DONE = ".beside"  # in the folder of a download whose other files were asked for


def hub_id(source: str) -> str | None:
    """OWNER/NAME of an id or of the web page of a model; None for anything else."""
    page = urllib.parse.urlsplit(source)
    if page.scheme in ("http", "https") and page.netloc in ("huggingface.co", "www.huggingface.co"):
        source = page.path.strip("/").removesuffix("/tree/main")
    return source if ID.fullmatch(source) else None


def fetch_model(model: str) -> Path:
    """The local file of the weights of OWNER/NAME, downloaded if necessary, with what is beside it.

    Raises: UserError; NotThere if the hub has no such model or none of HUB_FILES in it.
    """
    base = f"{os.environ.get('HF_ENDPOINT', HUB).rstrip('/')}/{model}/resolve/main"
    problem = None
    for name in HUB_FILES:
        try:
            return fetch_with_words(f"{base}/{name}")
        except NotThere as e:
            problem = problem or e
            if " 401 " in str(e):  # no such model, or one that needs an account: no file of it will be there
                break
    raise NotThere(
        f"the hub has no model '{model}' with one of {', '.join(HUB_FILES)} (it may need an account): {problem}"
    )


def fetch_with_words(url: str, sha256_prefix: str | None = None) -> Path:
    """As fetch; of a file with one of HUB_FILES' names also the words beside it, and the files of an index."""
    path = fetch(url, sha256_prefix)
    if path.name not in HUB_FILES or urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        return path
    if path.suffix == ".json":
        fetch_shards(url, path)
    if (path.parent / DONE).exists():
        return path
    try:
        for name in WORDS:
            if not (path.parent / name).exists():
                fetch_beside(url, name)
        (path.parent / DONE).touch()
    except (UserError, OSError) as e:
        warn(f"{path.parent}: without {name}, which may name its classes and options: {e}")
    return path


def fetch_beside(url: str, name: str) -> None:
    """The file `name` of the same folder, if there is one."""
    try:
        fetch(beside(url, name))
    except NotThere:
        pass


def beside(url: str, name: str) -> str:
    parts = urllib.parse.urlsplit(url)
    folder = parts.path.rpartition("/")[0]
    return urllib.parse.urlunsplit(parts._replace(path=f"{folder}/{urllib.parse.quote(name)}"))


def fetch_shards(url: str, index: Path) -> None:
    """The files that an index names. Those that point out of its folder are left to the reader, which refuses them."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return
    for name in sorted(name for name in names if isinstance(name, str) and is_inside(name) and "/" not in name):
        fetch_into(beside(url, name), index.parent / name)


def fetch_into(url: str, target: Path) -> None:
    if not target.exists():
        fetch(url).replace(target)
