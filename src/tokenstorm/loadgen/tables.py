"""Tables: text whose first line names columns, with a delimiter between them, and a record a line below that.

A table has no mark of its own: it is known by names of columns that are usual, or because somebody named its columns.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from tokenstorm.errors import PlanError

_NAMES = (
    "act answer answers article assistant body category chosen choices completion completiontokens content context "
    "contexttokens conversation conversationid customid date description document elapsedtime generatedtokens goal highlights id "
    "idx index input inputlength inputs inputtokens instruction instructions label language logtype maxtokens message messages "
    "method model name numimages output outputlength outputs outputtokens prompt prompts prompttokens query question questions "
    "rejected requesttokens response responses responsetokens role sessionid source subject summary system tags target "
    "text time timestamp title topic totaltokens turn type url user"
)
_FOREIGN = (
    "antwort antworten ausgabe eingabe frage fragen réponse sortie entrée pregunta respuesta entrada salida pergunta resposta "
    "saída domanda risposta вопрос ответ 提示 提示词 问题 問題 回答 答案 输入 輸入 输出 輸出 指令 質問 入力 出力 指示 질문 답변 입력 출력"
)
_COLUMNS = frozenset((_NAMES + " " + _FOREIGN).split())
"""Names of columns, in small letters, without spaces and underscores."""
_ALONE = frozenset(("input", "inputs", "instruction", "instructions", "prompt", "prompts", "query", "question", "text"))
"""Names that are no prompt where they stand alone on the first line."""
_COLUMN = re.compile(r"[^\W\d]\w*(?:(?:: |[ .-])[\w()]+){0,2}")
_COMPARED = 5
"""So many records are compared with the header."""

_SEPARATOR = re.compile(r'"?sep=[^\w\s"]"?|sep=\t')
"""What Excel writes before the header."""

_DELIMITERS: Final = (",", "\t", ";", "|")
_HEAD: Final = 1 << 20
"""So many bytes are looked at to find the header."""
_LONGEST_FIELD: Final = 1 << 30


class Header(NamedTuple):
    """The first line of a table: its delimiter, its columns ("" for one without a name), and the lines before it."""

    delimiter: str
    columns: list[str]
    before: int = 0


def head_of(data: bytes) -> list[str]:
    """The first lines of a text that are not blank."""
    text = data[:_HEAD].decode("utf-8-sig", errors="ignore")
    return [line for line in text.split("\n") if line.strip()]


def find_header(lines: Sequence[str], *, named_text: bool) -> Header | None:
    """The header of a table whose columns are known, and whose records have as many fields as that; None for other text."""
    before = int(len(lines) > 1 and _SEPARATOR.fullmatch(lines[0].strip(" \r\n")) is not None)
    if before:
        delimiter = lines[0].strip(' \r\n"')[-1]
        return Header(delimiter, _named(_records(lines[1:], delimiter)[0]), before)
    if len(lines) > 1 and _column_alone(lines, named_text=named_text):
        return Header(",", _named([lines[0].strip().strip('"')]))
    for delimiter in _DELIMITERS:
        header, *records = _records(lines, delimiter)
        columns = _named(header)
        if len(columns) > 1 and _is_header(header, columns, records):
            return Header(delimiter, columns)
    return None


def header_with(names: Collection[str], lines: Sequence[str]) -> Header | None:
    """The first line as a header: by the delimiter that makes most of these names of it, or else most columns."""

    def worth(header: Header) -> tuple[int, int]:
        return len(set(names) & set(header.columns)), len(header.columns)

    headers = [Header(delimiter, _named(_records(lines[:1], delimiter)[0])) for delimiter in _DELIMITERS]
    return max(headers, key=worth) if lines else None


def read_table(data: bytes, where: str, header: Header) -> Iterator[dict[str, str] | None]:
    """The records of a table by their columns, read as they are asked for; None for one with another number of fields.

    Raises `PlanError` with the line for what is no table there, or not UTF-8.
    """
    limit = csv.field_size_limit(_LONGEST_FIELD)  # of the whole process: who reads a trace wants the usual one
    lines = (line for line in io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=""))
    reader = csv.reader(lines, delimiter=header.delimiter, strict=True)
    least = len(header.columns) - (not header.columns[-1])
    alone = len(header.columns) == 1
    try:
        for number, fields in enumerate(record for record in reader if any(record)):
            if alone:
                fields = [header.delimiter.join(fields)]  # noqa: PLW2901 - there is nothing that it could divide
            if number > header.before:
                fits = least <= len(fields) <= len(header.columns)
                yield dict(zip(header.columns, fields, strict=False)) if fits else None
    except csv.Error as error:
        message = f"{where}, line {reader.line_num}: it is no record of a table: {error}"
        raise PlanError(message) from None
    except UnicodeDecodeError as error:
        message = f"{where}: not UTF-8 text ({error.reason}): save the file as UTF-8"
        raise PlanError(message) from None
    finally:
        csv.field_size_limit(limit)


def plain(column: str) -> str:
    """A column's name without what its spellings differ in."""
    return re.sub(r"[ _-]", "", column).lower()


def table_format(lines: Sequence[str], *, named_text: bool) -> str | None:
    """What a table is, for a refusal; None for plain text."""
    header = find_header(lines, named_text=named_text)
    if header is None:
        return None
    if header.before:
        return "CSV as Excel writes it"
    if len(header.columns) == 1:
        return _column_alone(lines, named_text=named_text)
    names = [column for column in header.columns if column]
    return _trace(set(map(plain, names))) or f"CSV with the columns {', '.join(names)}"


def _named(header: list[str]) -> list[str]:
    """The columns of a header, without the mark of a comment before the first."""
    columns = [column.strip() for column in header]
    return [columns[0].removeprefix("#").strip(), *columns[1:]] if columns else [""]


def _column_alone(lines: Sequence[str], *, named_text: bool) -> str | None:
    """A table of one column. Its name alone is a line of a text as well, all the more with a capital letter.

    So it is believed where it is `prompt`, where quotes below it show CSV, or in small letters where nobody says it is text.
    """
    name = lines[0].strip().strip('"').removeprefix("#").strip()
    if plain(name) not in _ALONE:
        return None
    if name in {"prompt", "prompts"} or _has_quoted(lines[1 : 1 + _COMPARED]):
        return f"CSV with the column {name}"
    return f"CSV with the column {name} (name it `.txt` if it is text)" if name.islower() and not named_text else None


def _has_quoted(lines: Sequence[str]) -> bool:
    """Whether a line is in quotes as CSV has them: around a comma, or around other quotes, which are doubled."""
    return any(re.fullmatch(r'"(?=.*(?:,|""))(?:[^"]|"")*"', line.strip()) for line in lines)


def _records(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The header and the first records."""
    found: list[list[str]] = []
    try:
        for record in islice(csv.reader(lines, delimiter=delimiter), 1 + _COMPARED):
            found.append(record)  # noqa: PERF402 - those before an error stay
    except csv.Error:  # a field is too long, so a record has begun
        found += found if len(found) == 1 else []
    return found or [[]]


def _is_header(header: list[str], columns: list[str], records: list[list[str]]) -> bool:
    """Whether `header`, of these `columns`, stands above a table. A column at the border may have no name, as an index has."""
    names = columns[not columns[0] : len(columns) - (not columns[-1])]
    if not names or not all(map(_COLUMN.fullmatch, names)):
        return False
    known = [name for name in names if plain(name) in _COLUMNS]
    bordered = len(names) < len(columns)
    least = len(columns) - (not columns[-1])
    if not records or any(len(record) < least for record in records):
        return False
    if len(known) == len(names):
        return True
    repeated = all(least <= len(record) <= len(columns) for record in records)
    spaced = any(field != field.strip() for field in header)
    return repeated and not spaced and len(records) > 1 and (2 * len(known) >= len(names) or (bordered and bool(known)))


def _trace(columns: Collection[str]) -> str | None:
    if {"timestamp", "contexttokens", "generatedtokens"} <= set(columns):
        return "a trace of Azure (CSV)"
    if {"timestamp", "requesttokens", "responsetokens"} <= set(columns):
        return "a BurstGPT trace (CSV)"
    return None
