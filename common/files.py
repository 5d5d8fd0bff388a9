"""Files that survive: written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from common.errors import UserError


def write_atomically(path: Path, write) -> None:
    """Call write(file) on a temporary neighbour, flush it to the disk, rename: a killed process leaves the old file."""
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
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = getattr(e, "strerror", None) or str(e).splitlines()[0]
        raise UserError(f"cannot write {path}: {reason}") from e
    except BaseException:  # Ctrl-C in the middle of a write
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, allow_nan=False)
    write_atomically(path, lambda f: f.write(text.encode()))


def file_error(path: str | Path, problem: str) -> UserError:
    """The one line for a file of weights that cannot be used, whatever the file itself put into `problem`."""
    line = "".join(c if c.isprintable() else " " for c in problem)
    return UserError(f"checkpoint {path}: {' '.join(line.split())[:300]}")
