"""What a file is that we do not read as prompts: its name is told by its content, so that a refusal can say it.

Plain text has no marks of its own. So a format is only named where its content shows it, or the file's name; a text with
commas, quotes or brackets in its lines stays a text.
"""

import json
import re
import tomllib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import msgspec

from tokenstorm.errors import NOT_JSON
from tokenstorm.loadgen.tables import table_format

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
    return _json_format(text) or _lines_format(lines) or table_format(lines, named_text=named_text)


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
