"""What came from outside is shown, and does nothing to whoever looks at it."""

import json
import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tokenstorm.printable import printable, printable_json, printable_line

ANYTHING = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cs"]),
        st.sampled_from("\x1b[]2Jm;8\x07\x9b\x90\u202e\u2028\u2066\ufeff\x7f\x00\n\r\t\b\x0b\x0c\x85\u200d\u00a0"),
    )
)


def test_an_escape_of_a_terminal_is_seen_and_not_obeyed() -> None:
    assert printable("a\x1b[2Jb") == r"a\x1b[2Jb"
    assert printable("\x1b]0;title\x07 \x9b2J \x90q\x9c") == r"\x1b]0;title\x07 \x9b2J \x90q\x9c"


def test_marks_that_turn_the_direction_of_text_and_invisible_ones_are_seen() -> None:
    assert printable("\u202egpj.exe\u2066\u200f\ufeff\U000e0041") == r"\u202egpj.exe\u2066\u200f\ufeff\U000e0041"


def test_what_no_encoding_has_is_seen() -> None:
    assert printable("half \ud83d of it, \udcff of a name").encode() == rb"half \ud83d of it, \udcff of a name"


def test_colours_are_left_out_and_what_they_concealed_is_seen() -> None:
    assert printable("\x1b[1;36m(EngineCore pid=1)\x1b[0;0m \x1b[8mhidden\x1b[0m \x9b31mred") == (
        "(EngineCore pid=1) hidden red"
    )
    assert printable("\x1b\x1b[0m[2J") == r"\x1b[2J", "what is left does not become another escape"


def test_a_text_keeps_its_lines_and_tabs() -> None:
    assert printable("one\r\ntwo\n\tthree\n") == "one\ntwo\n\tthree\n"


def test_a_progress_bar_that_writes_over_itself_becomes_lines() -> None:
    assert printable("verdict: INVALID\rverdict: VALID  ") == "verdict: INVALID\nverdict: VALID  "


def test_other_breaks_of_lines_are_seen() -> None:
    assert printable("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg") == r"a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"


def test_on_a_line_of_its_own_a_text_cannot_begin_another() -> None:
    assert printable_line("bad\r\ntokenstorm: fine\tx") == r"bad\r\ntokenstorm: fine\tx"


def test_words_of_any_script_stay_as_they_are() -> None:
    words = "é 漢字 \u0645\u06cc\u200c\u062e 👩\u200d🚀 🏳\ufe0f Grüße\u00a0! \u3000 µs → ½"
    assert printable(words) == words


@given(ANYTHING)
def test_nothing_but_glyphs_line_breaks_and_tabs_is_left_of_any_text(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} and c not in "\n\t"]
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", shown)
    assert printable(shown) == shown
    assert "\n" not in printable_line(text)


@given(ANYTHING)
def test_json_that_is_shown_means_what_it_meant(text: str) -> None:
    written = json.dumps({"text": text}, ensure_ascii=False, indent=1)
    shown = printable_json(written)
    assert json.loads(shown) == json.loads(written)
    assert printable(shown) == shown
