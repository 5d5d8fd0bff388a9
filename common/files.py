"""Write files whole or not at all, and hash them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file) on a temporary file beside `path`, flush it to the disk and rename it. If the process is killed,
    the old file stays. Raises: UserError if the file cannot be written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as e:  # torch.save reports a full disk as RuntimeError
        reason = getattr(e, "strerror", None) or str(e).splitlines()[0]
        raise UserError(f"cannot write {path}: {reason}") from e
    finally:  # also after Ctrl-C in the middle of a write
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_temporaries(folder: Path) -> None:
    """Remove what killed calls of `write_atomically` left under a folder that no other process writes to."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, allow_nan=False)
    write_atomically(path, lambda f: f.write(text.encode()))


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file's bytes. md5 serves to compare with a published checksum, not for security."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def file_error(path: str | Path, problem: str) -> UserError:
    """The error for a file of weights that cannot be used: one line, even if the file put other text into `problem`."""
    line = "".join(c if c.isprintable() else " " for c in problem)
    return UserError(f"checkpoint {path}: {' '.join(line.split())[:300]}")
