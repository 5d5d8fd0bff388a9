"""Score label PNGs written by any model, with the metrics of eval.py.

    python -m tools.score predictions/ camvid/valannot --classes camvid --void error --json scores.json

A prediction belongs to the target with the same path inside its folder, once the suffix and these endings are removed:
`_ids`, `_pred`, `_prediction`, `_labelIds`, `_labelTrainIds`, `_gtFine`, `_gtCoarse`, `_leftImg8bit`. If folders are
laid out differently (flat predictions, targets by city), the file name alone decides, where it is unique. Pictures that
are not labels (`_color`, `_overlay`, `_instanceIds`, ...) are skipped.

Targets are read as in training (`--classes`: a known list, or the classes.yaml of your data). Predictions hold class
indices 0..C-1 (Cityscapes: trainIds), or with `--raw` the data set's raw values (Cityscapes: ids 7, 8, 11, ...). Any
other value on a labelled pixel counts as an error. Every target needs a prediction of the same size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from common import command
from common.console import say
from common.errors import UserError
from common.files import write_json
from data.files import list_images, read_mask, read_raw_mask, require_folder
from data.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS, LabelTable
from engine.evaluation.class_lists import TABLES, class_list
from engine.evaluation.protocol import ABSENT_RULE
from engine.evaluation.scores import Score, scores
from engine.metrics import ABSENT, VOID, ConfusionMatrix
from engine.report.score_tables import scores_table

ENDINGS = ("_ids", "_pred", "_prediction", "_labelIds", "_labelTrainIds", "_gtFine", "_gtCoarse", "_leftImg8bit")
NO_LABELS = ("_color", "_colour", "_overlay", "_instanceIds", "_instanceTrainIds", "_polygons")
OUTSIDE = 65535  # a prediction that is no class


def bare_name(name: str) -> str:
    """'aachen/aachen_000000_000019_gtFine_labelIds' -> 'aachen/aachen_000000_000019'."""
    while ending := next((e for e in ENDINGS if name.endswith(e)), None):
        name = name.removesuffix(ending)
    return name


def label_files(folder: Path) -> dict[str, Path]:
    """{bare name: file} of a folder and its sub-folders; labelIds where Cityscapes has two label files for an image.

    Raises: UserError for a missing or empty folder, and for two files with the same bare name.
    """
    require_folder(folder, "label PNGs, in sub-folders if you like", "name the folder that holds them")
    found: dict[str, Path] = {}
    for name, path in list_images(folder).items():
        other = found.get(bare := bare_name(name))
        twin = other is not None and "_labelTrainIds" in path.name and "_labelIds" in other.name  # sorted: ids first
        if twin or name.endswith(NO_LABELS):
            continue
        if other is not None:
            raise UserError(f"{path}: the same name as {other} ('{bare}'): keep only one of them in the folder")
        found[bare] = path
    if not found:
        raise UserError(f"{folder}: no label images found")
    return found


def stem_of(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def pair_up(predictions: dict[str, Path], targets: dict[str, Path], folder: Path) -> list[tuple[str, Path, Path]]:
    """(name, prediction, target) of every target, sorted by name. Raises: UserError for one without prediction."""
    of_stem = {stem_of(name): path for name, path in predictions.items()}
    ours, theirs = (Counter(map(stem_of, names)) for names in (predictions, targets))
    pairs, unpaired = [], []
    for name, target in sorted(targets.items()):
        stem = stem_of(name)
        if name in predictions:
            pairs.append((name, predictions[name], target))
        elif ours[stem] == theirs[stem] == 1:
            pairs.append((name, of_stem[stem], target))
        else:
            unpaired.append(name)
    if unpaired:
        more = f" ({len(unpaired)} of {len(targets)} targets have none)" if len(unpaired) > 1 else ""
        raise UserError(f"{targets[unpaired[0]]}: no prediction '{unpaired[0]}' under {folder}{more}")
    used = {path for _, path, _ in pairs}
    if extra := [p for p in predictions.values() if p not in used]:
        say(f"{len(extra)} predictions have no target and are not scored, the first {extra[0]}")
    return pairs


def targets_hash(pairs: list, labels: LabelTable) -> str:
    """sha256 of class names, image names and target files: predictions scored on the same targets share it."""
    digest = hashlib.sha256(json.dumps([labels.class_names, [name for name, _, _ in pairs]]).encode())
    for _, _, target in pairs:
        digest.update(hashlib.sha256(target.read_bytes()).digest())
    return digest.hexdigest()


def read_prediction(path: Path, labels: LabelTable, raw: bool) -> np.ndarray:
    """Class indices (H, W) int64, OUTSIDE where the value is no class. Colour files are read with the palette."""
    values = read_raw_mask(path)
    if values.ndim == 3:
        pred = labels.map_colours(values, path).astype(np.int64)
        pred[pred == labels.ignore_index] = OUTSIDE
        return pred
    if not raw:
        return values.astype(np.int64)
    lookup = np.full(65536, OUTSIDE, np.int64)
    lookup[list(labels.ids)] = list(labels.ids.values())
    return lookup[values.astype(np.int64) & 65535]


def score_folders(pairs: list, labels: LabelTable, void: str, raw: bool, extra: bool = False) -> Score:
    """Count every pair. An image's group is the sub-folder its target is in, else the image itself."""
    started = time.perf_counter()
    score = Score(ConfusionMatrix(labels.num_classes, labels.ignore_index, void))
    for name, pred_file, target_file in pairs:
        pred = read_prediction(pred_file, labels, raw)
        train_ids = labels is CITYSCAPES and "_labelTrainIds" in target_file.name  # Cityscapes has both kinds of files
        target = read_mask(target_file, CITYSCAPES_TRAIN_IDS if train_ids else labels)
        if pred.shape != target.shape:
            sizes = ["{}x{}".format(*a.shape) for a in (pred, target)]
            raise UserError(f"{pred_file}: {sizes[0]}, but its target {target_file.name} is {sizes[1]} (H x W)")
        group = name.rsplit("/", 1)[0] if "/" in name else name
        pred, target = torch.from_numpy(pred), torch.from_numpy(target).long()
        score.add_image(name, group, pred, target)
        if extra:
            score.add_boundary(pred, target)
    score.images, score.seconds = len(pairs), time.perf_counter() - started
    score.groups = score.per_image.by_group(score.confusion)
    return score


def main(args: argparse.Namespace) -> None:
    labels, folders = class_list(args.classes), (Path(args.predictions), Path(args.targets))
    pairs = pair_up(label_files(folders[0]), label_files(folders[1]), folders[0])
    score = score_folders(pairs, labels, args.void, args.raw, args.extra)
    facts = {
        "data": labels.name, "predictions": str(folders[0]), "targets": str(folders[1]), "images": len(pairs),
        "classes": list(labels.class_names), "raw": args.raw, "absent": args.absent, "void": args.void,
        "exclude": [], "data_hash": targets_hash(pairs, labels),
    }  # fmt: skip
    result = {"protocol": facts, **scores(score, labels.class_names, args.absent)}
    rule = "void pixels count as errors" if args.void == "error" else "void pixels are left out"
    say(f"{labels.name}: {len(pairs)} predictions in {folders[0]}, {rule}, {ABSENT_RULE[args.absent]}; in %")
    say(scores_table(result))
    if share := score.confusion.counts[:, -1].sum() / max(1, score.confusion.counts.sum()):
        hint = "; do they hold raw ids? then --raw" if not args.raw and share > 0.2 and labels is CITYSCAPES else ""
        say(f"{100 * share:.2f} % of the labelled pixels are predicted as no class and count as errors{hint}")
    if args.json:
        write_json(Path(args.json), result)
        say(f"written: {args.json}")


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tools.score", __doc__)
    p.add_argument("predictions", metavar="PRED_DIR", help="folder of predicted label PNGs")
    p.add_argument("targets", metavar="TARGET_DIR", help="folder of target label PNGs")
    p.add_argument("--classes", required=True, metavar="NAME|FILE",
                   help=f"{' | '.join(TABLES)}, or a classes.yaml")  # fmt: skip
    p.add_argument("--absent", choices=ABSENT, default="nan", help="IoU of a class in neither target nor prediction")
    p.add_argument("--void", choices=VOID, default="ignore", help="error: predictions on void are false positives")
    p.add_argument("--extra", action="store_true", help="boundary IoU too")
    p.add_argument("--raw", action="store_true", help="predictions hold the table's raw values, not class indices")
    p.add_argument("--json", metavar="FILE", help="write the scores, with eval.py's keys")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
