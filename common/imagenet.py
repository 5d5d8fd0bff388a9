"""The mean and standard deviation of ImageNet's images, by which inputs are normalised."""

from __future__ import annotations

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB, of images in 0..1: what pretrained encoders expect


STD = (0.229, 0.224, 0.225)
