"""Every key of a config, with its type, default and meaning: these dataclasses are the documentation.

Keys of `model` and `loss` that are not fields are options of the model or the loss; they are checked against the
signature of the function that will receive them, so there is one list of options: the code.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class ModelConfig:
    name: str = "deeplabv3plus_resnet18"  # a row of models.MODELS
    pretrained: str | None = None  # weights to start from: a path, URL or known id (python -m tools.pretrained --list)
    take: Literal["all", "encoder"] = "all"  # of model.pretrained: all that fits, or the encoder alone
    reuse_classes: bool = False  # where the classes differ: copy the classifier's rows of those with the same name
    freeze: Literal["none", "encoder"] = "none"  # encoder: only the head is trained
    options: dict = field(default_factory=dict)  # every other key of the section: options of that model's builder


@dataclass
class DataConfig:
    name: str = "streets"  # a row of data.DATASETS
    root: str | None = None  # the data set's folder; null: the drawn city's cache
    size: tuple[int, int] = (256, 512)  # network size (H, W) in pixels
    augment: str = (
        "standard"  # a row of data.augment.presets.AUGMENTS: none | standard | advanced | road | kitti_transfer
    )
    crop: tuple[int, int] | None = None  # training sees windows of this size (H, W); null: all of `size`
    copy_paste: float = 0.0  # probability that objects of another training image are pasted into one
    paste_classes: list[str] = field(default_factory=list)  # classes that may be pasted; empty: all but 'background'
    paste_exclude: list[str] = field(default_factory=list)  # and those that may not, e.g. fence: see-through mesh
    paste_edge: float = 0.0  # feathered border of what is pasted, sigma in pixels of `size`; 0: hard
    sampling: Literal["uniform", "rare_class"] = "uniform"  # rare_class: images drawn by class, rare ones more often
    sampling_temperature: float = 0.01  # rare_class: the lower, the more only the rarest classes are drawn
    limit: int = 0  # first n images per role and per fold, for trials; 0: all
    sample: list[int] = field(
        default_factory=list
    )  # [train, val, test] images drawn from the training split; 0: its own
    sample_seed: int = 0  # which images those are; apart from `seed`, so that runs of other seeds share their splits
    sample_by: Literal["image", "group"] = "image"  # group: no city or stretch of video in two of them
    cache: bool = False  # keep the decoded images, resized to `size`, in memory
    # {new class: old class, [old classes] or rest}: train on other classes, made of the data set's by name
    # (docs/data.md); or a word, which label files of a Cityscapes layout to read
    labels: dict[str, Any] | Literal["auto", "labelIds", "labelTrainIds"] = "auto"
    background: Literal["train", "ignore"] = "train"  # ignore: pixels of the class that took `rest` count nowhere
    label_map: dict[int, int] = field(default_factory=dict)  # raw value in a mask -> class index or 255 (ignore)


@dataclass
class LossConfig:
    name: str = "cross_entropy"  # a row of losses.LOSSES; not used where terms are given
    terms: list[dict] = field(default_factory=list)  # weighted sum: [{name, weight, options...}, ...]
    weights: list[tuple[float, float] | float] = field(default_factory=list)  # overrides the terms' weights in order
    aux_weight: float = 0.4  # weight of the auxiliary head's loss where the model has one
    aux: dict = field(default_factory=dict)  # that loss: {name, options} or {terms}; empty: the main one (no teacher)
    teacher: str | None = None  # for cwd and kd: a run's checkpoint, or a public file (path, URL or known id)
    # every other key of the section: options of the named loss; `class_weights`, here or in a term, may be numbers or
    # a rule (data/class_weights.py): median_frequency, or {rule: effective_number, beta: 0.999999}
    options: dict = field(default_factory=dict)


@dataclass
class OptimConfig:
    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 1e-3  # base learning rate, of the encoder (or the whole network)
    head_lr_factor: float = 1.0  # the head's learning rate is lr * this
    weight_decay: float = 1e-4
    decay_norms: bool = False  # weight decay on norm layers and biases too (torch's default)
    momentum: float = 0.9  # sgd only
    nesterov: bool = False  # sgd only
    betas: tuple[float, float] = (0.9, 0.999)  # adam, adamw
    amsgrad: bool = False  # adam, adamw
    clip_norm: float = 0.0  # largest gradient norm; 0: no clipping


@dataclass
class ScheduleConfig:
    name: Literal["poly", "cosine", "warm_restarts", "one_cycle", "exponential", "plateau", "constant"] = "poly"
    warmup_iters: int = 0  # linear warm-up, in iterations
    warmup_factor: float = 0.01  # the first iteration's factor of lr
    power: float = 0.9  # poly
    min_factor: float = 0.0  # poly, cosine, warm_restarts: the floor, as a factor of lr
    cycle: float = 5.0  # warm_restarts: length of the first cycle, in epochs
    cycle_mult: float = 2.0  # warm_restarts: each cycle is this many times as long as the one before
    percent_up: float = 0.3  # one_cycle: share of the iterations in which lr rises
    start_factor: float = 0.04  # one_cycle: the first iteration's factor of lr
    gamma: float = 0.98  # exponential: factor per epoch
    factor: float = 0.5  # plateau: factor of lr when val_loss has not improved
    patience: int = 3  # plateau: validations without improvement before lr falls


@dataclass
class TrainConfig:
    epochs: int = 20  # passes over the training images (cross-validation: of each fold in each stage)
    batch_size: int = 8  # images per iteration and process
    workers: int = 0  # data loading processes
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"  # auto: bf16 or fp16 on CUDA, none elsewhere
    deterministic: Literal["none", "strict"] = "none"  # strict: deterministic algorithms on the GPU too
    validate_every: int = 1  # epochs; the last epoch is always validated
    keep: Literal["best", "last"] = "best"  # best.pt: the epoch with the best val_miou, or simply the last one
    early_stopping: int = 0  # validations without a better val_miou before a run ends; 0: never


@dataclass
class CvConfig:
    folds: int = 0  # 0: a single run
    start: Literal["role", "train", "none", "pretrained"] = "role"  # where the members' common weights come from
    start_epochs: int | None = None  # epochs of the starting run; null: train.epochs
    start_overrides: dict = field(default_factory=dict)  # config keys that differ in the starting run
    stages: list[dict] = field(default_factory=list)  # config keys by stage; the winner of one starts the next
    select: Literal["role", "val"] = "role"  # which images rank folds and candidates; val is contaminated
    member: Literal["best", "last"] = "best"  # which checkpoint of a fold is averaged
    group: Literal["auto", "none"] = "auto"  # auto: cities, sequences or blocks stay together; none: by image
    start_share: float = 0.35  # share of the training groups in the role `start`
    select_share: float = 0.15  # share of the training groups in the role `select`
    replay_start: bool = False  # folds train on the start images too (they are never scored)
    bn_images: int = 200  # at most so many images re-estimate BatchNorm statistics after averaging
    line_points: int = 5  # points on the line between two folds; 0: no line
    line_images: int = 16  # images scored at each of them


@dataclass
class EvalConfig:
    native: bool = False  # score at the label's own size instead of data.size
    absent: Literal["nan", "zero", "one"] = "nan"  # IoU of a class in neither target nor prediction
    void: Literal["ignore", "error"] = "ignore"  # error: what is predicted on void pixels is false
    exclude: list[str] = field(default_factory=list)  # classes left out of the means (mIoU, mean accuracy, mean Dice)
    extra: bool = False  # also boundary IoU, ROC and AUC by class, calibration in results and report (slower)
    batch_size: int = 8
    scales: list[float] = field(default_factory=lambda: [1.0])  # test-time scales of data.size, probabilities averaged
    flip: bool = False  # average with the mirrored image
    window: list[int] = field(default_factory=list)  # sliding window (H, W); empty: whole image
    stride: list[int] = field(default_factory=list)  # from window to window (H, W), px; empty: 2/3, gaussian 1/2 of it
    blend: Literal["mean", "gaussian"] = "mean"  # overlapping windows: all alike, or each one's middle counts most


@dataclass
class LogConfig:
    plots: bool = True  # draw plots (needs matplotlib)
    samples: int = 4  # images on the page of image / target / prediction
    tracker: Literal["none", "tensorboard", "wandb"] = "none"  # where log.jsonl's numbers go besides, if installed


@dataclass
class Config:
    name: str = "run"  # the run folder is runs/<name>-<time>
    seed: int = 0
    device: str = "auto"  # auto | cpu | cuda | cuda:1 | mps
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    cv: CvConfig = field(default_factory=CvConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    log: LogConfig = field(default_factory=LogConfig)


SECTIONS = [f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.default_factory)]

RANGES = {  # key: (lowest, highest) allowed, both included; None: no bound
    "data.limit": (0, None),
    "data.copy_paste": (0, 1),
    "data.sampling_temperature": (1e-4, None),
    "data.paste_edge": (0, 64),
    "loss.aux_weight": (0, None),
    "optim.lr": (0, None),
    "optim.head_lr_factor": (0, None),
    "optim.weight_decay": (0, None),
    "optim.momentum": (0, 1),
    "optim.clip_norm": (0, None),
    "schedule.warmup_iters": (0, None),
    "schedule.warmup_factor": (0, 1),
    "schedule.power": (0, None),
    "schedule.min_factor": (0, 1),
    "schedule.cycle": (0.01, None),
    "schedule.cycle_mult": (1, None),
    "schedule.percent_up": (0, 1),
    "schedule.start_factor": (0, 1),
    "schedule.gamma": (0, 1),
    "schedule.factor": (0, 1),
    "schedule.patience": (0, None),
    "train.epochs": (1, None),
    "train.batch_size": (1, None),
    "train.workers": (0, 256),
    "train.validate_every": (1, None),
    "train.early_stopping": (0, None),
    "cv.folds": (0, None),
    "cv.start_epochs": (1, None),
    "cv.start_share": (0, 0.9),
    "cv.select_share": (0, 0.9),
    "cv.bn_images": (8, 1000),
    "cv.line_points": (0, 101),
    "cv.line_images": (1, None),
    "eval.batch_size": (1, None),
    "log.samples": (0, 64),
}
