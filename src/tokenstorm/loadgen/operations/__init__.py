"""What can be asked of a service: for each operation its requests' bodies, and what reads its answers."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from tokenstorm import load_parts
from tokenstorm.loadgen.answers import Answer, Whole, is_success
from tokenstorm.loadgen.operations import chat, custom, messages, pooling, responses
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.said import Ends, Read, SaidLines, SaidStream, SaidWhole
from tokenstorm.loadgen.stream import Carrier, Stream
from tokenstorm.plan import Plan

MakeAnswer = Callable[[int, Carrier | None], Answer]
"""Makes what reads the answer with this status that this connection carries."""


class Operation(msgspec.Struct, frozen=True):
    """One operation. `what` an answer holds is for messages; `limits` are the fields that bound its tokens, the first of them ours.

    Without `whole` answers are those of chat; without `event` there is no other stream than chat's.
    """

    body: Callable[[Plan, str, Prompt], Any]
    what: str = "choices"
    whole: Read | None = None
    event: Read | None = None
    limits: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    stream: type[SaidStream] = SaidStream
    ends: Ends = "event"


_OF_CHAT: Final = ("max_completion_tokens", "max_tokens")

OPERATIONS: Final[dict[load_parts.Operation, Operation]] = {
    "chat": Operation(chat.chat, limits=_OF_CHAT),
    "completions": Operation(chat.complete, limits=_OF_CHAT),
    "responses": Operation(
        responses.body, "an `output`", responses.whole, responses.event, limits=("max_output_tokens",)
    ),
    "messages": Operation(
        messages.body, "a `content`", messages.whole, messages.event, limits=("max_tokens",), headers=messages.HEADERS
    ),
    "embeddings": Operation(pooling.embed, "embeddings in `data`", pooling.embedded),
    "rerank": Operation(pooling.rerank, "`results`", pooling.reranked),
    "score": Operation(pooling.score, "scores in `data`", pooling.scored),
}


def operation_of(plan: Plan) -> Operation:
    """The operation that a plan calls."""
    if plan.custom is None:
        return OPERATIONS[plan.endpoint]
    answer = plan.custom.answer
    return Operation(
        custom.body,
        custom.what(plan.custom),
        custom.whole_reader(answer),
        custom.reader(answer),
        headers=plan.custom.headers,
        ends="event" if answer.done else "finish" if answer.finish else "body",
        stream=SaidLines if answer.form == "ndjson" else SaidStream,
    )


def answers_of(plan: Plan) -> MakeAnswer:
    """What makes the readers of a plan's answers. An answer with an error status is read as such, whatever was asked."""
    operation, streams, keep_times, generates = operation_of(plan), plan.streams, plan.record_chunks, plan.generates
    whole, event, stream, ends = operation.whole, operation.event, operation.stream, operation.ends

    def of_chat(status: int, carrier: Carrier | None) -> Answer:
        if streams and is_success(status):
            return Stream(carrier, keep_times=keep_times, keep_text=plan.live_history)
        return Whole(keep_text=plan.live_history)

    def new_whole() -> Whole:
        assert whole is not None, "this operation has answers of its own"
        return SaidWhole(whole, operation.what, generates=generates)

    def other(status: int, carrier: Carrier | None) -> Answer:
        if not is_success(status):
            return Whole()
        if streams and event:
            return stream(event, new_whole, carrier, keep_times=keep_times, ends=ends)
        return new_whole()

    return of_chat if whole is None else other
