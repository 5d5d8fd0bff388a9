"""Files of weights: publishers' formats are read, hostile files do not run, broken files give one clear line."""

import contextlib
import functools
import io
import json
import os
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from common.errors import UserError
from engine import checkpoint as ckpt
from models.checkpoints import pickles
from models.checkpoints.container import read
from models.checkpoints.safetensors import DTYPES, read_safetensors, write_safetensors

BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def weights() -> OrderedDict:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).state_dict()


def save(content, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def same(state: dict, expected: dict) -> bool:
    return list(state) == list(expected) and all(
        type(state[k]) is torch.Tensor and state[k].dtype == v.dtype and torch.equal(state[k], v)
        for k, v in expected.items()
    )


def refusal(path, *words: str) -> str:
    """The one-line error of `read`, which must name the file or its folder and contain the words."""
    with pytest.raises(UserError) as error:
        read(path)
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"checkpoint {path}"), line
    assert all(word in line for word in words), line
    return line


@contextlib.contextmanager
def package(name: str, **members):
    """Pretend that the package `name` is installed, with these classes and functions, until the block ends."""
    parts = name.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    before = {full: sys.modules[full] for full in names if full in sys.modules}
    sys.modules.update({full: before.get(full) or types.ModuleType(full) for full in names})
    sys.modules[name] = types.ModuleType(name)
    for key, member in members.items():
        member.__module__, member.__qualname__ = name, key
        setattr(sys.modules[name], key, member)
    try:
        yield
    finally:
        for full in names:
            del sys.modules[full]
        sys.modules.update(before)


# --- publishers' containers -----------------------------------------------------------------------------------------


@BOTH
def test_bare(tmp_path, zipped):
    found = read(save(weights(), tmp_path / "a.pth", zipped))
    assert same(found.state, weights())
    assert (found.kind, found.wrapper, found.meta, found.notes) == ("zip" if zipped else "legacy", "", {}, [])
    assert same(read(str(tmp_path / "a.pth")).state, weights())


@BOTH
def test_mmcv_runner(tmp_path, zipped):
    meta = {"CLASSES": ("road", "sky"), "PALETTE": [[128, 64, 128], [70, 130, 180]], "epoch": 3, "mmcv_version": "1.2"}
    sgd = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1, momentum=0.9).state_dict()
    content = {"meta": meta, "state_dict": weights(), "optimizer": sgd}
    found = read(save(content, tmp_path / "iter_160000.pth", zipped))
    assert same(found.state, weights()) and found.wrapper == "state_dict" and found.notes == []
    assert found.meta["meta"] == meta | {"CLASSES": ["road", "sky"]}


@BOTH
def test_mmengine_runner(tmp_path, zipped):
    class HistoryBuffer:
        def __init__(self):
            self._max_length = 1000000
            self._log_history, self._count_history = np.arange(3.0), np.ones(3, dtype=np.int64)

    with package("mmengine.logging.history_buffer", HistoryBuffer=HistoryBuffer):
        hub = {"log_scalars": OrderedDict({"train/loss": HistoryBuffer()}), "runtime_info": OrderedDict(iter=5)}
        content = {"meta": {"iter": 5, "dataset_meta": {"classes": ("a", "b")}}, "state_dict": weights()}
        save(content | {"message_hub": hub, "optimizer": {}}, tmp_path / "iter_5.pth", zipped)
    found = read(tmp_path / "iter_5.pth")
    assert same(found.state, weights()) and found.wrapper == "state_dict"
    assert found.meta["meta"]["dataset_meta"]["classes"] == ["a", "b"]
    assert found.meta["message_hub"]["runtime_info"] == {"iter": 5}
    assert "mmengine.logging.history_buffer.HistoryBuffer" in found.notes[0] and "numpy" in found.notes[0]


@BOTH
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_vainf_numpy_score(tmp_path, zipped, module):
    """numpy 1 and 2 write one function under two names."""

    def scalar(dtype, content): ...

    class Score:
        def __reduce__(self):
            return scalar, (np.dtype("f8"), b"\x00" * 8)

    content = {"cur_itrs": 7, "model_state": weights(), "optimizer_state": {}, "scheduler_state": {}}
    if module == np.float64(0.76).__reduce__()[0].__module__:  # the installed one's own way
        save(content | {"best_score": np.float64(0.76)}, tmp_path / "a.pth", zipped)
    else:
        with package(module, scalar=scalar):
            save(content | {"best_score": Score()}, tmp_path / "a.pth", zipped)
    assert f"c{module}\nscalar\n".encode() in (tmp_path / "a.pth").read_bytes()
    with pytest.raises(pickle.UnpicklingError):  # torch alone does not read it
        torch.load(tmp_path / "a.pth", weights_only=True)
    found = read(tmp_path / "a.pth")
    assert same(found.state, weights()) and found.wrapper == "model_state" and found.meta["cur_itrs"] == 7
    assert f"{module}.scalar" in found.notes[0] and "best_score" not in found.meta


@BOTH
def test_swin_with_its_config(tmp_path, zipped):
    class CfgNode(dict):
        pass

    with package("yacs.config", CfgNode=CfgNode):
        node = CfgNode(MODEL=CfgNode(TYPE="swin", DEPTHS=[2, 2, 6, 2]), AMP=True)
        node.__dict__["__immutable__"] = True
        save({"model": weights(), "config": node, "epoch": 299}, tmp_path / "a.pth", zipped)
    found = read(tmp_path / "a.pth")
    assert same(found.state, weights()) and found.wrapper == "model"
    assert found.meta == {"config": {"MODEL": {"TYPE": "swin", "DEPTHS": [2, 2, 6, 2]}, "AMP": True}, "epoch": 299}
    assert found.notes == ["foreign objects in it were left out: yacs.config.CfgNode"]


def test_foreign_lists_defaultdicts_and_namespaces(tmp_path):
    class History(list):
        pass

    class Meter:
        pass

    with package("student.utils", History=History, Meter=Meter):
        per_class = defaultdict(list, {"road": [0.9]})
        args = types.SimpleNamespace(lr=0.1)
        content = {"net": weights(), "h": History([1, 2]), "m": Meter(), "d": per_class, "p": Path("x"), "args": args}
        save(content, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth")
    assert same(found.state, weights()) and found.wrapper == "net"
    assert found.meta == {"h": [1, 2], "d": {"road": [0.9]}}


@BOTH
def test_hszhao_and_repeated_prefixes(tmp_path, zipped):
    state = {f"module.{k}": v for k, v in weights().items()}
    found = read(save({"epoch": 200, "state_dict": state, "optimizer": {}}, tmp_path / "a.pth", zipped))
    assert same(found.state, weights()) and found.notes == ["removed before every name: module."]
    state = {f"module._orig_mod.module.{k}": v for k, v in weights().items()}
    found = read(save(state, tmp_path / "a.pth", zipped))
    assert same(found.state, weights()) and found.notes == ["removed before every name: module._orig_mod.module."]
    state["head.weight"] = torch.ones(1)  # then it is part of the names
    assert same(read(save(state, tmp_path / "a.pth", zipped)).state, state)


@BOTH
def test_milesial_mask_values(tmp_path, zipped):
    found = read(save({**weights(), "mask_values": [[0, 0, 0], [255, 255, 255]]}, tmp_path / "a.pth", zipped))
    assert same(found.state, weights()) and found.wrapper == ""
    assert found.meta == {"mask_values": [[0, 0, 0], [255, 255, 255]]}
    assert found.notes == ["no tensors, kept apart: mask_values"]


def test_old_torchvision_parameters_half_and_shared_storage(tmp_path):
    shared = torch.arange(6.0)
    state = OrderedDict(a=nn.Parameter(shared), b=shared[:3], c=torch.ones(2).half(), n=torch.tensor(3))
    state["tied"] = state["a"]
    found = read(save(state, tmp_path / "resnet18-5c106cde.pth", zipped=False))
    assert same(found.state, {k: v.detach() for k, v in state.items()})
    assert not found.state["a"].requires_grad and found.state["c"].dtype == torch.float16
    assert found.state["a"].data_ptr() == found.state["b"].data_ptr() == found.state["tied"].data_ptr()


def test_averaged_weights_are_preferred_and_the_others_can_be_had(tmp_path):
    ema = {"n_averaged": torch.tensor(9)} | {f"module.{k}": v + 1 for k, v in weights().items()}
    save({"model": weights(), "model_ema": ema, "epoch": 1}, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth")
    assert found.wrapper == "model_ema" and same(found.state, {k: v + 1 for k, v in weights().items()})
    assert found.meta == {"epoch": 1, "n_averaged": 9} and found.others == ("model",)
    assert found.notes[:1] == ["several sets of weights (model, model_ema): took model_ema, the averaged ones"]
    found = read(tmp_path / "a.pth", wrapper="model")
    assert found.wrapper == "model" and same(found.state, weights())
    with pytest.raises(UserError, match="no weights under 'state_dict'; there are some under: model, model_ema"):
        read(tmp_path / "a.pth", wrapper="state_dict")


def test_wrappers_within_wrappers_and_unknown_ones(tmp_path):
    path = tmp_path / "a.pth"
    found = read(save({"model": {"state_dict": weights(), "arch": "x"}, "arch": "y", "lr": 1}, path))
    assert same(found.state, weights()) and found.wrapper == "model/state_dict"
    assert found.meta == {"arch": "y", "lr": 1}
    assert read(save({"my_net": weights(), "optimizer": {"a": torch.ones(1)}}, path)).wrapper == "my_net"
    save({"generator": weights(), "critic": weights()}, path)
    refusal(path, "weights under generator, critic: say which")
    assert read(path, wrapper="critic").wrapper == "critic"


def test_our_own(tmp_path):
    content = {"model": dict(weights()), "config": {"model": {"name": "unet"}}, "class_names": ["a", "b"], "epoch": 2}
    ckpt.save(content | {"rng": {"torch": torch.get_rng_state()}}, tmp_path / "last.pt")
    found = read(tmp_path / "last.pt")
    assert found.wrapper == "ours" and same(found.state, weights()) and found.notes == []
    assert found.meta["config"] == content["config"] and found.meta["class_names"] == ["a", "b"]
    ckpt.save(content | {"ensemble": [dict(weights())] * 2}, tmp_path / "ensemble.pt")
    assert read(tmp_path / "ensemble.pt").notes == ["an ensemble of 2 networks: this is the first"]


def test_large_zips_are_mapped_unless_compressed(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAP_FROM", 0)
    path = save(weights(), tmp_path / "a.pth")
    before = path.read_bytes()
    found = read(path)
    assert same(found.state, weights())
    found.state["0.weight"].zero_()  # private: the file stays
    assert path.read_bytes() == before
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert same(read(tmp_path / "b.pth").state, weights())  # mapped, it would give the compressed bytes


def test_a_zip_without_checksums(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        save({"state_dict": weights(), "score": np.float64(1)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(read(tmp_path / "a.pth").state, weights())


# --- hostile pickles ------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def fire(path, *_):
    Path(path).write_text("fired")


class Grenade:
    """Its class can be imported, so a reader that looks it up would run it."""

    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        fire(state["path"])


def method_of(thing, name):
    return Call(getattr, thing, name)


BOMBS = {
    "os.system": (lambda c: Call(os.system, f"touch {c}"), "posix.system"),
    "eval": (lambda c: Call(eval, f"open({str(c)!r}, 'w')"), "builtins.eval"),
    "exec": (lambda c: Call(exec, f"open({str(c)!r}, 'w')"), "builtins.exec"),
    "open": (lambda c: Call(open, str(c), "w"), "io.open"),
    "subprocess": (lambda c: Call(subprocess.call, ["touch", str(c)]), "subprocess.call"),
    "getattr chain": (
        lambda c: Call(Called(getattr, Call(__import__, "os"), "system"), f"touch {c}"),
        "builtins.__import__, builtins.getattr",
    ),
    "getattr of an allowed class": (lambda c: Call(Called(getattr, Path(c), "touch")), "builtins.getattr"),
    "nested": (lambda c: [{"a": (Call(list, Call(map, fire, [str(c)])),)}], "builtins.map"),
    "partial": (lambda c: Call(functools.partial(os.system, f"touch {c}")), "posix.system"),
    "setstate": (lambda c: Grenade(str(c)), None),  # inert: the weights are read
    "function": (lambda c: Call(fire, str(c)), None),
    "in a list": (lambda c: [1, Call(functools.reduce, fire, [str(c), ""])], None),
    "partial of ours": (lambda c: Call(functools.partial(fire, str(c))), "fire"),  # calls what a call returned
    "torch's own": (lambda c: Call(torch.compile, Call(fire, str(c))), "torch.compile"),
    "as a key": (lambda c: {Call(fire, str(c)): 1}, None),
}


class Called(Call):
    """A call whose result is called: pickle requires a callable."""

    def __call__(self):
        raise AssertionError


def armed(name, canary, path, zipped) -> Path:
    return save({"state_dict": weights(), "extra": BOMBS[name][0](canary)}, path, zipped)


@BOTH
@pytest.mark.parametrize("name", BOMBS)
def test_nothing_in_a_file_is_run(tmp_path, name, zipped):
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    armed(name, canary, path, zipped)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert canary.exists(), "the test is blank: this bomb would not go off anywhere"
    canary.unlink()
    if (named := BOMBS[name][1]) is None:
        found = read(path)
        assert same(found.state, weights()) and "foreign" in found.notes[0]
    else:
        refusal(path, "refused", named)
    assert not canary.exists()


def test_names_that_others_declared_safe_are_not_called_and_stay_declared(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "a.pth"
    armed("function", canary, path, True)
    # all under one name, of which torch takes any: were they still known, one of them would almost surely be called
    declared = [(functools.partial(fire), f"{fire.__module__}.fire") for _ in range(50)]
    with torch.serialization.safe_globals([fire, Grenade, *declared]):
        before = set(torch.serialization.get_safe_globals())
        assert same(read(path).state, weights()) and not canary.exists()
        assert set(torch.serialization.get_safe_globals()) == before
        torch.load(path, weights_only=True)
        assert canary.exists()
    assert fire not in torch.serialization.get_safe_globals()


def raw_zip(path: Path, program: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02ccommands\ngetoutput\nX\x01\x00\x00\x001\x85R.",  # Python 2's name of subprocess.getoutput
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",  # by strings on the stack, as protocol 4 does
        b"(S'true'\nios\nsystem\n.",  # INST, as protocol 0 does
        b"\x80\x02ctorch.serialization\nload\n)R.",
        b"\x80\x02cos.path\nexists\n)R.",
    ],
)
def test_hand_written_programs(tmp_path, program):
    refusal(raw_zip(tmp_path / "a.pth", program), "no weights" if b"serialization" in program else "refused")


@pytest.mark.parametrize(
    "program", [b"", b".", b"\x80\x02", b"\x80\x02R.", b"\x80\x02h\x05.", b"\x80\x02u.", b"\x80\x02\xff.", b"\x80\x02K"]
)
def test_programs_that_are_none(tmp_path, program):
    refusal(raw_zip(tmp_path / "a.pth", program), "cut off or damaged")


def test_a_pickle_that_would_unfold_without_end(tmp_path):
    bomb = []
    for _ in range(100):
        bomb = [bomb] * 10
    loop = {}
    loop["loop"] = [loop, loop]
    found = read(save({**weights(), "bomb": bomb, "loop": loop}, tmp_path / "a.pth"))
    assert same(found.state, weights())
    nested = {"w": torch.ones(1)}
    nested["model"] = nested
    assert set(read(save(nested, tmp_path / "a.pth")).state) == {"w"}


def test_attributes_that_hide_methods(tmp_path):
    """A pickle can put attributes on dicts and tensors; `state.items()` would then call what the file defines."""

    class Dressed:
        def __reduce__(self):
            hiding = dict.fromkeys(["items", "keys", "pop", "get", "__iter__"], fire)
            return OrderedDict, (), hiding, None, iter(state.items())

    state = weights()
    state["0.weight"].detach = state["0.weight"].clone = fire
    dressed = torch.load(save(Dressed(), tmp_path / "a.pth"), weights_only=False)
    assert dressed.items is fire and dressed["0.weight"].detach is fire
    found = read(tmp_path / "a.pth")
    assert same(found.state, weights()) and not vars(found.state["0.weight"])


def test_the_survey_sees_what_is_filled():
    program = pickle.dumps({"d": defaultdict(int, a=1), "o": OrderedDict(b=2), "p": Path("x")}, protocol=2)
    found = pickles.survey(io.BytesIO(program))
    assert found["collections.defaultdict"] is pickles.MappingStandIn
    assert found["builtins.int"] is pickles.StandIn and "collections.OrderedDict" in found
    assert found["pathlib.PosixPath"] is pickles.StandIn


# --- broken files ---------------------------------------------------------------------------------------------------


def test_files_that_are_no_checkpoints(tmp_path):
    cases = {
        b"": "empty",
        b"<!DOCTYPE html><html>Sign in</html>": "a web page",
        b"\n <html><body>404": "a web page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n": "git lfs pull",
        b'{"message": "Not Found"}': 'text, not weights; it begins: {"message"',
        "épreuve\n".encode(): "text, not weights",
        b"\x89HDF\r\n\x1a\n" + bytes(100): "HDF5",
        b"\x1f\x8b\x08" + bytes(100): "gzip",
        bytes(257) + b"ustar" + bytes(300): "tar archive",
        bytes(1000): "none of torch's formats",
        b"\x80\x02}q\x00.": "cut off or damaged",  # a plain pickle
        b"\x93NUMPY\x01": "NumPy",
    }
    for i, (content, line) in enumerate(cases.items()):
        for suffix in ("pth", "safetensors"):
            path = tmp_path / f"{i}.{suffix}"
            path.write_bytes(content)
            if suffix == "pth" or "page" in line or "lfs" in line:
                refusal(path, line)
            else:
                refusal(path)
    refusal(tmp_path / "none.pth", "not found")
    refusal(tmp_path, "a folder with several")


@BOTH
def test_cut_off_and_damaged(tmp_path, zipped):
    whole = save({"state_dict": weights()}, tmp_path / "a.pth", zipped).read_bytes()
    for length in (5, 100, len(whole) // 2, len(whole) - 40):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        refusal(tmp_path / "cut.pth", "cut off or damaged")


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_without_weights(tmp_path):
    path = tmp_path / "a.pth"
    for content in ({}, {"epoch": 3}, [torch.ones(1)], torch.ones(3), 5, {1: torch.ones(1)}, {"a": {"b": {}}}):
        refusal(save(content, path), "no weights by name in it")
    save(nn.Conv2d(1, 1, 1), path)
    refusal(path, "torch.nn.modules.conv.Conv2d", "a whole pickled model")
    save({"model": nn.Conv2d(1, 1, 1), "epoch": 1}, path)
    refusal(path, "torch.nn.modules.conv.Conv2d", "a whole pickled model")
    refusal(save({"w": torch.ones(3).to_sparse()}, path), "'w' is not a dense tensor")
    refusal(save({"w": torch.ones(3, device="meta")}, path), "'w' is not a dense tensor")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_torchscript_and_other_zips_are_refused(tmp_path):
    torch.jit.script(nn.Conv2d(1, 1, 1)).save(str(tmp_path / "a.pt"))
    refusal(tmp_path / "a.pt", "TorchScript")
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    refusal(tmp_path / "a.npz", "a zip archive, but not a checkpoint")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_a_newer_pickle_protocol_says_so(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth", pickle_protocol=4)
    refusal(tmp_path / "a.pth", "protocol")


# --- safetensors ----------------------------------------------------------------------------------------------------


def every_type() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    numbers = torch.rand(2, 3, 4) * 2
    state = {name: numbers.to(dtype) for name, dtype in DTYPES.items() if name != "BOOL"}
    state["BOOL"] = numbers > 1
    return state | {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3), "odd": torch.ones(3, dtype=torch.uint8)}


def equal_bits(a: dict, b: dict) -> bool:
    def bits(t):
        return t.dtype, t.shape, t.contiguous().reshape(-1).view(torch.uint8).tolist()

    return a.keys() == b.keys() and all(bits(a[k]) == bits(b[k]) for k in a)


def test_safetensors_against_the_package(tmp_path):
    state, metadata = every_type(), {"format": "pt", "größe": "ü"}
    write_safetensors(tmp_path / "ours.safetensors", state, metadata)
    safetensors.torch.save_file(state, tmp_path / "theirs.safetensors", metadata)
    assert equal_bits(safetensors.torch.load_file(tmp_path / "ours.safetensors"), state)
    with safetensors.safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert file.metadata() == metadata
    for name in ("ours", "theirs"):
        found, about = read_safetensors(tmp_path / f"{name}.safetensors")
        assert equal_bits(found, state) and about == metadata
        assert len({t.untyped_storage().data_ptr() for t in found.values()}) == 1  # one buffer, no copies
    found = read(tmp_path / "theirs.safetensors")
    assert (found.kind, found.wrapper, found.meta) == ("safetensors", "", {"__metadata__": metadata})


def test_safetensors_mapped_and_written_from_any_layout(tmp_path, monkeypatch):
    path, state = tmp_path / "a.safetensors", every_type()
    state["turned"] = torch.arange(6.0).view(2, 3).t()
    state["channels_last"] = torch.rand(1, 3, 4, 4).to(memory_format=torch.channels_last)
    state["slice"] = state["parameter"] = nn.Parameter(torch.arange(9.0)[2:5])  # tied: written twice
    write_safetensors(path, state)
    monkeypatch.setattr("models.checkpoints.safetensors.MAP_FROM", 0)
    found, _ = read_safetensors(path)
    assert equal_bits(found, {k: v.detach() for k, v in state.items()})
    found["turned"].zero_()
    assert equal_bits(read_safetensors(path)[0], {k: v.detach() for k, v in state.items()})
    write_safetensors(path, {})
    assert read_safetensors(path) == ({}, {})
    refusal(path, "no weights")
    for bad in ({"a": 1}, {"a": torch.ones(2).to_sparse()}, {"a": torch.ones(1, dtype=torch.complex64)}, {3: state}):
        with pytest.raises(UserError, match="cannot be written"):
            write_safetensors(path, bad)
    with pytest.raises(UserError, match="__metadata__"):
        write_safetensors(path, {"__metadata__": torch.ones(1)})
    with pytest.raises(UserError, match="metadata must"):
        write_safetensors(path, {}, {"a": 1})


def raw_safetensors(path: Path, header, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(begin, end, shape=None, dtype="U8", **more):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end], **more}


GOOD = {"a": entry(0, 4), "b": entry(4, 8, [1], "F32")}
BROKEN = {
    "cut": (GOOD, 7, "cut off: 8 bytes of data announced, 7 there"),
    "left over": (GOOD, 9, "bytes left over"),
    "overlap": ({"a": entry(0, 5), "b": entry(4, 8)}, 8, "two tensors overlap at byte 4"),
    "the same place": ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "overlap"),
    "hole": ({"a": entry(0, 3), "b": entry(4, 8)}, 8, "a hole at bytes 3-4"),
    "hole at the start": ({"a": entry(1, 8)}, 8, "a hole at bytes 0-1"),
    "negative": ({"a": entry(-4, 4)}, 8, "'a' has no valid data_offsets"),
    "backwards": ({"a": entry(8, 0, [8])}, 8, "'a' has no valid data_offsets"),
    "three offsets": ({"a": entry(0, 8) | {"data_offsets": [0, 4, 8]}}, 8, "data_offsets"),
    "a float offset": ({"a": entry(0, 8) | {"data_offsets": [0, 8.0]}}, 8, "data_offsets"),
    "true for 1": ({"a": entry(0, 1, [True])}, 1, "'a' has no valid shape"),
    "unknown type": ({"a": entry(0, 8, dtype="F128")}, 8, "'a' has the type 'F128', known are F64"),
    "type of another kind": ({"a": entry(0, 8, dtype=["F32"])}, 8, "has the type"),
    "wrong type": ({"a": entry(0, 8, dtype="F32")}, 8, "'a' takes 8 bytes, its shape [8] of F32 needs 32"),
    "wrong shape": ({"a": entry(0, 8, [3, 3])}, 8, "takes 8 bytes"),
    "negative shape": ({"a": entry(0, 8, [-2, -4])}, 8, "no valid shape"),
    "a huge shape": ({"a": entry(0, 8, [1 << 62, 1 << 62])}, 8, "takes 8 bytes"),
    "a string for a tensor": ({"a": "b"}, 0, "must have dtype"),
    "a missing field": ({"a": {"dtype": "U8", "shape": [0]}}, 0, "must have dtype"),
    "a field too many": ({"a": entry(0, 8, code="x")}, 8, "and nothing else"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, 0, "__metadata__ must map"),
    "metadata in a list": ({"__metadata__": ["a"]}, 0, "__metadata__ must map"),
    "a list": (b"[1, 2]", 0, "not a JSON object"),
    "a leading space": (b" {}", 0, "not a JSON object"),
    "no JSON": (b'{"a": ', 0, "the header is not JSON"),
    "no UTF-8": (b'{"\xff": 1}', 0, "not UTF-8"),
    "twice": (b'{"a": %s, "a": %s}' % ((json.dumps(entry(0, 8)).encode(),) * 2), 8, "occurs twice"),
    "a field twice": (b'{"a": {"dtype": "U8", "dtype": "I8", "shape": [8], "data_offsets": [0, 8]}}', 8, "twice"),
    "a deep nest": (b'{"a":' + b"[" * 100_000, 0, "broken safetensors file"),
    "a long number": (b'{"a":' + b"9" * 10_000 + b"}", 0, "broken safetensors file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_safetensors(tmp_path, name):
    header, size, line = BROKEN[name]
    path = raw_safetensors(tmp_path / "a.safetensors", header, bytes(size))
    if name not in ("a leading space", "a field too many", "twice"):  # there we are the stricter
        with pytest.raises(safetensors.SafetensorError):
            safetensors.torch.load_file(path)
    refusal(path, line)


def test_safetensors_headers_of_impossible_size(tmp_path, monkeypatch):
    path = raw_safetensors(tmp_path / "a.safetensors", GOOD, bytes(8), length=1 << 60)
    refusal(path, "cut off")
    path.write_bytes(b"\x01\x00")
    refusal(path, "cut off: 2 bytes")
    assert read(raw_safetensors(path, GOOD, bytes(8))).state["a"].tolist() == [0] * 4
    monkeypatch.setattr("models.checkpoints.safetensors.MAX_HEADER", 50)
    refusal(raw_safetensors(path, GOOD, bytes(8)), "at most 50 are allowed")


def test_unaligned_safetensors_are_copied(tmp_path):
    text = json.dumps({"a": entry(0, 1), "b": entry(1, 9, [2], "F32")}).encode()
    path = raw_safetensors(tmp_path / "a.safetensors", text + b" " * (-len(text) % 8), b"\x01" + bytes(8))
    assert read(path).state["b"].tolist() == [0, 0]


# --- several files, folders -----------------------------------------------------------------------------------------


def shards(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    state, names = dict(weights()), {}
    for i, keys in enumerate((list(state)[:2], list(state)[2:])):
        name = f"model-0000{i}-of-00002.safetensors" if kind == "safetensors" else f"pytorch_model-{i}.bin"
        part = {k: state[k] for k in keys}
        safetensors.torch.save_file(part, folder / name) if kind == "safetensors" else save(part, folder / name)
        names |= dict.fromkeys(keys, name)
    stem = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    index = {"metadata": {"total_size": 9}, "weight_map": names}
    (folder / f"{stem}.index.json").write_text(json.dumps(index))
    return state


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(tmp_path, kind):
    state = shards(tmp_path, kind)
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    found = read(tmp_path)
    assert found.kind == "sharded" and same(found.state, state)
    assert found.meta == {"__metadata__": {"total_size": 9}, "config.json": {"model_type": "segformer"}}
    (index,) = tmp_path.glob("*.index.json")
    assert same(read(index).state, state)
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    for place in ("../x.bin", "/etc/passwd", "a/../../x", "C:\\x", "C:x", "\\\\server\\x", "", 3, "..\\x"):
        bad = content | {"weight_map": content["weight_map"] | {first: place}}
        index.write_text(json.dumps(bad))
        refusal(index, "not an index" if place == 3 else "points outside")
    index.write_text(json.dumps(content | {"weight_map": content["weight_map"] | {first: "none.bin"}}))
    refusal(index, "'none.bin', which it names, is missing")
    del content["weight_map"][first]
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"not what {index.name} says of it: {first}"):
        read(index)
    for bad in ("[]", "{", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'):
        index.write_text(bad)
        refusal(index, "not an index of weights")


def test_hub_folders(tmp_path):
    with pytest.raises(UserError, match="a folder with no model.safetensors"):
        read(tmp_path)
    save(weights(), tmp_path / "anything.pth")
    assert same(read(tmp_path).state, weights())  # the only one
    save({"segformer.x": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert list(read(tmp_path).state) == ["segformer.x"]
    write_safetensors(tmp_path / "model.safetensors", {"y": torch.ones(1)}, {"format": "pt"})
    (tmp_path / "config.json").write_text('{"architectures": ["A"]}')
    found = read(tmp_path)
    assert list(found.state) == ["y"] and found.kind == "safetensors"
    assert found.meta == {"__metadata__": {"format": "pt"}, "config.json": {"architectures": ["A"]}}
    assert "config.json" not in read(tmp_path / "anything.pth").meta  # it may belong to another file
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json: not JSON"):
        read(tmp_path)
