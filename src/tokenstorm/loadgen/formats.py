"""What a file is that we do not read as prompts: its name is told by its content, so that a refusal can say it.

Plain text has no marks of its own. So a format is only named where its content shows it, and a text with commas, quotes
or brackets in its lines stays a text.
"""

import csv
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import islice

import msgspec

from tokenstorm.errors import NOT_JSON

_UTF16 = "UTF-16 text, not UTF-8 (save it as UTF-8)"
_BEGINNINGS = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"Obj\x01", "an Avro file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "compressed by gzip (unpack it)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"(\xb5/\xfd", "compressed by zstd (unpack it)"),
    (b"BZh", "compressed by bzip2 (unpack it)"),
    (b"\xfd7zXZ", "compressed by xz (unpack it)"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x04\x22\x4d\x18", "compressed by lz4 (unpack it)"),
    (b"%PDF-", "a PDF"),
    (b"{\\rtf", "an RTF document"),
    (BOM_UTF32_LE, "UTF-32 text, not UTF-8 (save it as UTF-8)"),
    (BOM_UTF32_BE, "UTF-32 text, not UTF-8 (save it as UTF-8)"),
    (BOM_UTF16_LE, _UTF16),
    (BOM_UTF16_BE, _UTF16),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself (`git lfs pull` gets that)"),
)
"""The first bytes of a file; a beginning stands before those that are a part of it."""

_RECORDS = (
    ("output of an OpenAI batch", ("custom_id", "response")),
    ("an OpenAI batch", ("custom_id",)),
    ("a Bailian trace", ("chat_id", "input_length")),
    ("a Mooncake trace", ("timestamp", "input_length")),
    ("a trace of lengths", ("input_length", "output_length")),
    ("a trace of blocks", ("block_size", "requests")),
    ("ShareGPT", ("conversations",)),
    ("WildChat", ("conversation_hash", "conversation")),
    ("LMSYS-Chat", ("conversation_id", "conversation")),
    ("turns of MLPerf's conversations", ("conversation_id", "turn")),
    ("conversations", ("conversation",)),
    ("sessions of AIPerf or of coding agents", ("session_id", "turns")),
    ("a trace of Baseten", ("timestamp_start_unix_ms",)),
    ("vLLM's custom dataset", ("prompt", "output_tokens")),
    ("turns of AIPerf", ("text", "output_length")),
    ("turns of AIPerf", ("texts",)),
    ("pairs of preference", ("chosen", "rejected")),
    ("instructions with answers (Alpaca)", ("instruction", "output")),
    ("instructions with answers (Dolly)", ("instruction", "response")),
    ("prompts with completions", ("prompt", "completion")),
    ("prompts with responses", ("prompt", "response")),
    ("questions with answers", ("question", "answer")),
    ("bodies of requests", ("model", "messages")),
    ("bodies of requests", ("model", "prompt")),
    ("records with a `text`", ("text",)),
)
"""The keys that tell what a JSON object is; the first that has all of its keys there counts."""

_NAMES = (
    "act answer answers article assistant body category chosen choices completion completiontokens content context "
    "contexttokens conversation conversationid customid date description document elapsedtime generatedtokens goal highlights id "
    "idx index input inputlength inputs inputtokens instruction instructions label language logtype maxtokens message messages "
    "method model name numimages output outputlength outputs outputtokens prompt prompts prompttokens query question questions "
    "rejected requesttokens response responses responsetokens role sessionid source subject summary system tags target "
    "text time timestamp title topic totaltokens turn type url user"
)
_COLUMNS = frozenset(_NAMES.split())
"""Names of columns, in small letters, without spaces and underscores."""
_ALONE = frozenset(("input", "inputs", "instruction", "instructions", "prompt", "prompts", "query", "question", "text"))
"""Names that are no prompt where they stand alone on the first line."""
_COLUMN = re.compile(r"[A-Za-z_]\w*(?:[ .-][\w()]+){0,2}", re.ASCII)
_COMPARED = 5
"""So many records are compared with the header."""

_YAML = re.compile(r"(?:---\s*\n\s*)?(?:- )?(?:prompts?|messages|conversations|questions)\s*:\s*[|>]?[-+]?\s*(?:\n|$)")
_MARKUP = re.compile(r"<!doctype\s|<\?xml\s", re.IGNORECASE)


def binary_format(data: bytes) -> str | None:
    """What the first bytes say a file is, or what its zeros do; None for what may be text in UTF-8."""
    for beginning, name in _BEGINNINGS:
        if data.startswith(beginning):
            return name
    start = data[:4096]
    pairs = len(start) // 2
    first, second = start[::2].count(0), start[1::2].count(0)
    if pairs and max(first, second) >= 0.4 * pairs and min(first, second) <= 0.05 * pairs:  # Latin text in two bytes
        return _UTF16
    return None


def text_format(text: str, lines: Sequence[str], *, named_table: bool) -> str | None:
    """What a text is that begins with no JSON line; None for plain text.

    `lines` are those that are not blank; `named_table` says that the file has the name of a table.
    """
    if _MARKUP.match(text) or (text[:5].lower() == "<html" and "</html" in text.lower()):
        return "a page of HTML or XML"
    if _YAML.match(text):
        return "YAML"
    return _json_format(text) or _csv_format(lines, named=named_table)


def record_format(record: Mapping[str, object]) -> str | None:
    """What a JSON object is a record of, by its keys."""
    return next((name for name, keys in _RECORDS if all(key in record for key in keys)), None)


def is_json_line(line: str) -> bool:
    """Whether a line begins with a whole JSON object that only another one may follow."""
    line = line.strip()
    found, end = _value(line) if line.startswith("{") else (None, 0)
    return isinstance(found, dict) and line[end:].lstrip()[:1] in {"", "{"}


def _json_format(text: str) -> str | None:
    """A JSON document, which may be cut off or broken behind its first element."""
    if text.startswith("{"):
        record, end = _value(text)
        if isinstance(record, dict) and "\n" in text[:end]:
            return _with_records("a JSON object over several lines", record)
    elif text.startswith("["):
        element, _ = _value(text[1:].lstrip())
        if isinstance(element, dict) or _is_json(text):
            return _with_records("a JSON array", element)
    return "JSON over several lines, and broken" if text.partition("\n")[0].strip() in {"[", "{"} else None


def _value(text: str) -> tuple[object, int]:
    """The JSON value that a text begins with, and where it ends; nothing, and 0, where it begins with none."""
    try:
        return json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except NOT_JSON:
        return False
    return True


def _with_records(name: str, record: object) -> str:
    kind = record_format(record) if isinstance(record, dict) else None
    return f"{name} that looks like {kind}" if kind else name


def _csv_format(lines: Sequence[str], *, named: bool) -> str | None:
    """A table whose first line names columns, and whose records have as many fields as that line.

    The columns are known by their names, or the file is `named` as a table.
    """
    if len(lines) > 1 and _plain(lines[0].strip().strip('"')) in _ALONE:
        return f"CSV with the column {lines[0].strip()}"
    for delimiter in (",", "\t", ";"):
        header, *records = _records(lines, delimiter)
        columns = [column.strip() for column in header]
        if len(columns) > 1 and _is_header(header, columns, records, named=named):
            return _trace({_plain(column) for column in columns}) or f"CSV with the columns {', '.join(columns)}"
    return None


def _records(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The header and the first records."""
    found: list[list[str]] = []
    with suppress(csv.Error):  # a field without an end
        for record in islice(csv.reader(lines, delimiter=delimiter), 1 + _COMPARED):
            found.append(record)  # noqa: PERF402 - those before an error stay
    return found or [[]]


def _is_header(header: list[str], columns: list[str], records: list[list[str]], *, named: bool) -> bool:
    if not all(map(_COLUMN.fullmatch, columns)):
        return False
    known = [column for column in columns if _plain(column) in _COLUMNS]
    repeated = bool(records) and all(len(record) == len(columns) for record in records)
    if len(known) == len(columns):
        return repeated or header == columns
    return repeated and (named or (header == columns and len(records) > 1 and 2 * len(known) >= len(columns)))


def _trace(columns: Collection[str]) -> str | None:
    if {"timestamp", "contexttokens", "generatedtokens"} <= set(columns):
        return "a trace of Azure (CSV)"
    if {"timestamp", "requesttokens", "responsetokens"} <= set(columns):
        return "a BurstGPT trace (CSV)"
    return None


def _plain(column: str) -> str:
    return re.sub(r"[ _-]", "", column).lower()
