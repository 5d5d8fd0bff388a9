"""When F(2x2, 3x3) beats a direct 3x3 convolution: the measurement behind models/inference/winograd.pays.

    python -m benchmarks.winograd [--repeats 9]

One image, float32, channels-last. Each layer runs both ways in turn with prepared weights, as in a deployed copy
("filters ms": the time to prepare them). Prints medians and the error of both ways against float64 (relative RMS).
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.models import medians
from models.inference import winograd
from models.inference.prepared import geometry, mkldnn_conv, reordered
from models.layers import conv_bn_relu

LAYERS = [  # channels in, out, height, width, dilation
    (128, 128, 64, 128, 1),
    (256, 256, 32, 64, 1),
    (256, 256, 32, 64, 2),
    (256, 256, 64, 128, 1),
    (512, 256, 64, 128, 1),
    (512, 512, 8, 16, 1),
    (1024, 1024, 8, 16, 1),
    (512, 512, 16, 32, 1),
    (512, 512, 32, 64, 2),
    (512, 512, 32, 64, 4),
    (512, 512, 64, 128, 1),
    (1024, 512, 32, 64, 1),
    (2048, 512, 32, 64, 1),
    (2048, 512, 64, 128, 1),
    (2048, 256, 32, 64, 12),
]


def compare(row: tuple[int, int, int, int, int], repeats: int) -> str:
    fan_in, fan_out, height, width, rate = row
    conv = conv_bn_relu(fan_in, fan_out, dilation=rate)[0].to(memory_format=torch.channels_last)
    x = torch.randn(1, fan_in, height, width).relu().contiguous(memory_format=torch.channels_last)
    filters = winograd.transform_filters(conv.weight)
    bias, weight = torch.zeros(fan_out), reordered(conv.weight, geometry(conv), x.shape)
    direct = lambda: mkldnn_conv(x, weight, bias, geometry(conv), None, False)  # noqa: E731
    ways = {"direct": direct, "winograd": lambda: winograd.conv3x3(x, filters, rate)}
    preparing = {"filters": lambda: winograd.transform_filters(conv.weight)}
    exact = F.conv2d(x.double(), conv.weight.double(), padding=rate, dilation=rate)
    errors = [relative_error(way(), exact) for way in ways.values()]
    times = medians(ways | preparing, repeats)
    a, b = (times[way] for way in ways)
    return (
        f"{fan_in:5d} -> {fan_out:4d} {height:4d}x{width:<4d} {rate:4d} {a:10.2f} {b:10.2f} {b / a:7.2f}"
        f" {times['filters']:9.2f} {errors[0]:9.1e} {errors[1]:9.1e}"
        f"   {'winograd' if winograd.pays(conv, x) else 'direct'}"
    )


def relative_error(y: Tensor, exact: Tensor) -> float:
    return float(((y - exact).square().mean() / exact.square().mean()).sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.winograd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print("     channels      map  rate  direct ms winograd ms  ratio filters ms  errors of both   taken")
    with torch.no_grad():
        for row in LAYERS:
            print(compare(row, args.repeats), flush=True)


if __name__ == "__main__":
    main()
