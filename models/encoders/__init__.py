"""Encoders: images (B, 3, H, W) -> a list of feature maps, fine to coarse, with `.channels` and `.strides`."""
