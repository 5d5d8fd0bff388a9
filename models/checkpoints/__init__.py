"""Public checkpoints: reads a public file into a model that gives its publisher's logits, and runs nothing in the file.

Reading order: container (which format, and where in it the weights are) -> pickles, safetensors (the two formats) ->
identify (which network of which publisher) -> layout, rename, layouts/ (their names and ours) -> load (all together) ->
numerics, normalisation (what a file does not say) -> convert (our weights as a publisher's file) -> known, download
(files by id and by URL).
"""
