"""The device that a command or config names."""

from __future__ import annotations

import torch

from common.errors import UserError


def resolve_device(name: str) -> torch.device:
    """auto | cpu | cuda | cuda:N | mps -> a device. Raises: UserError if this machine does not have it."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device '{name}': valid: auto, cpu, cuda, cuda:N, mps") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise UserError(f"device {name} is not there: torch sees {count} CUDA devices; try --device auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps is not there; try --device auto")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device '{name}': valid: auto, cpu, cuda, cuda:N, mps")
    return device
