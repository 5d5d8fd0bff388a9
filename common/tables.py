"""Print rows as a table: aligned text for the terminal, markdown for reports."""

from __future__ import annotations

from collections.abc import Sequence


def _columns(rows: Sequence[Sequence], headers: Sequence[str]) -> tuple[list[list[str]], list[int], list[bool]]:
    """Cells as text, the width of each column, and whether it holds numbers (then it is right-aligned)."""
    cells = [[str(cell) for cell in row] for row in [headers, *rows]]
    if any(len(row) != len(headers) for row in cells):
        raise ValueError(f"every row needs {len(headers)} cells ({', '.join(headers)})")
    widths = [max(len(row[k]) for row in cells) for k in range(len(headers))]
    columns = [[row[k] for row in cells[1:] if row[k]] for k in range(len(headers))]
    return cells, widths, [bool(column) and all(map(_is_number, column)) for column in columns]


def _is_number(text: str) -> bool:
    """Whether a cell begins with a number: 1,234, 0.57 M, +0.1 [-0.2, +0.4], or - for a missing one."""
    try:
        float(text.split(" ")[0].replace(",", "").replace("-", "0", 1))
    except ValueError:
        return False
    return True


def format_table(rows: Sequence[Sequence], headers: Sequence[str]) -> str:
    """An aligned plain-text table: headers, a rule, rows; columns of numbers are right-aligned."""
    cells, widths, numeric = _columns(rows, headers)
    lines = []
    for row in cells:
        texts = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric)]
        lines.append("  ".join(texts).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence], headers: Sequence[str]) -> str:
    """A markdown table; a | inside a cell is escaped."""
    cells, _, numeric = _columns(rows, headers)
    lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]
    lines.insert(1, "|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|")
    return "\n".join(lines)
