"""A change that is not meant to alter results gives the same losses to 12 digits (else see tests/golden.py)."""

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
    exact = machine == golden.machine()
    wanted = wanted[path.name if exact else f"calm {path.name}"]
    found = [float(f"{loss:.12g}") for loss in golden.losses(path, place, calm=not exact)]
    close = [a == b if exact else abs(a - b) <= 1e-4 * abs(b) for a, b in zip(found, wanted, strict=True)]
    step = close.index(False) if not all(close) else None
    assert step is None, (
        f"step {step}: {found[step]:.12g}, not {wanted[step]:.12g}, recorded with {machine}; "
        f"if results are meant to change: python -m tests.golden --update"
    )


def test_every_config_is_in_the_file():
    names = {path.name for path in golden.CONFIGS}
    assert set(golden.read()[1]) == names | {f"calm {name}" for name in names}
