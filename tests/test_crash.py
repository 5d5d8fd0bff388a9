"""`make crash` in short."""

from tests.crash import crash


def test_a_cross_validation_that_is_killed_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = []
    crash(1, 3, "train.epochs=1", say=lines.append)
    assert lines[-1].startswith("1 kills, ")
