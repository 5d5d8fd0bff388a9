"""Checkpoints are written whole or not at all, hold plain data only, and give one clear line if unreadable."""

import pickle

import pytest
import torch

from common.errors import UserError
from engine import checkpoint as ckpt


def test_round_trip_and_plain_types(tmp_path):
    state = {"model": {"w": torch.arange(4.0)}, "config": {"a": [1, None, "x"]}, "class_names": ["c"]}
    ckpt.save(state, tmp_path / "deep" / "a.pt")
    loaded = ckpt.load_ours(tmp_path / "deep" / "a.pt")
    assert loaded["config"] == state["config"] and torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.pt"]  # no temporary file left


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.pt"
    ckpt.save({"x": 1}, path)

    def full_disk(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left on device"):
        ckpt.write_atomically(path, full_disk)
    assert ckpt.load(path) == {"x": 1} and len(list(tmp_path.iterdir())) == 1

    def interrupted(file):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ckpt.write_atomically(path, interrupted)
    assert ckpt.load(path) == {"x": 1} and len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        ckpt.save({"x": 1}, tmp_path / "file" / "a.pt")


def test_foreign_code_is_refused_and_not_run(tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return canary.write_text, ("ran",)

    torch.save({"model": Bomb()}, tmp_path / "bomb.pt", pickle_module=pickle)
    with pytest.raises(UserError, match="bomb.pt: refused"):
        ckpt.load(tmp_path / "bomb.pt")
    assert not canary.exists()


def test_unreadable_files_are_one_line(tmp_path):
    torch.save({"model": {}}, tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("truncated.pt", "empty.pt", "text.pt", "list.pt", "missing.pt"):
        with pytest.raises(UserError, match=name) as e:
            ckpt.load(tmp_path / name)
        assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="not written by this project"):
        ckpt.load_ours(tmp_path / "whole.pt")


def test_other_classes_are_refused():
    with pytest.raises(UserError, match="2 classes .* 3"):
        ckpt.require_classes({"class_names": ["a", "b"]}, ["a", "b", "c"], "x.pt")
    with pytest.raises(UserError):  # the same number, another order
        ckpt.require_classes({"class_names": ["a", "b"]}, ["b", "a"], "x.pt")


def test_state_of_another_model_is_one_line():
    with pytest.raises(UserError, match="does not fit") as e:
        ckpt.load_state(torch.nn.Linear(2, 3), torch.nn.Linear(2, 4).state_dict(), "x.pt")
    assert "\n" not in str(e.value)


def test_hash_sees_values_names_types_and_shapes():
    w = torch.arange(6.0)
    base = ckpt.state_hash({"w": w})
    assert ckpt.state_hash({"w": w.clone()}) == base
    changed = [{"w": w + 1}, {"v": w}, {"w": w.view(2, 3)}, {"w": w.double()}]
    assert len({base, *map(ckpt.state_hash, changed)}) == 5
    image = torch.randn(2, 3, 4, 5)
    assert ckpt.state_hash({"w": image}) == ckpt.state_hash({"w": image.to(memory_format=torch.channels_last)})


def test_copy_on_the_cpu_does_not_follow_training():
    layer = torch.nn.Linear(2, 2)
    copy = ckpt.cpu_state(layer)
    with torch.no_grad():
        layer.weight.add_(1)
    assert not torch.equal(copy["weight"], layer.weight)
