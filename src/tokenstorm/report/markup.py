"""Parts of a page. All text in it is printable and escaped here: nothing that a server or a user wrote is ever markup."""

from collections.abc import Sequence
from html import escape

from tokenstorm.printable import printable


def text(value: object) -> str:
    """Everything that is shown, fit for a page."""
    return escape(printable(str(value)))


def facts(rows: Sequence[tuple[str, object]]) -> str:
    """Names and what stands for each."""
    lines = [f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in rows]
    return f'<table class="facts">{"".join(lines)}</table>'


def grid(heads: Sequence[str], rows: Sequence[Sequence[object]], words: Sequence[int] = (0,)) -> str:
    """Figures under heads; what is too wide scrolls. `words` are the columns that may hold long texts."""

    def row(tag: str, cells: Sequence[object]) -> str:
        classes = [' class="words"' if column in words else "" for column in range(len(cells))]
        return "".join(f"<{tag}{kind}>{text(cell)}</{tag}>" for kind, cell in zip(classes, cells, strict=True))

    lines = [f"<tr>{row('th', heads)}</tr>", *(f"<tr>{row('td', cells)}</tr>" for cells in rows)]
    return f'<div class="scroll" tabindex="0"><table class="grid">{"".join(lines)}</table></div>'


def section(title: str, *parts: str) -> str:
    """A part of the page under a title; nothing where there is nothing in it."""
    there = [part for part in parts if part]
    return f"<section><h2>{text(title)}</h2>\n" + "\n".join(there) + "\n</section>" if there else ""


def note(words: str) -> str:
    """A sentence about what stands above."""
    return f'<p class="sub">{text(words)}</p>'


def more(title: str, part: str) -> str:
    """What is shown when it is asked for."""
    return f"<details><summary>{text(title)}</summary>\n{part}\n</details>"


def figure(chart: str) -> str:
    """The place of a chart; the page's script puts it there, title and all."""
    return f'<div data-chart="{text(chart)}"></div>'
