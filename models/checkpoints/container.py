"""Read any file of weights into names and tensors: which format it has, and where in it the weights are.

Formats: torch.save's zip and its older format, safetensors, either in several files with an index, and hub folders.
Wrappers: the dict around the weights ({"epoch": 3, "state_dict": {...}}). Prefixes: what DataParallel ("module.") and
torch.compile ("_orig_mod.") put before every name. identify.py finds out whose file it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from torch import Tensor

from common.files import file_error
from models.checkpoints.pickles import load_pickle
from models.checkpoints.safetensors import MAX_HEADER, parse_header, read_safetensors
from models.checkpoints.weight_sets import OTHER, WRAPPERS, choose, take_one

PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
DEEPEST = 3  # wrappers within wrappers; the dict of a hostile file may contain itself

# files of a hub folder, preferred first
HUB_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
WORDS = ("config.json", "preprocessor_config.json", "albumentations_config_eval.json")  # beside them, in JSON
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

# first bytes of files that are often mistaken for a checkpoint
NOT_WEIGHTS = {
    b"version https://git-lfs": "a git-lfs pointer of a few lines, not the file: fetch it with  git lfs pull",
    b"\x89HDF": "a Keras (HDF5) file: take the publisher's model.safetensors or pytorch_model.bin",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"\x93NUMPY": "a NumPy array, not a checkpoint",
}
CONTROL = {*range(9), *range(14, 32), 127}  # bytes that do not occur in text


@dataclass(frozen=True)
class Container:
    """A file of weights, unpacked."""

    state: dict[str, Tensor]  # plain tensors on the CPU, without gradient, in the file's types and order
    kind: str  # "zip", "legacy", "safetensors" or, in several files, "sharded"
    wrapper: str  # key of the weights, such as "model/state_dict"; "": none; "ours": a checkpoint of train.py
    meta: dict[str, Any]  # plain data beside them: class names, safetensors' "__metadata__", a hub's WORDS
    notes: list[str]  # one line for each decision made while reading
    others: tuple[str, ...] = ()  # the names of further sets of weights in it, where the reader chose one


def read(path: str | Path, wrapper: str | None = None) -> Container:
    """Read a file, an index of files, or a hub folder. `wrapper`: which key to take if a file holds several models.

    Nothing in the file is run (see pickles.py). Raises: UserError with the file and what is wrong with it.
    """
    given = Path(path).expanduser()
    path = given
    try:
        path = find_file(given)
        words = read_words(path) if path.name in HUB_FILES or given.is_dir() else {}
        content, kind, meta, notes = read_shards(path) if path.suffix == ".json" else read_file(path)
    except OSError as e:
        raise file_error(path, f"cannot be read: {e.strerror or e}") from None
    name, weights, beside, others = unwrap(path, content, wrapper, notes)
    state, left = split(path, weights)
    if names := [k for k in left if isinstance(k, str)]:
        notes.append(f"no tensors, kept apart: {', '.join(names)}")
    state, averaged = strip_prefixes(state, notes)
    if name != "ours":
        state, inner = take_one(path, state, None if wrapper in name.split("/") else wrapper, notes)
        others = others or inner
    meta |= {**plain_dict(beside), **plain_dict(left), **averaged, **words}
    return Container(state, kind, name, meta, notes, () if wrapper else others)


# --- containers -----------------------------------------------------------------------------------------------------


def find_file(path: Path) -> Path:
    """The path itself, or the file of weights in a folder."""
    if not path.exists():
        raise file_error(path, "not found")
    if not path.is_dir():
        return path
    for name in HUB_FILES:
        if (path / name).is_file():
            return path / name
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(files) == 1:
        return files[0]
    found = f"several ({', '.join(p.name for p in files)}): name one" if files else f"no {', '.join(HUB_FILES)}"
    raise file_error(path, f"a folder with {found}")


def read_words(path: Path) -> dict[str, Any]:
    """The WORDS beside a file of the hub, or in the folder that was given; beside others they may be another file's."""
    found = {}
    for words in (path.parent / name for name in WORDS):
        if words.is_file():
            try:
                found[words.name] = json.loads(words.read_bytes())
            except (ValueError, RecursionError):
                raise file_error(words, "not JSON") from None
    return found


def read_file(path: Path) -> tuple[Any, str, dict[str, Any], list[str]]:
    """One file: (what is in it, its kind, metadata, notes)."""
    head = check_head(path)
    begins_as_json = head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER
    if path.suffix == ".safetensors" or begins_as_json:
        state, metadata = read_safetensors(path)
        return state, "safetensors", {"__metadata__": metadata} if metadata else {}, []
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise file_error(path, "not a checkpoint: none of torch's formats, nor safetensors")
    content, kind, foreign = load_pickle(path)
    return content, kind, {}, [f"foreign objects in it were left out: {', '.join(foreign)}"] if foreign else []


def check_head(path: Path) -> bytes:
    """The first bytes of a file. Raises: UserError for what is clearly not a checkpoint, such as a web page."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise file_error(path, "empty")
    for magic, kind in NOT_WEIGHTS.items():
        if head.startswith(magic):
            raise file_error(path, kind)
    if head[257:262] == b"ustar":
        raise file_error(path, "a tar archive: unpack it first")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise file_error(path, "a web page: the download gave a page in place of the file, open the link in a browser")
    if not CONTROL & set(head):
        raise file_error(path, f"text, not weights; it begins: {head.decode(errors='replace').lstrip()[:60]}")
    return head


def read_shards(path: Path) -> tuple[dict[str, Tensor], str, dict[str, Any], list[str]]:
    """The files of an index, as one. Every tensor must be in the file that the index gives for it."""
    try:
        index = parse_header(path.read_bytes())
        places = index["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise file_error(path, "not an index of weights: a JSON object with a weight_map is wanted") from None
    for name in files:
        if not isinstance(name, str) or not is_inside(name):
            raise file_error(path, f"refused, it points outside of its folder: {name!r}")
        if not (path.parent / name).is_file():
            raise file_error(path, f"{name!r}, which it names, is missing")
    state, notes = {}, set()
    for name in files:
        content, _, _, said = read_file(path.parent / name)
        weights, _ = split(path.parent / name, content)
        notes |= set(said)
        expected = {key for key, place in places.items() if place == name}
        if wrong := sorted(expected ^ weights.keys()):
            raise file_error(path.parent / name, f"not what {path.name} says of it: {', '.join(wrong[:3])}")
        state |= weights
    metadata = index.get("metadata")
    return {key: state[key] for key in places}, "sharded", {"__metadata__": metadata} if metadata else {}, sorted(notes)


def is_inside(name: str) -> bool:
    """Whether a relative path stays below its folder, on Windows and elsewhere."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    parts = {*posix.parts, *windows.parts}
    return bool(parts) and ".." not in parts and not posix.is_absolute() and not windows.drive and not windows.root


# --- wrappers -------------------------------------------------------------------------------------------------------


def entries(value: Any) -> dict[Any, Any]:
    """The entries of a dict, else none. A pickle can put attributes on a dict or tensor that hide its methods, so both
    are read through their class."""
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def has_tensors(value: Any) -> bool:
    return any(isinstance(k, str) and isinstance(v, Tensor) for k, v in entries(value).items())


def unwrap(path: Path, content: Any, wanted: str | None, notes: list[str]) -> tuple[str, dict, dict, tuple[str, ...]]:
    """(wrapper, the dict of weights, what is beside it, sets of weights that were not chosen) of a file's content."""
    found = entries(content)
    if {"model", "config", "class_names"} <= found.keys() and has_tensors(found["model"]) and wanted is None:
        if isinstance(found.get("ensemble"), list):
            notes.append(f"an ensemble of {len(found['ensemble'])} networks: this is the first")
        return "ours", found.pop("model"), found, ()
    names, beside, others, seen = [], {}, (), []
    while len(names) < DEEPEST:
        inside = {k: shapes(v) for k, v in found.items() if isinstance(k, str) and (has_tensors(v) or wrapped(v))}
        seen += [name for name in inside if not OTHER.search(name)]
        swapped = "state_dict" in inside and "ema_state_dict" in inside and ("message_hub" in found or "meta" in found)
        said = len(notes)
        name = wanted if wanted in inside else choose(path, inside, has_tensors(found), swapped, notes)
        if name is None:
            break
        if len(notes) > said:
            others = tuple(other for other in inside if other != name and not OTHER.search(other))
        names.append(name)
        content = found.pop(name)
        beside, found = {**found, **beside}, entries(content)
    if not has_tensors(content):
        hint = f" ({'; '.join(notes)}); if it is a whole pickled model, save its state_dict() instead" if notes else ""
        raise file_error(path, f"no weights by name in it{hint}")
    if wanted is not None and wanted not in names and len(seen) > 1:
        raise file_error(path, f"no weights under {wanted!r}; there are some under: {', '.join(seen)}")
    return "/".join(names), entries(content), beside, others


def shapes(value: Any) -> dict[str, tuple]:
    """Names and shapes of the tensors of a dict."""
    return {k: tuple(v.shape) for k, v in entries(value).items() if isinstance(k, str) and isinstance(v, Tensor)}


def wrapped(value: Any) -> bool:
    return any(has_tensors(v) for k, v in entries(value).items() if k in WRAPPERS)


# --- tensors, names, the rest ---------------------------------------------------------------------------------------


def split(path: Path, weights: Any) -> tuple[dict[str, Tensor], dict]:
    """(tensors, the rest) of a dict. Parameters become plain tensors; two names of one tensor still share it."""
    found = entries(weights)
    state = {k: Tensor.detach(v) for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor)}
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise file_error(path, f"{name!r} is not a dense tensor with data (sparse, quantised or meta)")
    return state, {k: v for k, v in found.items() if k not in state}


def strip_prefixes(state: dict[str, Tensor], notes: list[str]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Names without the prefix that wrapping modules put before all of them, and the counter of AveragedModel."""
    averaged = {}
    for counter in ("n_averaged", "steps"):  # of torch's AveragedModel, of mmengine's
        if counter in state and len(state) > 1 and all(k.startswith("module.") for k in state if k != counter):
            averaged[counter] = int(state[counter])
            state = {k: v for k, v in state.items() if k != counter}
    stripped = ""
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), ""):
        state = {k.removeprefix(prefix): v for k, v in state.items()}
        stripped += prefix
    if stripped:
        notes.append(f"removed before every name: {stripped}")
    return state, averaged


DROPPED = object()


def plain_dict(value: dict) -> dict:
    """The plain data of a dict, without tensors, stand-ins and other objects."""
    kept = plain(value, [100_000])
    return {} if kept is DROPPED else kept


def plain(value: Any, budget: list[int], depth: int = 0) -> Any:
    """`budget` limits the number of nodes: a pickle of a few bytes can nest lists that unfold without end."""
    budget[0] -= 1
    if budget[0] < 0 or depth > 20:
        return DROPPED
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        kept = [v for v in (plain(v, budget, depth + 1) for v in value) if v is not DROPPED]
    elif isinstance(value, dict):
        pairs = ((k, plain(v, budget, depth + 1)) for k, v in entries(value).items() if type(k) in (str, int))
        kept = {k: v for k, v in pairs if v is not DROPPED}
    else:
        return DROPPED
    return kept if kept or not value else DROPPED  # drop what held only tensors
