"""Public checkpoints: a file from the web in, a model with its publisher's logits out, and nothing in the file is run.

Reading order: read (which container, where in it the weights stand) -> pickles and safetensors (the two ways they are
stored) -> identify (whose layout, which network) -> translate and layouts (their names and ours) -> load (all of it).
Then transfer (into a config's own model), convert (out of ours into a publisher's file), known and download (files by
id and URL).
"""
