"""Exclusive file locks that the system drops when a process dies, on Linux, macOS and Windows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everywhere else
    msvcrt = None


def lock_file(path: Path, wait: bool = False) -> IO | None:
    """Lock `path`, which is created if it is missing. The lock lasts until the returned file is closed.

    Returns None if another process holds the lock; wait: returns when it is free. A system that has neither fcntl nor
    msvcrt locks nothing. Raises: OSError if the file cannot be opened or locked.
    """
    handle = open(path, "a")
    while True:
        try:
            if fcntl:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif msvcrt:
                msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # its first byte
            return handle
        except (BlockingIOError, PermissionError):  # of fcntl, of msvcrt
            if not wait:
                handle.close()
                return None
        time.sleep(0.1)
