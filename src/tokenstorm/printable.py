r"""Text from outside, fit for people: servers, engines, files and users write what a terminal obeys, or what nobody sees.

Whatever is shown goes through here: terminal, report pages, CSV. Files and JSON keep what came, and the APIs give it.

- An escape, a control character, a mark that turns the direction of text (U+202E), a line or paragraph separator
  (U+2028, U+2029), half a surrogate pair or anything else without a glyph is shown as Python writes it: `\x1b`, `\u202e`.
- Colours (`ESC [ … m`) are left out: they say nothing. What they might have concealed is seen.
- Letters, spaces of any width and the joiners (U+200C, U+200D) that some scripts and emoji need stay as they are.
"""

import re
from unicodedata import category

_COLOURS = re.compile(r"(?:\x1b\[|\x9b)[0-9;:]*m")
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """A text of any number of lines: line breaks and tabs stay, a carriage return becomes a line break."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join("\t".join(map(printable_line, line.split("\t"))) for line in lines)


def printable_line(text: str) -> str:
    r"""A text that has one line to itself, or a part of one: its line breaks and tabs are shown as `\n` and `\t`."""
    if text.isprintable():
        return text
    return "".join(letter if _has_a_glyph(letter) else _escaped(letter) for letter in _COLOURS.sub("", text))


def printable_json(text: str) -> str:
    r"""The same JSON, with `\uXXXX` for what is not printable: that is how JSON writes it, and it means the same."""
    lines = text.split("\n")
    return "\n".join(
        line if line.isprintable() else "".join(c if _has_a_glyph(c) else _json_escaped(c) for c in line)
        for line in lines
    )


def _has_a_glyph(letter: str) -> bool:
    return letter.isprintable() or letter in _JOINERS or category(letter) == "Zs"


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _json_escaped(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
