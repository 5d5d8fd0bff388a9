"""How torch's CPU threads wait for each other. Import this before torch: OpenMP reads its settings once, when loaded.

A thread that reaches a barrier first spins, that is, it keeps its core busy until the others arrive, and only then
sleeps. libgomp, which torch's Linux wheels bring, spins 300,000 times. If another program uses that core, the others
cannot run meanwhile, and a training step takes several times as long. 10,000 spins cost nothing measurable on quiet
cores and bound the loss on busy ones (docs/commands.md has the numbers). Set any of the variables below yourself, and
your choice stays.
"""

from __future__ import annotations

import os

if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "10000"
