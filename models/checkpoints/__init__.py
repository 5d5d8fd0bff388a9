"""Public checkpoints: reads a public file into a model that gives its publisher's logits, and runs nothing in the file.

Reading order: container (which format, and where in it the weights are) -> pickles, safetensors (the two formats) ->
weight_sets (which of several sets) -> identify (which network of which publisher) -> layout, rename, layouts/ (their
names and ours) -> words, python_config, normalisation (what a file says of itself) -> load (all together) -> numerics,
convert (our weights as a publisher's file) -> known, hub, download (files by id and by URL).
"""
