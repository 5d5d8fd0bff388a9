"""Weights by URL: downloaded once into torch.hub's folder and checked. container.py reads them from there.

torch.hub.load_state_dict_from_url would unpickle the file at once.
"""

from __future__ import annotations

import urllib.parse
import urllib.request
from pathlib import Path, PurePosixPath

import torch

from common.download import NotThere, download
from common.errors import UserError
from common.files import file_error, file_hash

# names that the files of many models have
SHARED_NAMES = {
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "config.json", "preprocessor_config.json", "albumentations_config_eval.json",
}  # fmt: skip


def fetch(url: str | Path, sha256_prefix: str | None = None) -> Path:
    """The local file of a URL (http, https, file) or a path.

    A download shows its progress, resumes where it stopped, and is kept at `cache_path(url)`. Local files stay where
    they are. `sha256_prefix`: the first hex digits of the sha256 of the content, which publishers put into file names.
    Raises: UserError; offline it says which file to fetch and where to put it.
    """
    parts = urllib.parse.urlsplit(str(url))
    if parts.scheme not in ("http", "https"):
        is_url = parts.scheme == "file"
        path = Path(urllib.request.url2pathname(parts.path) if is_url else url).expanduser()
        if not path.exists():
            raise NotThere(str(file_error(path, "not found")))
        check_hash(path, sha256_prefix)
        return path
    path = cache_path(str(url))
    if path.exists():
        try:
            check_hash(path, sha256_prefix)
        except UserError as e:
            raise UserError(f"{e}; delete it to have it fetched again") from None
        return path
    arriving = path.with_name(path.name + ".download")  # renamed once it is checked
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download(str(url), arriving, tries=2)
    except OSError as e:
        raise file_error(path, f"cannot be written: {e.strerror or e}") from None
    except UserError as e:
        problem = str(e).removesuffix("; run the command again to go on")
        advice = f"if this machine is offline, fetch it elsewhere and put it at {path}"
        raise type(e)(f"{problem}; {advice}") from None
    try:
        check_hash(arriving, sha256_prefix)
    except UserError:
        arriving.unlink()
        raise
    return arriving.replace(path)


def cache_path(url: str) -> Path:
    """Where the file of a URL is kept: in torch.hub's folder under its file name, as torch does it.

    On the Hugging Face hub the files of all models have the same name, so there the model's name is a folder:
    https://huggingface.co/nvidia/mit-b0/resolve/main/pytorch_model.bin -> nvidia--mit-b0/pytorch_model.bin
    Another revision than main and a folder inside the model follow the name. Such files of another server are in a
    folder named by the server and its folders.
    """
    parts = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).parts[1:]
    if not parts or parts[-1] == "..":
        raise UserError(f"cannot download {url}: it names no file")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    name = parts[-1].replace("\\", "_")
    if "resolve" in parts[:-1]:
        at = parts.index("resolve")
        inside = [part for i, part in enumerate(parts[at + 1 : -1]) if (i, part) != (0, "main")]
        folder /= "--".join([*parts[:at], *inside])
    elif name in SHARED_NAMES:
        folder /= "--".join([urllib.parse.urlsplit(url).netloc.replace(":", "-"), *parts[:-1]])
    return folder / name


def check_hash(path: Path, sha256_prefix: str | None) -> None:
    """Raises: UserError if the sha256 of the content does not begin with the prefix. None: no check."""
    if not sha256_prefix or not path.is_file():
        return
    got = file_hash(path)[: len(sha256_prefix)]
    if got != sha256_prefix.lower():
        raise file_error(path, f"damaged or another file: its sha256 begins {got}, not {sha256_prefix}")
