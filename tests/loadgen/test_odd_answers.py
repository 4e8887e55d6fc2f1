"""What servers send that the common case does not show: each kind with its right value."""

import json
from time import process_time_ns
from typing import Any

import pytest

from streams import USAGE, chunk, read, sse
from tokenstorm.loadgen.answers import Whole
from tokenstorm.loadgen.stream import Stream

TEXT = sse(chunk({"content": "a"}))
FINISH = sse(chunk({}, "stop"))
DONE = b"data: [DONE]\n\n"


def whole(body: object, status: int = 200) -> Whole:
    answer = Whole()
    answer.receive(body if isinstance(body, bytes) else json.dumps(body).encode(), 5)
    answer.finish(status)
    return answer


def kind(answer: Stream | Whole) -> str | None:
    return answer.failure.kind if answer.failure else None


# Completeness


def test_usage_on_every_chunk_does_not_make_a_cut_stream_whole() -> None:
    """VLLM's --enable-force-include-usage."""
    assert (
        kind(read(sse(chunk({"content": "a"}, usage=USAGE)), sse(chunk({"content": "b"}, usage=USAGE)))) == "truncated"
    )


@pytest.mark.parametrize("unfinished", ["", "null", None])
def test_a_finish_reason_that_is_none_does_not_make_a_cut_stream_whole(unfinished: str | None) -> None:
    assert kind(read(TEXT, sse(chunk({"content": "b"}, unfinished)))) == "truncated"


def test_a_usage_of_its_own_after_the_text_makes_a_stream_whole_and_one_before_it_does_not() -> None:
    assert kind(read(TEXT, sse(chunk(usage=USAGE)))) is None
    assert kind(read(sse(chunk(usage=USAGE)), TEXT)) == "truncated"
    assert kind(read(TEXT, sse(chunk(usage={})))) == "truncated"
    assert kind(read(sse(chunk({"role": "assistant"})), sse(chunk(usage={"prompt_tokens": 5})))) == "truncated"


def choice(index: int, text: str, finish: str | None = None) -> bytes:
    return sse({"id": "x", "choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]})


def test_every_choice_that_was_seen_has_to_finish() -> None:
    assert kind(read(choice(0, "a"), choice(1, "b"), choice(0, "", "stop"))) == "truncated"
    assert kind(read(choice(0, "a"), choice(1, "b"), choice(0, "", "stop"), choice(1, "", "length"))) is None
    assert kind(read(choice(0, "a"), choice(0, "", "stop"), choice(0, ""))) is None


# Errors in a 200

ERRORS: dict[str, tuple[Any, str]] = {
    "error object": ({"error": {"message": "boom", "code": 500}}, "boom"),
    "error text": ({"error": "boom"}, "boom"),
    "message and code": ({"message": "boom", "code": 500}, "boom"),
    "message alone": ({"message": "boom"}, "boom"),
    "detail": ({"detail": "boom"}, "boom"),
    "detail list": ({"detail": [{"loc": ["body"], "msg": "boom"}]}, "boom"),
    "object": ({"object": "error", "message": "boom"}, "boom"),
    "type": ({"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}, "boom"),
    "problem document": ({"type": "about:blank", "title": "no", "status": 503, "detail": "boom"}, "boom"),
    "errors": ({"errors": ["boom"]}, "boom"),
    "fault": ({"fault": {"faultstring": "boom"}}, "boom"),
    "code alone": ({"code": 503}, "503"),
    "Baidu": ({"error_code": 17, "error_msg": "boom"}, "boom"),
    "errcode": ({"errcode": 5, "errmsg": "boom"}, "boom"),
    "error_message": ({"error_message": "boom"}, "boom"),
    "exception": ({"exception": "boom"}, "boom"),
    "capitals": ({"Error": "boom"}, "boom"),
    "AWS": ({"Message": "boom"}, "boom"),
    "status in words": ({"status": "error", "reason": "boom"}, "boom"),
    "no success": ({"success": False, "reason": "boom"}, "boom"),
    "code in words": ({"code": "InternalError"}, "InternalError"),
    "nothing in it": ({"error": {}}, "without words"),
    "status_code": ({"status_code": 500, "msg": "boom"}, "boom"),
    "beside no choices": ({"choices": [], "message": "boom", "code": 500}, "boom"),
    "beside a usage": ({"choices": [], "usage": USAGE, "message": "boom", "code": 500}, "boom"),
    "in a list": ([{"error": {"code": 400, "message": "boom"}}], "boom"),
    "in a choice": ({"choices": [{"index": 0, "delta": {}, "error": {"code": 502, "message": "boom"}}]}, "boom"),
}


@pytest.mark.parametrize(("error", "words"), ERRORS.values(), ids=ERRORS)
def test_an_error_in_another_shape_is_one_streamed_or_whole(error: object, words: str) -> None:
    for answer in (read(TEXT, sse(error), FINISH, DONE), read(sse(error), DONE), whole(error)):
        assert kind(answer) == "stream_error"
        assert answer.failure is not None
        assert words in answer.failure.detail


@pytest.mark.parametrize("data", ['{"message": "boom"}', '"boom"', "boom", '{"x": "boom"}'])
@pytest.mark.parametrize("form", ["event: error\ndata: {}\n\n", "error: {}\n\n", "event:error\ndata:{}\n\n"])
def test_an_event_of_type_error_is_one_whatever_it_holds(form: str, data: str) -> None:
    answer = read(TEXT, form.format(data).encode(), DONE)
    assert kind(answer) == "stream_error"
    assert answer.failure is not None
    assert "boom" in answer.failure.detail


@pytest.mark.parametrize("data", ["", ": upstream closed", "[DONE]"])
def test_an_event_of_type_error_is_one_even_without_words(data: str) -> None:
    assert kind(read(TEXT, f"event: error\ndata: {data}\n\n".encode(), DONE)) == "stream_error"
    assert kind(read(TEXT, b"error:\n\n", DONE)) == "stream_error"


def test_an_error_that_is_no_event_of_the_stream_is_one() -> None:
    """A proxy behind which the engine died appends its own."""
    assert kind(read(TEXT, b'{"error": {"message": "boom"}}\n\n', DONE)) == "stream_error"


GAVE_UP = ["error", "abort", "network_error", "insufficient_system_resource", "ERROR", "aborted", "failed", "cancelled"]


@pytest.mark.parametrize("reason", [*GAVE_UP, "timeout", {"type": "abort", "message": "boom"}])
def test_a_finish_reason_that_says_error_is_one(reason: object) -> None:
    body = {"id": "x", "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": reason}]}
    assert kind(whole(body)) == "stream_error"
    body["choices"] = [{"index": 0, "delta": {}, "finish_reason": reason}]
    assert kind(read(TEXT, sse(body), DONE)) == "stream_error"


@pytest.mark.parametrize("other", [{"type": "ping"}, 7, "hello", {"code": 0, "message": "ok"}, [1]])
def test_what_is_neither_answer_nor_error_is_counted(other: object) -> None:
    answer = read(TEXT, sse(json.dumps(other)), FINISH, DONE)
    assert (kind(answer), set(answer.warnings), answer.chunks) == (None, {"unknown"}, 1)


@pytest.mark.parametrize("nothing", [{}, None, [], ""])
def test_what_says_nothing_is_skipped_and_counted(nothing: object) -> None:
    answer = read(TEXT, sse(json.dumps(nothing)), FINISH, DONE)
    assert (kind(answer), set(answer.warnings), answer.chunks) == (None, {"skipped"}, 1)


# Tokens that are no text

TOKENS: dict[str, tuple[dict[str, Any], bool]] = {
    "a call of a tool": (
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f"}}]},
        True,
    ),
    "its arguments": ({"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]}, True),
    "the old form": ({"function_call": {"name": "f", "arguments": ""}}, True),
    "a refusal": ({"refusal": "no"}, True),
    "parts": ({"content": [{"type": "text", "text": "a"}]}, True),
    "reasoning details": ({"reasoning_details": [{"type": "reasoning.text", "text": "a", "index": 0}]}, False),
    "pictures": ({"images": [{"type": "image_url", "image_url": {"url": "data:x"}}]}, True),
    "thoughts by another name": ({"thinking_blocks": [{"type": "thinking", "thinking": "a"}]}, False),
    "parts of thought": ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]}, False),
}


@pytest.mark.parametrize(("delta", "is_content"), TOKENS.values(), ids=TOKENS)
def test_what_is_generated_is_a_token_be_it_text_or_not(delta: dict[str, Any], is_content: bool) -> None:
    answer = read(sse(chunk({"role": "assistant", "content": ""})), sse(chunk(delta)), FINISH, DONE)
    assert (answer.first_token, answer.chunks, answer.failure) == (1010, 1, None)
    assert answer.first_content == (1010 if is_content else None)
    assert "no_token" not in answer.warnings
    assert whole({"choices": [{"message": delta, "finish_reason": "stop"}]}).warnings == frozenset()


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": None, "arguments": ""}}]},
        {"tool_calls": []},
        {"content": []},
        {"content": [{"type": "text", "text": ""}]},
        {"refusal": None, "content": ""},
    ],
)
def test_what_holds_nothing_generated_is_no_token(delta: dict[str, Any]) -> None:
    assert read(sse(chunk(delta)), FINISH, DONE).first_token is None


def test_a_call_of_a_tool_after_reasoning_ends_the_answer_where_it_ends() -> None:
    """One count over some tokens and the other over all gave a time per token 15 times too short."""
    call = sse(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}))
    answer = read(sse(chunk({"reasoning_content": "hm"})), call, call, FINISH, sse(chunk(usage=USAGE)), DONE)
    assert (answer.first_token, answer.last_token, answer.output_tokens) == (1000, 1020, 3)


def test_an_empty_delta_does_not_hide_a_message() -> None:
    body = {"choices": [{"index": 0, "delta": {}, "message": {"content": "a"}, "finish_reason": "stop"}]}
    assert (read(sse(body), DONE).chunks, whole(body).warnings) == (1, frozenset())


def test_an_answer_without_a_token_and_one_that_was_not_streamed_are_told() -> None:
    assert set(read(FINISH, DONE).warnings) == {"no_token"}
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": USAGE}
    assert set(read(json.dumps(body).encode()).warnings) == {"not_streamed"}
    body["choices"] = [{"message": {"content": ""}, "finish_reason": "stop"}]
    assert set(read(json.dumps(body).encode()).warnings) == {"not_streamed", "no_token"}


# Server-sent events

LINES = {
    "no blank after the colon": TEXT.replace(b"data: ", b"data:") + b"data:[DONE]\n\n",
    "empty data": TEXT + b"data:\n\ndata: \n\ndata\n\n" + DONE,
    "blanks around the end": TEXT + b"data:   [DONE]  \n\n",
    "a tab before it": TEXT + b"data:\t[DONE]\n\n",
    "CR LF": (TEXT + DONE).replace(b"\n", b"\r\n"),
    "CR alone": (TEXT + DONE).replace(b"\n", b"\r"),
    "all ends of lines": TEXT.replace(b"\n", b"\r") + TEXT.replace(b"\n", b"\r\n") + DONE,
    "a byte order mark": b"\xef\xbb\xbf" + TEXT + DONE,
    "a comment": b": hello\n\n" + TEXT + b":\n" + DONE,
    "a comment that became data": TEXT + b"data: : keep-alive\n\n" + DONE,
    "fields nobody knows": b"retry: 3\nid\n" + TEXT + b"foo: bar\nfoo\n" + DONE,
    "no blank line at the end": TEXT + b"data: [DONE]",
    "two lines of data": TEXT.replace(b'{"id"', b'{\ndata: "id"') + DONE,
    "a named event": b"event: message\n" + TEXT + b"event: done\n" + DONE,
}


@pytest.mark.parametrize("body", LINES.values(), ids=LINES)
def test_events_are_read_by_the_rules_however_they_are_cut(body: bytes) -> None:
    chunks = 2 if body.count(b"chatcmpl") == 2 else 1
    once = read(body)
    assert (kind(once), once.chunks) == (None, chunks)
    for at in range(1, len(body)):
        answer = read(body[:at], body[at:])
        assert (answer.failure, answer.chunks, answer.warnings) == (None, chunks, once.warnings), body[at - 5 : at + 5]
    assert read(*(body[at : at + 1] for at in range(len(body)))).chunks == chunks


@pytest.mark.parametrize("body", [TEXT + b"[DONE]\n\n", TEXT + b"data: [DONE]foo\n\n", TEXT + b"data: [DONE] \nfoo\n"])
def test_what_looks_like_the_end_means_the_same_wherever_it_is_cut(body: bytes) -> None:
    once = read(body)
    for at in range(1, len(body)):
        cut = read(body[:at], body[at:])
        assert (cut.failure, cut.warnings, cut.chunks) == (once.failure, once.warnings, once.chunks)


def test_fields_that_nobody_knows_are_counted() -> None:
    """A byte order mark before an event in the middle makes one, and its tokens are lost."""
    assert set(read(LINES["fields nobody knows"]).warnings) == {"unknown"}
    assert set(read(TEXT, b"\xef\xbb\xbf" + TEXT, DONE).warnings) == {"unknown"}


@pytest.mark.parametrize("name", ["empty data", "a comment that became data"])
def test_what_is_skipped_is_counted(name: str) -> None:
    assert set(read(LINES[name]).warnings) == {"skipped"}


def test_nothing_counts_after_the_end() -> None:
    answer = read(TEXT + DONE + TEXT + b"data: {broken\n\n", TEXT)
    assert (answer.chunks, answer.failure) == (1, None)


def test_a_long_event_takes_time_in_proportion_to_its_length() -> None:
    """Sixteen times the bytes, in pieces of 1 KiB: sixteen times the CPU time, and not its square."""

    def took(size: int) -> int:
        body = sse(chunk({"content": "x" * size}))
        pieces = [body[at : at + 1024] for at in range(0, len(body), 1024)]
        best = 10**12
        for _ in range(3):
            stream = Stream()
            began = process_time_ns()
            for piece in pieces:
                stream.receive(piece, 1)
            best = min(best, process_time_ns() - began)
            assert stream.first_token == 1
        return best

    assert took(8 << 20) < 80 * took(1 << 19)


@pytest.mark.parametrize(
    "piece",
    [b"data: " + b"x" * (1 << 20), b"data:\n" * (1 << 17), b"<p>hi</p>\n" * (1 << 17)],
    ids=["one line", "many lines of data", "no stream"],
)
def test_an_event_without_an_end_is_given_up(piece: bytes) -> None:
    stream = Stream()
    for _ in range(70):
        stream.receive(piece, 1)
    stream.finish(200)
    assert kind(stream) == "malformed"


def test_an_answer_in_one_piece_that_is_too_long_says_so() -> None:
    answer = Whole()
    for _ in range(70):
        answer.receive(b"x" * (1 << 20), 1)
    answer.finish(200)
    assert answer.failure is not None
    assert "64 MiB" in answer.failure.detail


# Usage


def test_an_empty_usage_takes_nothing_back() -> None:
    answer = read(TEXT, FINISH, sse(chunk(usage=USAGE)), sse(chunk(usage={})), DONE)
    assert (answer.prompt_tokens, answer.output_tokens) == (7, 3)


def test_fewer_tokens_than_chunks_of_text_are_told() -> None:
    answer = read(*[TEXT] * 10, FINISH, sse(chunk(usage=USAGE)), DONE)
    assert (answer.output_tokens, answer.chunks, set(answer.warnings)) == (3, 10, {"usage"})


@pytest.mark.parametrize("number", [2**64, 2**31, -1, "7", 1.5, True, [], 1e300, 10**40])
def test_a_count_that_is_none_is_not_taken_and_told(number: object) -> None:
    answer = read(TEXT, FINISH, sse(chunk(usage={"prompt_tokens": number, "completion_tokens": number})), DONE)
    assert (answer.failure, answer.prompt_tokens, answer.output_tokens, set(answer.warnings)) == (
        None,
        None,
        None,
        {"usage"},
    )


def test_a_count_in_the_form_of_a_float_is_one() -> None:
    answer = read(TEXT, FINISH, sse(chunk(usage={"prompt_tokens": 7.0, "completion_tokens": 1.0})), DONE)
    assert (answer.prompt_tokens, answer.output_tokens, set(answer.warnings)) == (7, 1, set())


def test_no_tokens_for_an_answer_in_one_piece_is_no_count() -> None:
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 0}}
    assert (whole(body).output_tokens, set(whole(body).warnings)) == (None, {"usage"})


def test_reasoning_that_is_counted_and_not_shown_is_known_as_hidden() -> None:
    """Its time is before the first token: TPOT must not divide by it."""
    counts = {"completion_tokens": 500, "completion_tokens_details": {"reasoning_tokens": 490}}
    assert read(*[TEXT] * 10, FINISH, sse(chunk(usage=counts)), DONE).hidden_tokens == 490
    shown = read(sse(chunk({"reasoning": "hm"})), TEXT, FINISH, sse(chunk(usage=counts)), DONE)
    assert shown.hidden_tokens is None


def test_no_tokens_for_a_text_that_came_is_no_count() -> None:
    answer = read(TEXT, FINISH, sse(chunk(usage={"prompt_tokens": 7, "completion_tokens": 0})), DONE)
    assert (answer.output_tokens, set(answer.warnings)) == (None, {"usage"})


# Types


@pytest.mark.parametrize(
    "odd",
    [{"id": 12}, {"id": None}, {"created": "now"}, {"object": 3}, {"usage": "none"}, {"model": []}, {"id": ["x"]}],
)
def test_the_type_of_what_only_passes_through_does_not_matter(odd: dict[str, Any]) -> None:
    answer = read(sse({**chunk({"content": "a"}), **odd}), sse({**chunk({}, "stop"), **odd}), DONE)
    assert (answer.failure, answer.chunks) == (None, 1)


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"choices": "none"}, "choices"),
        ({"choices": [None]}, "choices[0]"),
        ({"choices": [{"delta": "text"}]}, "delta"),
        ({"choices": {"0": {}}}, "choices"),
    ],
)
def test_the_field_whose_type_matters_is_named(event: dict[str, Any], field: str) -> None:
    for answer in (read(TEXT, sse(event), FINISH, DONE), whole(event)):
        assert answer.failure is not None
        assert answer.failure.kind == "malformed"
        assert f"{field}`" in answer.failure.detail


def test_half_of_a_surrogate_pair_is_a_text_and_can_be_written_down() -> None:
    """Python's servers write one for half of an emoji, and its clients read it."""
    answer = read(TEXT.replace(b'"a"', b'"\\ud83d"').replace(b"chatcmpl", b"\\ud83d"), FINISH, DONE)
    assert (answer.failure, answer.chunks) == (None, 1)
    assert answer.server_id is not None
    answer.server_id.encode()
    wrong = whole({"error": "\ud83d"})
    assert wrong.failure is not None
    wrong.failure.detail.encode()


def test_what_passes_through_is_kept_short() -> None:
    answer = read(sse(chunk({}, "s" * 5000), "[DONE]").replace(b"chatcmpl", b"c" * 5000))
    assert len(answer.server_id or "") <= 300
    assert len(answer.finish_reason or "") <= 300


@pytest.mark.parametrize("field", ["content", "tool_calls", "usage", "id", "error"])
def test_what_is_nested_too_deep_costs_its_request_alone(field: str) -> None:
    for depth in (400, 900, 990, 5000):
        deep = "[" * depth + "]" * depth
        event = f'{{"choices": [{{"delta": {{"{field}": {deep}}}}}], "{field}": {deep}}}'
        for answer in (read(f"data: {event}\n\n".encode(), DONE), whole(event.encode())):
            assert kind(answer) in {None, "malformed", "stream_error"}
