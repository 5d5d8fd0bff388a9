"""One command per file or folder: python -m tools.NAME --help."""

import common.openmp  # noqa: F401  before a command imports torch
