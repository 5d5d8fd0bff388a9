"""What each publisher does differently: networks of one paper that share its name but compute different functions.

FORMS[publisher][part] holds the options with which `build_model(name, classes, form=publisher)` is that publisher's
network, so that its files load and give its logits. A part is a head ("deeplabv3plus"), a kind of encoder ("resnet"),
one encoder ("resnet18"), a whole network ("unet"), or a head on one encoder ("deeplabv3plus on resnet18"). Only options
that differ from our defaults are listed.
"""

from __future__ import annotations

import re
from typing import Any

from common.errors import unknown

FORMS: dict[str, dict[str, dict[str, Any]]] = {
    "nvlabs": {"mit": {}, "all_mlp": {}},
    "bubbliiiing": {"mit": {}, "all_mlp": dict(head_bn_eps=1e-3, final_align_corners=True)},
    "sithu31296": {"mit": dict(patch_norm_eps=1e-5, norm_eps=1e-5), "all_mlp": {}},
    "huggingface": {"swin": {}, "mit": dict(patch_norm_eps=1e-5, norm_eps=1e-5), "all_mlp": {}},
    "mmseg": {
        "mit": dict(patch_norm_eps=1e-6, norm_eps=1e-6),
        "swin": {},
        "all_mlp": dict(head="conv", decoder_dim=256),
        "all_mlp on swin_t": dict(decoder_dim=512),  # system E's
        "resnet": dict(stem_form="v1c", dilate_conv2=False, output_stride=8),
        "deeplabv3plus": dict(
            aspp_channels=512,
            decoder_channels=512,
            separable=True,
            depthwise_norm=True,
            project_kernel=3,
            pool_first=True,
            dropout=0.0,
            final_dropout=0.1,
        ),
        "deeplabv3plus on resnet18": dict(aspp_channels=128, decoder_channels=128, low_level_channels=12),
        "fcn": dict(fcn_channels=512, num_convs=2, concat_input=True),
        "pspnet": {},
        "pspnet on resnet18": dict(psp_channels=128),
        "unet": dict(up="bilinear_conv", last_conv=True, dropout=0.1),
    },
    "torchvision": {
        "resnet": {},
        "swin": dict(out_norms=False, shift="fitting", patch_padding=False),
        "efficientnet": dict(drop_path_rate=0.2),
        "vgg": {},
        "deeplabv3": {},
        "fcn": {},
    },
    "microsoft": {"swin": dict(out_norms=False, shift="fitting", patch_padding=False)},
    "timm": {
        "resnet": {},
        "swin": dict(out_norms=False, shift="built", patch_padding=False, pad_last=True),
        "efficientnet": dict(drop_path_rate=0.0),
    },
    "timm_tf": {"efficientnet": dict(drop_path_rate=0.0, bn_eps=1e-3, padding="same")},
    "lukemelas": {"efficientnet": dict(drop_path_rate=0.2, bn_eps=1e-3, bn_momentum=0.01, padding="static_same")},
    "vainf": {
        "resnet": dict(output_stride=16),
        "deeplabv3": dict(dropout=0.1),
        "deeplabv3plus": dict(decoder_convs=1, concat="low_first"),
    },
    "smp": {
        "mit": {},
        "resnet": dict(dilate="whole_stage"),
        "efficientnet": dict(stem=True, drop_path_rate=0.2, bn_eps=1e-3, bn_momentum=0.01, padding="static_same"),
        "efficientnet_b0": dict(early_stride16=True),
        "all_mlp": dict(dropout=0.0, final_align_corners=True),
        "deeplabv3": dict(output_stride=8, atrous_rates=(12, 24, 36), final_align_corners=True),
        "deeplabv3plus": dict(
            atrous_rates=(12, 24, 36),
            decoder_convs=1,
            separable=True,
            aspp_conv=True,
            dropout=0.5,
            align_corners=True,
            final_align_corners=True,
        ),
        "pspnet": dict(
            stages=2,
            output_stride=32,
            concat="map_last",
            mix_kernel=1,
            classifier_kernel=3,
            norm_single=False,
            dropout=0.2,
            align_corners=True,
            final_align_corners=True,
        ),
        "unet_decoder": dict(stem=True),
    },
    "system_b": {"better_seg_network": {}},
    "system_e": {"basic_seg_network": {}},
    "system_d": {
        "resnet": dict(output_stride=8, dilate="whole_stage"),
        "deeplabv3": {},
        "deeplabv3plus": dict(dropout=0.5),
        "unet": dict(up="bilinear", align_corners=True, fit="pad", bias=True),
    },
    "hszhao": {
        "resnet": dict(stem_form="deep128", dilate="whole_stage", output_stride=8),
        "pspnet": dict(align_corners=True, final_align_corners=True),
    },
    "milesial": {"unet": dict(fit="pad")},
    "milesial_bilinear": {"unet": dict(up="bilinear", align_corners=True, fit="pad")},
    "mateuszbuda": {"unet": dict(base_channels=32, concat="up_first")},
}


def publishers(parts: tuple[str, ...]) -> list[str]:
    """Who publishes a head or network; parts = (network,) or (head, encoder)."""
    return [name for name, rows in FORMS.items() if parts[0] in rows]


def encoder_form(publisher: str, encoder: str) -> dict[str, Any]:
    """The publisher's options for an encoder alone. Raises: UserError if it publishes no such encoder."""
    rows, kind = FORMS.get(publisher, {}), re.match("[a-z]+", encoder)[0]
    if kind not in rows and encoder not in rows:
        raise unknown(f"form of {encoder}", publisher, [name for name in FORMS if kind in FORMS[name]])
    return rows.get(kind, {}) | rows.get(encoder, {})


def form_options(publisher: str, parts: tuple[str, ...]) -> dict[str, Any]:
    """The publisher's options for (head, encoder) or (network,): more specific rows override more general ones."""
    rows = FORMS[publisher]
    if len(parts) == 1:
        return rows[parts[0]]
    head, encoder = parts
    kind = re.match("[a-z]+", encoder)[0]
    return {k: v for key in (kind, encoder, head, f"{head} on {encoder}") for k, v in rows.get(key, {}).items()}
