"""Segmentation models: networks by name, public checkpoints, and a fast copy for inference."""

from __future__ import annotations

from models.build import ENCODERS, HEADS, MODELS, build_encoder, build_model, list_models, model_options
from models.checkpoints.load import load_public
from models.inference.deploy import deploy

__all__ = [
    "ENCODERS", "HEADS", "MODELS", "build_encoder", "build_model", "deploy", "list_models", "load_public",
    "model_options",
]  # fmt: skip
