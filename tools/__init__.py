"""Secondary commands, one a file: python -m tools.<name> --help."""

import common.openmp  # noqa: F401  before a command imports torch
