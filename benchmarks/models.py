"""Speed and memory of our models against the same networks of other libraries, with the same weights, in one run.

    python -m benchmarks.models                                  # every model of benchmarks/peers.py
    python -m benchmarks.models segformer_b0 --repeats 15 --json out.json

Time: batch 1, float32, 256x512, with the final upsampling. Each round runs every candidate once, so that a slower
machine slows all of them; the result is the median over rounds. Peers run in both memory formats and the better one
counts; ours gets contiguous images, the default of the peers. "ours, deployed" is the copy that models.deploy makes, on
the CPU. `train` is forward, cross-entropy and backward, without an optimizer step; with two images if the peer cannot
train on one. Memory: growth of a fresh process (on CUDA: of the allocator) during two training steps with batch 2 at
512x512. Ratios above 1 (time) and below 1 (memory) are in our favour.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers import CLASSES, PEERS, TRAIN_BATCH, Peer, ours_like
from common.memory import process_bytes
from common.tables import format_table
from models import deploy

Step = Callable[[], None]
DEPLOYED = "ours, deployed"


def candidates(name: str, images: Tensor) -> dict[str, tuple[nn.Module, Callable, Tensor]]:
    """label -> (model, logits(model, images), images in its memory format). All logits must agree."""
    out = {}
    for peer in PEERS[name]:
        theirs = peer.make().to(images.device)
        ours = ours_like(name, theirs).to(images.device)
        check_equal(name, ours, theirs, peer, images)
        out["ours"] = (ours, our_logits, images)
        out[peer.library] = (theirs, peer.logits, images)
        last = peer.make().to(images.device, memory_format=torch.channels_last)
        last.load_state_dict(theirs.state_dict())
        out[f"{peer.library}, channels-last"] = (last, peer.logits, images.to(memory_format=torch.channels_last))
    return out


def our_logits(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)["out"]


def check_equal(name: str, ours: nn.Module, theirs: nn.Module, peer: Peer, images: Tensor) -> None:
    with torch.no_grad():
        a, b = ours.eval()(images)["out"], peer.logits(theirs.eval(), images)
    difference = float((a - b).abs().max() / b.abs().max())
    if difference > 1e-3:
        raise SystemExit(f"{name}: logits differ from {peer.library}'s by {difference:.1e} of their maximum")


def inference(model: nn.Module, logits: Callable, images: Tensor) -> Step:
    def step() -> None:
        model.eval()
        with torch.no_grad():
            logits(model, images)

    return step


def training(model: nn.Module, logits: Callable, images: Tensor, batch: int = 1) -> Step:
    images = torch.cat([images] * batch)
    target = torch.randint(0, CLASSES, (len(images), *images.shape[-2:]), device=images.device)

    def step() -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        F.cross_entropy(logits(model, images), target).backward()

    return step


def medians(steps: dict[str, Step], rounds: int, warmup: int = 2) -> dict[str, float]:
    """Median milliseconds of each step; a round runs each of them once."""
    times: dict[str, list[float]] = {label: [] for label in steps}
    for i in range(warmup + rounds):
        for label, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i >= warmup:
                times[label].append(1e3 * (time.perf_counter() - start))
    return {label: statistics.median(values) for label, values in times.items()}


def memory_of(name: str, label: str, device: str) -> float:
    """MiB by which two training steps grow this process (CUDA: its allocator), which must be fresh."""
    images = torch.randn(2, 3, 512, 512, device=device)
    peer = next(p for p in PEERS[name] if label in ("ours", p.library, f"{p.library}, channels-last"))
    model, logits = peer.make(), peer.logits
    if label == "ours":
        model, logits = ours_like(name, model), our_logits
    model = model.to(device)
    if label.endswith("channels-last"):
        model, images = (x.to(memory_format=torch.channels_last) for x in (model, images))
    step = training(model, logits, images)
    before = torch.cuda.memory_allocated() if device == "cuda" else process_bytes("VmRSS")
    step()
    step()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else process_bytes("VmHWM")
    return (peak - before) / 2**20


def memory(name: str, label: str, args: argparse.Namespace) -> float:
    """memory_of, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.models", name, "--memory-of", label, "--device", args.device]
    done = subprocess.run([*command, "--threads", str(args.threads)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def compare(name: str, args: argparse.Namespace) -> dict:
    """All measurements of one model, {"inference_ms": {label: ms}, ..}, and their ratios to the best peer."""
    images = torch.randn(1, 3, *args.size, device=args.device)
    torch.manual_seed(0)
    found, batch = candidates(name, images), TRAIN_BATCH.get(name, 1)
    inferences = {k: inference(*v) for k, v in found.items()}
    if args.device == "cpu":
        ours, logits, _ = found["ours"]
        inferences[DEPLOYED] = inference(deploy(ours), logits, images)
    result = {
        "inference_ms": medians(inferences, args.repeats),
        "train_ms": medians({k: training(*v, batch) for k, v in found.items()}, max(args.repeats // 2, 3)),
    }
    labels = list(found)
    del found, inferences
    if not args.no_memory:
        result["train_memory_mib"] = {label: memory(name, label, args) for label in labels}
    for kind, values in list(result.items()):
        result[kind.rsplit("_", 1)[0] + "_ratio"] = ratios(kind, values, "ours")
        if DEPLOYED in values:
            result["deployed_inference_ratio"] = ratios(kind, values, DEPLOYED)
    return result


def ratios(kind: str, values: dict[str, float], ours: str) -> dict[str, float]:
    """Theirs / ours of times, ours / theirs of bytes."""
    peers = {label: value for label, value in values.items() if label not in ("ours", DEPLOYED)}
    default = {label: value for label, value in peers.items() if not label.endswith("channels-last")}
    best = {"best peer": min(peers.values()), "best peer as built": min(default.values())}
    bytes_used = kind.endswith("mib")
    return {name: values[ours] / peer if bytes_used else peer / values[ours] for name, peer in best.items()}


def table(name: str, result: dict) -> str:
    kinds = [kind for kind in ("inference_ms", "train_ms", "train_memory_mib") if kind in result]
    rows = []
    for label in result["inference_ms"]:
        rows.append([label, *[f"{result[kind][label]:.1f}" if label in result[kind] else "-" for kind in kinds]])
    for peer in ("best peer", "best peer as built"):
        ratios = [result[kind.rsplit("_", 1)[0] + "_ratio"][peer] for kind in kinds]
        rows.append([f"ratio to the {peer}", *[f"{ratio:.2f} x" for ratio in ratios]])
        if "deployed_inference_ratio" in result:
            deployed = f"{result['deployed_inference_ratio'][peer]:.2f} x"
            rows.append([f"deployed, to the {peer}", deployed, *["-"] * (len(kinds) - 1)])
    return "\n" + format_table(rows, [name, *[kind.replace("_", " ") for kind in kinds]])


def shared_parser(kind: str, metavar: str, doc: str, names: Iterable[str], **defaults) -> argparse.ArgumentParser:
    """The options that benchmarks.models and benchmarks.losses share."""
    prog, form = f"python -m benchmarks.{kind}", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=doc, formatter_class=form)
    parser.add_argument("names", nargs="*", metavar=metavar, help=f"default: all of {', '.join(names)}")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"))
    parser.add_argument("--repeats", type=int, help="rounds (models: half as many of training)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, metavar="F", help="write all numbers to this file")
    parser.set_defaults(**defaults)
    return parser


def report(kind: str, args: argparse.Namespace, known: Iterable[str], how: dict, compare, table) -> None:
    """Compare each of args.names; print the protocol and the tables, write them to args.json."""
    for name in args.names:
        if name not in known:
            raise SystemExit(f"nothing to compare '{name}' with; there are: {', '.join(known)}")
    device = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu"
    protocol = {"torch": torch.__version__, "device": device, "threads": args.threads} | how
    print(json.dumps(protocol, indent=2), flush=True)
    results = {}
    for name in args.names or known:
        results[name] = compare(name, args)
        print(table(name, results[name]), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"protocol": protocol, kind: results}, indent=2) + "\n")


def main() -> None:
    parser = shared_parser("models", "MODEL", __doc__, PEERS, size=(256, 512), repeats=15)
    parser.add_argument("--no-memory", action="store_true", help="leave out the fresh processes that measure memory")
    parser.add_argument("--memory-of", metavar="LABEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(memory_of(args.names[0], args.memory_of, args.device))
        return
    how = {
        "time": f"batch 1, float32, {args.size[0]}x{args.size[1]}, median of {args.repeats} interleaved rounds",
        "memory": "growth over two training steps, batch 2, 512x512, a fresh process each",
    }
    report("models", args, PEERS, how, compare, table)


if __name__ == "__main__":
    main()
