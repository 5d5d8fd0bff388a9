"""Public checkpoints: whose file it is, which network, and its weights under our names."""
