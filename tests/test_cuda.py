"""On a GPU: run with  pytest -m cuda . Mixed precision, resume, and the same function as on the CPU."""

import pytest
import torch

from engine import checkpoint as ckpt
from engine.config import config_from
from engine.training import job
from engine.training.single_run import train_single
from models import build_model
from tests.engine.test_training import run_in, tiny
from tests.helpers import make_folder

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), n=7)


@pytest.mark.parametrize("amp", ["auto", "bf16", "fp16", "none"])
def test_trains_in_every_precision(tmp_path, folder, amp):
    cfg = tiny(folder, f"train.amp={amp}", "loss.terms=[{name: cross_entropy}, {name: dice}]")
    run = run_in(tmp_path, cfg, "run")
    assert train_single(cfg, run, torch.device("cuda"))["miou"] > 0
    assert all(torch.isfinite(v).all() for v in ckpt.load(run / "last.pt")["model"].values())


def test_auto_takes_bf16_only_where_it_is_real():
    real = torch.cuda.is_bf16_supported(including_emulation=False)
    found = job.amp_dtype(config_from({}).train, torch.device("cuda"))
    assert found == (torch.bfloat16 if real else torch.float16)


def test_resume_restores_scaler_and_random_states(tmp_path, folder):
    cuda = torch.device("cuda")
    cfg = tiny(folder, "train.amp=fp16", "train.epochs=1")
    run = run_in(tmp_path, cfg, "run")
    train_single(cfg, run, cuda)
    saved = torch.load(run / "last.pt", weights_only=True)
    assert saved["scaler"]["scale"] > 0 and saved["rng"]["cuda"].numel() > 0
    cfg.train.epochs = 2
    saved["progress"]["finished"] = False
    ckpt.save(saved, run / "last.pt")
    train_single(cfg, run, cuda)
    assert ckpt.load(run / "last.pt")["epoch"] == 2


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet18", "unet"])
def test_same_logits_as_on_the_cpu(name):
    torch.manual_seed(0)
    model, x = build_model(name, 5).eval(), torch.randn(1, 3, 97, 161)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with torch.inference_mode():
        want = model(x)["out"]
        got = model.cuda()(x.cuda())["out"].cpu()
    assert (got - want).abs().max() <= 1e-4 * want.abs().max()
