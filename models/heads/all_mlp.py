"""The All-MLP head of SegFormer. Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with
Transformers", arXiv 2105.15203.

The paper: project every map f_i to D channels, upsample all to stride 4, concatenate, mix by a 1x1 convolution M:

    y = M [up(P_1 f_1 + b_1), .., up(P_n f_n + b_n)],    then BatchNorm, ReLU, dropout, 1x1 to classes

Two public forms: `linear`, where P_i is a Linear layer and the maps are concatenated from coarse to fine (NVlabs,
Hugging Face, smp); `conv`, where P_i is a 1x1 convolution + BatchNorm + ReLU and the order is fine to coarse (mmseg).
They are different functions of different parameters.

What is computed here: M and `up` are linear, `up` works on each channel separately with weights that sum to one, and M
works on each pixel separately. So they commute, and the mix splits into one block M_i of columns per map:

    linear:  y = sum_i up((M_i P_i) f_i) + sum_i M_i b_i          conv:  y = sum_i up(M_i relu(bn(P_i f_i)))

The products run at the resolution of each map on few channels instead of at stride 4 on n D channels, which is most of
the cost of SegFormer as written in the paper. Parameters, gradients and logits are the same (to 1e-12 in float64:
tests/models/test_segformer.py); `head.textbook = True` computes the paper's formula. Explanation: docs/all_mlp.md.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.inference.fold import scale_and_shift
from models.layers import conv_bn_relu, kaiming_fan_out, truncated_normal
from models.tensors import full_precision, map_of, resize, tokens_of


class AllMLPHead(nn.Module):
    """features (fine to coarse) -> (B, num_classes, H/4, W/4). Dropout drops whole channels, as in the authors' code.

    decoder_dim D: 256 (B0, B1) and 768 (B2 to B5) in the paper; 256 for all sizes in mmseg. head_bn_eps: of the
    BatchNorm after the mix.
    """

    textbook = False  # True: compute the formula of the paper (tests and counting tools set it)

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        num_classes: int,
        decoder_dim: int = 256,
        head: Literal["linear", "conv"] = "linear",
        dropout: float = 0.1,
        align_corners: bool = False,
        head_bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.linear, self.align_corners = head == "linear", align_corners
        self.target = strides.index(4)
        project = nn.Linear if self.linear else lambda a, b: conv_bn_relu(a, b, 1)
        self.project = nn.ModuleList(project(c, decoder_dim) for c in channels)
        self.mix = nn.Conv2d(len(channels) * decoder_dim, decoder_dim, 1, bias=False)
        self.bn = nn.BatchNorm2d(decoder_dim, eps=head_bn_eps)
        self.dropout = nn.Dropout2d(dropout, inplace=True)
        self.classifier = nn.Conv2d(decoder_dim, num_classes, 1)
        kaiming_fan_out(self)
        truncated_normal(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        if self.textbook:
            x = self.bn(self._textbook_mix(features))
        elif self.bn.training:
            x = self.bn(self._mix(features, *self._mixing_weights()))
        else:  # BatchNorm scales and shifts the channels of y: fold it into the rows of M and the bias
            x = self._mix(features, *self._fold_batchnorm(*self._mixing_weights()))
        # dropout(relu(x)) = relu(dropout(x)), as dropout's factors are not negative; in this order both work in place
        return self.classifier(F.relu_(self.dropout(x)))

    def _in_order(self, per_map: list[Tensor]) -> list[Tensor]:
        """Between fine to coarse and the order of concatenation."""
        return per_map[::-1] if self.linear else per_map

    def _textbook_mix(self, features: list[Tensor]) -> Tensor:
        size = features[self.target].shape[-2:]
        if self.linear:
            maps = [map_of(project(tokens_of(f))) for project, f in zip(self.project, features)]
        else:
            maps = [project(f) for project, f in zip(self.project, features)]  # each (B, D, h_i, w_i)
        return self.mix(
            torch.cat([resize(m, size, self.align_corners) for m in self._in_order(maps)], dim=1)
        )  # (B, D, H/4, W/4)

    def _mixing_weights(self) -> tuple[Tensor, Tensor | None]:
        """M (D, n D) and the bias sum_i M_i b_i (D), in float32 even under autocast: the products are small."""
        mix = self.mix.weight.flatten(1)  # (D, n D)
        if not self.linear:
            return mix, None
        with full_precision(mix):
            biases = torch.cat(self._in_order([project.bias for project in self.project]))  # (n D)
            return mix, mix @ biases

    def _fold_batchnorm(self, mix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        scale, shift = scale_and_shift(self.mix, self.bn)  # each (D)
        return scale[:, None] * mix, shift if bias is None else torch.addcmul(shift, scale, bias)

    def _mix(self, features: list[Tensor], mix: Tensor, bias: Tensor | None) -> Tensor:
        size = features[self.target].shape[-2:]
        blocks = self._in_order(list(mix.chunk(len(features), dim=1)))  # each M_i (D, D), fine to coarse
        maps = []
        for i, (f, project, m) in enumerate(zip(features, self.project, blocks)):
            f = f if self.linear else project(f)
            if i < self.target:  # finer than the target (stride 2): resize before the product, which then costs less
                f = resize(f, size, self.align_corners)
            b = bias if i == self.target else None  # added once: upsampling does not change a constant
            maps.append(self._project_and_mix(f, project, m, b))  # (B, h_i, w_i, D)
        y = maps.pop(self.target)
        for z in maps:  # in place, as tokens: y is not a view, of which autograd would copy the gradient
            y += tokens_of(resize(map_of(z), size, self.align_corners))
        return map_of(y)  # (B, D, H/4, W/4)

    def _project_and_mix(self, f: Tensor, project: nn.Module, m: Tensor, bias: Tensor | None) -> Tensor:
        """M_i P_i f_i, or M_i f_i of a map already projected, at its own resolution. (B, C, h, w) -> (B, h, w, D)."""
        x = tokens_of(f)  # (B, h, w, C)
        if not self.linear:
            return F.linear(x, m, bias)
        if x.shape[:-1].numel() <= x.shape[-1]:  # few tokens: the product of the weights would cost more
            return F.linear(F.linear(x, project.weight), m, bias)
        with full_precision(m):
            weight = m @ project.weight  # (D, C)
        return F.linear(x, weight, bias)
