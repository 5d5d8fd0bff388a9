"""python -m tools.lr_find: learning rate range test."""
