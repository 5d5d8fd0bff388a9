"""Our scores against torchmetrics and scikit-learn, on random and degenerate pixels, and slow definitions."""

import math

import numpy as np
import pytest
import torch
import torchmetrics.classification as tm
from sklearn import metrics as sk

from engine.evaluation.boundary_iou import BoundaryIoU, band, width
from engine.evaluation.calibration import BinnedScores, roc_edges, thinned
from engine.metrics import ConfusionMatrix

C = 5


def pixels(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(probabilities (2, C, 12, 14), target (2, 12, 14)) with void; the degenerate sets lack classes."""
    generator = torch.Generator().manual_seed(["random", "one class", "never predicted", "perfect"].index(kind))
    target = torch.randint(C, (2, 12, 14), generator=generator)
    if kind == "one class":
        target = torch.full_like(target, 2)
    if kind == "never predicted":
        target = target.clamp(max=3)
    logits = torch.randn(2, C, 12, 14, generator=generator)
    logits.scatter_add_(1, target[:, None], torch.full((2, 1, 12, 14), 50.0 if kind == "perfect" else 1.0))
    if kind == "never predicted":
        logits[:, 1] = -30
    target = torch.where(torch.rand(target.shape, generator=generator) < 0.1, 255, target)
    return logits.softmax(1), target


KINDS = ["random", "one class", "never predicted", "perfect"]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_the_matrix(kind):
    probs, target = pixels(kind)
    pred, c = probs.argmax(1), ConfusionMatrix(C)
    c.update(pred, target)
    known = target != 255
    t, p = target[known].numpy(), pred[known].numpy()
    assert c.matrix.tolist() == sk.confusion_matrix(t, p, labels=range(C)).tolist()
    theirs = tm.MulticlassConfusionMatrix(C, ignore_index=255)(pred, target)
    assert c.matrix.tolist() == theirs.tolist()
    present = sorted(set(t) | set(p))
    assert c.iou()[present].tolist() == pytest.approx(sk.jaccard_score(t, p, labels=present, average=None).tolist())
    assert c.iou().isnan().sum() == C - len(present)
    assert c.miou() == pytest.approx(sk.jaccard_score(t, p, labels=present, average="macro"))
    assert c.miou() == pytest.approx(tm.MulticlassJaccardIndex(C, ignore_index=255)(pred, target).item(), abs=1e-6)
    assert c.mean_dice() == pytest.approx(sk.f1_score(t, p, labels=present, average="macro"))
    assert c.pixel_accuracy() == pytest.approx(sk.accuracy_score(t, p))
    recalls = sk.recall_score(t, p, labels=sorted(set(t)), average="macro")
    assert c.mean_accuracy() == pytest.approx(recalls)
    weights = sk.jaccard_score(t, p, labels=sorted(set(t)), average="weighted")
    assert c.frequency_weighted_iou() == pytest.approx(weights)


@pytest.mark.parametrize("kind", KINDS)
def test_roc_and_auc(kind):
    probs, target = pixels(kind)
    binned = BinnedScores(C)
    binned.update(probs, target)
    known = target != 255
    t, p = target[known], probs.movedim(1, 0)[:, known]
    fpr, tpr = binned.roc()
    edges = roc_edges()
    for c, auc in enumerate(binned.auc().tolist()):
        own = (t == c).numpy()
        if own.all() or not own.any():
            assert math.isnan(auc) and thinned(fpr[c].tolist(), tpr[c].tolist()) is None
            continue
        assert auc == pytest.approx(sk.roc_auc_score(own, torch.bucketize(p[c], edges, right=True).numpy()))
        assert auc == pytest.approx(sk.roc_auc_score(own, p[c].numpy()), abs=3e-3)  # of the scores as they are
        theirs = tm.BinaryROC(thresholds=edges)(p[c], torch.from_numpy(own).long())  # the same thresholds, rising
        assert fpr[c, 1:-1].tolist() == pytest.approx(theirs[0].tolist(), abs=1e-6)
        assert tpr[c, 1:-1].tolist() == pytest.approx(theirs[1].tolist(), abs=1e-6)
    want = [a for a in binned.auc().tolist() if a == a]
    assert binned.mean_auc() == pytest.approx(np.mean(want)) if want else math.isnan(binned.mean_auc())


def test_roc_of_a_rare_class_with_tiny_scores():
    """All its scores are below 0.001: bins of equal width would see one value; the order of the scores is kept."""
    generator = torch.Generator().manual_seed(0)
    own = torch.rand(4000, generator=generator) < 0.05
    score = torch.exp(torch.randn(4000, generator=generator) + 1.0 * own - 9).clamp(max=9e-4)
    binned = BinnedScores(2)
    binned.update(torch.stack([1 - score, score])[None, :, None], own.long()[None, None])
    assert binned.auc()[1].item() == pytest.approx(sk.roc_auc_score(own.numpy(), score.numpy()), abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_calibration(kind):
    probs, target = pixels(kind)
    binned = BinnedScores(C)
    binned.update(probs, target)
    theirs = tm.MulticlassCalibrationError(C, n_bins=15, norm="l1", ignore_index=255)(probs, target)
    assert binned.ece() == pytest.approx(theirs.item(), abs=2e-6)
    plot = binned.reliability()
    assert sum(plot["pixels"]) == (target != 255).sum()
    gaps = [n * abs(a - q) for n, a, q in zip(plot["pixels"], plot["accuracy"], plot["confidence"]) if n]
    assert sum(gaps) / sum(plot["pixels"]) == pytest.approx(binned.ece())
    assert all((n == 0) == (a is None) for n, a in zip(plot["pixels"], plot["accuracy"]))


def test_binned_scores_do_not_depend_on_batches_or_order():
    probs, target = pixels("random")
    whole, parts = BinnedScores(C), BinnedScores(C)
    whole.update(probs, target)
    for b in (1, 0):
        for top in range(0, 12, 5):
            parts.update(probs[b : b + 1, :, top : top + 5], target[b : b + 1, top : top + 5])
    for key in ("pixels", "positives", "confident", "right", "confidence"):
        assert torch.equal(getattr(whole, key), getattr(parts, key)), key
    empty = BinnedScores(C)
    empty.update(probs, torch.full_like(target, 255))
    found = empty.to_json(list("abcde"))
    assert found["mean_auc"] is None and found["ece"] is None and set(found["roc"].values()) == {None}


def slow_band(mask: np.ndarray, d: int) -> np.ndarray:
    """The definition: pixels of a mask within d of a pixel that is not of it, the outside included."""
    h, w = mask.shape
    out = np.zeros_like(mask)
    for y in range(h):
        for x in range(w):
            ys, xs = np.arange(y - d, y + d + 1), np.arange(x - d, x + d + 1)
            beyond = ys.min() < 0 or xs.min() < 0 or ys.max() >= h or xs.max() >= w
            out[y, x] = mask[y, x] and (beyond or not mask[np.ix_(ys, xs)].all())
    return out


def blobs(seed: int, classes: int = 3, size=(33, 47)) -> torch.Tensor:
    coarse = torch.randint(classes, (1, 1, 4, 5), generator=torch.Generator().manual_seed(seed)).float()
    return torch.nn.functional.interpolate(coarse, size=size, mode="nearest")[0, 0].long()


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_band_against_the_definition(d):
    labels = blobs(0)
    found = band(labels, d).numpy()
    for c in range(3):
        mask = (labels == c).numpy()
        assert (found & mask).tolist() == slow_band(mask, d).tolist()


def test_boundary_iou_against_the_definition():
    boundary, both, union = BoundaryIoU(3), np.zeros(3), np.zeros(3)
    for seed in (1, 2, 3):
        target, pred = blobs(seed), blobs(seed).roll(1, 1)
        boundary.update(pred, target)
        d = width((33, 47))
        for c in range(3):
            a, b = (slow_band((x == c).numpy(), d) for x in (target, pred))
            both[c] += (a & b).sum()
            union[c] += (a | b).sum()
    assert boundary.iou().tolist() == pytest.approx((both / union).tolist())
    assert width((33, 47)) == 1 and width((1024, 2048)) == 46


def test_boundary_iou_with_void_and_absent_classes():
    target = blobs(4)
    target[10:14] = 255
    perfect, wrong = BoundaryIoU(5), BoundaryIoU(5)
    pred = target.clone()
    pred[10:14] = 4  # predictions on void pixels do not count
    perfect.update(pred, target)
    present = sorted(set(target.unique().tolist()) - {255})
    assert perfect.iou()[present].tolist() == [1.0] * len(present) and perfect.miou() == 1.0
    assert perfect.iou()[[3, 4]].isnan().all() and perfect.miou("zero") == pytest.approx(len(present) / 5)
    wrong.update(torch.full_like(pred, 77), target)  # no class at all
    assert wrong.miou() == 0.0
