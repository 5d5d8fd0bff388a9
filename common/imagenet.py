"""Mean and standard deviation of ImageNet's images (RGB, 0..1), by which pretrained encoders expect their inputs."""

from __future__ import annotations

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
