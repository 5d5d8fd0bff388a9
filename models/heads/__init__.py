"""Heads: an encoder's feature maps -> logits at the resolution of the finest map they use."""
