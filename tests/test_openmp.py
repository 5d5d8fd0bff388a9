"""The commands choose how OpenMP's threads wait before torch loads its library; a user's own choice stays."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def settings(*words: str, **own: str) -> str:
    """What the OpenMP library says of itself when a command's torch loads it."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT), **own}
    done = subprocess.run([sys.executable, *words, "--help"], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch has no OpenMP library that shows this")
    return done.stderr


@pytest.mark.parametrize("command", [("train.py",), ("-m", "tools.overfit")], ids=" ".join)
def test_waiting_threads_sleep(command):
    assert "GOMP_SPINCOUNT = '0'" in settings(*command)  # without the policy: 300000


def test_a_users_own_choice_stays():
    assert "GOMP_SPINCOUNT = '77'" in settings("predict.py", GOMP_SPINCOUNT="77")
    code = "import common.openmp, os; assert 'OMP_WAIT_POLICY' not in os.environ"
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | {"GOMP_SPINCOUNT": "5"}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)


@pytest.mark.parametrize("file", ["train.py", "eval.py", "predict.py", "tools/__init__.py"])
def test_it_is_the_first_import(file):
    imports = [n for n in ast.parse((ROOT / file).read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
    first = next(n for n in imports if getattr(n, "module", "") != "__future__")
    assert isinstance(first, ast.Import) and first.names[0].name == "common.openmp"
