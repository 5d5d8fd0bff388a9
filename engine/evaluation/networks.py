"""Trained networks, opened from a run folder, a checkpoint of this project, or a public file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from common import command
from common.console import say
from common.device import resolve_device
from common.errors import DamagedFile, UserError
from common.files import file_error, read_json
from common.imagenet import MEAN, STD
from engine import checkpoint as ckpt
from engine.config import SECTIONS, Config, config_from, to_dict
from engine.config.coerce import coerce, coerce_options, parse_override
from engine.config.keys import ModelConfig
from engine.evaluation.class_lists import class_names, palette
from engine.run_folder import newest_run, open_run
from models import MODELS, build_model, model_options
from models.checkpoints.known import locate
from models.checkpoints.load import Report, load_container, open_container, recognise
from models.checkpoints.normalisation import Normalisation, changed
from models.checkpoints.numerics import NOT_NUMERICS


def build_network(cfg: Config, num_classes: int) -> nn.Module:
    """The config's model, with its encoder frozen if model.freeze says so."""
    model = build_model(cfg.model.name, num_classes, **cfg.model.options)
    if cfg.model.freeze == "encoder":
        if not hasattr(model, "freeze_encoder"):
            raise UserError(f"model.freeze=encoder: {cfg.model.name} is a whole network, it has no encoder")
        model.freeze_encoder()
    return model


def network(cfg: Config, num_classes: int, state: dict, device: torch.device, path: str | Path = "") -> nn.Module:
    """The config's model with the weights `state`, in eval mode on the device.

    Raises: UserError, naming `path`, where the weights do not fit the model.
    """
    model = build_network(cfg, num_classes)
    ckpt.load_state(model, state, path)
    return model.to(device).eval()


def networks(
    checkpoint: dict, cfg: Config, num_classes: int, device: torch.device, path: str | Path = ""
) -> list[nn.Module]:
    """The network of a checkpoint written by this project, or all networks of an ensemble; see `network`."""
    states = checkpoint.get("ensemble", [checkpoint["model"]])
    return [network(cfg, num_classes, state, device, path) for state in states]


def chosen_checkpoint(run: Path) -> Path:
    """best.pt of a single run; for a cross-validated run, the last stage's candidate with the best select score."""
    if (run / "best.pt").exists():
        return run / "best.pt"
    stages = sorted(run.glob("stage*/results.json"), key=lambda p: int(p.parent.name.removeprefix("stage")))
    if not stages:
        raise UserError(f"{run}: nothing to use yet; go on with  python train.py --resume {run}")
    try:
        results = read_results(stages[-1])
    except DamagedFile as e:
        raise UserError(f"{e}; write it again with  python train.py --resume {run}") from None
    return candidate_path(run, results["stage"], results["stages"], results["winner"])


def read_results(path: Path) -> dict:
    """A stage's results.json. Raises: DamagedFile if it is not JSON, or not the results of a stage."""
    results = read_json(path)
    try:
        whole = isinstance(results["winner"], str) and 0 <= results["stage"] < results["stages"]
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise DamagedFile(f"{path}: damaged, it does not hold the results of a stage")
    return results


def candidate_path(run: Path, stage: int, stages: int, name: str) -> Path:
    """Candidates of the last stage have plain names; those of earlier stages carry the stage's number."""
    prefix = f"stage{stage}-" if stage < stages - 1 else ""
    return run / "aggregate" / f"{prefix}{name}.pt"


# --- one way to open any of them -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """Trained networks and what is needed to use them."""

    networks: list[nn.Module]  # in eval mode on `device`; images (B, 3, H, W) normalised by ImageNet's mean and std ->
    #                            {"out": logits (B, C, H, W)}. More than one: the members of an ensemble
    path: Path
    title: str  # one line: which architecture, and whose
    class_names: tuple[str, ...]
    palette: list[tuple[int, int, int]]
    device: torch.device
    config: Config  # how to use them: data, eval, precision. Its model section is a checkpoint's own
    report: Report | None = None  # of a public file: what it is and how it was loaded
    names_from: str = ""  # of a public file: where its class names come from

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def network(self) -> nn.Module:
        """The one network. Raises: UserError for an ensemble."""
        if len(self.networks) > 1:
            count = len(self.networks)
            raise UserError(f"checkpoint {self.path}: an ensemble of {count} networks; name the checkpoint of one")
        return self.networks[0]

    @property
    def inner(self) -> nn.Module:
        """The network's own module: its parts have the names used in models/."""
        return self.network.model if self.report else self.network

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) the network was trained at; None for a public file, which does not say."""
        return None if self.report else tuple(self.config.data.size)

    def require_classes(self, dataset, source: str | None = None) -> None:
        """Raises: UserError unless the classes are the data set's: by name and order, of a public file by number."""
        if self.report is None:
            ckpt.require_classes({"class_names": self.class_names}, dataset.class_names, self.path)
        elif self.num_classes != dataset.num_classes:
            what = f"{source or f'checkpoint {self.path}'}: {self.report.architecture} for {self.num_classes} classes"
            raise UserError(f"{what}, the data ({dataset.name}) has {dataset.num_classes}")


def open_networks(
    source: str | Path, settings: Sequence[str] = (), on: Config | None = None, device: str | torch.device | None = None
) -> Opened:
    """Open a run folder (its best checkpoint), a checkpoint of this project, or a public file (path, URL or known id).

    on: a config whose data and eval sections replace the checkpoint's; the model is always the checkpoint's own.
    settings: SECTION.KEY=VALUE, applied last; `model.` keys change how the model is built, and of a public file how it
    is used (PUBLIC_KEYS).
    device: where the networks go (default: the config's).
    Raises: UserError for a file that cannot be read or does not fit, and for settings that would change nothing.
    """
    is_run = (Path(source) / "config.yaml").is_file()
    path = chosen_checkpoint(Path(source)) if is_run else locate(source)
    if not is_run and not ckpt.is_ours(path):
        return _open_public(path, settings, on, device)
    if any(item.startswith("model.weights=") for item in settings):
        raise UserError(f"--weights: {path} is a checkpoint of this project, it holds one set of weights")
    checkpoint = ckpt.load_ours(path)
    values = to_dict(config_from(checkpoint["config"]))
    if on is not None:
        values |= {section: to_dict(on)[section] for section in ("data", "eval")}
    cfg = config_from(values, settings)
    place = resolve_device(device or cfg.device)
    names = tuple(checkpoint["class_names"])
    members = networks(checkpoint, cfg, len(names), place, path)
    return Opened(members, path, cfg.model.name, names, [tuple(c) for c in checkpoint["palette"]], place, cfg)


# keys of `model` that are no options of a network: which weights of a public file, and how it is used
PUBLIC_KEYS = {"weights": str, "mean": list[float], "std": list[float], "bgr": bool, "threshold": float}
NO_EFFECT = (set(ModelConfig.__dataclass_fields__) | NOT_NUMERICS) - {"options", "form"}  # on a trained network
USED = ("model", "data", "eval", "train", "device")  # sections that change what a trained network computes, or how fast


def public_settings(settings: Sequence[str], path: Path) -> tuple[dict, dict, list[str]]:
    """(build_model's options, PUBLIC_KEYS, the other settings) of --set for a public file.

    Raises: UserError for a key that changes nothing there.
    """
    options, use, rest = {}, {}, []
    for item in settings:
        name, _, value = item.partition("=")
        section, _, key = name.partition(".")
        if section in SECTIONS and section not in USED:
            raise UserError(
                f"--set {item}: {path} is a public file, which is trained; only {', '.join(USED)} keys count"
            )
        if section != "model" or not key:
            rest.append(item)
        elif key in NO_EFFECT or "dropout" in key:
            raise UserError(f"--set {item}: {path} is a public file, and model.{key} changes nothing in its results")
        elif key in PUBLIC_KEYS:
            use[key] = value if key == "weights" else coerce(parse_override(item)[1], PUBLIC_KEYS[key], f"--set {name}")
        else:
            options[key] = parse_override(item)[1]
    return options, use, rest


def _open_public(path: Path, settings: Sequence[str], on: Config | None, device: str | torch.device | None) -> Opened:
    """As open_networks. Raises: UserError for an unknown layout, and for an encoder, which does not segment."""
    options, use, rest = public_settings(settings, path)
    cfg = config_from(to_dict(on) if on is not None else {}, rest)
    place = resolve_device(device or cfg.device)
    container, words = open_container(path, use.pop("weights", None))
    if options and (name := recognise(container, words, path)[0].name) in MODELS:
        options = coerce_options(options, model_options(name, form=options.get("form")), f"{path}: --set model")
    model, report = load_container(container, words, path, **options)
    if report.num_classes is None:
        problem = f"an encoder ({report.layout}, {report.architecture}), it segments nothing"
        raise file_error(path, f"{problem}; train a head on it with model.pretrained")
    count = max(report.num_classes, 2)  # one channel: the class against everything else
    ckpt.require_finite(model.state_dict(), f"checkpoint {path}")
    names, origin = class_names(container.meta, count)
    report = with_use(report, use)
    threshold = report.threshold[0] if report.threshold else 0.5
    return Opened(
        networks=[AsPublished(model, report.normalisation, threshold).eval().to(place)],
        path=path,
        title=f"{report.architecture} ({report.layout})",
        class_names=names or tuple(f"class {i}" for i in range(count)),
        palette=palette(container.meta, count),
        device=place,
        config=cfg,
        report=report,
        names_from=origin or "not in the file",
    )


def with_use(report: Report, use: dict) -> Report:
    """The report with the user's mean, std, bgr and threshold. Raises: UserError for a value that is none."""
    use = dict(use)
    if "threshold" in use:
        value = use.pop("threshold")
        if report.threshold is None:
            raise UserError(
                f"--set model.threshold: the file has {report.num_classes} classes, the likeliest one is taken"
            )
        if not 0 < value < 1:
            raise UserError(f"--set model.threshold: expected a number between 0 and 1, got {value}")
        report = replace(report, threshold=(value, "by --set"))
    notes = tuple(note for note in report.notes if not use or "model.mean=" not in note)  # the doubt is settled
    return replace(report, normalisation=changed(report.normalisation, use), notes=notes)


def open_network(args: argparse.Namespace, device: str | None = None) -> Opened:
    """What --run and --checkpoint name (neither: the newest run), for tools that look into one network. Prints the
    report of a public file: what it is, what was assumed, what is in doubt.

    device: where it goes, unless --device says (default: the config's). Raises: UserError, also for an ensemble.
    """
    if args.run and args.checkpoint:
        raise UserError("give --run or --checkpoint, not both")
    source = args.checkpoint or (open_run(args.run) if args.run else newest_run())
    opened = open_networks(source, command.overrides(args), device=args.device or device)
    opened.network  # noqa: B018  refuses an ensemble
    if opened.report:
        say(str(opened.report))
    return opened


class AsPublished(nn.Module):
    """A public network behind this project's image normalisation.

    Turns images normalised with ImageNet's mean and std into what the publisher's network expects. A network with one
    channel of logits z marks a pixel as its class where sigmoid(z) > threshold t, which is z > log(t / (1 - t)): the
    same as two channels (0, z - log(t / (1 - t))). At 0.5 their softmax is (1 - sigmoid(z), sigmoid(z)).
    Shapes: (B, 3, H, W) -> {"out": (B, max(C, 2), H, W)}.
    """

    def __init__(self, model: nn.Module, wanted: Normalisation, threshold: float = 0.5) -> None:
        super().__init__()
        self.model, self.per_image, self.bgr = model, wanted.per_image, wanted.bgr
        self.offset = math.log(threshold / (1 - threshold))
        mean, std = (MEAN[::-1], STD[::-1]) if self.bgr else (MEAN, STD)  # of our images, in their order
        scale = [ours / theirs for ours, theirs in zip(std, wanted.std)]
        shift = [(ours - theirs) / s for ours, theirs, s in zip(mean, wanted.mean, wanted.std)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)
        self.same = not self.per_image and (wanted.mean, wanted.std) == (tuple(mean), tuple(std))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.bgr:
            images = images.flip(1)
        if self.per_image:  # removes any scale and shift that the images come with
            std, mean = torch.std_mean(images, (2, 3), correction=0, keepdim=True)
            images = (images - mean) / std.clamp(min=1e-6)
        elif not self.same:
            images = images * self.scale + self.shift
        logits = self.model(images)["out"]
        if logits.shape[1] == 1:
            above = logits - self.offset if self.offset else logits
            logits = torch.cat([torch.zeros_like(logits), above], 1)  # (B, 2, H, W)
        return {"out": logits}
