"""How much memory this process holds."""

from __future__ import annotations

from pathlib import Path

import torch


def process_bytes(field: str) -> int:
    """VmRSS: resident now; VmHWM: its peak. (getrusage's ru_maxrss would begin at the size of the parent process.)"""
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return 1024 * int(line.split()[1])


def peak_memory(device: torch.device) -> int | None:
    """Bytes this process held at most so far: on a GPU what torch allocated there, else of main memory as Linux counts
    it, all of Python and the data included; None where nothing counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_bytes("VmHWM") if Path("/proc/self/status").exists() else None
