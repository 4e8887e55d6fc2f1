"""Every request as a row of a table: CSV and Parquet. Each time is a column in seconds, and its name says so."""

import csv
import importlib
import importlib.util
import io
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, BinaryIO, Literal, NamedTuple

import msgspec
from msgspec import inspect

from tokenstorm.errors import RunError
from tokenstorm.printable import printable_line
from tokenstorm.result import Result, Stretch, Turn

Kind = Literal["int64", "float64", "string", "bool_"]
Cell = int | float | str | bool | None
ROW_GROUP = 20_000
"""The rows that a Parquet file holds together, at least: so many are in memory at a time."""
_FORMULA = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")
"""A cell of text that begins so is a formula to a spreadsheet. The last four are the full-width forms."""


class Column(NamedTuple):
    """One column: its name, its type, and where its value comes from."""

    name: str
    kind: Kind
    of: Callable[[Any], Cell]


@cache
def columns() -> tuple[Column, ...]:
    """A result's own fields, and what people reckon from them first. Latencies are those of successful requests."""
    found: list[Column] = []
    for name, kind in _types(Result).items():
        match name:
            case "schema":
                continue
            case "error":
                found.append(Column("outcome", "string", lambda result: result.outcome))
                found.append(Column("error_kind", "string", lambda result: result.error and result.error.kind))
                found.append(Column("error_detail", "string", lambda result: result.error and result.error.detail))
            case "stretch":
                found += [_of_part(name, part, how) for part, how in _types(Stretch).items()]
            case "conversation":
                found += [_of_part(name, part, how) for part, how in _types(Turn).items()]
            case _:
                found.append(_plain(name, kind))
    return (
        *found,
        Column("latency_seconds", "float64", lambda result: _good(result, result.done, result.scheduled)),
        Column("service_time_seconds", "float64", lambda result: _good(result, result.done, result.sent)),
        Column("ttft_seconds", "float64", lambda result: _good(result, result.first_token, result.sent)),
        Column("tpot_seconds", "float64", lambda result: _seconds(result.tpot) if result.error is None else None),
    )


def csv_head() -> bytes:
    """The first line."""
    return _line([column.name for column in columns()])


def csv_rows(results: Iterable[Result]) -> bytes:
    """The lines of some requests: None is an empty cell, a text is one line, fit to be shown, and no formula."""
    return b"".join(_line([_cell(column.of(result)) for column in columns()]) for result in results)


class ParquetTable:
    """A Parquet file that is made a row group at a time: what is new of it comes back. Raises `RunError` where its writer is missing."""

    def __init__(self) -> None:
        if not importlib.util.find_spec("pyarrow"):
            message = "Parquet needs the package pyarrow: pip install 'tokenstorm[parquet]', or ask for csv"
            raise RunError(message)
        self._arrow = importlib.import_module("pyarrow")
        self._schema = self._arrow.schema([(column.name, getattr(self._arrow, column.kind)()) for column in columns()])
        self._new = _Written()
        self._writer = importlib.import_module("pyarrow.parquet").ParquetWriter(self._new, self._schema)
        self._rows: list[Result] = []

    def add(self, results: Iterable[Result]) -> bytes:
        """Some more rows. They are written once there are enough for a row group."""
        self._rows += results
        if len(self._rows) >= ROW_GROUP:
            self._write()
        return self._new.take()

    def end(self) -> bytes:
        """The rest of the file."""
        self._write()
        self._writer.close()
        return self._new.take()

    def _write(self) -> None:
        rows, self._rows = self._rows, []
        values = [[column.of(result) for result in rows] for column in columns()]
        arrays = [self._arrow.array(one, field.type) for one, field in zip(values, self._schema, strict=True)]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))


class _Written(io.RawIOBase):
    """A file whose content is taken away as it is written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._length

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._length += len(self._parts[-1])
        return len(self._parts[-1])

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def write_parquet(batches: Iterable[list[Result]], file: BinaryIO) -> None:
    """A Parquet file of all of them. Raises `RunError` where its writer is not installed."""
    table = ParquetTable()
    file.writelines(table.add(batch) for batch in batches)
    file.write(table.end())


def _types(kind: type[msgspec.Struct]) -> dict[str, inspect.Type]:
    """The fields of a line and their types, without None."""
    fields = inspect.type_info(kind)
    assert isinstance(fields, inspect.StructType)
    return {field.name: _inner(field.type) for field in fields.fields}


def _inner(kind: inspect.Type) -> inspect.Type:
    if isinstance(kind, inspect.Metadata):
        return _inner(kind.type)
    if isinstance(kind, inspect.UnionType):
        return next(_inner(one) for one in kind.types if not isinstance(one, inspect.NoneType))
    return kind


_MOMENTS = frozenset(
    (
        "scheduled",
        "slot_free",
        "sent",
        "connected",
        "first_chunk",
        "first_token",
        "first_content",
        "last_token",
        "done",
        "last_scheduled",
    )
)
"""Fields in nanoseconds from the common start."""


def _plain(name: str, kind: inspect.Type) -> Column:
    if name in _MOMENTS:
        return Column(f"{name}_seconds", "float64", lambda result: _seconds(getattr(result, name)))
    match kind:
        case inspect.IntType():
            return Column(name, "int64", lambda result: getattr(result, name))
        case inspect.FloatType():
            return Column(name, "float64", lambda result: getattr(result, name))
        case inspect.BoolType():
            return Column(name, "bool_", lambda result: getattr(result, name))
        case inspect.StrType() | inspect.LiteralType():
            return Column(name, "string", lambda result: getattr(result, name))
    unit = "_nanoseconds" if name == "chunk_times" else ""
    return Column(name + unit, "string", lambda result: _as_json(getattr(result, name)))


def _of_part(part: str, name: str, kind: inspect.Type) -> Column:
    """A field of a part that some lines have."""
    column = _plain(name, kind)

    def of(result: Result) -> Cell:
        return None if (found := getattr(result, part)) is None else column.of(found)

    return Column(f"{part}_{column.name}", column.kind, of)


def _good(result: Result, end: int | None, begin: int | None) -> float | None:
    return _seconds(end - begin) if result.error is None and end is not None and begin is not None else None


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


def _as_json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _cell(value: Cell) -> object:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            text = printable_line(value)
            return f"'{text}" if text[:1] in _FORMULA else text
    return value


def _line(values: list[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode()
