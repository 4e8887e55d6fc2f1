"""Datasets that people publish, and tables, read as prompts: known by the keys of their records, not by their names.

A record that cannot be asked (no question in it, nothing but blanks) is left out and counted by its reason.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from tokenstorm.errors import PlanError
from tokenstorm.load_parts import Column
from tokenstorm.loadgen.formats import binary_format
from tokenstorm.loadgen.promptfile import Prompt, parse_prompts
from tokenstorm.loadgen.tables import find_header, head_of, header_with, plain, read_table

Record = Mapping[str, Any]
Read = Callable[[Record], Prompt]
"""Makes a prompt of a record. Raises `Left`."""
Columns = Mapping[Column, str]
"""Which column of a record has which part of a prompt."""
NO_COLUMNS: Final[Columns] = MappingProxyType({})
MOST_REASONS: Final = 20
OTHERS: Final = "other reasons"
_PEEKED: Final = 10
_BATCH: Final = 1000
"""So many records of Parquet are taken out of it at a time."""
_USUAL: Final[Mapping[Column, Sequence[str]]] = {"prompt": ("prompt",), "output_tokens": ("maxtokens", "outputtokens")}
"""Columns by their names, without what spellings differ in; the last one that is there counts."""
_HUMAN: Final = ("human", "user")
"""Not a set: what stands there may be anything, also what has no hash."""
_MODEL: Final = ("gpt", "assistant", "chatgpt", "model", "bing", "bard")
_MOST_TOKENS: Final = 2**31
_BODIES: Final = {"chat": "/chat/completions", "completions": "/completions"}


class Left(ValueError):
    """A record that is left out, and why."""


class Stock(NamedTuple):
    """The prompts of a file, and how many of its records were left out, by the reason."""

    prompts: list[Prompt]
    left_out: Counter[str] = Counter()  # noqa: RUF012 - of a file of which nothing is left out, never changed


def read_prompts(data: bytes, where: str, columns: Columns = NO_COLUMNS, *, whole: bool = False) -> Stock:
    """The prompts of a file: of a dataset, a table, or of our own forms. `columns` are those that were named. With `whole` a
    prompt has all messages of a conversation, and not its first question alone.

    Raises `PlanError` for what is neither, or holds nothing to ask.
    """
    left_out: Counter[str] = Counter()
    return Stock([*stream_prompts(data, where, columns, left_out, whole=whole)], left_out)


def check_prompts(data: bytes, where: str, columns: Columns = NO_COLUMNS) -> None:
    """See that a file can be read so. Raises `PlanError` where it cannot."""
    for _ in stream_prompts(data, where, columns, Counter()):
        pass


def stream_prompts(
    data: bytes, where: str, columns: Columns, left_out: Counter[str], *, whole: bool = False
) -> Iterator[Prompt]:
    """The same, one by one; what is left out is counted meanwhile."""
    found, header = _records(data, where, columns)
    first = list(islice(found, _PEEKED))
    read = _reader_of(first, header, columns, where)
    if read is None:
        yield from parse_prompts(data, where)
        return
    if whole:
        read = _WHOLE.get(read, read)
    count = 0
    for record in chain(first, found):
        try:
            prompt = _sendable(read(_whole(record)))
        except Left as error:
            count_reason(left_out, str(error))
        else:
            yield msgspec.structs.replace(prompt, index=count)
            count += 1
    if not count:
        why = "; ".join(f"{count} records: {reason}" for reason, count in left_out.items())
        message = f"{where} holds nothing that can be asked ({why or 'it has no record'})"
        raise PlanError(message)


def count_reason(reasons: Counter[str], reason: str) -> None:
    """Count something that is left out. Reasons quote it, and each second tells them: the rarer ones are counted together."""
    reasons[reason if reason in reasons or len(reasons) < MOST_REASONS else OTHERS] += 1


def _records(data: bytes, where: str, columns: Columns) -> tuple[Iterator[Record | None], list[str]]:
    """The records of Parquet, of a table, of an array of JSON, or of JSON lines; none of what is something else.

    And the columns, where all records have the same. A record that is none of its table is None.
    """
    if data.startswith(b"PAR1"):
        return _of_parquet(data, where)
    text = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"["):
        return _of_array(text), []
    if text.startswith(b"{"):
        return _of_lines(text), []
    if binary_format(data):
        return iter(()), []
    lines = head_of(data)
    named_text = where.lower().endswith((".txt", ".text"))
    header = header_with(columns.values(), lines) if columns else find_header(lines, named_text=named_text)
    if header is None:
        return iter(()), []
    return read_table(data, where, header), header.columns


def _whole(record: Record | None) -> Record:
    if record is None:
        message = "it has another number of fields than the header"
        raise Left(message)
    return record


def _of_array(text: bytes) -> Iterator[Record]:
    whole = _json(text)
    yield from (record for record in whole if isinstance(record, dict)) if isinstance(whole, list) else ()


def _of_lines(text: bytes) -> Iterator[Record]:
    for line in io.BytesIO(text):
        record = _json(line)
        if isinstance(record, dict):
            yield record
        elif line.strip():
            yield {}


def _json(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _of_parquet(data: bytes, where: str) -> tuple[Iterator[Record], list[str]]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra: whoever has no Parquet needs none of it
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        message = (
            f"{where} is a Parquet file, which needs pyarrow: `pip install 'tokenstorm[parquet]'`, or write JSON lines"
        )
        raise PlanError(message) from None

    def broken(error: Exception) -> PlanError:
        return PlanError(f"{where} is a Parquet file that cannot be read: {error}")

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise broken(error) from None

    def records() -> Iterator[Record]:
        try:
            for batch in file.iter_batches(_BATCH):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # also moments that Python has not
            raise broken(error) from None

    return records(), list(file.schema_arrow.names)


def _reader_of(records: Sequence[Record | None], header: Sequence[str], columns: Columns, where: str) -> Read | None:
    """What reads records with these columns; else with the keys of the first one, or, of `output_tokens`, of any.

    Raises `PlanError` for a column that was named and is not there.
    """
    first = next((record for record in records if record), {})
    names = list(header or dict.fromkeys(key for record in records for key in record or ()))
    if columns:
        if missing := [name for name in columns.values() if name not in names]:
            there = ", ".join(map(str, names)) or "no columns"
            message = f"{where} has no column {missing[0]!r}: there is {there}"
            raise PlanError(message, "columns")
        return _by_column({**_usual(names), **columns})
    for known, read in _READERS:
        of_any = read is _of_vllm and any(known <= (record or {}).keys() for record in records)
        if known <= (set(header) or first.keys()) or of_any:
            return read
    return _by_column(usual) if header and "prompt" in (usual := _usual(names)) else None


def _usual(names: Sequence[str]) -> Columns:
    """The columns that need nobody to name them, however they are spelt."""
    spelt = {plain(name): name for name in reversed(names)}
    return {field: spelt[one] for field, some in _USUAL.items() for one in some if one in spelt}


def _by_column(columns: Columns) -> Read:
    """Reads a record whose values are the parts of a prompt, by the names of their columns."""

    def read(record: Record) -> Prompt:
        found: dict[str, Any] = {part: record.get(name) for part, name in columns.items()}
        text, system, output = _text(found.get("prompt")), found.get("system"), found.get("output_tokens")
        tokens = None if output in (None, "") or output != output else _count(output, columns["output_tokens"])  # noqa: PLR0124 - of what has no value, Parquet makes NaN
        if isinstance(system, str) and system.strip():
            said = [{"role": "system", "content": system}, {"role": "user", "content": text}]
            return Prompt(messages=said, max_tokens=tokens)
        return Prompt(text=text, max_tokens=tokens)

    return read


_of_prompt = _by_column({"prompt": "prompt", "output_tokens": "output_tokens"})


def _of_vllm(record: Record) -> Prompt:
    """A line of vLLM's custom dataset: `prompt`, and `output_tokens` where they are known."""
    return _of_prompt({"output_tokens": record.get("max_tokens"), **record})


def _count(found: object, column: str) -> int:
    """A count of tokens, which tables write as text, and some as 12.0."""
    try:
        number = float(found) if isinstance(found, str | float) else found
    except ValueError:
        number = None
    whole = int(number) if isinstance(number, float) and number.is_integer() else number
    if type(whole) is not int or not 1 <= whole <= _MOST_TOKENS:
        message = f"its `{column}` are no count"
        raise Left(message)
    return whole


def _of_batch(record: Record) -> Prompt:
    """A line of an OpenAI batch file: its `body` is sent as it is."""
    body, url = record.get("body"), record.get("url")
    if not isinstance(body, dict) or not body:
        message = "it has no `body`"
        raise Left(message)
    if isinstance(url, str) and not url.endswith(tuple(_BODIES.values())):
        message = f"its `url` is {url!r:.60}"
        raise Left(message)
    return Prompt(body=body)


def _of_sharegpt(record: Record) -> Prompt:
    """The first question of a conversation, with what a system said before it."""
    turns = [(turn.get("from"), turn.get("value")) for turn in _turns(record.get("conversations"))]
    return _first_question(turns)


def _of_chats(record: Record) -> Prompt:
    """The same of WildChat and LMSYS-Chat."""
    turns = [(turn.get("role"), turn.get("content")) for turn in _turns(record.get("conversation"))]
    return _first_question(turns)


def _whole_sharegpt(record: Record) -> Prompt:
    """All messages of such a conversation."""
    return _messages([(turn.get("from"), turn.get("value")) for turn in _turns(record.get("conversations"))])


def _whole_chat(record: Record) -> Prompt:
    """The same of WildChat and LMSYS-Chat."""
    return _messages([(turn.get("role"), turn.get("content")) for turn in _turns(record.get("conversation"))])


def _messages(turns: list[tuple[object, object]]) -> Prompt:
    roles = dict.fromkeys(_HUMAN, "user") | dict.fromkeys(_MODEL, "assistant") | {"system": "system"}
    messages: list[dict[str, Any]] = []
    for speaker, said in turns:
        role = roles.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            message = f"nobody knows who {speaker!r:.40} is in it"
            raise Left(message)
        if not isinstance(said, str) or (role == "user" and not said.strip()):
            message = "a question of it is blank"
            raise Left(message)
        messages.append({"role": role, "content": said})
    return Prompt(messages=messages)


def _turns(found: object) -> list[dict[str, Any]]:
    return [turn for turn in found if isinstance(turn, dict)] if isinstance(found, list) else []


def _first_question(turns: list[tuple[object, object]]) -> Prompt:
    messages: list[dict[str, Any]] = []
    for role, said in turns:
        if role in _HUMAN:
            return Prompt(messages=[*messages, {"role": "user", "content": _text(said)}])
        if role != "system":
            break
        if isinstance(said, str):
            messages.append({"role": "system", "content": said})
    message = "it does not begin with a question"
    raise Left(message)


def _text(found: object) -> str:
    if not isinstance(found, str) or not found.strip():
        message = "its question is blank"
        raise Left(message)
    return found


def _sendable(prompt: Prompt) -> Prompt:
    """The same prompt. JSON may hold half of a surrogate pair, which no request can."""
    try:
        msgspec.json.encode(prompt)
    except (UnicodeEncodeError, RecursionError):
        message = "its text cannot be sent: it is not UTF-8"
        raise Left(message) from None
    return prompt


_READERS: Final[tuple[tuple[frozenset[str], Read], ...]] = (
    (frozenset(("custom_id", "body")), _of_batch),
    (frozenset(("conversations",)), _of_sharegpt),
    (frozenset(("conversation",)), _of_chats),
    (frozenset(("prompt", "output_tokens")), _of_vllm),
)
"""The keys that tell what a record is; the first that has all of its keys counts."""

_WHOLE: Final[Mapping[Callable[[Record], Prompt], Callable[[Record], Prompt]]] = {
    _of_sharegpt: _whole_sharegpt,
    _of_chats: _whole_chat,
}
"""What reads all of a conversation, in place of what reads its first question."""
