"""Theoretical receptive field: the pixels of the image that a unit of a feature map can depend on.

We follow kernels, strides, dilations and paddings from the unit back to the image, over every path of the network.
Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019, give recurrences
for kernels. Here each operation says which positions it reads (axis_reads.py), which also covers resizing, pooling to
cells and window attention. Rows and columns are followed separately. stage_maps.py has the effective receptive field:
how much a unit depends on each of these pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.analysis.axis_reads import (
    Reads,
    alike,
    bilinear,
    cells,
    everything,
    moved,
    nearest,
    taps,
    transposed_taps,
    windows,
)
from engine.analysis.operation_trace import memory_of, shadow
from engine.analysis.stage_maps import listen
from models.encoders.mix_transformer import EfficientSelfAttention
from models.encoders.swin import WINDOW, PatchMerging, WindowAttention


@dataclass(eq=False)
class Node:
    """A feature map: its size (H, W), and for each map it is computed from, what it reads along each axis."""

    grid: tuple[int, int]
    sources: list[tuple[Node, tuple[Reads, Reads]]] = field(default_factory=list)


# --- the listener -----------------------------------------------------------------------------------------------------


aten = torch.ops.aten


class _Fields(TorchDispatchMode):
    """Follow every operation of a forward pass. The memory of a map identifies it: views share it, and in-place
    operations keep it."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.root = Node(tuple(images.shape[-2:]))
        self.nodes, self.order, self.alive, self.paused = {memory_of(images): self.root}, [self.root], [images], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not self.paused:
            self.book(func.overloadpacket, args, kwargs or {}, out)
        return out

    def add(self, tensor: Tensor, node: Node) -> None:
        if node is not self.order[-1]:
            self.order.append(node)
        self.nodes[memory_of(tensor)] = node
        self.alive.append(tensor)

    def book(self, op: object, args: tuple, kwargs: dict, out: object) -> None:
        sources = [self.nodes.get(memory_of(t)) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        sources = [node for node in sources if node is not None]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not outputs:
            return
        if not sources:  # computed from weights alone, in memory that may have held a map
            for t in outputs:
                self.nodes.pop(memory_of(t), None)
            return
        node = OPERATIONS.get(op, _pointwise)(sources, args, outputs[0])
        if node is None:  # a view of the same positions
            node = sources[0]
        for t in outputs:
            self.add(t, node)


def _pointwise(sources: list[Node], args: tuple, out: Tensor) -> Node | None:
    grid = tuple(max(node.grid[axis] for node in sources) for axis in (0, 1))
    if len(set(sources)) == 1:
        return None
    return Node(grid, [(s, tuple(alike(n, m) for n, m in zip(s.grid, grid))) for s in set(sources)])


def _convolution(sources: list[Node], args: tuple, out: Tensor) -> Node:
    weight, (stride, padding, dilation, transposed) = args[1], args[3:7]
    how = transposed_taps if transposed else taps
    shapes = zip(sources[0].grid, weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation))
    return Node(tuple(out.shape[2:]), [(sources[0], tuple(how(*shape) for shape in shapes))])


def _pool(sources: list[Node], args: tuple, out: Tensor) -> Node:
    kernel, stride = _pair(args[1]), _pair(args[2] if len(args) > 2 and len(args[2]) else args[1])
    padding = _pair(args[3] if len(args) > 3 else 0)
    shapes = zip(sources[0].grid, kernel, stride, padding, (1, 1))
    return Node(tuple(out.shape[2:]), [(sources[0], tuple(taps(*shape) for shape in shapes))])


def _pair(value: object) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def _resized(reads: Callable[..., Reads]) -> Callable:
    """An operation whose output of size m along an axis reads n positions by `reads(n, m, args)`."""

    def operation(sources: list[Node], args: tuple, out: Tensor) -> Node:
        grid = tuple(out.shape[2:])
        return Node(grid, [(sources[0], tuple(reads(n, m, args) for n, m in zip(sources[0].grid, grid)))])

    return operation


def _mean(sources: list[Node], args: tuple, out: Tensor) -> Node | None:
    if args[0].ndim != 4 or sorted(d % 4 for d in args[1]) != [2, 3]:
        return None
    return Node((1, 1), [(sources[0], tuple(everything(n) for n in sources[0].grid))])


def _axes(tensor: Tensor, grid: tuple[int, int]) -> tuple[int, int] | None:
    """Which dimensions of a tensor are rows and columns: a map (B, C, H, W), or tokens (B, H, W, C)."""
    shape = tuple(tensor.shape)
    return (2, 3) if shape[2:4] == grid else (1, 2) if shape[1:3] == grid else None


def _pad(sources: list[Node], args: tuple, out: Tensor) -> Node | None:
    axes, pads = _axes(args[0], sources[0].grid), args[1]  # pads: last dimension first, before and after
    if axes is None:
        return None
    before = [pads[2 * (args[0].ndim - 1 - a)] if 2 * (args[0].ndim - 1 - a) < len(pads) else 0 for a in axes]
    grid = tuple(out.shape[a] for a in axes)
    return Node(grid, [(sources[0], tuple(moved(n, -b) for n, b in zip(sources[0].grid, before)))])


def _slice(sources: list[Node], args: tuple, out: Tensor) -> Node | None:
    axes, dim = _axes(args[0], sources[0].grid), args[1] % args[0].ndim if len(args) > 1 else 0
    if axes is None or dim not in axes:
        return None
    first, step = (args[2] or 0 if len(args) > 2 else 0), (args[4] if len(args) > 4 else 1)
    first += args[0].shape[dim] if first < 0 else 0
    reads = [moved(n, first, step) if a == dim else alike(n, n) for n, a in zip(sources[0].grid, axes)]
    return Node(tuple(out.shape[a] for a in axes), [(sources[0], tuple(reads))])


OPERATIONS = {  # every other operation works position by position, or only changes the shape
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: _pool,
    aten.avg_pool2d: _pool,
    aten.upsample_bilinear2d: _resized(lambda n, m, args: bilinear(n, m, bool(args[2]))),
    aten.upsample_nearest2d: _resized(lambda n, m, args: nearest(n, m)),
    aten._adaptive_avg_pool2d: _resized(lambda n, m, args: cells(n, m)),
    aten.mean: _mean,
    aten.constant_pad_nd: _pad,
    aten.slice: _slice,
}


# --- modules that count as one operation, because they regroup tokens inside ------------------------------------------


def _attention(m: EfficientSelfAttention, node: Node, out: Tensor) -> Node:
    """Every token reads all keys. Where sr_ratio does not divide the map, the remaining tokens are queries only."""
    return Node(node.grid, [(node, tuple(everything(n) for n in node.grid))])


def _window_attention(m: WindowAttention, node: Node, out: Tensor) -> Node:
    shifts = m._shift_of(*(math.ceil(n / WINDOW) * WINDOW for n in node.grid))
    return Node(node.grid, [(node, tuple(windows(n, s) for n, s in zip(node.grid, shifts)))])


def _merging(m: PatchMerging, node: Node, out: Tensor) -> Node:
    return Node(tuple(out.shape[1:3]), [(node, tuple(taps(n, 2, 2, 0, 1) for n in node.grid))])


MODULES = {EfficientSelfAttention: _attention, WindowAttention: _window_attention, PatchMerging: _merging}


def _take_whole(mode: _Fields, module: nn.Module) -> None:
    """Add hooks that record one node for everything that a module does."""
    entered: list[Node] = []

    def before(m: nn.Module, args: tuple) -> None:
        entered.append(mode.nodes[memory_of(args[0])])
        mode.paused += 1

    def after(m: nn.Module, args: tuple, out: Tensor) -> None:
        mode.paused -= 1
        mode.add(out, MODULES[type(m)](m, entered.pop(), out))

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


# --- the field --------------------------------------------------------------------------------------------------------


def theoretical(model: nn.Module, size: tuple[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{stage: (rows (H,) bool, columns (W,) bool)} of an image of `size` on which the stage's centre unit depends.

    "out" is the centre pixel of the logits. The model does not change, and nothing is computed.
    """
    model, found = shadow(model).eval(), {}
    dtype = next((p.dtype for p in model.parameters()), None)
    images = torch.empty(1, 3, *size, device="meta", dtype=dtype)
    with torch.no_grad(), _Fields(images) as mode:
        for module in model.modules():
            if type(module) in MODULES:
                _take_whole(mode, module)
        with listen(model, lambda name, out: found.__setitem__(name, mode.nodes[memory_of(out)])):
            logits = model(images)["out"]
        found["out"] = mode.nodes[memory_of(logits)]
    return {name: follow(mode.order, node) for name, node in found.items()}


def follow(order: list[Node], unit: Node) -> tuple[np.ndarray, np.ndarray]:
    """Follow the centre of `unit` back to the image, order[0]. order: every node comes after its sources."""
    masks = {id(node): [np.zeros(n, bool) for n in node.grid] for node in order}
    for mask, n in zip(masks[id(unit)], unit.grid):
        mask[n // 2] = True
    for node in reversed(order):
        for source, reads in node.sources:
            for axis in (0, 1):
                masks[id(source)][axis] |= reads[axis](masks[id(node)][axis])
    return tuple(masks[id(order[0])])


def extent(mask: np.ndarray) -> tuple[int, int]:
    """First position and length of the span of a mask."""
    at = np.flatnonzero(mask)
    return (int(at[0]), int(at[-1] - at[0] + 1)) if len(at) else (0, 0)
