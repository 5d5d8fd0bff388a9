"""A change that is not meant to alter results shows the same losses to 12 digits (tests/golden.py says how to update)."""

import pytest

from tests import golden


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("golden")
    golden.make_data(place)
    return place


@pytest.mark.parametrize("path", golden.CONFIGS, ids=lambda p: p.stem)
def test_first_losses(place, path):
    machine, wanted = golden.read()
    exact = machine == golden.machine()  # other processors and versions of torch round otherwise
    found = golden.losses(path, place)
    close = [a == b if exact else abs(a - b) <= 1e-4 * abs(b) for a, b in zip(
        [float(f"{loss:.12g}") for loss in found], wanted[path.name], strict=True)]  # fmt: skip
    first = close.index(False) if not all(close) else None
    assert first is None, (
        f"step {first}: {found[first]:.12g}, not {wanted[path.name][first]:.12g}, recorded with {machine}; "
        f"if results are meant to change: python -m tests.golden --update"
    )


def test_every_config_is_in_the_file():
    assert set(golden.read()[1]) == {path.name for path in golden.CONFIGS}
