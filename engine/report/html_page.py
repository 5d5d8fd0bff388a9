"""Parts of an HTML page that is one file: frame with styles and script, tables, colour legends, embedded pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from common.files import write_atomically
from engine.report.score_tables import pct

HERE = Path(__file__).parent


def write_page(path: Path, title: str, body: str, styles: str = "", script: str = "") -> Path:
    """Write one HTML file that needs no other: html_page.css and html_page.js, then `styles` and `script`, are in it.

    title is plain text, body HTML. Raises: UserError if the file cannot be written.
    """
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{(HERE / 'html_page.css').read_text()}{styles}</style>\n"
        f"</head>\n<body>\n{body}\n<script>\n{(HERE / 'html_page.js').read_text()}{script}</script>\n</body>\n</html>\n"
    )
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def html_table(rows: Sequence[Sequence], headers: Sequence[str], kind: str = "") -> str:
    """A table whose cells are HTML, or (value, HTML) to sort by the value; kind "sortable": a click on a header sorts.

    Not common.tables: those print plain text, these cells carry markup and sort keys.
    """
    head = "".join(f"<th>{html.escape(h)}</th>" for h in headers)
    body = []
    for row in rows:
        cells = [c if isinstance(c, tuple) else (None, c) for c in row]
        body.append("".join(f"<td>{c}</td>" if v is None else f'<td data-value="{v}">{c}</td>' for v, c in cells))
    inner = "".join(f"<tr>{cells}</tr>" for cells in body)
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{inner}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def score_cell(value: float | None, markup: str = "") -> tuple:
    """A fraction as a cell in percent that sorts by its value, followed by `markup`."""
    return ("" if value is None else value, pct(value) + markup)


def note(text: str) -> str:
    """A grey paragraph of plain text."""
    return f'<p class="note">{html.escape(text)}</p>'


def swatch(colour: Sequence[int]) -> str:
    return '<span class="swatch" style="background:rgb({},{},{})"></span>'.format(*colour)


def legend(class_names: Sequence[str], palette: Sequence[Sequence[int]]) -> str:
    """The classes' colours with their names."""
    items = (f'<span class="item">{swatch(c)}{html.escape(n)}</span>' for n, c in zip(class_names, palette))
    return f'<p class="legend">{"".join(items)}</p>'


def buttons(kinds: Sequence[str], pressed: str) -> str:
    """One button for each kind of picture; a click shows the pictures of that kind (html_page.js)."""
    words = (f'<button data-kind="{k}" aria-pressed="{str(k == pressed).lower()}">{k}</button>' for k in kinds)
    return f'<div class="buttons">{"".join(words)}</div>'


def data_uri(content: bytes, mime: str) -> str:
    """A data: address that holds a file's content."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
