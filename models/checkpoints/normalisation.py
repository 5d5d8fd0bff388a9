"""How publishers normalise images in 0..1 before their networks, where it is not by ImageNet's mean and std."""

from __future__ import annotations

import re

from common.imagenet import MEAN, STD

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std, of red, green, blue

IMAGENET: Normalisation = (MEAN, STD)
NONE: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # to -1..1, as Inception was trained
PER_IMAGE = "each image by its own mean and std"

NORMALISATION: dict[str, Normalisation | str] = {  # by form; all others: ImageNet's
    "milesial": NONE,
    "milesial_bilinear": NONE,
    "mateuszbuda": PER_IMAGE,
}
# in the names of EfficientNets trained with adversarial examples (AdvProp, arXiv 1911.09665)
ADVPROP = r"\badv-efficientnet|\.advprop|\.ap_in1k"


def normalisation(form: str, words: str = "") -> Normalisation | str:
    """What the network of a file expects. words: the file's name and what it says about itself."""
    if form in ("timm_tf", "lukemelas") and re.search(ADVPROP, words):
        return HALF
    return NORMALISATION.get(form, IMAGENET)


def describe(wanted: Normalisation | str) -> str:
    return wanted if isinstance(wanted, str) else f"mean {list(wanted[0])}, std {list(wanted[1])}"
