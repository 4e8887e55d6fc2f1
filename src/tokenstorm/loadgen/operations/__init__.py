"""What can be asked of a service: for each operation its requests' bodies, and what reads its answers."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tokenstorm import load_parts
from tokenstorm.loadgen.answers import Answer, Whole, is_success
from tokenstorm.loadgen.operations import chat, messages, pooling, responses
from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.said import Read, SaidStream, SaidWhole
from tokenstorm.loadgen.stream import Carrier, Stream
from tokenstorm.plan import Plan

MakeAnswer = Callable[[int, Carrier | None], Answer]
"""Makes what reads the answer with this status that this connection carries."""


class Operation(msgspec.Struct, frozen=True):
    """One operation. `what` an answer holds is for messages; `limits` are the fields that bound its tokens, the first of them ours.

    Without `whole` answers are those of chat; without `event` there is no other stream than chat's.
    """

    body: Callable[[Plan, str, Prompt], dict[str, Any]]
    what: str = "choices"
    whole: Read | None = None
    event: Read | None = None
    limits: tuple[str, ...] = ()
    headers: dict[str, str] = {}


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
    return OPERATIONS[plan.endpoint]


def answers_of(plan: Plan) -> MakeAnswer:
    """What makes the readers of a plan's answers. An answer with an error status is read as such, whatever was asked."""
    operation, streams, keep_times = operation_of(plan), plan.streams, plan.record_chunks
    whole, event = operation.whole, operation.event

    def of_chat(status: int, carrier: Carrier | None) -> Answer:
        return Stream(carrier, keep_times=keep_times) if streams and is_success(status) else Whole()

    def new_whole() -> Whole:
        assert whole is not None, "this operation has answers of its own"
        return SaidWhole(whole, operation.what, generates=plan.endpoint in load_parts.GENERATING)

    def other(status: int, carrier: Carrier | None) -> Answer:
        if not is_success(status):
            return Whole()
        return SaidStream(event, new_whole, carrier, keep_times=keep_times) if streams and event else new_whole()

    return of_chat if whole is None else other
