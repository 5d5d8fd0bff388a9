"""How torch's CPU threads wait for each other. Import this before torch: OpenMP reads its settings once, when loaded.

By default a thread that reaches a barrier spins, that is, it keeps its core busy until the others arrive. If another
program uses that core, the others cannot run meanwhile, and a training step takes several times as long. With the
policy PASSIVE a waiting thread sleeps. libgomp, which torch's Linux wheels bring, and the libraries of Intel and LLVM
all read OMP_WAIT_POLICY. docs/commands.md has the measured gain and cost (python -m benchmarks.waiting). Set any of the
variables below yourself, and your choice stays.
"""

from __future__ import annotations

import os

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
