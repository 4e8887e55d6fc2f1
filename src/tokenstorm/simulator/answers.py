"""Answers on their way out: one event for each token, or all of them at once."""

import json
import random
from typing import Final, Protocol, TypeAlias

import msgspec

from tokenstorm.httpd import Reply

from .engine import Sequence
from .openai import Asked, usage
from .settings import Settings

__all__ = ["Answer", "Label", "StreamedAnswer", "WholeAnswer", "output_length"]

Headers: TypeAlias = tuple[tuple[str, str], ...]

# Plain ASCII without quotes or backslashes, so that a word can go into JSON as it is.
_TEXT: Final = (
    "a after all among and as at before below beyond but by calm can clear cloud coast cold "
    "dark day deep down each early east even far few first for from gale grey hail high in "
    "into is it land late light long low mist near night north of off on open over rain rise "
    "sail sea sky slow so south storm sun than the then"
)
WORDS: Final = tuple(f" {word}".encode() for word in _TEXT.split())
_BROKEN_EVENT: Final = b'data: {"id":"broken","choices":[{"index":0,"delta":{"conte\n\n'
_DONE: Final = b"data: [DONE]\n\n"


def output_length(asked: Asked, settings: Settings, dice: random.Random) -> tuple[int, str]:
    """How many tokens the answer gets, and its finish reason."""
    limit = settings.max_model_len - asked.prompt_tokens
    length = limit
    if asked.max_tokens is not None:
        limit = length = min(asked.max_tokens, limit)
    elif not asked.ignore_eos:
        length = max(1, min(settings.natural_output_tokens, limit))
    if not asked.ignore_eos and dice.random() < settings.early_stop_rate:
        length = dice.randint(1, length)
    length = min(max(length, asked.min_tokens), limit)
    return length, "stop" if length < limit else "length"


class Label(msgspec.Struct, frozen=True):
    """What an answer is called, and the word that its text begins with."""

    name: str
    model: str
    created: int  # seconds since 1970
    first_word: int


class Answer(Protocol):
    """An answer under way; the sequence is the engine's side of it."""

    sequence: Sequence

    def start(self, headers: Headers) -> None:
        """The request was accepted."""

    def token(self) -> None:
        """The engine has produced one more token."""

    def break_off(self) -> None:
        """As `token`, but what is sent must be malformed."""


class WholeAnswer:
    """Sent in one piece once its last token is there."""

    def __init__(self, asked: Asked, settings: Settings, reply: Reply, label: Label, sequence: Sequence) -> None:
        self._asked = asked
        self._settings = settings
        self._reply = reply
        self._label = label
        self._headers: Headers = ()
        self.sequence = sequence

    def start(self, headers: Headers) -> None:
        self._headers = headers

    def token(self) -> None:
        if self.sequence.done:
            self._reply.send(200, self._body(), headers=self._headers)

    def break_off(self) -> None:
        if self.sequence.done:
            body = self._body()
            self._reply.send(200, body[: len(body) // 2], headers=self._headers)

    def _body(self) -> bytes:
        asked, label, total = self._asked, self._label, self.sequence.output_tokens
        words = [WORDS[(label.first_word + n) % len(WORDS)] for n in range(1, total + 1)]
        reasoning = min(self._settings.reasoning_tokens, total) if asked.chat else 0
        text = b"".join(words[reasoning:]).decode()
        choice: dict[str, object] = {"index": 0}
        if asked.chat:
            message: dict[str, object] = {"role": "assistant", "content": text}
            if reasoning:
                message[self._settings.reasoning_field] = b"".join(words[:reasoning]).decode()
            choice["message"] = message
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": self.sequence.finish_reason}
        return msgspec.json.encode(
            {
                "id": label.name,
                "object": "chat.completion" if asked.chat else "text_completion",
                "created": label.created,
                "model": label.model,
                "choices": [choice],
                "usage": usage(asked.prompt_tokens, total, self.sequence.cached),
            }
        )


class StreamedAnswer:
    """Sent token by token; all but the word itself is encoded beforehand."""

    def __init__(self, asked: Asked, settings: Settings, reply: Reply, label: Label, sequence: Sequence) -> None:
        self._asked = asked
        self._reply = reply
        self._first_word = label.first_word
        self._write = reply.write
        self._reasoning_tokens = settings.reasoning_tokens if asked.chat else 0
        kind = "chat.completion.chunk" if asked.chat else "text_completion"
        self._head = (
            f'data: {{"id":{json.dumps(label.name)},"object":"{kind}","created":{label.created},'
            f'"model":{json.dumps(label.model)},"choices":['
        ).encode()
        field = "content" if asked.chat else "text"
        self._content, self._after = self._around(field)
        self._reasoning, _ = self._around(settings.reasoning_field)
        self._role_chunk = settings.role_chunk if asked.chat else "none"
        self.sequence = sequence

    def start(self, headers: Headers) -> None:
        # An engine sends the head before it has computed anything.
        self._reply.start(200, headers=headers)
        if self._role_chunk == "early":
            self._write(self._role())

    def token(self) -> None:
        number = self.sequence.produced
        if number == 1 and self._role_chunk == "with-token":
            self._write(self._role())
        before = self._content if number > self._reasoning_tokens else self._reasoning
        word = WORDS[(self._first_word + number) % len(WORDS)]
        if self._asked.continuous_usage:
            self._write(before + word + self._after[:-3] + self._usage(number) + b"}\n\n")
        else:
            self._write(before + word + self._after)
        if number == self.sequence.output_tokens:
            self._end(number)

    def break_off(self) -> None:
        self._write(_BROKEN_EVENT)
        if self.sequence.done:
            self._end(self.sequence.produced)

    def _around(self, field: str) -> tuple[bytes, bytes]:
        """What stands before and after the word in an event."""
        if self._asked.chat:
            before, after = f'{{"index":0,"delta":{{"{field}":"', '"},'
        else:
            before, after = f'{{"index":0,"{field}":"', '",'
        end = f'{after}"logprobs":null,"finish_reason":null}}]}}\n\n'
        return self._head + before.encode(), end.encode()

    def _role(self) -> bytes:
        delta = b'{"index":0,"delta":{"role":"assistant","content":""},'
        return self._head + delta + b'"logprobs":null,"finish_reason":null}]}\n\n'

    def _usage(self, number: int) -> bytes:
        counts = msgspec.json.encode(usage(self._asked.prompt_tokens, number, self.sequence.cached))
        return b',"usage":' + counts

    def _end(self, number: int) -> None:
        content = '"delta":{"content":""}' if self._asked.chat else '"text":""'
        reason = self.sequence.finish_reason
        choice = f'{{"index":0,{content},"logprobs":null,"finish_reason":"{reason}"}}]'
        last = self._head + choice.encode()
        last += (self._usage(number) if self._asked.continuous_usage else b"") + b"}\n\n"
        if self._asked.include_usage:
            last += self._head + b"]" + self._usage(number) + b"}\n\n"
        self._reply.end(last + _DONE)
