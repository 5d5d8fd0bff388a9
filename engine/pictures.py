"""Predictions as files a person or another program can open: class ids, colours, overlay. Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from data import build_dataset
from data.files import read_image
from data.geometry import resize as resize_pair
from data.transforms import denormalise, normalise
from engine import checkpoint as ckpt
from engine.config import Config
from engine.errors import UserError
from engine.inference import Views, amp_dtype, predict_classes
from engine.pages import samples_page
from engine.run_folder import say
from engine.scoring import chosen_checkpoint, networks


def predict_image(
    models: Sequence[nn.Module], image: np.ndarray, cfg: Config, device, views: Views, size=None
) -> np.ndarray:
    """Class indices (H, W) uint8 of an image (H, W, 3) uint8 at its own size: the network sees it at `size`, by default
    cfg.data.size, and its scores are resized back."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)  # (3, H, W)
    tensor = normalise(resize_pair(pixels, None, size or cfg.data.size)[0])[None]  # (1, 3, h, w)
    return _predict(models, tensor, cfg, device, views, image.shape[:2])


def _predict(models, tensor: torch.Tensor, cfg: Config, device, views: Views, size) -> np.ndarray:
    pred = predict_classes(models, tensor.to(device), views, size, amp_dtype(cfg.train, device))
    return pred[0].to(torch.uint8).cpu().numpy()


def save_prediction(pred: np.ndarray, image: np.ndarray, palette: np.ndarray, folder: Path, name: str) -> None:
    """NAME_ids.png (grey, class index), NAME_color.png (palette), NAME_overlay.png (half and half)."""
    colour = Image.fromarray(np.asarray(palette, np.uint8)[pred])
    files = {"ids": Image.fromarray(pred), "color": colour, "overlay": Image.blend(Image.fromarray(image), colour, 0.5)}
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


def sample_predictions(models: Sequence[nn.Module], cfg: Config, dataset, device, count: int) -> list[tuple]:
    """(image, target, prediction), uint8, of `count` images spread over a data set, as the network sees them; with
    eval.native at the target's own size."""
    rows, views = [], Views.of(cfg.eval)
    for i in [round(k * (len(dataset) - 1) / max(count - 1, 1)) for k in range(min(count, len(dataset)))]:
        tensor, target = dataset[i]
        pred = _predict(models, tensor[None], cfg, device, views, target.shape)
        image = resize_pair(denormalise(tensor), None, target.shape)[0].permute(1, 2, 0).numpy()  # (h, w, 3)
        rows.append((image, target.to(torch.uint8).numpy(), pred))
    return rows


def write_samples(run: Path, cfg: Config, device: torch.device) -> None:
    """plots/samples.png: image, target, prediction and error of a few val images, by the run's chosen network."""
    if not cfg.log.samples:
        return
    dataset = build_dataset(cfg, "val", train=False)
    models = networks(ckpt.load_ours(chosen_checkpoint(run)), cfg, dataset.num_classes, device)
    images, targets, preds = zip(*sample_predictions(models, cfg, dataset, device, cfg.log.samples))
    path = run / "plots" / "samples.png"
    samples_page(images, targets, preds, dataset.palette, dataset.class_names, path, dataset.ignore_index)
