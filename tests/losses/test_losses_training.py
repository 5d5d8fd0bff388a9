"""What the training loop passes to the losses: its progress, the teacher's logits, the auxiliary output."""

from __future__ import annotations

import json
import math

import pytest
import torch

from common.errors import UserError
from engine.config import config_from, dump, loss_spec
from engine.config.coerce import parse_yaml
from engine.metrics import ConfusionMatrix
from engine.training import job, train
from engine.training.single_run import train_single
from losses import build_loss
from tests.engine.test_training import CPU, equal_runs, run_in, tiny
from tests.helpers import make_folder, refuses
from tests.losses.test_losses import batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), n=6)


# --- weights that change ----------------------------------------------------------------------------------------------

SCHEDULED = [{"name": "cross_entropy", "weight": [1.0, 0.5]}, {"name": "dice", "weight": [0.0, 0.8]}]


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_a_pair_of_weights_changes_linearly(progress):
    logits, target = batch()
    loss = build_loss({"terms": SCHEDULED}, 5)
    loss.progress = progress
    ce, dice = (build_loss(name, 5)(logits, target).item() for name in ("cross_entropy", "dice"))
    expected = (1.0 - 0.5 * progress) * ce + 0.8 * progress * dice
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-12)
    assert loss.parts["dice"].item() == pytest.approx(dice, rel=1e-12)  # in the log from the first iteration on


@pytest.mark.parametrize("weight", [[0.0, -1.0], [0.0, 1.0, 2.0], [0.0, 0.0]])
def test_invalid_pairs(weight):
    with refuses("weights >= 0"):
        build_loss({"terms": [{"name": "dice", "weight": weight}]}, 5)


def test_pairs_in_a_config():
    text = "loss: {terms: [{name: cross_entropy}, {name: ssim, weight: [0.0, 5e-1]}], weights: [1, [0, .4]]}"
    cfg = config_from(parse_yaml(text, "text"))
    assert [t["weight"] for t in cfg.loss.terms] == [1.0, (0.0, 0.5)] and cfg.loss.weights == [1.0, (0.0, 0.4)]
    assert config_from(parse_yaml(dump(cfg), "dump")) == cfg
    assert build_loss(loss_spec(cfg.loss), 5).weights == [(1.0, 1.0), (0.0, 0.4)]
    with refuses(r"terms\[0\].weight: expected a number"):
        config_from({"loss": {"terms": [{"name": "dice", "weight": [1, 2, 3]}]}})


class Fixed(torch.nn.Module):
    """A network of one layer, with an auxiliary output in training."""

    def __init__(self):
        super().__init__()
        self.out, self.side = torch.nn.Conv2d(3, 5, 1), torch.nn.Conv2d(3, 5, 1)

    def forward(self, images):
        return {"out": self.out(images), **({"aux": self.side(images)} if self.training else {})}


def one_epoch(criterion, iterations: int = 4, first: int = 0, **options) -> dict:
    torch.manual_seed(0)
    model, target = Fixed(), batch()[1]
    batches = [(torch.randn(2, 3, 6, 7), target) for _ in range(iterations)]
    optimizer = job.build_optimizer(model, config_from({}, ["optim.name=sgd"]).optim)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    progress = job.Progress(iteration=first)
    means = train.train_one_epoch(
        model, batches, criterion, optimizer, scaler, lambda i: 0.1, progress, ConfusionMatrix(5), device=CPU, **options
    )
    return means | {"model": model}


def test_the_loop_sets_the_progress_of_the_loss():
    seen = []

    class Spy(torch.nn.Module):
        parts: dict = {}

        def forward(self, logits, target):
            seen.append(self.progress)
            return logits.mean()

    one_epoch(Spy(), iterations=3, first=6, max_iters=12, aux_weight=0.0)
    assert seen == [6 / 12, 6 / 12, 7 / 12, 7 / 12, 8 / 12, 8 / 12]  # main and auxiliary output


def test_the_auxiliary_head_has_its_own_loss():
    hard = {"name": "cross_entropy", "ohem": {"min_kept": 3}}
    main, aux = build_loss(hard, 5), build_loss("cross_entropy", 5)
    own, same = one_epoch(main, 1, aux_criterion=aux), one_epoch(main, 1)
    assert own["cross_entropy"] == same["cross_entropy"] and own["aux"] < same["aux"]  # easy pixels count too
    assert own["loss"] == own["cross_entropy"]  # the main output's; aux has its own column
    assert not torch.equal(own["model"].side.weight, same["model"].side.weight)
    assert torch.equal(own["model"].out.weight, same["model"].out.weight)


def test_aux_in_a_config():
    raw = {"loss": {"name": "cross_entropy", "ohem": {"threshold": "0.5"}, "aux": {"name": "dice", "smooth": "1e-7"}}}
    cfg = config_from(raw)
    assert cfg.loss.options == {"ohem": {"threshold": 0.5}} and cfg.loss.aux == {"name": "dice", "smooth": 1e-7}
    assert config_from(parse_yaml(dump(cfg), "dump")) == cfg
    with refuses("did you mean 'smooth'"):
        config_from({"loss": {"aux": {"name": "dice", "smoth": 1}}})
    assert config_from(raw, ["loss.name=dice"]).loss.aux  # another main loss leaves it alone


# --- class weights that follow the IoU --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_class_weights_follow_the_validation(name):
    logits, target = batch()
    iou = [0.9, 0.5, math.nan, 0.0, 0.2]  # nan counts as the mean of the others, 0.4
    base = [1.0, 2.0, 1.0, 1.0, 1.0]
    factors = [1 + 3 * (1 - x) for x in (0.9, 0.5, 0.4, 0.0, 0.2)]
    scale = sum(base) / sum(w * f for w, f in zip(base, factors))
    expected = build_loss({"name": name, "class_weights": [w * f * scale for w, f in zip(base, factors)]}, 5)
    loss = build_loss({"terms": [{"name": name, "class_weights": base, "follow_iou": 3.0}]}, 5)
    before = loss(logits, target).item()
    assert before == build_loss({"name": name, "class_weights": base}, 5)(logits, target).item()
    loss.val_iou = iou
    assert loss(logits, target).item() == pytest.approx(expected(logits, target).item(), rel=1e-6)
    assert loss(logits, target).item() != before
    loss.val_iou = [math.nan] * 5  # no class occurs in the validation images
    assert loss(logits, target).item() == pytest.approx(before, rel=1e-6)


def test_follow_iou_works_without_class_weights():
    assert build_loss({"name": "cross_entropy", "follow_iou": 1.0}, 5).weight.tolist() == [1.0] * 5
    assert build_loss("cross_entropy", 5).weight is None
    with refuses("follow_iou"):
        build_loss({"name": "focal", "follow_iou": -1.0}, 5)


def test_a_run_follows_its_own_validation(tmp_path, folder):
    """From the second epoch on; before that there is no validation to follow."""
    rows = {}
    for rate in (0, 5):
        run = run_in(tmp_path, cfg := tiny(folder, f"loss.follow_iou={rate}", "train.epochs=2"), f"rate{rate}")
        train_single(cfg, run, CPU)
        rows[rate] = [json.loads(line)["train_cross_entropy"] for line in (run / "log.jsonl").read_text().splitlines()]
        saved = torch.load(run / "last.pt", weights_only=True)["progress"]["val_iou"]
        assert len(saved) == 3 and all(0 <= x <= 1 for x in saved)
    assert rows[0][0] == pytest.approx(rows[5][0], rel=1e-6) and abs(rows[0][1] - rows[5][1]) > 1e-4


# --- the teacher ------------------------------------------------------------------------------------------------------

TERMS = "{name: cross_entropy, follow_iou: 2, weight: [1.0, 0.5]}, {name: cwd, weight: [0, 2]}"
DISTIL = (f"loss.terms=[{TERMS}]", "train.epochs=2")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, folder):
    run = run_in(tmp_path_factory.mktemp("runs"), cfg := tiny(folder, "train.epochs=1", "seed=5"), "teacher")
    train_single(cfg, run, CPU)
    return run / "best.pt"


def test_a_student_learns_from_a_checkpoint_and_resumes_exactly(tmp_path, folder, teacher, monkeypatch):
    cfg = tiny(folder, *DISTIL, f"loss.teacher={teacher}")
    whole, broken, alone = (run_in(tmp_path, cfg, name) for name in ("whole", "broken", "alone"))
    train_single(cfg, whole, CPU)
    before = teacher.read_bytes()
    rows = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert all(row["train_cwd"] > 0 for row in rows) and rows[0]["val_loss"] > 0
    with monkeypatch.context() as m:
        calls = []
        set_lr = train.set_lr
        m.setattr(train, "set_lr", lambda *a: set_lr(*a) if len(calls) < 3 and not calls.append(1) else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train_single(cfg, broken, CPU)
    torch.manual_seed(99)
    train_single(cfg, broken, CPU)
    equal_runs(whole, broken)
    assert teacher.read_bytes() == before
    plain = tiny(folder, "loss.terms=[{name: cross_entropy, follow_iou: 2, weight: [1.0, 0.5]}]", "train.epochs=2")
    train_single(plain, alone, CPU)
    states = [torch.load(run / "last.pt", weights_only=True)["model"] for run in (whole, alone)]
    assert any(not torch.equal(states[0][k], states[1][k]) for k in states[0])  # the teacher changed the weights


def test_the_teacher_is_in_eval_mode_and_gets_no_gradient(folder, teacher):
    cfg = tiny(folder, *DISTIL, f"loss.teacher={teacher}")
    data = make_dataset(cfg)
    network = job.load_teacher(cfg.loss.teacher, data, CPU)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    one = train.teach(network, torch.randn(1, 3, 64, 64), None)
    assert one[0].shape == (1, 3, 64, 64) and not one[0].requires_grad
    assert train.teach(None, torch.randn(1, 3, 64, 64), None) == ()


def make_dataset(cfg):
    from data import build_dataset

    return build_dataset(cfg, "train", train=True)


def test_teachers_of_other_classes_are_refused(tmp_path, teacher):
    other = make_folder(tmp_path / "other", n=4, names=("a", "b", "other"))
    cfg = tiny(other, *DISTIL, f"loss.teacher={teacher}")
    with pytest.raises(UserError, match="class"):
        job.load_teacher(cfg.loss.teacher, make_dataset(cfg), CPU)


def test_a_public_file_can_be_the_teacher(tmp_path, folder):
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=3, aux_loss=False
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "fcn.pth")
    network = job.load_teacher(str(tmp_path / "fcn.pth"), make_dataset(tiny(folder)), CPU)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(images)["out"], theirs(images)["out"], atol=1e-4)


def test_teacher_and_distillation_go_together(teacher):
    with refuses("cwd and kd need loss.teacher"):
        config_from({"loss": {"name": "kd"}})
    with refuses("used by no cwd or kd"):
        config_from({"loss": {"name": "dice", "teacher": str(teacher)}})


def test_training_needs_one_value():
    with refuses("reduction: none"):
        config_from({"loss": {"name": "dice", "reduction": "none"}})
    with refuses("reduction: none"):
        build_loss({"terms": [{"name": "dice", "reduction": "none"}]}, 5)
