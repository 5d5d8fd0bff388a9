"""Rules about the values in masks; each finding has the config line that fixes it.

A rule is a function (facts, labels) -> findings; VALUE_RULES lists them. For unknown values the first cause that fits
is reported; if none fits, only the values are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from data.check.scan import Facts, Finding, classes_of
from data.labels import CITYSCAPES_IDS, LabelTable

VOID_NAMES = re.compile(r"^(void|unlabel+ed|ignored?|unknown|undefined|don'?t care|unclassified)$", re.IGNORECASE)
BUSY = 0.4  # share of neighbours that differ, above which a mask is taken for a photograph
MIXED = 0.3  # share of steps through a value between, above which a mask is taken for an interpolated one


def totals(found: Sequence[Facts], what: str = "values") -> tuple[Counter, Counter]:
    """(value -> pixels, value -> masks it is in): the raw values of masks with one channel, or `what` "colours"."""
    pixels, masks = Counter(), Counter()
    for f in found:
        pixels.update(getattr(f, what))
        masks.update(getattr(f, what).keys())
    return pixels, masks


def value_findings(found: Sequence[Facts], labels: LabelTable) -> list[Finding]:
    """Findings about the values of masks with one channel and of colour masks."""
    out = _cause_of_values(found, labels) + _colour_masks(found, labels)
    return out + [f for rule in VALUE_RULES for f in rule(found, labels)]


def _cause_of_values(found: Sequence[Facts], labels: LabelTable) -> list[Finding]:
    pixels, _ = totals(found)
    unknown = set(pixels) - set(labels.ids) - set(labels.ignore)
    files = tuple(f.label for f in _worst(found, unknown))
    for cause in CAUSES:
        if reported := cause(pixels, unknown, labels, found):
            return [Finding("error", *reported, files)]
    if not unknown:
        return []
    shown = ", ".join(f"{v} ({pixels[v]} px)" for v in sorted(unknown)[:8]) + (", .." if len(unknown) > 8 else "")
    ignored = ", ".join(f"{v}: 255" for v in sorted(unknown)[:8] if 0 <= v <= 255)
    text = f"values that are no class of '{labels.name}': {shown}; a void value, or a class that the table lacks"
    return [Finding("error", "unmapped values", text, f"data.label_map: {{{ignored}}}", files)]


def _worst(found: Sequence[Facts], unknown: set[int]) -> list[Facts]:
    """Masks with unknown values, those with the most such pixels first."""
    count = {id(f): sum(f.values[v] for v in unknown) for f in found}
    return sorted((f for f in found if count[id(f)]), key=lambda f: -count[id(f)])


def _mapping(pairs) -> str:
    return f"data.label_map: {{{', '.join(f'{a}: {b}' for a, b in pairs)}}}"


# --- causes: (pixels by value, unknown values, labels, facts) -> (fault, text, fix) or None -------------------------


def _binary(pixels, unknown, labels, found):
    if not pixels or set(pixels) != {0, 255} or 255 in labels.ids or 255 in labels.label_map:
        return None
    share = pixels[255] / sum(pixels.values())
    how = "unknown" if 255 in unknown else "ignored, so no foreground pixel would ever count"
    text = f"all masks hold only 0 and 255 ({pixels[255]} px, {100 * share:.1f} %, are 255), and 255 is {how}"
    return "0/255 masks", text, "data.label_map: {255: 1}   (if 255 really is void: {255: 255})"


def _instance_ids(pixels, unknown, labels, found):
    if not (large := [v for v in unknown if v > 255 or v < 0]):
        return None
    split = all(v // 1000 in labels.ids or v // 1000 in labels.ignore for v in large)
    what = "class * 1000 + instance, as Cityscapes' instanceIds" if split else "instance ids, or a 16-bit picture"
    text = f"values up to {max(large)}: {what}; masks hold 0..255"
    fix = ("save value // 1000" if split else "save class indices") + " as an 8-bit PNG"
    return "instance ids", text, fix


def _interpolated(pixels, unknown, labels, found):
    masks = [f for f in found if f.values]
    hit = [f for f in masks if f.mixed > MIXED]
    between = {v for f in hit for v in f.mixtures}
    if len(hit) * 2 < len(masks) or not hit or len(between) < 3:
        return None
    if not unknown and len({v for f in masks for v in f.values}) <= len(between):
        return None
    shown = ", ".join(map(str, sorted(between)[:6]))
    text = f"in {len(hit)} of {len(masks)} masks most edges pass through values between the two sides ({shown}, ..): "
    text += "they were resized with interpolation, which invents classes"
    return "interpolated masks", text, "resize the masks again, with nearest neighbour"


def _train_ids_wanted(pixels, unknown, labels, found):
    """labelIds in the files, trainIds expected."""
    if not unknown & set(range(19, 34)) or not set(pixels) <= {*CITYSCAPES_IDS, 255}:
        return None
    if labels.num_classes != 19 or max(labels.ids) > 18:
        return None
    text = "values up to 33 where trainIds 0..18 are expected: these are Cityscapes' labelIds"
    pairs = [(i, row[1]) for i, row in CITYSCAPES_IDS.items()]
    fix = "data.labels: labelIds" if labels.name.startswith("cityscapes") else _mapping(pairs)
    return "labelIds read as trainIds", text, fix


def _label_ids_wanted(pixels, unknown, labels, found):
    """trainIds in the files, labelIds expected: road (0) would be void, and many classes would be other ones."""
    if labels.name != "cityscapes" or not pixels or not set(pixels) <= {*range(19), 255}:
        return None
    if 255 not in pixels and not (0 in pixels and pixels[0] > 0.1 * sum(pixels.values())):
        return None
    text = "only values 0..18 and 255 where labelIds (7..33) are expected: these are Cityscapes' trainIds"
    return "trainIds read as labelIds", text, "data.labels: labelTrainIds"


def _from_one(pixels, unknown, labels, found):
    count = labels.num_classes
    used = set(pixels) - set(labels.ignore)
    if unknown != {count} or set(labels.ids) != set(range(count)) or not used <= set(range(count + 1)):
        return None
    shift = [(i + 1, i) for i in range(count)]
    if 0 not in pixels:
        return "counted from 1", f"values 1..{count} and no 0: classes are counted from 1", _mapping(shift)
    if len(used) < count + 1:
        return None
    text = f"values 0..{count} for {count} classes: counted from 1 with 0 as void (or {count} is one class too many)"
    return "void stored as 0", text, _mapping([(0, 255), *shift]) + f"   (or, if {count} is void: {{{count}: 255}})"


def _stretched(pixels, unknown, labels, found):
    values = sorted(pixels)
    step = values[1] - values[0] if len(values) > 1 else 0
    count = labels.num_classes
    if not unknown or step < 2 or not 3 <= len(values) <= count or any(v % step or v // step >= count for v in values):
        return None
    text = f"values {', '.join(map(str, values[:6]))}: class indices times {step}, stretched to be visible"
    return "stretched values", text, _mapping([(i * step, i) for i in range(count) if i * step <= 255])


def _photograph(pixels, unknown, labels, found):
    masks, most = [f for f in found if f.values], max(32, 2 * labels.num_classes)
    busy = [f for f in masks if len(f.values) > most and f.busy > BUSY]
    if not unknown or len(busy) * 2 < len(masks):
        return None
    text = f"{len(busy)} of {len(masks)} masks hold more than {most} values: grey pictures"
    return "masks are pictures", text, "masks hold class indices"


CAUSES = (
    _binary, _instance_ids, _photograph, _interpolated, _train_ids_wanted, _label_ids_wanted, _from_one, _stretched,
)  # fmt: skip


# --- colour masks, classes, void ------------------------------------------------------------------------------------


def _colour_masks(found: Sequence[Facts], labels: LabelTable) -> list[Finding]:
    if not (masks := [f for f in found if f.colours]):
        return []
    known, (total, _) = labels.index_of_colour, totals(masks, "colours")
    unknown = {c: n for c, n in total.items() if c not in known}
    bad = tuple(f.label for f in masks if any(c in unknown for c in f.colours))
    if not unknown:
        return [Finding("note", "colour masks", f"{len(masks)} masks hold colours; all are in the palette")]
    if all(r == g == b for r, g, b in total):
        text = f"{len(masks)} masks hold class indices in three equal channels"
        return [Finding("error", "indices saved as RGB", text, "save them with one channel (L)", bad)]
    share = sum(unknown.values()) / sum(total.values())
    if len(unknown) > max(16, 2 * len(known)):
        text = f"{len(unknown)} colours outside the palette, on {100 * share:.1f} % of the pixels: "
        text += "anti-aliased, resized or lossy masks, whose edges hold mixtures"
        fix = "save the masks again without smoothing, resized with nearest neighbour"
        return [Finding("error", "smoothed colour masks", text, fix, bad)]
    shown = ", ".join(str(list(c)) for c in list(unknown)[:6])
    text = f"colours outside the palette of '{labels.name}': {shown} on {100 * share:.1f} % of the pixels"
    fix = f"in classes.yaml: ignore: [{shown}], or a row of colours: for each"
    return [Finding("error", "unknown colours", text, fix, bad)]


def _void_as_class(found: Sequence[Facts], labels: LabelTable) -> list[Finding]:
    out = []
    for i, name in enumerate(labels.class_names):
        if VOID_NAMES.match(name.strip()):
            raws = [raw for raw, index in labels.ids.items() if index == i]
            text = f"class {i} is called '{name}': it is trained and scored like any other"
            fix = _mapping((raw, 255) for raw in raws) if raws else f"in classes.yaml: ignore the colour of '{name}'"
            out.append(Finding("warning", "void is a class", text, fix))
    return out


def _mostly_void(found: Sequence[Facts], labels: LabelTable) -> list[Finding]:
    out, void = [], labels.ignore_index
    shares = {f.label: (c[void] / max(sum(c.values()), 1), f) for f in found if (c := classes_of(f, labels))}
    for split in dict.fromkeys(f.split for f in found):
        mine = {p: s for p, (s, f) in shares.items() if f.split == split}
        empty = tuple(p for p, s in mine.items() if s == 1)
        if mine and len(empty) == len(mine):
            text = f"every pixel of every mask of {split} is ignored: nothing to learn from or to score"
            raws = sorted(set().union(*(f.values for f in found if f.split == split)))
            fix = _mapping((raw, "CLASS") for raw in raws[:4]) if raws else "in classes.yaml: colours"
            out.append(Finding("error", "all masks void", text, f"{fix}, if those are classes", empty))
        elif empty:
            text = f"{len(empty)} masks of {split} hold nothing but ignored pixels"
            out.append(Finding("warning", "void mask", text, "leave these pairs out", empty))
        elif mine and sum(mine.values()) / len(mine) > 0.5:
            text = f"{100 * sum(mine.values()) / len(mine):.0f} % of the pixels of {split} are ignored"
            raws = ", ".join(f"{v}: CLASS" for v in labels.ignore[:4])
            fix = f"data.label_map: {{{raws}}}, if they are a class"
            out.append(Finding("warning", "mostly void", text, fix))
    return out


def _one_class_masks(found: Sequence[Facts], labels: LabelTable) -> list[Finding]:
    """Masks of a single class: a fault if they are rare, a property of the data if they are common."""
    counted = [(f, [c for c in classes_of(f, labels) if c != labels.ignore_index]) for f in found if f.label_hw]
    single = [(f, c[0]) for f, c in counted if len(c) == 1 and c[0] is not None]
    if not single or len(counted) < 3:
        return []
    names = Counter(labels.class_names[c] for _, c in single)
    shown = ", ".join(f"'{name}' ({n})" for name, n in names.most_common(3))
    level = "warning" if len(single) <= 0.2 * len(counted) or len(single) == len(counted) else "note"
    text = f"{len(single)} of {len(counted)} masks hold one class only: {shown}"
    files = tuple(f.label for f, _ in single)
    return [Finding(level, "one-class mask", text, "draw these masks, or leave the pairs out", files)]


def _classes_present(found: Sequence[Facts], labels: LabelTable) -> list[Finding]:
    """Classes of the table that are in no mask, and classes of val or test that are not in train."""
    seen: dict[str, set] = {}
    for f in found:
        seen.setdefault(f.split, set()).update(c for c in classes_of(f, labels) if c is not None)
    if not any(seen.values()):
        return []
    everything, out = set().union(*seen.values()), []
    if never := [n for i, n in enumerate(labels.class_names) if i not in everything]:
        text = f"no mask holds {', '.join(never)}"
        fix = f"eval.exclude: [{', '.join(never)}]   (or make other classes with data.labels)"
        out.append(Finding("note", "class never present", text, fix))
    for split in seen:
        unseen = [labels.class_names[c] for c in sorted(seen[split] - seen.get("train", set())) if c < 255]
        if split != "train" and seen.get("train") and unseen:
            text = f"{split} holds {', '.join(unseen)}, which train never shows: their IoU stays 0"
            fix = f"data.sample_seed: 1 with data.sample, for another draw; or eval.exclude: [{', '.join(unseen)}]"
            out.append(Finding("warning", "class only in val", text, fix))
    return out


VALUE_RULES = (_void_as_class, _mostly_void, _one_class_masks, _classes_present)
