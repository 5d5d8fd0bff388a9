"""train.py, eval.py and predict.py from the command line: output files, messages, and one clear line for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import eval as eval_command
import predict as predict_command
import train as train_command
from common import command
from engine import checkpoint as ckpt
from engine.config import load_config, to_dict
from engine.evaluation.networks import build_network
from tests.helpers import make_folder, write_image, write_mask
from tools import compare as compare_command

ROOT = Path(__file__).parents[2]
COMMANDS = {"train": train_command, "eval": eval_command, "predict": predict_command}


def call(name: str, *words: object) -> int:
    module = (COMMANDS | {"compare": compare_command})[name]
    return command.run(module.main, module.build_parser(), [str(w) for w in words])


def write_config(path: Path, root: Path, **sections) -> Path:
    base = {
        "name": "tiny",
        "model": {"name": "unet", "base_channels": 4},
        "data": {"name": "folder", "root": str(root), "size": [64, 64], "augment": "standard"},
        "train": {"epochs": 1, "batch_size": 4},
        "log": {"plots": False, "samples": 1},
    }
    for key, value in sections.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(base))
    return path


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with data, a config, a finished single run and a finished cross-validated run."""
    place = tmp_path_factory.mktemp("commands")
    before = Path.cwd()
    os.chdir(place)
    try:
        root = make_folder(place / "data", n=12, hw=(70, 90))
        for split in ("train", "val"):
            for path in (root / "images" / split).glob("*.png"):
                write_image(path, (70, 90), seed=int(path.stem))
        single = write_config(place / "single.yaml", root)
        folds = {"folds": 2, "start_epochs": 1, "bn_images": 16, "line_points": 0, "group": "none"}
        write_config(place / "cv.yaml", root, cv=folds)
        assert call("train", single, "--name", "single") == 0
        assert call("train", place / "cv.yaml", "--name", "folds") == 0
        yield place
    finally:
        os.chdir(before)


@pytest.fixture
def place(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return workplace


def fails(capsys, *command: object) -> str:
    """The command ends with exit code 2 and one line on stderr, which is returned."""
    capsys.readouterr()
    code = call(*command)
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# --- what they write ------------------------------------------------------------------------------------------------


def test_run_folders_have_the_documented_files(place):
    (single,), (folds,) = place.glob("runs/single-*"), place.glob("runs/folds-*")
    common = {"config.yaml", "environment.json", "splits.json", "log.jsonl", "report.md"}
    assert common | {"last.pt", "best.pt", "results.json"} <= {p.name for p in single.iterdir()}
    assert common | {"aggregate", "stage0", "start"} <= {p.name for p in folds.iterdir()}
    assert (folds / "stage0" / "fold1" / "best.pt").exists()
    environment = json.loads((single / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["threads"] >= 1


KEYS = {
    "protocol",
    "miou",
    "pixel_accuracy",
    "mean_accuracy",
    "dice",
    "per_class",
    "confusion_matrix",
    "images",
    "seconds",
}


def test_eval_of_a_single_run(place, capsys):
    (run,) = place.glob("runs/single-*")
    assert call("eval", "--run", run, "--json", "single.json") == 0
    result = json.loads((place / "single.json").read_text())
    assert set(result) >= KEYS and set(result["per_class"]) == {"a", "b", "c"}
    assert result["miou"] == json.loads((run / "results.json").read_text())["miou"]
    assert np.sum(result["confusion_matrix"]) == 12 * 64 * 64
    assert (
        "absent" in result["protocol"] and "absent classes" in capsys.readouterr().out
    )  # the protocol is printed with the number


def test_eval_aggregate_takes_the_newest_run_with_folds_and_says_so(place, capsys):
    outputs = []
    for name in ("top1", "mean", "all"):
        assert call("eval", "--aggregate", name, "--json", f"{name}.json") == 0
        outputs.append(json.loads((place / f"{name}.json").read_text()))
        out = capsys.readouterr().out
        assert "runs/folds-" in out and "greedy" in out and "ensemble" in out  # the whole table, every time
    for result in outputs:
        assert set(result) >= KEYS | {"candidates"}
        for row in result["candidates"]:
            assert {"name", "members", "select_miou", "miou", "miou_raw"} <= set(row)
    top1, mean, everything = outputs
    rows = {r["name"]: r for r in everything["candidates"]}
    assert mean["miou"] == rows["mean"]["miou"]
    assert top1["miou"] == rows["best"]["miou"]
    assert everything["miou"] == max(everything["candidates"], key=lambda r: r["select_miou"])["miou"]


EXTRA = {"boundary_miou", "boundary_iou", "mean_auc", "auc", "roc", "ece", "reliability"}


@pytest.mark.parametrize("name", ["ensemble", "mean", "top1"])
def test_aggregate_has_the_extras_of_its_checkpoint(place, tmp_path, capsys, name):
    (run,) = place.glob("runs/folds-*")
    ours, single = tmp_path / "a.json", tmp_path / "b.json"
    assert call("eval", "--run", run, "--aggregate", name, "--extra", "--json", ours) == 0
    assert "expected calibration error" in capsys.readouterr().out
    file = run / "aggregate" / f"{name}.pt"
    assert call("eval", "--checkpoint", file, "--extra", "--json", single) == 0
    a, b = (json.loads(path.read_text()) for path in (ours, single))
    for key in EXTRA | {"per_image", "miou_per_image", "miou", "per_class"}:
        assert a[key] == b[key], key  # of an ensemble: of the mean of its members' probabilities
    assert set(a) == set(b) | {"candidates"}
    for row in a["candidates"]:
        assert EXTRA - {"roc"} <= set(row) and not {"roc", "per_image"} & set(row)
    assert call("compare", ours, single) == 0
    assert "NOT THE SAME" not in capsys.readouterr().out


def test_aggregate_without_extra_compares_too(place, tmp_path, capsys):
    (run,) = place.glob("runs/folds-*")
    files = [tmp_path / f"{name}.json" for name in ("best", "ensemble")]
    for file in files:
        assert call("eval", "--run", run, "--aggregate", file.stem, "--json", file) == 0
    assert not EXTRA & set(json.loads(files[0].read_text()))
    assert call("compare", *files, "--json", tmp_path / "c.json") == 0
    found = json.loads((tmp_path / "c.json").read_text())["miou"]
    rows = {r["name"]: r for r in json.loads(files[0].read_text())["candidates"]}
    assert found["difference"] == pytest.approx(rows["ensemble"]["bootstrap"]["difference"])


def test_eval_clamps_k_and_says_so(place, capsys):
    assert call("eval", "--aggregate", "top9") == 0
    assert "clamped" in capsys.readouterr().out


def test_eval_views_change_the_protocol_not_the_files(place):
    (run,) = place.glob("runs/folds-*")
    before = ckpt.load(run / "aggregate" / "mean.pt")["select_miou"]
    words = [
        "--flip",
        "--scales",
        "0.75",
        "1.0",
        "--window",
        "64",
        "80",
        "--native",
        "--json",
        "v.json",
        "--save",
        "out",
    ]
    assert call("eval", "--run", run, "--aggregate", "mean", *words) == 0
    result = json.loads((place / "v.json").read_text())
    assert result["protocol"]["flip"] and result["protocol"]["scales"] == [0.75, 1.0] and result["protocol"]["native"]
    assert np.sum(result["confusion_matrix"]) == 12 * 40 * 60 or np.sum(result["confusion_matrix"]) == 12 * 70 * 90
    assert ckpt.load(run / "aggregate" / "mean.pt")["select_miou"] == before
    assert len(list((place / "out").rglob("*_overlay.png"))) == 12


def test_eval_of_a_checkpoint_file(place):
    (run,) = place.glob("runs/folds-*")
    assert (
        call("eval", "--checkpoint", run / "aggregate" / "ensemble.pt", "--config", "single.yaml", "--json", "e.json")
        == 0
    )
    rows = json.loads((run / "stage0" / "results.json").read_text())["candidates"]
    want = next(r for r in rows if r["name"] == "ensemble")["miou"]
    assert json.loads((place / "e.json").read_text())["miou"] == want


def test_a_checkpoint_keeps_its_own_model_whatever_the_config_says(place, tmp_path, capsys):
    """--config gives the data and how to score; it once gave the model too."""
    deeplab = {"name": "deeplabv3plus_resnet18", "aspp_channels": 8, "decoder_channels": 8, "output_stride": 16}
    own = write_config(tmp_path / "own.yaml", place / "data")
    raw = yaml.safe_load(own.read_text()) | {"model": deeplab}
    own.write_text(yaml.safe_dump(raw))
    cfg = load_config(own)
    torch.manual_seed(0)
    model = build_network(cfg, 3)
    file = tmp_path / "deeplab.pt"
    ckpt.save({"model": ckpt.cpu_state(model), "config": to_dict(cfg), "class_names": ["a", "b", "c"],
               "palette": [[0, 0, 0]] * 3}, file)  # fmt: skip

    def matrix(*words: object) -> list:
        assert call("eval", "--checkpoint", file, "--json", tmp_path / "s.json", *words) == 0
        result = json.loads((tmp_path / "s.json").read_text())
        return [result["protocol"]["flip"], result["confusion_matrix"]]

    plain = matrix()
    other = {"unet": {"name": "unet", "base_channels": 4}, "stride": {**deeplab, "output_stride": 8}}
    for name, section in other.items():
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(raw | {"model": section, "eval": {"absent": "zero"}}))
        assert matrix("--config", config) == plain, name
        assert json.loads((tmp_path / "s.json").read_text())["protocol"]["absent"] == "zero"
        assert matrix("--config", config, "--flip")[0]
    changed = matrix("--set", "model.output_stride=8")  # by hand it applies to the checkpoint's model
    assert changed != plain and changed == matrix("--config", "single.yaml", "--set", "model.output_stride=8")
    err = fails(capsys, "eval", "--checkpoint", file, "--set", "model.decoder_channels=16")
    assert "deeplab.pt" in err and "does not fit" in err


def test_predict_files_folders_sizes_and_modes(place, tmp_path, capsys):
    write_image(tmp_path / "in" / "deep" / "a.jpg", (50, 120))
    Image.new("RGBA", (33, 77), (10, 200, 30, 128)).save(tmp_path / "in" / "b.png")
    Image.new("L", (200, 100), 90).save(tmp_path / "c.png")
    assert call("predict", tmp_path / "in", tmp_path / "c.png", "--out", tmp_path / "out") == 0
    assert "checkpoint: runs/" in capsys.readouterr().out  # it says which
    for name, size in (("deep/a", (120, 50)), ("b", (33, 77)), ("c", (200, 100))):
        ids = Image.open(tmp_path / "out" / f"{name}_ids.png")
        assert ids.size == size and ids.mode == "L" and set(np.unique(ids)) <= {0, 1, 2}
        for kind in ("color", "overlay"):
            assert Image.open(tmp_path / "out" / f"{name}_{kind}.png").size == size


def test_predict_names_a_candidate(place, tmp_path, capsys):
    (run,) = place.glob("runs/folds-*")
    image = write_image(tmp_path / "a.png")
    assert call("predict", image, "--run", run, "--aggregate", "ensemble", "--out", tmp_path / "out") == 0
    assert "ensemble.pt" in capsys.readouterr().out
    assert call("predict", image, "--run", run, "--out", tmp_path / "out") == 0
    winner = json.loads((run / "stage0/results.json").read_text())["winner"]
    assert f"{winner}.pt" in capsys.readouterr().out


def test_resume_repeats_and_refuses(place, capsys):
    (run,) = place.glob("runs/single-*")
    assert call("train", "--resume", run) == 0
    assert call("train", "single.yaml", "--resume", run, "--set", "train.workers=1", "--device", "cpu") == 0
    assert "optim.lr" in fails(capsys, "train", "single.yaml", "--resume", run, "--set", "optim.lr=0.5")
    (run / "half").mkdir(exist_ok=True)
    assert "not a run folder" in fails(capsys, "train", "--resume", run / "half")


def test_resume_elsewhere_warns_that_bits_may_differ(place, capsys):
    (run,) = place.glob("runs/single-*")
    path = run / "environment.json"
    original = path.read_text()
    path.write_text(json.dumps(json.loads(original) | {"threads": 99, "torch": "1.0"}))
    assert call("train", "--resume", run) == 0
    path.write_text(original)
    err = capsys.readouterr().err
    assert "threads was 99" in err and "torch was 1.0" in err and "device" not in err


def test_resume_before_the_first_checkpoint(place):
    (run,) = place.glob("runs/single-*")
    fresh = place / "runs" / "fresh"
    fresh.mkdir()
    (fresh / "config.yaml").write_text((run / "config.yaml").read_text())
    assert call("train", "--resume", fresh) == 0
    assert ckpt.state_hash(ckpt.load(fresh / "best.pt")["model"]) == ckpt.state_hash(
        ckpt.load(run / "best.pt")["model"]
    )


def test_a_run_in_use_is_locked(place, capsys):
    from engine.run_folder import lock

    (run,) = place.glob("runs/single-*")
    handle = lock(run)
    assert "in use" in fails(capsys, "train", "--resume", run)
    handle.close()
    assert call("train", "--resume", run) == 0


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train"], ["give a config"]),
        (["train", "nowhere.yaml"], ["nowhere.yaml", "not found"]),
        (["train", "single.yaml", "--set", "model.name=unett"], ["unett", "unet"]),
        (["train", "single.yaml", "--set", "model.widht=3"], ["widht"]),
        (["train", "single.yaml", "--set", "train.epochs=lots"], ["train.epochs", "lots"]),
        (["train", "single.yaml", "--set", "train.batch_size=0"], ["train.batch_size"]),
        (["train", "single.yaml", "--set", "data.augment=standart"], ["standart", "standard"]),
        (["train", "single.yaml", "--set", "data.name=camvit"], ["camvit", "camvid"]),
        (["train", "single.yaml", "--set", "data.root=/nowhere"], ["/nowhere"]),
        (
            ["train", "single.yaml", "--set", "data.name=camvid", "--set", "data.root=/nowhere"],
            ["/nowhere", "get_data"],
        ),
        (["train", "single.yaml", "--set", "data.name=cityscapes", "--set", "data.root=/nowhere"], ["leftImg8bit"]),
        (["train", "single.yaml", "--device", "cuda:9"], ["cuda:9"]),
        (["train", "single.yaml", "--device", "toaster"], ["toaster"]),
        (["train", "--resume", "runs/nothing"], ["runs/nothing", "not a run folder"]),
        (["train", "cv.yaml", "--set", "cv.folds=50"], ["cv.folds"]),
        (["eval", "--run", "runs/nothing"], ["runs/nothing"]),
        (["eval", "--aggregate", "median"], ["median", "top"]),
        (["eval", "--aggregate", "top0"], ["top0", "at least 1"]),
        (["eval", "--checkpoint", "nowhere.pt"], ["nowhere.pt"]),
        (["eval", "--split", "test"], ["test"]),
        (["predict", "nowhere.jpg", "--out", "o"], ["nowhere.jpg"]),
        (["predict", "data/classes.yaml", "--out", "o"], ["classes.yaml"]),
    ],
)
def test_one_line_exit_code_2(place, capsys, words, expected):
    runs = set((place / "runs").iterdir())
    err = fails(capsys, *words)
    for word in expected:
        assert word in err
    assert set((place / "runs").iterdir()) == runs  # nothing half-made is left behind


def test_aggregate_of_a_run_without_folds(place, capsys):
    (run,) = place.glob("runs/single-*")
    assert "no folds" in fails(capsys, "eval", "--run", run, "--aggregate", "mean")


def test_checkpoint_of_other_classes(place, tmp_path, capsys):
    (run,) = place.glob("runs/single-*")
    other = make_folder(tmp_path / "two", values=(0, 1), names=("x", "y"))
    err = fails(capsys, "eval", "--checkpoint", run / "best.pt", "--set", f"data.root={other}")
    assert "3 classes" in err and "best.pt" in err


def test_truncated_image_inside_a_worker_is_one_line(place, tmp_path, capsys):
    root = make_folder(tmp_path / "data")
    broken = root / "images" / "train" / "02.png"
    broken.write_bytes(broken.read_bytes()[:-900])
    for workers in (0, 1):
        config = write_config(tmp_path / "c.yaml", root, train={"workers": workers})
        assert "02.png" in fails(capsys, "train", config)


def test_label_outside_the_table_names_file_value_and_remedy(place, tmp_path, capsys):
    root = make_folder(tmp_path / "data")
    write_mask(root / "labels" / "train" / "01.png", (0, 1, 7))
    err = fails(capsys, "train", write_config(tmp_path / "c.yaml", root))
    assert "01.png" in err and "7" in err and "label_map" in err


def test_unwritable_run_folder(place, tmp_path, capsys, monkeypatch):
    (tmp_path / "runs").write_text("a file where the folder should be")
    config = write_config(tmp_path / "c.yaml", place / "data")
    monkeypatch.chdir(tmp_path)
    assert "runs" in fails(capsys, "train", config)


def test_disk_full_while_saving(place, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert "No space left on device" in fails(capsys, "train", place / "single.yaml", "--name", "full")


def test_help_has_an_example():
    for name, module in COMMANDS.items():
        assert f"python {name}.py" in module.build_parser().format_help().split("example:")[1]


def test_a_bug_is_a_traceback_and_exit_code_1(place):
    code = "import train, sys; from common import command; train.config_and_run = None; "
    code += "sys.exit(command.run(train.main, train.build_parser(), ['x']))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 1 and "Traceback" in out.stderr
