"""Prompts for requests of one's own: the records of JSON lines, with whatever fields they have."""

import json
from codecs import BOM_UTF8
from collections.abc import Sequence

import msgspec

from tokenstorm.custom import Custom, placeholders_in
from tokenstorm.errors import PlanError
from tokenstorm.loadgen.promptfile import Prompt, decoded, once


def hold_records(data: bytes) -> bool:
    """Whether these are JSON lines of objects."""
    return data.removeprefix(BOM_UTF8).lstrip().startswith(b"{")


def parse_records(data: bytes, where: str) -> list[Prompt]:
    """The prompts of JSON lines whose objects may hold any fields. Raises `PlanError` naming the line that is wrong."""
    found: list[Prompt] = []
    for number, line in enumerate(decoded(data, where).split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line, object_pairs_hook=once)
            msgspec.json.encode(fields)  # JSON may hold half of a surrogate pair, which no request can
        except UnicodeEncodeError:
            message = f"{where}, line {number}: its text cannot be sent: it is not UTF-8"
            raise PlanError(message) from None
        except (ValueError, RecursionError) as error:
            message = f"{where}, line {number}: it is not JSON: {error}"
            raise PlanError(message) from None
        if not isinstance(fields, dict):
            message = f"{where}, line {number}: it is no object"
            raise PlanError(message)
        text, messages = fields.get("prompt"), fields.get("messages")
        found.append(
            Prompt(
                index=len(found),
                text=text if isinstance(text, str) else None,
                messages=messages if isinstance(messages, list) else None,
                fields=fields,
            )
        )
    return found


def check_fields(custom: Custom, prompts: Sequence[Prompt], where: str) -> None:
    """Raises `PlanError` where a prompt has not what stands in the request."""
    names = {*placeholders_in(custom.body)} - {"model", "max_tokens", "temperature", "stream"}
    for number, prompt in enumerate(prompts, 1):
        has = {**(prompt.fields or {}), "prompt": prompt.said, "messages": prompt.messages, "tokens": prompt.tokens}
        if missing := [name for name in sorted(names) if has.get(name) is None]:
            message = (
                f"{{{missing[0]}}} stands in its body, and prompt {number} of {where} has no such field: "
                "it takes {prompt}, or any field of a file of JSON lines"
            )
            raise PlanError(message, "custom")
