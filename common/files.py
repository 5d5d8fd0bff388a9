"""Write files whole or not at all, and hash them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import DamagedFile, UserError


class Remembering:
    """A file that keeps the first error of a write: torch.save hides the reason, a full disk, behind its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except BaseException as e:
            self.error = self.error or e
            raise


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file) on a temporary file beside `path`, flush it to the disk and rename it. If the process is killed,
    the old file stays. Raises: UserError if the file cannot be written, on a full disk for example."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    watched = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            watched = Remembering(file)
            write(watched)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as e:
        cause = (watched and watched.error) or e
        if not isinstance(cause, OSError | RuntimeError):  # Ctrl-C, which torch.save may hide behind its own error
            raise cause from None
        raise UserError(f"cannot write {path}: {reason_of(cause)}") from e
    finally:  # also after Ctrl-C in the middle of a write
        with contextlib.suppress(OSError):
            temporary.unlink()


def reason_of(error: Exception) -> str:
    """Why a file could not be written, in a few words."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return f"{reason} (the disk is full: the file from before is kept; make room and start again)" if full else reason


TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # the names that write_atomically gives


def remove_temporaries(folder: Path) -> None:
    """Remove what killed calls of `write_atomically` left under a folder that no other process writes to."""
    for path in folder.rglob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name) and (path.is_symlink() or not path.is_dir()):
            path.unlink(missing_ok=True)


def keep_before(path: Path, before: Path) -> None:
    """Let `before` name what `path` holds now; a later write_atomically(path) does not change it. No bytes are copied
    where the file system has hard links. Raises: UserError."""
    temporary = before.with_name(f".{before.name}.{os.getpid()}.tmp")
    try:
        try:
            os.link(path, temporary)
        except OSError:  # FAT, some network file systems
            shutil.copyfile(path, temporary)
        os.replace(temporary, before)
    except OSError as e:
        raise UserError(f"cannot write {before}: {reason_of(e)}") from e
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def set_aside(path: Path) -> Path:
    """Rename a damaged file to NAME.damaged, where nothing reads it; returns the new path."""
    aside = path.with_name(path.name + ".damaged")
    os.replace(path, aside)
    return aside


def read_json(path: Path) -> Any:
    """Raises: DamagedFile if the file is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        raise DamagedFile(f"{path}: damaged, it is not JSON: {str(e).splitlines()[0][:100]}") from None


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
