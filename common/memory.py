"""How much memory this process uses."""

from __future__ import annotations

from pathlib import Path

import torch


def process_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS, resident now, or VmHWM, its peak. (getrusage's ru_maxrss starts at
    the size of the parent process.)"""
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return 1024 * int(line.split()[1])


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes of this process so far: on a GPU what torch allocated there, else its resident memory as Linux counts
    it, with Python and the data. None on other systems."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_bytes("VmHWM") if Path("/proc/self/status").exists() else None
