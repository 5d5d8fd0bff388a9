"""Trained networks, opened from a run folder, a checkpoint of this project, or a public file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common import command
from common.device import resolve_device
from common.errors import DamagedFile, UserError
from common.files import file_error, read_json
from common.imagenet import MEAN, STD
from engine import checkpoint as ckpt
from engine.config import Config, config_from, to_dict
from engine.evaluation.class_lists import class_names, palette
from engine.run_folder import newest_run, open_run
from models import build_model
from models.checkpoints.known import locate
from models.checkpoints.load import Report, load_container, open_container
from models.checkpoints.normalisation import PER_IMAGE, normalisation


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
    settings: SECTION.KEY=VALUE, applied last; `model.` keys change how a checkpoint's own model is built.
    device: where the networks go (default: the config's).
    Raises: UserError for a file that cannot be read or does not fit, and for `model.` settings of a public file.
    """
    is_run = (Path(source) / "config.yaml").is_file()
    path = chosen_checkpoint(Path(source)) if is_run else locate(source)
    if not is_run and not ckpt.is_ours(path):
        return _open_public(path, settings, on, device)
    checkpoint = ckpt.load_ours(path)
    values = to_dict(config_from(checkpoint["config"]))
    if on is not None:
        values |= {section: to_dict(on)[section] for section in ("data", "eval")}
    cfg = config_from(values, settings)
    place = resolve_device(device or cfg.device)
    names = tuple(checkpoint["class_names"])
    members = networks(checkpoint, cfg, len(names), place, path)
    return Opened(members, path, cfg.model.name, names, [tuple(c) for c in checkpoint["palette"]], place, cfg)


def _open_public(path: Path, settings: Sequence[str], on: Config | None, device: str | torch.device | None) -> Opened:
    """As open_networks. Raises: UserError for an unknown layout, and for an encoder, which does not segment."""
    if changes := [item for item in settings if item.startswith("model.")]:
        raise UserError(f"--set {changes[0]}: {path} is a public file, its network is always built as published")
    cfg = config_from(to_dict(on) if on is not None else {}, settings)
    place = resolve_device(device or cfg.device)
    container, words = open_container(path)
    model, report = load_container(container, words, path)
    if report.num_classes is None:
        problem = f"an encoder ({report.layout}, {report.architecture}), it segments nothing"
        raise file_error(path, f"{problem}; train a head on it with model.pretrained")
    count = max(report.num_classes, 2)  # one channel: the class against everything else
    ckpt.require_finite(model.state_dict(), f"checkpoint {path}")
    names, origin = class_names(container.meta, count)
    return Opened(
        networks=[AsPublished(model, normalisation(report.options["form"], words)).eval().to(place)],
        path=path,
        title=f"{report.architecture} ({report.layout})",
        class_names=names or tuple(f"class {i}" for i in range(count)),
        palette=palette(container.meta, count),
        device=place,
        config=cfg,
        report=report,
        names_from=origin or "not in the file",
    )


def open_network(args: argparse.Namespace, device: str | None = None) -> Opened:
    """What --run and --checkpoint name (neither: the newest run), for tools that look into one network.

    device: where it goes, unless --device says (default: the config's). Raises: UserError, also for an ensemble.
    """
    if args.run and args.checkpoint:
        raise UserError("give --run or --checkpoint, not both")
    source = args.checkpoint or (open_run(args.run) if args.run else newest_run())
    opened = open_networks(source, command.overrides(args), device=args.device or device)
    opened.network  # noqa: B018  refuses an ensemble
    return opened


class AsPublished(nn.Module):
    """A public network behind this project's image normalisation.

    Turns images normalised with ImageNet's mean and std into what the publisher's network expects. A network with one
    channel of logits z marks a pixel as its class where sigmoid(z) > 0.5: the same as two channels (0, z), whose
    softmax is (1 - sigmoid(z), sigmoid(z)). Shapes: (B, 3, H, W) -> {"out": (B, max(C, 2), H, W)}.
    """

    def __init__(self, model: nn.Module, wanted) -> None:
        super().__init__()
        self.model, self.per_image = model, wanted is PER_IMAGE
        mean, std = ((0.0,) * 3, (1.0,) * 3) if self.per_image else wanted
        scale = [ours / theirs for ours, theirs in zip(STD, std)]
        shift = [(ours - theirs) / s for ours, theirs, s in zip(MEAN, mean, std)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)
        self.same = not self.per_image and (mean, std) == (MEAN, STD)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.per_image:  # removes any scale and shift that the images come with
            std, mean = torch.std_mean(images, (2, 3), correction=0, keepdim=True)
            images = (images - mean) / std.clamp(min=1e-6)
        elif not self.same:
            images = images * self.scale + self.shift
        logits = self.model(images)["out"]
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)  # (B, 2, H, W)
        return {"out": logits}
