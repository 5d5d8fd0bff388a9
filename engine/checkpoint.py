"""Save and load checkpoints: dicts of plain types and tensors, loaded with `weights_only=True`.

What two equal runs share bit for bit (weights, optimiser, schedule, counters, metrics, random states) is at the top
level. What may differ between them (seconds, the length of the log, times) is under "info".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import DamagedFile, UserError
from common.files import write_atomically

FORMAT = 2  # of the files that `save` writes; 1 had neither a hash nor this number


class NonFinite(UserError):
    """Weights hold NaN or inf."""


def save(checkpoint: dict, path: Path, finite: bool = True) -> None:
    """Write a checkpoint with the hash of its content. finite: refuse weights and optimiser states that are not finite.

    Raises: NonFinite, UserError if the file cannot be written.
    """
    if finite:
        require_finite_networks(checkpoint, f"{path} is not written")
        for i, state in entries(checkpoint.get("optimizer"), "state"):
            require_finite(state, f"{path} is not written: optimiser state of parameter {i}")
    info = {**checkpoint.get("info", {}), "format": FORMAT}
    info["hash"] = content_hash({**checkpoint, "info": info})
    write_atomically(path, lambda f: torch.save({**checkpoint, "info": info}, f))


def load(path: str | Path) -> dict:
    """Load a checkpoint to the CPU. Raises: UserError if it is missing or holds Python objects, DamagedFile if it is
    truncated or not as it was written."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint not found: {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many types here
        text = str(e)
        if "weights_only" in text.lower() or "Unsupported" in text:
            raise UserError(f"checkpoint {path}: refused, it holds Python objects, not only tensors") from None
        raise DamagedFile(f"checkpoint {path}: cannot be read, truncated or not a checkpoint") from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"checkpoint {path}: expected a dictionary, got {type(checkpoint).__name__}")
    return verified(checkpoint, path)


def verified(checkpoint: dict, path: Path) -> dict:
    """The checkpoint without its hash and format number, once they are right. Files of format 1 have none."""
    info = checkpoint.get("info")
    if not isinstance(info, dict) or "hash" not in info:
        return checkpoint
    if isinstance(info.get("format"), int) and info["format"] > FORMAT:
        raise UserError(f"checkpoint {path}: of format {info['format']}, this version of the code reads up to {FORMAT}")
    rest = {k: v for k, v in info.items() if k != "hash"}
    if content_hash({**checkpoint, "info": rest}) != info["hash"]:
        raise DamagedFile(f"checkpoint {path}: damaged, its content does not match its hash")
    rest.pop("format", None)
    return {**{k: v for k, v in checkpoint.items() if k != "info"}, **({"info": rest} if rest else {})}


def content_hash(value: Any) -> str:
    """sha256 of a tree of dicts, lists, plain values and tensors."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)};".encode())
            digest.update(bytes_of(value))
        elif isinstance(value, dict):
            digest.update(f"dict {len(value)};".encode())
            for item in (part for pair in value.items() for part in pair):
                add(item)
        elif isinstance(value, list | tuple):
            digest.update(f"list {len(value)};".encode())
            for item in value:
                add(item)
        else:
            digest.update(f"{type(value).__name__} {value!r};".encode())

    add(value)
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> Any:
    """A tensor's values as bytes, in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else b""


# --- NaN and inf ------------------------------------------------------------------------------------------------------


def non_finite(state: dict[str, Tensor]) -> dict[str, str]:
    """{name: how many of its values are NaN or inf} of the tensors that hold any."""
    found = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            bad = value.numel() - int(torch.isfinite(value).sum())
            if bad:
                found[str(name)] = f"{bad} of {value.numel()} values"
    return found


def require_finite(state: dict[str, Tensor], what: str) -> None:
    """Raises: NonFinite, with the names of the tensors that hold NaN or inf."""
    found = non_finite(state)
    if found:
        shown = ", ".join(f"{name} ({count})" for name, count in list(found.items())[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise NonFinite(f"{what}: not finite (NaN or inf): {shown}{more}")


def require_finite_networks(checkpoint: dict, what: str) -> None:
    """require_finite for the network of a checkpoint, and for all networks of an ensemble."""
    members = checkpoint.get("ensemble")
    for state in [checkpoint.get("model"), *(members if isinstance(members, list) else [])]:
        if isinstance(state, dict):
            require_finite(state, what)


def entries(tree: Any, key: str) -> Iterator[tuple[Any, dict]]:
    """The dicts in tree[key], with their keys."""
    inside = tree.get(key) if isinstance(tree, dict) else None
    for name, value in inside.items() if isinstance(inside, dict) else ():
        if isinstance(value, dict):
            yield name, value


# --- this project's own files ----------------------------------------------------------------------------------------


def is_ours(path: str | Path) -> bool:
    """Whether train.py or eval.py wrote the file. Does not read its tensors."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # another kind of file, or damaged: loading it gives the message
        return False
    return isinstance(content, dict) and {"model", "config", "class_names"} <= content.keys()


def load_ours(path: str | Path) -> dict:
    """Load a checkpoint that train.py or eval.py wrote. Raises: UserError for any other file, NonFinite where weights
    are NaN or inf, DamagedFile."""
    checkpoint = load(path)
    missing = [k for k in ("model", "config", "class_names") if k not in checkpoint]
    if missing:
        raise UserError(f"checkpoint {path}: not written by this project (no {', '.join(missing)})")
    require_finite_networks(checkpoint, f"checkpoint {path}")
    return checkpoint


def require_classes(checkpoint: dict, class_names: list[str], path: str | Path) -> None:
    """Raises: UserError unless the checkpoint has the data set's classes, in the same order."""
    theirs = list(checkpoint["class_names"])
    if theirs != list(class_names):
        raise UserError(
            f"checkpoint {path}: trained on {len(theirs)} classes ({', '.join(theirs[:3])} ...), "
            f"the data has {len(class_names)} ({', '.join(list(class_names)[:3])} ...)"
        )


def load_state(model: torch.nn.Module, state: dict, path: str | Path) -> None:
    """Load weights into a model, strictly. Raises: UserError, one line instead of torch's page."""
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        line = " ".join(str(e).split())
        raise UserError(f"checkpoint {path}: does not fit the model: {line[:300]}") from None


def state_hash(state: dict[str, Tensor]) -> str:
    """sha256 of a state dict's names, types, shapes and bytes: equal weights have equal hashes on every machine."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {tuple(state[name].shape)};".encode())
        digest.update(bytes_of(state[name]))
    return digest.hexdigest()


def cpu_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """A contiguous copy of the weights on the CPU, which later training steps do not change."""
    return {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()}
