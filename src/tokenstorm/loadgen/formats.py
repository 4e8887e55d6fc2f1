"""What a file is that we do not read as prompts: its name is told by its content, so that a refusal can say it.

Plain text has no marks of its own. So a format is only named where its content shows it, or the file's name; a text with
commas, quotes or brackets in its lines stays a text.
"""

import csv
import json
import re
import tomllib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import PurePath

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
_RULE = re.compile(r"\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?")
"""The line below the header of a Markdown table, if it has a bar."""
_PYTHON_RECORD = re.compile(r"\{\s*'[^']*'\s*:.*\}\s*")

_YAML_KEY = r"(?:prompts?|messages|conversations|questions)[ \t]*:"
_YAML = re.compile(
    rf"(?:---\s*\n\s*)?(?:- {_YAML_KEY}\s|(?:[\w-]+:[^\n]*\n\s*)*?{_YAML_KEY}[ \t]*(?:[|>][-+]?[ \t]*\n|\n\s*- |\n[ \t]+\S))"
)
"""An element with a key for prompts; or keys, and then a list or a block below one for prompts."""
_YAML_CHARACTERS = 1 << 16
_MARKUP = re.compile(r"<!doctype\s|<\?xml\s|<html\b[^>]*>\s*(?:<|\n|\Z)", re.IGNORECASE)
_ROOT = re.compile(r"<([A-Za-z][\w:.-]*)(?:\s[^>]*)?>")

_SUFFIXES = {
    ".csv": "CSV",
    ".tsv": "a table (TSV)",
    ".xml": "XML",
    ".html": "a page of HTML",
    ".htm": "a page of HTML",
    ".yaml": "YAML",
    ".yml": "YAML",
    ".toml": "TOML",
    ".ini": "an INI file",
    ".parquet": "a Parquet file",
    ".arrow": "an Arrow file",
    ".feather": "an Arrow file",
    ".avro": "an Avro file",
    ".xlsx": "a workbook",
    ".xls": "a workbook",
    ".ods": "a workbook",
    ".docx": "a document",
    ".odt": "a document",
    ".pdf": "a PDF",
    ".rtf": "an RTF document",
    ".npy": "a NumPy array",
    ".h5": "an HDF5 file",
    ".hdf5": "an HDF5 file",
    ".db": "a database",
    ".sqlite": "an SQLite database",
    ".pkl": "a pickle of Python",
    ".pickle": "a pickle of Python",
    ".gz": "compressed by gzip",
    ".zst": "compressed by zstd",
    ".bz2": "compressed by bzip2",
    ".xz": "compressed by xz",
    ".zip": "a zip archive",
    ".tar": "a tar archive",
}
_PEEKED = 10
"""So many lines have to agree where one proves nothing."""


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


def named_format(name: str) -> str | None:
    """What the end of a file's name says it is; None for text, JSON lines, and ends that say nothing."""
    return _SUFFIXES.get(PurePath(name).suffix.lower())


def text_format(text: str, lines: Sequence[str], *, named_text: bool) -> str | None:
    """What a text is that begins with no JSON line; None for plain text.

    `lines` are those that are not blank; `named_text` says that the file has the name of a text, which is believed where
    the content leaves a doubt.
    """
    text = text.replace("\r\n", "\n")
    if _MARKUP.match(text) or _is_element(text, lines):
        return "a page of HTML or XML"
    if _YAML.match(text[:_YAML_CHARACTERS]):
        return "YAML"
    if not named_text and _is_toml(text):
        return "TOML"
    return _json_format(text) or _lines_format(lines) or _csv_format(lines, named_text=named_text)


def record_format(record: Mapping[str, object]) -> str | None:
    """What a JSON object is a record of, by its keys."""
    return next((name for name, keys in _RECORDS if all(key in record for key in keys)), None)


def is_json_line(line: str) -> bool:
    """Whether a line begins with a whole JSON object that only another one may follow."""
    line = line.strip()
    found, end = _value(line) if line.startswith("{") else (None, 0)
    return isinstance(found, dict) and line[end:].lstrip()[:1] in {"", "{"}


def _is_element(text: str, lines: Sequence[str]) -> bool:
    """Whether one element of XML goes on from the first line to the last."""
    root = _ROOT.match(text)
    return (
        root is not None
        and len(lines) > 1
        and f"</{root[1]}" not in lines[0]
        and lines[-1].strip().endswith(f"</{root[1]}>")
    )


def _is_toml(text: str) -> bool:
    """Whether it is TOML with something else than numbers in it: `x = 5` is a prompt, too."""
    try:
        values = list(tomllib.loads(text).values())
    except (ValueError, RecursionError):
        return False
    return any(isinstance(value, str | list) or (isinstance(value, dict) and value) for value in values)


def _lines_format(lines: Sequence[str]) -> str | None:
    """Lines that all hold the same: texts or arrays of JSON, or records as Python shows them."""
    some = [line.strip() for line in lines[:_PEEKED]]
    if all(map(_PYTHON_RECORD.fullmatch, some)):
        return "records of Python, not JSON (write each with `json.dumps`)"
    if len(some) > 1:
        for sign, kind in (('"', "texts (leave the quotes out, or write objects)"), ("[", "arrays")):
            if all(line.startswith(sign) and _is_json(line) for line in some):
                return f"JSON lines of {kind}"
    if len(some) > 1 and "|" in some[0] and "|" in some[1] and _RULE.fullmatch(some[1]):
        return "a table of Markdown"
    return None


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


def _csv_format(lines: Sequence[str], *, named_text: bool) -> str | None:
    """A table whose first line names columns that are known, and whose records have as many fields as that line."""
    if len(lines) > 1 and _SEPARATOR.fullmatch(lines[0].strip(" \r\n")):
        return "CSV as Excel writes it"
    if len(lines) > 1 and (found := _column_alone(lines, named_text=named_text)):
        return found
    for delimiter in (",", "\t", ";", "|"):
        header, *records = _records(lines, delimiter)
        columns = [column.strip() for column in header]
        if len(columns) < 2:  # noqa: PLR2004
            continue
        columns[0] = columns[0].removeprefix("#").strip()
        if _is_header(header, columns, records):
            names = [column for column in columns if column]
            return _trace(set(map(_plain, names))) or f"CSV with the columns {', '.join(names)}"
    return None


def _column_alone(lines: Sequence[str], *, named_text: bool) -> str | None:
    """A table of one column. Its name alone is a line of a text as well, all the more with a capital letter.

    So it is believed where it is `prompt`, where quotes below it show CSV, or in small letters where nobody says it is text.
    """
    name = lines[0].strip().strip('"').removeprefix("#").strip()
    if _plain(name) not in _ALONE:
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
    known = [name for name in names if _plain(name) in _COLUMNS]
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


def _plain(column: str) -> str:
    return re.sub(r"[ _-]", "", column).lower()
