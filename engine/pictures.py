"""Predictions as files a person or another program can open: class ids, colours, overlay. Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from data.dataset import normalise, read_image
from PIL import Image
from torch import nn

from engine.config import Config
from engine.errors import UserError
from engine.inference import Views, amp_dtype, autocast, predict_scores, resize
from engine.run_folder import say


def predict_image(models: Sequence[nn.Module], image: Image.Image, cfg: Config, device, views: Views) -> np.ndarray:
    """Class indices (H, W) uint8 at the image's own size: the network sees cfg.data.size, scores are resized back."""
    tensor = normalise(image.resize(tuple(cfg.data.size[::-1]), Image.Resampling.BILINEAR))[
        None
    ]  # PIL sizes are (W, H)
    with torch.inference_mode(), autocast(device, amp_dtype(cfg.train, device)):
        scores = predict_scores(models, tensor.to(device, memory_format=torch.channels_last), views)
    return resize(scores, (image.height, image.width)).argmax(1)[0].to(torch.uint8).cpu().numpy()


def save_prediction(pred: np.ndarray, image: Image.Image, palette: np.ndarray, folder: Path, name: str) -> None:
    """NAME_ids.png (grey, class index), NAME_color.png (palette), NAME_overlay.png (half and half)."""
    colour = Image.fromarray(np.asarray(palette, np.uint8)[pred])
    files = {"ids": Image.fromarray(pred), "color": colour, "overlay": Image.blend(image, colour, 0.5)}
    for kind, picture in files.items():
        path = folder / f"{name}_{kind}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        except OSError as e:
            raise UserError(f"cannot write {path}: {e.strerror or e}") from None


def save_dataset(models: Sequence[nn.Module], cfg: Config, dataset, device, folder: str | Path) -> None:
    """Predictions for every image of a data set, at the images' own size."""
    views = Views.of(cfg.eval)
    for record in dataset.records:
        image = read_image(record.image)
        pred = predict_image(models, image, cfg, device, views)
        save_prediction(pred, image, dataset.palette, Path(folder), record.name)
    say(f"written: {3 * len(dataset)} pictures in {folder}")


def sample_predictions(
    models, cfg: Config, dataset, device, count: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(image, target, prediction) of `count` images spread over a data set, at network size, for the report's page."""
    views, rows = Views.of(cfg.eval), []
    for i in [round(k * (len(dataset) - 1) / max(count - 1, 1)) for k in range(min(count, len(dataset)))]:
        tensor, target = dataset[i]
        image = read_image(dataset.records[i].image).resize(
            (target.shape[1], target.shape[0]), Image.Resampling.BILINEAR
        )
        with torch.inference_mode(), autocast(device, amp_dtype(cfg.train, device)):
            scores = predict_scores(models, tensor[None].to(device, memory_format=torch.channels_last), views)
        pred = resize(scores, target.shape).argmax(1)[0].to(torch.uint8).cpu().numpy()
        rows.append((np.asarray(image), target.to(torch.uint8).numpy(), pred))
    return rows
