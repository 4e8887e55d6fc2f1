"""Datasets that people publish, read as prompts: known by the keys of their records, not by their names.

A record that cannot be asked (no question in it, nothing but blanks) is left out and counted by its reason.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import msgspec

from tokenstorm.errors import PlanError
from tokenstorm.loadgen.promptfile import Prompt, parse_prompts

Record = Mapping[str, Any]
MOST_REASONS: Final = 20
OTHERS: Final = "other reasons"
_PEEKED: Final = 10
_HUMAN: Final = ("human", "user")
"""Not a set: what stands there may be anything, also what has no hash."""
_MOST_TOKENS: Final = 2**31
_BODIES: Final = {"chat": "/chat/completions", "completions": "/completions"}


class Left(ValueError):
    """A record that is left out, and why."""


class Stock(NamedTuple):
    """The prompts of a file, and how many of its records were left out, by the reason."""

    prompts: list[Prompt]
    left_out: Counter[str]


def read_prompts(data: bytes, where: str) -> Stock:
    """The prompts of a file: of a dataset, or of our own forms. Raises `PlanError` for what is neither, or holds nothing to ask."""
    found = _records(data, where)
    first = list(islice(found, _PEEKED))
    read = _reader_of(first)
    if read is None:
        return Stock(parse_prompts(data, where), Counter())
    stock = Stock([], Counter())
    for record in chain(first, found):
        try:
            stock.prompts.append(msgspec.structs.replace(_sendable(read(record)), index=len(stock.prompts)))
        except Left as error:
            count_reason(stock.left_out, str(error))
    if not stock.prompts:
        why = "; ".join(f"{count} records: {reason}" for reason, count in stock.left_out.items())
        message = f"{where} holds nothing that can be asked ({why})"
        raise PlanError(message)
    return stock


def count_reason(reasons: Counter[str], reason: str) -> None:
    """Count something that is left out. Reasons quote it, and each second tells them: the rarer ones are counted together."""
    reasons[reason if reason in reasons or len(reasons) < MOST_REASONS else OTHERS] += 1


def _records(data: bytes, where: str) -> Iterator[Record]:
    """The records of Parquet, of an array of JSON, or of JSON lines; none of what is something else."""
    if data.startswith(b"PAR1"):
        yield from _of_parquet(data, where)
        return
    text = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"["):
        whole = _json(text)
        yield from (record for record in whole if isinstance(record, dict)) if isinstance(whole, list) else ()
    elif text.startswith(b"{"):
        for line in text.split(b"\n"):
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


def _of_parquet(data: bytes, where: str) -> Iterator[Record]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra: whoever has no Parquet needs none of it
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        message = (
            f"{where} is a Parquet file, which needs pyarrow: `pip install 'tokenstorm[parquet]'`, or write JSON lines"
        )
        raise PlanError(message) from None
    try:
        for batch in parquet.ParquetFile(io.BytesIO(data)).iter_batches():
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        message = f"{where} is a Parquet file that cannot be read: {error}"
        raise PlanError(message) from None


def _reader_of(records: list[Record]) -> Callable[[Record], Prompt] | None:
    """What reads records with the keys of the first one, or, of `output_tokens`, of any."""
    keys = records[0].keys() if records else set()
    for known, read in _READERS:
        if known <= keys or (read is _of_vllm and any(known <= record.keys() for record in records)):
            return read
    return None


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


def _of_vllm(record: Record) -> Prompt:
    """A line of vLLM's custom dataset: `prompt`, and `output_tokens` where they are known."""
    output = record.get("output_tokens", record.get("max_tokens"))
    if output is not None and (type(output) is not int or not 1 <= output <= _MOST_TOKENS):
        message = "its `output_tokens` are no count"
        raise Left(message)
    return Prompt(text=_text(record.get("prompt")), max_tokens=output)


def _of_sharegpt(record: Record) -> Prompt:
    """The first question of a conversation, with what a system said before it."""
    turns = [(turn.get("from"), turn.get("value")) for turn in _turns(record.get("conversations"))]
    return _first_question(turns)


def _of_chats(record: Record) -> Prompt:
    """The same of WildChat and LMSYS-Chat."""
    turns = [(turn.get("role"), turn.get("content")) for turn in _turns(record.get("conversation"))]
    return _first_question(turns)


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


_READERS: Final[tuple[tuple[frozenset[str], Callable[[Record], Prompt]], ...]] = (
    (frozenset(("custom_id", "body")), _of_batch),
    (frozenset(("conversations",)), _of_sharegpt),
    (frozenset(("conversation",)), _of_chats),
    (frozenset(("prompt", "output_tokens")), _of_vllm),
)
"""The keys that tell what a record is; the first that has all of its keys counts."""
