"""Several processes, one per GPU:  torchrun --nproc_per_node=4 train.py CONFIG

Each process trains on its share of every epoch's images, and DistributedDataParallel averages the gradients. The batch
is therefore `train.batch_size` times the number of processes; adapt optim.lr yourself. The first process alone scores
and writes (validation, candidates, checkpoints, log, report), so no result depends on how the images were shared out.
BatchNorm uses each process's own images; the checkpoint has the running statistics of the first process.
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
    """Join the group that torchrun describes in the environment. A single process needs none."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=12))  # the others wait while the first one scores


def stop() -> None:
    """Leave the group. No reference to a wrapped model may be left: it would keep gloo's threads alive, and they abort
    the process while the interpreter shuts down (seen about once in 30 exits)."""
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
    """This process's own GPU if the run uses GPUs, else `device`."""
    if device.type == "cuda" and world_size() > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with gradients averaged over the processes; in a single process the model itself."""
    if world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def from_main(value: Any) -> Any:
    """Give every process the first one's value; the others may pass anything. Also a barrier."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list:
    """Give every process the list of all values, in the order of ranks."""
    if world_size() == 1:
        return [value]
    box: list = [None] * world_size()
    dist.all_gather_object(box, value)
    return box
