"""Save and load checkpoints: dicts of plain types and tensors, loaded with `weights_only=True`.

What two equal runs share bit for bit (weights, optimiser, schedule, counters, metrics, random states) is at the top
level. What may differ between them (seconds, the length of the log, times) is under "info".
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from common.errors import UserError
from common.files import write_atomically


def save(checkpoint: dict, path: Path) -> None:
    write_atomically(path, lambda f: torch.save(checkpoint, f))


def load(path: str | Path) -> dict:
    """Load a checkpoint to the CPU. Raises: UserError if it is missing, truncated or holds Python objects."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint not found: {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many types here
        text = str(e)
        if "weights_only" in text.lower() or "Unsupported" in text:
            raise UserError(f"checkpoint {path}: refused, it holds Python objects, not only tensors") from None
        raise UserError(f"checkpoint {path}: cannot be read, truncated or not a checkpoint") from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"checkpoint {path}: expected a dictionary, got {type(checkpoint).__name__}")
    return checkpoint


def is_ours(path: str | Path) -> bool:
    """Whether train.py or eval.py wrote the file. Does not read its tensors."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # another kind of file, or damaged: loading it gives the message
        return False
    return isinstance(content, dict) and {"model", "config", "class_names"} <= content.keys()


def load_ours(path: str | Path) -> dict:
    """Load a checkpoint that train.py or eval.py wrote. Raises: UserError for any other file."""
    checkpoint = load(path)
    missing = [k for k in ("model", "config", "class_names") if k not in checkpoint]
    if missing:
        raise UserError(f"checkpoint {path}: not written by this project (no {', '.join(missing)})")
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


def state_hash(state: dict[str, torch.Tensor]) -> str:
    """sha256 of a state dict's names, types, shapes and bytes: equal weights have equal hashes on every machine."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def cpu_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A contiguous copy of the weights on the CPU, which later training steps do not change."""
    return {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()}
