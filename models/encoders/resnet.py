"""ResNet as an encoder. He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385.

Parameter names are torchvision's, so its weights load unchanged (without `fc`). As there, the stride of a bottleneck
is in its 3x3 convolution, not in the first 1x1 as in the paper ("ResNet v1.5").

For segmentation the last stages can keep their resolution and dilate their convolutions instead (DeepLab,
arXiv 1606.00915). Publishers do this in different ways, which are different functions of the same parameters:
`first_keeps`   the first block of a dilated stage keeps the dilation of the stage before (torchvision, VainF, mmseg);
`whole_stage`   every 3x3 convolution of the stage is dilated (system D, smp, hszhao).
torchvision does not dilate basic blocks (ResNet-18/34). Here and in smp both of their convolutions are dilated, in
mmseg only the first (`dilate_conv2=False`).

There are three stems, the layers before the max pooling: one 7x7 convolution (the paper), or three 3x3 with 32, 32,
64 channels (mmseg's V1c) or 64, 64, 128 (hszhao's, after "Bag of Tricks", arXiv 1812.01187).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError, unknown
from models.layers import conv_bn_relu, kaiming_fan_out

Dilate = Literal["first_keeps", "whole_stage"]
StemForm = Literal["conv7x7", "v1c", "deep128"]
DEEP_STEMS = {"v1c": (32, 32, 64), "deep128": (64, 64, 128)}  # channels of the three 3x3 convolutions


def conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. (B, in, H, W) -> (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, dilate_conv2: bool, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, stride, dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, 1, dilation if dilate_conv2 else 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu_(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += shortcut
        return F.relu_(x)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to 4 * width, and a shortcut. (B, in, H, W) -> (B, 4 * width, H / stride, W / stride)."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, dilate_conv2: bool, downsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.relu_(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += shortcut
        return F.relu_(x)


class ResNet(nn.Module):
    """The convolutional part of a ResNet: images (B, 3, H, W) -> maps after stages 1..4.

    output_stride 32 gives strides 4, 8, 16, 32; 16 dilates the last stage, 8 the last two. `stem=True` prepends the
    map before the max pooling (stride 2). stages: how many to build; smp's PSPNet uses only the first two.
    Raises: UserError for another output stride, way of dilating or number of stages.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        output_stride: int = 32,
        dilate: Dilate = "first_keeps",
        dilate_conv2: bool = True,
        stem_form: StemForm = "conv7x7",
        stem: bool = False,
        stages: int = 4,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise UserError(f"output_stride: expected 8, 16 or 32, got {output_stride}")
        if dilate not in get_args(Dilate):
            raise unknown("dilate", dilate, get_args(Dilate))
        if not 1 <= stages <= 4:
            raise UserError(f"stages: expected 1 to 4, got {stages}")
        self.stem, self.stages = stem, stages
        channels, stride, dilation = self._build_stem(stem_form), 4, 1
        self.channels, self.strides = ([channels], [2]) if stem else ([], [])
        for stage, depth in enumerate(depths[:stages]):
            width = 64 * 2**stage
            step = 1 if stage == 0 else 2
            before = dilation
            if stride * step > output_stride:  # keep the resolution; dilation keeps the receptive field
                dilation, step = dilation * step, 1
            stride *= step
            first = dilation if dilate == "whole_stage" else before
            blocks = []
            for i in range(depth):
                needs_projection = i == 0 and (step > 1 or channels != width * block.expansion)
                projection = _projection(channels, width * block.expansion, step) if needs_projection else None
                shape = (channels, width, step if i == 0 else 1, first if i == 0 else dilation)
                blocks.append(block(*shape, dilate_conv2, projection))
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.channels.append(channels)
            self.strides.append(stride)
        kaiming_fan_out(self)

    def _build_stem(self, form: StemForm) -> int:
        """The layers before the max pooling; returns their channels. The names conv1, bn1 are torchvision's."""
        if form == "conv7x7":
            self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            return 64
        if form not in DEEP_STEMS:
            raise unknown("stem_form", form, get_args(StemForm))
        a, b, c = DEEP_STEMS[form]
        self.deep_stem = nn.Sequential(conv_bn_relu(3, a, stride=2), conv_bn_relu(a, b), conv_bn_relu(b, c))
        return c

    def conv7x7(self, images: Tensor) -> Tensor:
        return F.relu_(self.bn1(self.conv1(images)))  # (B, 64, H/2, W/2)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.deep_stem(images) if hasattr(self, "deep_stem") else self.conv7x7(images)  # (B, 64 or 128, H/2, W/2)
        features = [x] if self.stem else []
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (B, 64 or 128, H/4, W/4)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)  # (B, channels, H / stride, W / stride), see .channels and .strides
            features.append(x)
        return features


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Shortcut where the shape changes: 1x1 convolution + BatchNorm (option B of the paper)."""
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


RESNET = {  # block, blocks per stage
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
