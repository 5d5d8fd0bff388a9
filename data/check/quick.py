"""The rules of tools.check_data on a few pairs of each split, in seconds, before a training starts."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from common.errors import UserError
from data.check.scan import Facts, scan
from data.check.whole_set import Checked, judged
from data.dataset import SegmentationDataset

# What some pairs cannot prove: that a class or a value is nowhere. Told only where every pair was read.
NEEDS_ALL = ("class never present", "class only in val", "all masks void", "0/255 masks", "no labels")
# What the loader is certain to stop at, hours later perhaps.
STOPS = ("empty file", "truncated file", "not an image", "missing file", "sizes differ", "unrotated mask")
AT_ONCE = 8  # pairs read between two looks at the clock


def quick_check(datasets: Sequence[SegmentationDataset], most: int = 32, seconds: float = 3.0) -> str:
    """One line about up to `most` pairs of each split, spread evenly; no split takes longer than its share of `seconds`
    (and one more handful of pairs). Nothing is stopped by a mere suspicion.

    Raises: UserError for a file that cannot be read or does not fit its pair: training would stop there.
    """
    started = time.perf_counter()
    found: list[Facts] = []
    for dataset in datasets:
        found += _some(dataset, most, seconds / len(datasets))
    complete = len(found) == sum(map(len, datasets))
    checked = judged(found, datasets[0].labels)
    findings = [f for f in checked.findings if f.level != "note" and (complete or f.fault not in NEEDS_ALL)]
    for f in findings:
        if f.fault in STOPS:
            raise UserError(f"{f.files[0]}: {f.text}; all faults of the data: python -m tools.check_data CONFIG")
    sizes = " and ".join(f"{len(d)} {d.split}" for d in datasets)
    read = "all" if complete else f"{len(found)}"
    head = f"data: {sizes} pairs, {read} looked at in {time.perf_counter() - started:.1f} s: "
    return head + _words(Checked(found, datasets[0].labels, findings))


def _words(checked: Checked) -> str:
    if not checked.findings:
        return "nothing suspicious"
    names = ", ".join(dict.fromkeys(f.fault for f in checked.findings))
    first = checked.findings[0]
    rest = f"; first: {first.text}" + (f" [{first.mend}]" if first.mend else "")
    return f"suspicious: {names}{rest}; all of it: python -m tools.check_data CONFIG"


def _some(dataset: SegmentationDataset, most: int, seconds: float) -> list[Facts]:
    """Facts of pairs spread over the split; coarse first, so that running out of time leaves no half unseen."""
    chosen = sorted({round(i) for i in np.linspace(0, len(dataset) - 1, min(most, len(dataset)))})
    order = [chosen[i] for k in range(4) for i in range(k, len(chosen), 4)]
    records, found, started = dataset.records, [], time.perf_counter()
    for at in range(0, len(order), AT_ONCE):
        if found and time.perf_counter() - started > seconds:
            break
        found += scan([records[i] for i in order[at : at + AT_ONCE]], dataset.split)
    return found
