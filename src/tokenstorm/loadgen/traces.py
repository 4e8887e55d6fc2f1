"""Traces: recorded logs of when requests came, how long they and their answers were, and which blocks they shared.

The format is found by the content; the unit of its times and the size of its blocks follow from it. A row that contradicts
its format is refused with its line, or left out and counted.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from tokenstorm.errors import NOT_JSON, PlanError
from tokenstorm.load_parts import Trace, TraceFormat
from tokenstorm.loadgen.datasets import count_reason
from tokenstorm.loadgen.formats import binary_format, record_format

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000
_IDS: Final = 1 << 64
_MOST_TOKENS: Final = 10_000_000
"""No model takes so many: text of them would fill a rank's memory."""
_LONGEST_HEADER: Final = 10_000
_PEEKED = 200
"""So many rows are looked at where the first ones fit two formats."""
_KNOWN: Final = (
    "what is read is Mooncake (JSON lines, milliseconds, blocks of 512), Bailian or Qwen (JSON lines with `chat_id`, seconds, "
    "blocks of 16), vLLM's timed trace (JSON lines, seconds, blocks of 16), Azure 2023 and 2024 (CSV), BurstGPT (CSV)"
)


class Row(NamedTuple):
    """One request of a trace: when it came (nanoseconds from the first row), its tokens and its answer's, and its blocks."""

    at: int
    input: int
    output: int
    ids: list[int]


class BadRow(ValueError):
    """A row that contradicts its format."""


Parse = Callable[[str], Row]
"""Reads a line, whose time counts from wherever the trace counts from. Raises `BadRow`."""


@dataclass(frozen=True)
class Format:
    """What a trace is: its name for people, and the tokens of a block where it tells which blocks requests share."""

    name: str
    block: int | None
    has_header: bool
    parser: Callable[[str], Parse]
    """Makes what reads a line, from the first line."""


@dataclass
class Read:
    """A trace while it is read: `rows` gives what is replayed; the counts are complete when that has ended."""

    format: Format
    rows: Iterator[Row]
    skipped: Counter[str] = field(default_factory=Counter)


class _Line(msgspec.Struct):
    timestamp: float | int | None = None
    input_length: int | None = None
    output_length: int | None = None
    hash_ids: list[int] | None = None


_decode = msgspec.json.Decoder(_Line).decode


def read_trace(data: bytes, where: str, trace: Trace) -> Read:
    """The rows of a trace that are replayed; `where` names it. Raises `PlanError`, also while the rows are read."""
    if found := binary_format(data):
        message = f"{where} is {found}: {_KNOWN}"
        raise PlanError(message, "trace")
    kind = FORMATS[trace.format] if trace.format else _format_of(data, where)
    read = Read(kind, iter(()))
    read.rows = _chosen(_parsed(data, where, trace, read), trace)
    return read


def _parsed(data: bytes, where: str, trace: Trace, read: Read) -> Iterator[Row]:
    """Every row that fits its format, by its time from the first one on."""
    lines = _lines(data, where)
    first = next(lines, (1, ""))[1] if read.format.has_header else ""
    parse = read.format.parser(first)
    start = last = None
    for number, line in lines:
        try:
            row = parse(line)
            if last is not None and row.at < last:
                message = "its time is before that of the row above: sort the trace by time"
                raise BadRow(message)  # noqa: TRY301 - it is handled as any other fault of the row
        except BadRow as error:
            if not trace.skip_bad_rows:
                message = f"{where}, line {number}: {error} (--skip-bad-rows leaves such rows out, and counts them)"
                raise PlanError(message, "trace") from None
            count_reason(read.skipped, re.sub(r"\d+", "…", str(error)))
            continue
        last = row.at
        start = row.at if start is None else start
        yield row._replace(at=row.at - start)


def _chosen(rows: Iterator[Row], trace: Trace) -> Iterator[Row]:
    """Those between the moments that were asked for, at the speed that was asked for."""
    begin = round(trace.from_seconds * SECOND)
    end = None if trace.until_seconds is None else round(trace.until_seconds * SECOND)
    inside = (row for row in rows if row.at >= begin and (end is None or row.at < end))
    for row in islice(inside, trace.limit):
        yield row._replace(at=round((row.at - begin) / trace.speed))


def _lines(data: bytes, where: str) -> Iterator[tuple[int, str]]:
    """Each line that is not blank, with its number."""
    try:
        for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="\n"), 1):
            if line := line.strip():
                yield number, line
    except UnicodeDecodeError as error:
        message = f"{where}: not UTF-8 text ({error.reason}): save the file as UTF-8"
        raise PlanError(message, "trace") from None


def _format_of(data: bytes, where: str) -> Format:
    """What the first lines show. Raises `PlanError` that says what it looked like."""
    peeked = [line for _, line in islice(_lines(data, where), _PEEKED)]
    if not peeked:
        message = f"{where} is empty: {_KNOWN}"
        raise PlanError(message, "trace")
    if peeked[0].startswith("{"):
        return FORMATS[_of_json(peeked, where)]
    columns = set(_columns(peeked[0]))
    if {"timestamp", "contexttokens", "generatedtokens"} <= columns:
        return FORMATS["azure"]
    if {"timestamp", "requesttokens", "responsetokens"} <= columns:
        return FORMATS["burstgpt"]
    message = f"{where} is none of the traces that are read; its first line is {peeked[0][:80]!r}: {_KNOWN}"
    raise PlanError(message, "trace")


def _of_json(lines: list[str], where: str) -> TraceFormat:
    """Which of the formats of JSON lines; they have the same keys, so that the size of the blocks tells."""
    records = []
    for line in lines:
        try:
            record = msgspec.json.decode(line)
        except NOT_JSON:
            continue
        if isinstance(record, dict):
            records.append(record)
    if not records or not {"input_length", "output_length"} <= records[0].keys():
        looks = record_format(records[0]) if records else None
        what = f"looks like {looks}" if looks else f"begins with {lines[0][:80]!r}"
        message = f"{where} is none of the traces that are read; it {what}: {_KNOWN}"
        raise PlanError(message, "trace")
    if "chat_id" in records[0]:
        return "bailian"
    sizes = {name for name in ("mooncake", "vllm") if any(_fits(record, FORMATS[name]) for record in records)}
    if len(sizes) == 1:
        return "mooncake" if "mooncake" in sizes else "vllm"
    why = "no row tells its blocks" if not sizes else "its blocks fit both"
    message = (
        f"{where} may be Mooncake's (milliseconds) or vLLM's timed trace (seconds), for {why}: give --trace-format"
    )
    raise PlanError(message, "trace")


def _fits(record: Mapping[str, object], kind: Format) -> bool:
    """Whether a row has as many blocks as this format gives it, and another format would give it another number."""
    length, ids = record.get("input_length"), record.get("hash_ids")
    if not isinstance(length, int) or not isinstance(ids, list) or not ids:
        return False
    assert kind.block is not None
    return -(-length // kind.block) == len(ids) and length > 16  # noqa: PLR2004 - one block of either size


def _json_parser(unit: int, block: int) -> Callable[[str], Parse]:
    def parse(line: str) -> Row:
        try:
            found = _decode(line)
        except NOT_JSON as error:
            message = f"it is no row of this trace: {error}"
            raise BadRow(message) from None
        if found.timestamp is None:
            message = "it has no `timestamp`"
            raise BadRow(message)
        ids = found.hash_ids or []
        if ids and not 0 <= min(ids) <= max(ids) < _IDS:
            message = "a number in `hash_ids` is not within 64 bits"
            raise BadRow(message)
        length = _input(found.input_length)
        if ids and -(-length // block) != len(ids):
            message = f"`input_length` {length} is {-(-length // block)} blocks of {block} tokens, and `hash_ids` has {len(ids)}"
            raise BadRow(message)
        return Row(round(found.timestamp * unit), length, _output(found.output_length), ids)

    return lambda _: parse


def _csv_parser(time: Callable[[str], int], asked: str, answered: str) -> Callable[[str], Parse]:
    """Reads columns by their names, wherever they stand."""

    def parser(header: str) -> Parse:
        columns = _columns(header)
        try:
            places = [columns.index(name) for name in ("timestamp", asked, answered)]
        except ValueError:
            message = f"its header {header[:80]!r} lacks a column of this trace: {_KNOWN}"
            raise PlanError(message, "trace") from None

        def parse(line: str) -> Row:
            fields = _quoted(line) if '"' in line else line.split(",")
            if len(fields) != len(columns):
                message = f"it has {len(fields)} fields, and the header has {len(columns)}"
                raise BadRow(message)
            at, length, output = (fields[place] for place in places)
            return Row(time(at), _input(_whole(length)), _output(_whole(output)), [])

        return parse

    return parser


def _columns(header: str) -> list[str]:
    """The names in a header, without what their spellings differ in; none where it is too long for one."""
    if len(header) > _LONGEST_HEADER:
        return []
    return [re.sub(r"[ _-]", "", name).lower() for name in next(csv.reader([header]))]


def _quoted(line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        message = f"it is no row of this trace: {error}"
        raise BadRow(message) from None


def _whole(text: str) -> int | None:
    """A count, which some tables write as 12.0."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _input(length: int | None) -> int:
    if length is None or length < 1:
        message = f"its prompt has {'no length' if length is None else f'{length} tokens'}: it cannot be sent"
        raise BadRow(message)
    return _bounded(length, "prompt")


def _output(length: int | None) -> int:
    if length is None or length < 0:
        message = f"its answer has {'no length' if length is None else f'{length} tokens'}"
        raise BadRow(message)
    return _bounded(length, "answer")


def _bounded(length: int, what: str) -> int:
    if length > _MOST_TOKENS:
        message = f"its {what} has {length} tokens, and no model takes more than {_MOST_TOKENS}"
        raise BadRow(message)
    return length


_ISO = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")


def _iso(text: str) -> int:
    """A date and time with up to nine digits of a fraction, and with or without an offset, in nanoseconds."""
    match = _ISO.fullmatch(text.strip())
    if match is None:
        message = f"its time {text[:40]!r} is none"
        raise BadRow(message)
    try:
        moment = datetime.fromisoformat(match[1] + (match[3] or "+00:00")).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        message = f"its time {text[:40]!r} is none ({error})"
        raise BadRow(message) from None
    return round(moment.timestamp()) * SECOND + int((match[2] or "0").ljust(9, "0"))


def _seconds(text: str) -> int:
    try:
        return round(float(text) * SECOND)
    except (ValueError, OverflowError):
        message = f"its time {text[:40]!r} is no number of seconds"
        raise BadRow(message) from None


FORMATS: Final[dict[TraceFormat, Format]] = {
    "mooncake": Format("Mooncake", 512, has_header=False, parser=_json_parser(MILLISECOND, 512)),
    "bailian": Format("Bailian", 16, has_header=False, parser=_json_parser(SECOND, 16)),
    "vllm": Format("vLLM's timed trace", 16, has_header=False, parser=_json_parser(SECOND, 16)),
    "azure": Format("Azure", None, has_header=True, parser=_csv_parser(_iso, "contexttokens", "generatedtokens")),
    "burstgpt": Format(
        "BurstGPT", None, has_header=True, parser=_csv_parser(_seconds, "requesttokens", "responsetokens")
    ),
}
