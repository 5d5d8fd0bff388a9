"""Several processes, one a GPU:  torchrun --nproc_per_node=4 train.py CONFIG

Each process trains on its share of every epoch's images and DistributedDataParallel averages the gradients, so the
batch is `train.batch_size` times the number of processes (the learning rate is yours to adapt). Everything that judges
or writes (validation, candidates, checkpoints, log, report) is done by the first process alone: one definition of
every score, and no result that depends on how images were dealt out. BatchNorm statistics of a training step are those
of a process's own images; the running ones that are kept are the first process's.
"""

from __future__ import annotations

import gc
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def start() -> None:
    """Join the group that torchrun describes in the environment; nothing to do in a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=12))  # the others wait while the first one judges


def stop() -> None:
    """Leave the group, when nothing holds on to a wrapped model any more: one that outlives the group keeps gloo's
    threads alive, and they abort the process while the interpreter shuts down (seen about once in 30 exits)."""
    if dist.is_initialized():
        gc.collect()  # DistributedDataParallel is part of reference cycles
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """This process's GPU, where the run is on GPUs."""
    if device.type == "cuda" and world_size() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model whose backward averages gradients over processes; itself in a single process."""
    if world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def from_main(value: Any) -> Any:
    """The first process's value, in all of them (also a barrier). Others may pass anything."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list:
    """Every process's value, in all of them, in the order of ranks."""
    if world_size() == 1:
        return [value]
    box: list = [None] * world_size()
    dist.all_gather_object(box, value)
    return box
