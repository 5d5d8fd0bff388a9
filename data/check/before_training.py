"""The check that train.py runs first: headers of every pair, contents of a few, in seconds.

tools.check_data applies the same rules to every pair (whole_set.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from common.errors import UserError
from common.spread import evenly_spaced
from data.check.scan import Facts, Finding, classes_of, mask_facts, read_pair
from data.check.value_rules import value_findings
from data.check.whole_set import apply_rules
from data.dataset import SegmentationDataset
from data.files import Record, check_mask_header, image_size, open_image, size_mismatch

ALL = "python -m tools.check_data CONFIG"  # says more
AT_ONCE = 8  # pairs read between two looks at the clock
NOTHING_COUNTS = ("0/255 masks", "all masks void")  # no pixel, or no foreground pixel, would be trained or scored
NEEDS_ALL = (*NOTHING_COUNTS, "class only in val")  # a sample cannot prove these


def check_before_training(datasets: Sequence[SegmentationDataset], most: int = 32, seconds: float = 3.0) -> str:
    """One line for the console about the headers of every pair and the contents of up to `most` pairs per split.

    These are spread evenly. A split stops reading contents after its share of `seconds`, but reads at least 8 pairs. No
    file is opened twice, and a data set with a cache keeps what was decoded. What is only suspicious stops nothing.

    Raises: UserError for what would stop the training later or leave it nothing to learn: a file that is missing,
    broken or of a kind no loader reads (JPEG or 1-bit mask), a mask of another size than its image, values outside the
    label table, black-and-white masks whose foreground is the ignored value, masks of nothing but ignored pixels.
    """
    started = time.perf_counter()
    found: list[Facts] = []
    for dataset in datasets:
        dataset.require_labels()
        try:
            found += _check_split(dataset, most, seconds / len(datasets))
        except UserError as e:
            raise UserError(f"{e}; all faults of the data: {ALL}") from None
    complete = len(found) == sum(map(len, datasets))
    checked = apply_rules(found, datasets[0].labels)
    findings = [f for f in checked.findings if f.level != "note" and (complete or f.fault not in NEEDS_ALL)]
    sizes = " and ".join(f"{len(d)} {d.split}" for d in datasets)
    read = "all" if complete else f"{len(found)}"
    return f"data: {sizes} pairs, {read} looked at in {time.perf_counter() - started:.1f} s: {_words(findings)}"


def _words(findings: list[Finding]) -> str:
    if not findings:
        return "nothing suspicious"
    names, first = ", ".join(dict.fromkeys(f.fault for f in findings)), findings[0]
    return f"suspicious: {names}; first: {first.text}{f' [{first.fix}]' if first.fix else ''}; all of it: {ALL}"


def _check_split(dataset: SegmentationDataset, most: int, seconds: float) -> list[Facts]:
    """Facts of the pairs that were read in full."""
    records, found = dataset.records, {}
    chosen, started = evenly_spaced(len(dataset), most), time.perf_counter()
    order = [i for k in range(4) for i in chosen[k::4]]  # coarse first: little time still covers the whole split
    with ThreadPoolExecutor(4) as pool:
        for at in range(0, len(order), AT_ONCE):
            if at and time.perf_counter() - started > seconds:
                break
            part = order[at : at + AT_ONCE]
            pairs = dict(zip(part, pool.map(lambda i: read_pair(records[i], dataset.split), part)))
            found |= {i: facts for i, (facts, _, _) in pairs.items()}
            for i in part:
                _check_files(records[i], found[i])
            _check_values(dataset, list(found.values()))
            for i, (_, image, mask) in pairs.items():
                dataset.keep(i, image, mask)
    rest = [record for i, record in enumerate(records) if i not in found]
    for record in rest:
        _check_headers(record)
    _check_something_counts(dataset, list(found.values()), rest)
    return list(found.values())


def _check_files(record: Record, facts: Facts) -> None:
    for path, problem in ((facts.label, facts.label_problem), (facts.image, facts.image_problem)):
        if problem:
            raise UserError(f"{path}: {problem}")
    if facts.image_hw and facts.image_hw != facts.label_hw:
        raise size_mismatch(record, facts.image_hw, facts.label_hw)


def _check_values(dataset: SegmentationDataset, found: list[Facts]) -> None:
    """Refuse values and colours outside the table, with the cause that the rules see in all masks read so far."""
    if any(classes_of(facts, dataset.labels)[None] for facts in found):
        findings = value_findings(found, dataset.labels)
        fault = next(f for f in findings if f.level == "error" and f.files)
        raise UserError(f"{fault.files[0]}: {fault.text}; {fault.fix}")


def _check_headers(record: Record) -> None:
    with open_image(record.label) as mask:
        check_mask_header(mask, record.label)
        label_hw = (mask.height, mask.width)
    image_hw = image_size(record.image)
    if image_hw != label_hw:
        raise size_mismatch(record, image_hw, label_hw)


def _check_something_counts(dataset: SegmentationDataset, found: list[Facts], rest: list[Record]) -> None:
    """Refuse a set of which no pixel would count, such as the public labels of Cityscapes' test split.

    A sample that looks like one is not proof: then the other masks are read until one holds another value.
    """
    waiting = iter(rest)
    while faults := [f for f in value_findings(found, dataset.labels) if f.fault in NOTHING_COUNTS]:
        more = [(record, mask_facts(record, dataset.split)) for record in islice(waiting, 64)]
        if not more:
            raise UserError(f"{found[0].label}: {faults[0].text}; {faults[0].fix}")
        for record, facts in more:
            _check_files(record, facts)
            found = [*found, facts]
