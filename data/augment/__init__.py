"""Augmentation: from an image and its mask to what the network sees."""
