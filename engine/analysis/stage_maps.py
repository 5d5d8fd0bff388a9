"""Feature maps of a network's stages, and their effective receptive fields.

The effective receptive field is that of Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks" (NIPS 2016, arXiv 1701.04128): the gradient of a map's centre unit with respect to each pixel. It
fades towards the border of the theoretical field (receptive_field.py), most of which has hardly any gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

Stage = tuple[str, nn.Module, Callable]  # name, module, its output -> map (B, C, h, w)


def stages_of(model: nn.Module) -> list[Stage]:
    """The stages of a model, in execution order.

    Encoder + head: each map of the encoder, then the head's logits before they are resized. Whole network: its parts,
    and the items of lists one by one. `listen` skips parts whose output is not a map.
    """
    encoder = getattr(model, "encoder", None)
    if encoder is not None:
        pick = lambda i: lambda out: out[i]  # noqa: E731
        maps = [(f"stage {i + 1}", encoder, pick(i)) for i in range(len(encoder.strides))]
        return [*maps, ("head", model.head, _same)]
    found: list[Stage] = []
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList) or (isinstance(child, nn.Sequential) and name in ("stages", "up")):
            found += [(f"{name} {i + 1}", part, _same) for i, part in enumerate(child)]
        elif not isinstance(child, nn.Identity | nn.Dropout | nn.Dropout2d | nn.MaxPool2d):
            found.append((name, child, _same))
    return found


def _same(out: Tensor) -> Tensor:
    return out


def listen(model: nn.Module, hear: Callable[[str, Tensor], None]) -> ExitStack:
    """Call hear(name, map) at each stage while the returned context is open; twice for a part that runs twice."""
    stack = ExitStack()
    for name, module, pick in stages_of(model):

        def hook(m: nn.Module, args: tuple, out: object, name: str = name, pick: Callable = pick) -> None:
            found = pick(out)
            if isinstance(found, Tensor) and found.ndim == 4:
                hear(name, found)

        stack.callback(module.register_forward_hook(hook).remove)
    return stack


def stage_maps(model: nn.Module, images: Tensor, inner: nn.Module | None = None) -> dict[str, Tensor]:
    """The maps of all stages for images (B, 3, H, W): {name: (B, C, h, w)}, and "out": the logits.

    inner: the part of `model` that has the stages, if `model` wraps it (engine/evaluation/networks.Opened).
    """
    found: dict[str, Tensor] = {}
    with listen(inner or model, found.__setitem__):
        logits = model(images)["out"]
    return found | {"out": logits}


def effective(
    models: Iterable[nn.Module], images: Iterable[Tensor], inner: nn.Module | None = None
) -> dict[str, np.ndarray]:
    """Effective receptive field, {stage: (H, W)}: how much the stage's centre unit depends on each pixel, at most 1.

    It is the root mean square of d unit / d pixel over models and images (pairs; each image is (1, 3, H, W)), over the
    unit's channels and the pixel's. The unit's channels are added with random signs before the gradient is taken, which
    gives the same on average; their plain sum is constant after a LayerNorm. inner: see stage_maps.
    """
    total: dict[str, np.ndarray] = {}
    draw = torch.Generator().manual_seed(0)
    for model, x in zip(models, images):
        x = x.clone().requires_grad_(True)
        with torch.enable_grad():
            maps = stage_maps(model.eval(), x, inner)
        for name, out in maps.items():
            centre = out[0, :, out.shape[2] // 2, out.shape[3] // 2]
            signs = torch.randint(0, 2, centre.shape, generator=draw).to(centre) * 2 - 1
            (gradient,) = torch.autograd.grad(centre @ signs, x, retain_graph=True)
            squares = gradient[0].double().square().sum(0).cpu().numpy()
            total[name] = total.get(name, 0) + squares / max(squares.sum(), 1e-300)  # every pair counts the same
    return {name: np.sqrt(squares / squares.max()) for name, squares in total.items()}


def share_within(field: np.ndarray, share: float, centre: tuple[int, int]) -> int:
    """Side in pixels of the smallest square around `centre` that holds this share of the gradient's sum."""
    rows, columns = (np.abs(np.arange(n) - c) for n, c in zip(field.shape, centre))
    distance = np.maximum(rows[:, None], columns[None])  # (H, W): half the side of the square through a pixel
    held = np.cumsum(np.bincount(distance.ravel(), weights=field.ravel()))
    return int(2 * np.searchsorted(held, share * held[-1]) + 1)
