from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: threads would only wait for each other


@pytest.fixture(scope="session")
def seg_data() -> Path:
    """The folder with real data (camvid/, ...), named by the environment variable SEG_DATA."""
    folder = os.environ.get("SEG_DATA")
    if not folder:
        pytest.skip("real data: the environment variable SEG_DATA is not set")
    return Path(folder)
