"""Public checkpoints: a file from the web in, its weights out, and nothing in the file is ever run.

Reading order: read (which container, where in it the weights stand) -> pickles and safetensors (the two ways they are
stored) -> download (where the files come from).
"""
