"""One table per layout: their names beside ours, with the reshapes. rename.py applies them."""

from __future__ import annotations

from models.checkpoints.layouts import deeplab, efficientnet, fcn_pspnet, resnet, segformer, swin, systems, unet

# whole models before encoders, so that an encoder's marks inside a whole model are not taken for the file's
MODULES = (segformer, swin, efficientnet, deeplab, fcn_pspnet, unet, systems, resnet)
LAYOUTS = sorted((layout for module in MODULES for layout in module.LAYOUTS), key=lambda layout: layout.encoder)
