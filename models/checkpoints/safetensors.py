"""Strict reader and writer of the safetensors format: tensors and their names, without code.

A file is  N (8 bytes, unsigned, little-endian) | header (N bytes of UTF-8 JSON) | data.  The header is one object,
    {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"format": "pt"}}
with offsets counted from the first byte of the data; spaces may follow it. Every number is checked before it is used:
the tensors must cover the data exactly, without overlap or hole, and the size of each must fit its shape and type. A
broken file can then give wrong weights but no access outside of the data.

Differences from the package of the same name: little-endian machines only, and no types of less than a byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.files import file_error, write_atomically

MAX_HEADER = 100_000_000  # bytes, the limit of the package; the largest real headers have a few million
MAP_FROM = 1 << 30  # bytes: larger files are memory-mapped: only the parts that are used are read (see `file_bytes`)

# name in the header -> torch's type; older versions of torch lack some of them
DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, theirs)
    for name, theirs in {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "I64": "int64", "I32": "int32", "I16": "int16",
        "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
    }.items()
    if hasattr(torch, theirs)
}  # fmt: skip


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, by name in its order, and its metadata. Raises: UserError for a broken file.

    All tensors are views of one buffer: the file is read once and not copied.
    """
    path = Path(path)
    try:
        return _read(path)
    except UserError:
        raise
    except OSError as e:
        raise file_error(path, e.strerror or str(e)) from None
    except (ValueError, RuntimeError, OverflowError, RecursionError) as e:  # ours, json's, torch's
        raise file_error(path, f"broken safetensors file: {e}") from None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"cut off: {size} bytes do not hold a header of {length if size >= 8 else 'any'} bytes")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes, at most {MAX_HEADER} are allowed")
        text = file.read(length)
    header = parse_header(text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("__metadata__ must map names to strings")
    entries = {name: check_entry(name, entry) for name, entry in header.items()}
    check_cover([span for _, _, *span in entries.values()], size - 8 - length)
    data = file_bytes(path, size)
    return {name: view(data, 8 + length + begin, *rest) for name, (*rest, begin, _) in entries.items()}, metadata


def parse_header(text: bytes) -> dict[str, Any]:
    """The JSON object of the header. A name that occurs twice is an error: one tensor would hide the other."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a name occurs twice in the header")
        return found

    if not text.startswith(b"{"):
        raise ValueError("the header is not a JSON object")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise ValueError("the header is not UTF-8") from None
    except json.JSONDecodeError as e:
        raise ValueError(f"the header is not JSON: {e.msg} at character {e.pos}") from None


def check_entry(name: str, entry: Any) -> tuple[torch.dtype, list[int], int, int]:
    """(dtype, shape, begin, end) of one tensor, checked one by one and against each other."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name!r} has the type {str(dtype)[:20]!r}, known are {', '.join(DTYPES)}")
    if not is_sizes(shape):
        raise ValueError(f"{name!r} has no valid shape")
    if not is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name!r} has no valid data_offsets")
    begin, end = offsets
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != expected:
        raise ValueError(f"{name!r} takes {end - begin} bytes, its shape {shape} of {dtype} needs {expected}")
    return DTYPES[dtype], shape, begin, end


def is_sizes(value: Any) -> bool:
    """Whether this is a list of whole numbers that fit 63 bits (and not JSON's true, which equals 1)."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def check_cover(spans: list[list[int]], size: int) -> None:
    """The spans must follow each other from the first byte of the data to its last."""
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError(f"two tensors overlap at byte {begin}" if begin < at else f"a hole at bytes {at}-{begin}")
        at = end
    if at != size:
        raise ValueError(f"cut off: {at} bytes of data announced, {size} there" if at > size else "bytes left over")


def file_bytes(path: Path, size: int) -> Tensor:
    """A file as one uint8 tensor: read, or mapped if it is large. A mapped file must not be overwritten in place;
    renaming another file over it is safe. Changing a tensor does not change the file."""
    if size >= MAP_FROM:
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    data = torch.empty(size, dtype=torch.uint8)
    with path.open("rb") as file:
        if file.readinto(memoryview(data.numpy())) != size:
            raise ValueError("changed while it was read")
    return data


def view(data: Tensor, begin: int, dtype: torch.dtype, shape: list[int]) -> Tensor:
    """`shape` elements of `data` from byte `begin` on; a copy only if they are not aligned."""
    piece = data[begin : begin + math.prod(shape) * dtype.itemsize]
    if begin % dtype.itemsize:
        piece = piece.clone()
    return piece.view(dtype).view(shape)


def write_safetensors(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors atomically, the widest types first so that each is aligned."""
    path, names = Path(path), {dtype: name for name, dtype in DTYPES.items()}
    for name, tensor in state.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise file_error(path, f"cannot be written: {name!r} is not a name for a tensor")
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in names:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise file_error(path, f"cannot be written: {name!r} is a {kind}, not a dense tensor of a known type")
    if not all(isinstance(text, str) for pair in (metadata or {}).items() for text in pair):
        raise file_error(path, "cannot be written: metadata must map names to strings")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    order, at = sorted(state, key=lambda name: (-state[name].dtype.itemsize, name)), 0
    for name in order:
        end = at + state[name].numel() * state[name].dtype.itemsize
        header[name] = {"dtype": names[state[name].dtype], "shape": list(state[name].shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the data begins at a multiple of 8 and can be mapped

    def write(file) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            flat = state[name].detach().cpu().contiguous().reshape(-1)
            file.write(memoryview(flat.view(torch.uint8).numpy()))

    write_atomically(path, write)
