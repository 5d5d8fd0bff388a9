"""One table per layout: their names beside ours, with the reshapes. They are data; translate.py applies them."""

from __future__ import annotations

from models.checkpoints.layouts import deeplab, fcn_pspnet, resnet, segformer, systems, unet

# whole models before encoders, so that an encoder's marks inside a whole model are not taken for the file's
LAYOUTS = sorted(
    [*segformer.LAYOUTS, *deeplab.LAYOUTS, *fcn_pspnet.LAYOUTS, *unet.LAYOUTS, *systems.LAYOUTS, *resnet.LAYOUTS],
    key=lambda layout: layout.encoder,
)
