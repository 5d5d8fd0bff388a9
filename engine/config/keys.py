"""Every key of a config with its type, default and meaning.

Any other key of `model` or `loss` is an option of that model or loss, and is checked against the signature of the
function that builds it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class ModelConfig:
    name: str = "deeplabv3plus_resnet18"  # a name in models.MODELS
    pretrained: str | None = None  # weights to start from: path, URL or known id (python -m tools.pretrained --list)
    take: Literal["all", "encoder"] = "all"  # what to take from model.pretrained: everything that fits, or the encoder
    reuse_classes: bool = False  # if the classes differ: copy the classifier's weights of classes with the same name
    freeze: Literal["none", "encoder"] = "none"  # encoder: train the head only
    options: dict = field(default_factory=dict)  # all other keys of the section


@dataclass
class DataConfig:
    name: str = "streets"  # a name in data.DATASETS
    root: str | None = None  # the data set's folder; null: the cache of the drawn city
    size: tuple[int, int] = (256, 512)  # network size (H, W) in pixels
    # a preset of data/augment/presets.py: none | standard | advanced | road | kitti_transfer
    augment: str = "standard"
    crop: tuple[int, int] | None = None  # size (H, W) of random training crops; null: no cropping
    copy_paste: float = 0.0  # probability of pasting objects of another training image into an image
    paste_classes: list[str] = field(default_factory=list)  # classes to paste; empty: all but 'background'
    paste_exclude: list[str] = field(default_factory=list)  # classes not to paste, e.g. fence, which is see-through
    paste_edge: float = 0.0  # blur of the pasted objects' border, sigma in pixels of `size`; 0: none
    sampling: Literal["uniform", "rare_class"] = "uniform"  # rare_class: draw images with rare classes more often
    sampling_temperature: float = 0.01  # rare_class: lower values draw the rarest classes more
    limit: int = 0  # only the first n images of each role and fold, for trials; 0: all
    # [train, val, test]: draw so many images from the training split; 0: keep the data set's own val or test
    sample: list[int] = field(default_factory=list)
    sample_seed: int = 0  # seed of that draw; runs with another `seed` keep the same splits
    sample_by: Literal["image", "group"] = "image"  # group: keep the images of a city or video sequence together
    cache: bool = False  # keep the decoded images in memory, resized to `size`
    # {new class: old class, [old classes] or rest}: train on classes made of the data set's classes (docs/data.md);
    # or a word: which label files to read in a Cityscapes folder
    labels: dict[str, Any] | Literal["auto", "labelIds", "labelTrainIds"] = "auto"
    background: Literal["train", "ignore"] = "train"  # ignore: pixels of the class with `rest` are ignored
    label_map: dict[int, int] = field(default_factory=dict)  # value in a mask -> class index, or 255 to ignore it


@dataclass
class LossConfig:
    name: str = "cross_entropy"  # a name in losses.LOSSES; not used if terms are given
    # a weighted sum of losses: [{name, weight, options...}, ...]; a weight [first, last] changes linearly over training
    terms: list[dict] = field(default_factory=list)
    weights: list[tuple[float, float] | float] = field(default_factory=list)  # replaces the terms' weights, in order
    aux_weight: float = 0.4  # weight of the auxiliary head's loss, if the model has one
    aux: dict = field(
        default_factory=dict
    )  # the auxiliary head's loss: {name, options} or {terms}; empty: the main one
    teacher: str | None = None  # for the losses cwd and kd: a checkpoint (path, URL or known id)
    # All other keys of the section. `class_weights`, here or in a term, may be numbers or a rule
    # (data/class_weights.py): median_frequency, or {rule: effective_number, beta: 0.999999}
    options: dict = field(default_factory=dict)


@dataclass
class OptimConfig:
    name: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 1e-3  # base learning rate
    head_lr_factor: float = 1.0  # the head's learning rate is lr times this
    weight_decay: float = 1e-4
    decay_norms: bool = False  # decay norm layers and biases too, as torch does by default
    momentum: float = 0.9  # sgd only
    nesterov: bool = False  # sgd only
    betas: tuple[float, float] = (0.9, 0.999)  # adam, adamw
    amsgrad: bool = False  # adam, adamw
    clip_norm: float = 0.0  # clip the gradient to this norm; 0: no clipping


@dataclass
class ScheduleConfig:
    name: Literal["poly", "cosine", "warm_restarts", "one_cycle", "exponential", "plateau", "constant"] = "poly"
    warmup_iters: int = 0  # iterations of linear warm-up
    warmup_factor: float = 0.01  # factor of lr in the first iteration
    power: float = 0.9  # poly
    min_factor: float = 0.0  # poly, cosine, warm_restarts: lowest factor of lr
    cycle: float = 5.0  # warm_restarts: length of the first cycle, in epochs
    cycle_mult: float = 2.0  # warm_restarts: each cycle is this many times longer than the last
    percent_up: float = 0.3  # one_cycle: fraction of the iterations in which lr rises
    start_factor: float = 0.04  # one_cycle: factor of lr in the first iteration
    gamma: float = 0.98  # exponential: factor per epoch
    factor: float = 0.5  # plateau: multiply lr by this when val_loss stops improving
    patience: int = 3  # plateau: validations without improvement before that


@dataclass
class TrainConfig:
    epochs: int = 20  # in a cross-validation: of each fold in each stage
    batch_size: int = 8  # images per iteration and process
    workers: int = 0  # data loading processes; 0: load in the training process
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"  # auto: bf16 or fp16 on CUDA, none elsewhere
    deterministic: Literal["none", "strict"] = "none"  # strict: deterministic algorithms on a GPU too
    validate_every: int = 1  # validate every so many epochs, and after the last
    keep: Literal["best", "last"] = "best"  # which epoch best.pt holds: the best val_miou or the last
    early_stopping: int = 0  # stop after so many validations without a better val_miou; 0: never


@dataclass
class CvConfig:
    folds: int = 0  # 0: a single run
    start: Literal["role", "train", "none", "pretrained"] = "role"  # where the folds' common first weights come from
    start_epochs: int | None = None  # epochs of the starting run; null: train.epochs
    start_overrides: dict = field(default_factory=dict)  # config keys that differ in the starting run, {key: value}
    stages: list[dict] = field(default_factory=list)  # one {key: value} per stage; a stage's winner starts the next
    select: Literal["role", "val"] = "role"  # images that rank folds and candidates; with val, scores are contaminated
    member: Literal["best", "last"] = "best"  # which checkpoint of a fold is averaged
    group: Literal["auto", "none"] = "auto"  # auto: keep cities, sequences or blocks together; none: split by image
    start_share: float = 0.35  # fraction of the training groups that train the start
    select_share: float = 0.15  # fraction of the training groups that rank (select: role)
    replay_start: bool = False  # folds train on the start's images too
    bn_images: int = 200  # images that re-estimate BatchNorm statistics after averaging, at most
    line_points: int = 5  # score this many points on the line between two folds' weights; 0: none
    line_images: int = 16  # images scored at each point


@dataclass
class EvalConfig:
    native: bool = False  # score at the labels' own size instead of data.size
    absent: Literal["nan", "zero", "one"] = "nan"  # IoU of a class in neither labels nor predictions; nan: left out
    void: Literal["ignore", "error"] = "ignore"  # error: every prediction on an ignored pixel is a false positive
    exclude: list[str] = field(default_factory=list)  # classes to leave out of mIoU, mean accuracy and mean Dice
    extra: bool = False  # add boundary IoU, ROC, AUC and calibration (slower)
    batch_size: int = 8
    scales: list[float] = field(default_factory=lambda: [1.0])  # test-time scales; probabilities are averaged
    flip: bool = False  # average with the prediction for the mirrored image
    window: list[int] = field(default_factory=list)  # sliding window [H, W] in pixels; empty: whole image
    stride: list[int] = field(default_factory=list)  # step [H, W] of the window; empty: 2/3 of it, gaussian: 1/2
    blend: Literal["mean", "gaussian"] = "mean"  # overlapping windows: equal weights, or the middle counts most


@dataclass
class LogConfig:
    plots: bool = True  # draw plots (needs matplotlib)
    samples: int = 4  # images on the page of samples
    tracker: Literal["none", "tensorboard", "wandb"] = "none"  # send log.jsonl's numbers there too


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

BOUNDS = {  # (lowest, highest) allowed, both included; None: no bound
    (0, None): (
        "data.limit loss.aux_weight optim.lr optim.head_lr_factor optim.weight_decay optim.clip_norm "
        "schedule.warmup_iters schedule.power schedule.patience train.early_stopping cv.folds"
    ),
    (0, 1): (
        "data.copy_paste optim.momentum schedule.warmup_factor schedule.min_factor schedule.percent_up "
        "schedule.start_factor schedule.gamma schedule.factor"
    ),
    (1, None): (
        "schedule.cycle_mult train.epochs train.batch_size train.validate_every cv.start_epochs cv.line_images "
        "eval.batch_size"
    ),
    (0, 64): "data.paste_edge log.samples",
    (0, 0.9): "cv.start_share cv.select_share",
    (1e-4, None): "data.sampling_temperature",
    (0.01, None): "schedule.cycle",
    (0, 256): "train.workers",
    (8, 1000): "cv.bn_images",
    (0, 101): "cv.line_points",
}
RANGES = {key: bounds for bounds, keys in BOUNDS.items() for key in keys.split()}
