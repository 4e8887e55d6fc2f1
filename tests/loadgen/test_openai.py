"""What answers mean, however their bytes arrive."""

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plans import plan as made
from streams import USAGE, chunk, read, sse
from tokenstorm.errors import PlanError, UsageError
from tokenstorm.loadgen.answers import Whole
from tokenstorm.loadgen.endpoint import Endpoint
from tokenstorm.loadgen.http import Connection, Exchange, Receive
from tokenstorm.loadgen.openai import Requests
from tokenstorm.loadgen.pool import Pool
from tokenstorm.loadgen.prompts import load_prompts
from tokenstorm.loadgen.stream import Stream


def test_a_role_only_or_empty_first_chunk_is_no_token() -> None:
    stream = read(
        sse(chunk({"role": "assistant", "content": ""})),
        sse(chunk({"content": "a"})),
        sse(chunk({}, "stop")),
        sse("[DONE]"),
    )
    assert (stream.first_chunk, stream.first_token, stream.last_token, stream.chunks) == (1000, 1010, 1010, 1)
    assert (stream.finish_reason, stream.server_id, stream.failure) == ("stop", "chatcmpl-1", None)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_a_token_but_no_content(field: str) -> None:
    stream = read(
        sse(chunk({field: "hm"})), sse(chunk({field: "so"})), sse(chunk({"content": "yes"})), sse(chunk({}, "stop"))
    )
    assert (stream.first_token, stream.first_content, stream.chunks) == (1000, 1020, 3)


@pytest.mark.parametrize("own", [True, False])
def test_usage_counts_on_a_chunk_of_its_own_and_on_the_finish_chunk(own: bool) -> None:
    ends = [chunk({}, "length"), chunk(usage=USAGE)] if own else [chunk({}, "length", usage=USAGE)]
    stream = read(sse(chunk({"content": "several tokens at once"})), *(sse(end) for end in ends), sse("[DONE]"))
    assert (stream.prompt_tokens, stream.output_tokens, stream.chunks) == (7, 3, 1)


def test_without_usage_the_tokens_are_not_known_to_the_answer() -> None:
    stream = read(sse(chunk({"content": "a"})), sse(chunk({"content": "b"})), sse("[DONE]"))
    assert (stream.output_tokens, stream.chunks, stream.failure) == (None, 2, None)


def test_an_end_at_once_is_a_success_without_a_token() -> None:
    stream = read(sse(chunk({}, "stop")), sse("[DONE]"))
    assert (stream.first_token, stream.failure, stream.finish_reason) == (None, None, "stop")


def test_an_error_inside_a_stream_is_a_failure_in_the_engines_words() -> None:
    stream = read(
        sse(chunk({"content": "a"})), sse({"error": {"message": "out of memory", "code": 500}}), sse("[DONE]")
    )
    assert stream.failure is not None
    assert (stream.failure.kind, stream.failure.detail) == ("stream_error", "out of memory")


def test_a_malformed_event_fails_the_request_and_the_rest_is_still_read() -> None:
    stream = read(sse("{not json"), sse(chunk({"content": "a"})), sse(chunk({}, "stop")), sse("[DONE]"))
    assert stream.failure is not None
    assert stream.failure.kind == "malformed"
    assert (stream.chunks, stream.finish_reason) == (1, "stop")


@pytest.mark.parametrize("event", [b'{"id": "\xff"}', b"[" * 100_000], ids=["not UTF-8", "too deep"])
def test_bytes_that_no_decoder_takes_fail_the_request_alone(event: bytes) -> None:
    stream = read(b"data: " + event + b"\n\n", sse(chunk({"content": "a"})), sse(chunk({}, "stop")), sse("[DONE]"))
    assert stream.failure is not None
    assert stream.failure.kind == "malformed"
    assert stream.finish_reason == "stop"
    whole = Whole()
    whole.receive(event, 1)
    whole.finish(200)
    assert whole.failure is not None
    assert whole.failure.kind == "malformed"


def test_a_stream_that_just_stops_is_truncated() -> None:
    failure = read(sse(chunk({"content": "a"}))).failure
    assert failure is not None
    assert failure.kind == "truncated"


def test_a_finish_reason_without_done_is_a_whole_answer() -> None:
    assert read(sse(chunk({"content": "a"})), sse(chunk({}, "stop"))).failure is None


def test_the_last_event_may_lack_its_blank_line() -> None:
    assert read(sse(chunk({"content": "a"})), b"data: [DONE]").failure is None


def test_comments_other_fields_and_heartbeats_are_no_events() -> None:
    stream = read(
        b": ping\n\n", b"event: message\nid: 3\nretry: 5\n" + sse(chunk({"content": "a"})), b":\n\n", sse("[DONE]")
    )
    assert (stream.chunks, stream.failure) == (1, None)


def test_data_over_several_lines_is_one_event() -> None:
    lines = json.dumps(chunk({"content": "a"}), indent=1).splitlines()
    stream = read("".join(f"data: {line}\n" for line in lines).encode() + b"\n", sse("[DONE]"))
    assert (stream.chunks, stream.failure) == (1, None)


def test_events_that_share_a_read_are_coalesced_and_gaps_are_between_reads() -> None:
    both = sse(chunk({"content": "a"}), chunk({"content": "b"}))
    stream = read(both, sse(chunk({"content": "c"})), both, sse(chunk({}, "stop")))
    assert (stream.chunks, stream.coalesced, list(stream.gaps)) == (5, 2, [10, 10])


def test_a_plain_answer_to_a_streaming_request_is_understood() -> None:
    body = {"id": "x", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": USAGE}
    stream = read(json.dumps(body).encode())
    assert (stream.failure, stream.output_tokens, stream.first_token, stream.server_id) == (None, 3, None, "x")


def test_a_page_instead_of_a_stream_is_malformed() -> None:
    failure = read(b"<html>\n\nwelcome</html>").failure
    assert failure is not None
    assert failure.kind == "malformed"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "no such model", "type": "NotFoundError", "code": 404}}', "no such model"),
        ('{"error": "Unauthorized"}', "Unauthorized"),
        ('{"detail": "Not Found"}', '{"detail": "Not Found"}'),
        ('{"object": "error", "message": "too long", "code": 400}', "too long"),
        ("<html>502 Bad Gateway</html>", "<html>502 Bad Gateway</html>"),
        ("", ""),
    ],
)
def test_an_http_error_is_told_in_the_servers_words(body: str, words: str) -> None:
    whole = Whole()
    whole.receive(body.encode(), 5)
    whole.finish(503)
    assert whole.failure is not None
    assert (whole.failure.kind, whole.failure.detail) == ("http_503", words)


def test_an_answer_in_one_piece_is_read_from_all_of_its_pieces() -> None:
    body = json.dumps({"id": "x", "choices": [{"text": "hi", "finish_reason": "length"}], "usage": USAGE}).encode()
    whole = Whole()
    for number, byte in enumerate(body):
        whole.receive(bytes([byte]), 100 + number)
    whole.finish(200)
    assert (whole.first_chunk, whole.finish_reason, whole.prompt_tokens, whole.failure) == (100, "length", 7, None)


def test_memory_of_a_long_stream_is_given_up_and_no_gap_is_lost() -> None:
    stream = Stream()
    for number in range(5000):
        stream.receive(sse(chunk({"content": "x"})), 1000 + 10 * number)
        stream.fold()
    stream.receive(sse("[DONE]"), 60_000)
    stream.finish(200)
    assert stream.older_gaps is not None
    assert len(stream.gaps) + stream.older_gaps.count == 4999
    assert len(stream.gaps) < 1100
    assert stream.chunks == 5000


TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["", " the", '"', "\\", "\n\n", '","reasoning":"x', "data: ", "é", "😀", "[DONE]", '"},"finish_reason":null}]}']
    ),
)
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "role": st.just("assistant"),
        "content": st.one_of(st.none(), TEXTS),
        "reasoning_content": st.one_of(st.none(), TEXTS),
        "reasoning": TEXTS,
        "tool_calls": st.just([{"index": 0, "function": {"arguments": "{}"}}]),
    },
)
EVENTS = st.one_of(
    st.builds(chunk, DELTAS),
    st.builds(chunk, st.fixed_dictionaries({"content": TEXTS})),
    st.builds(chunk, st.fixed_dictionaries({"content": TEXTS}), st.sampled_from(["stop", "length"])),
    st.builds(lambda delta: chunk(delta, usage=USAGE), st.fixed_dictionaries({"content": TEXTS})),
    st.builds(lambda text: {"id": "cmpl-1", "choices": [{"index": 0, "text": text, "finish_reason": None}]}, TEXTS),
)


def expected(events: list[dict[str, Any]], times: list[int]) -> dict[str, Any]:
    """The same meaning by another way: plain JSON, one event after another."""
    tokens: list[int] = []
    content: list[int] = []
    finish = None
    for event, at in zip(events, times, strict=True):
        for choice in event["choices"]:
            delta = choice.get("delta", {})
            text = choice.get("text") or delta.get("content")
            if text or delta.get("tool_calls"):
                content.append(at)
            if text or delta.get("tool_calls") or delta.get("reasoning_content") or delta.get("reasoning"):
                tokens.append(at)
            finish = choice["finish_reason"] or finish
    reads = sorted(set(tokens))
    return {
        "chunks": len(tokens),
        "first_token": tokens[0] if tokens else None,
        "first_content": content[0] if content else None,
        "last_token": tokens[-1] if tokens else None,
        "coalesced": len(tokens) - len(reads),
        "gaps": [later - earlier for earlier, later in pairwise(reads)],
        "finish_reason": finish,
        "failure": None,
    }


def meaning(stream: Stream) -> dict[str, Any]:
    names = ("chunks", "first_token", "first_content", "last_token", "coalesced", "finish_reason", "failure")
    return {**{name: getattr(stream, name) for name in names}, "gaps": list(stream.gaps)}


@settings(max_examples=200)
@given(st.lists(EVENTS, max_size=25), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_what_a_stream_means_does_not_depend_on_how_it_is_written(
    events: list[dict[str, Any]], newline: str, spaced: bool
) -> None:
    times = [1000 + 10 * number for number in range(len(events))]
    stream = read(*(sse(event, newline=newline, spaced=spaced) for event in events), sse("[DONE]"))
    assert meaning(stream) == expected(events, times)


class Streamed(Exchange):
    """Takes a stream the way a rank does."""

    def __init__(self, connection: Connection) -> None:
        self.request = b""
        self.sent = 0
        self.carrier = connection

    def began(self, status: int) -> Receive:
        assert isinstance(self.carrier, Connection)
        self.stream = Stream(self.carrier)
        return self.stream.receive

    def ended(self) -> None:
        self.stream.finish(self.status or 0)


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def write(self, data: object) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


def connected() -> tuple[Connection, Streamed]:
    connection = Connection(Pool(Endpoint.parse("http://127.0.0.1:1")))
    connection.connection_made(Wire())
    connection.exchange = exchange = Streamed(connection)
    return connection, exchange


def over_the_wire(body: bytes, cuts: list[int], chunks: list[int]) -> tuple[Stream, Exchange]:
    """Chunk the body at `chunks`, cut the bytes of the answer into reads at `cuts`, and read them."""
    connection, exchange = connected()
    edges = [0, *sorted(cut % (len(body) + 1) for cut in chunks), len(body)]
    parts = [body[begin:end] for begin, end in pairwise(edges) if end > begin]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
    borders = [0, *sorted(cut % (len(answer) + 1) for cut in cuts), len(answer)]

    async def read_all() -> None:
        for begin, end in pairwise(borders):
            if end > begin:
                connection.data_received(answer[begin:end])

    asyncio.run(read_all())
    return exchange.stream, exchange


@settings(max_examples=200)
@given(
    st.lists(EVENTS, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.integers(0, 10_000), max_size=30),
    st.lists(st.integers(0, 10_000), max_size=30),
)
def test_a_stream_means_the_same_over_any_chunks_and_reads(
    events: list[dict[str, Any]], newline: str, cuts: list[int], chunks: list[int]
) -> None:
    stream, exchange = over_the_wire(sse(*events, "[DONE]", newline=newline), cuts, chunks)
    assert exchange.done is not None
    wanted = expected(events, [1] * len(events))
    assert (stream.chunks, stream.finish_reason, stream.failure) == (wanted["chunks"], wanted["finish_reason"], None)


@settings(max_examples=200)
@given(st.lists(EVENTS, max_size=25), st.lists(st.integers(0, 4), min_size=25, max_size=25), st.booleans())
def test_events_known_by_their_bytes_count_as_if_they_had_been_decoded(
    events: list[dict[str, Any]], sharing: list[int], spaced: bool
) -> None:
    """Whole chunks, one or a few to a read, as engines send them: the quick way and the slow way must agree."""
    connection, exchange = connected()
    connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    times: list[int] = []
    held = b""
    waiting = 0
    for event, share in zip(events, sharing, strict=False):
        body = sse(event, spaced=spaced)
        held += b"%x\r\n%b\r\n" % (len(body), body)
        waiting += 1
        if share:
            connection.data_received(held)
            times += [connection.read_at] * waiting
            held, waiting = b"", 0
    last = sse("[DONE]")
    connection.data_received(held + b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
    times += [connection.read_at] * waiting
    assert meaning(exchange.stream) == expected(events, times)


def requests(**fields: Any) -> Requests:
    plan = made(
        run_id="ab" * 16,
        targets=[{"replica": "0", "url": "http://127.0.0.1:1/prefix"}],
        **{name: value for name, value in fields.items() if name != "api_key"},
    )
    endpoints = [Endpoint.parse(target.url) for target in plan.targets]
    return Requests(plan, "m", endpoints, load_prompts(plan), fields.get("api_key"))


def built(**fields: Any) -> tuple[str, dict[str, Any]]:
    head, _, body = requests(**fields).build(17, 0)[0].partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}" in head.decode()
    return head.decode(), json.loads(body)


def test_a_chat_request_asks_for_a_stream_with_usage_under_its_own_id() -> None:
    head, body = built(max_tokens=5, ignore_eos=True)
    assert head.startswith("POST /prefix/v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:1\r\n")
    assert f"x-request-id: {'ab' * 16}-17" in head
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "temperature": 0.7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def test_extra_body_adds_replaces_and_takes_out() -> None:
    _, body = built(
        stream=False, extra_body={"top_k": 5, "temperature": 0.1, "max_tokens": None, "max_completion_tokens": 9}
    )
    assert "max_tokens" not in body
    assert (body["top_k"], body["temperature"], body["max_completion_tokens"], body["stream"]) == (5, 0.1, 9, False)
    assert "stream_options" not in body


def test_a_completion_takes_text_or_token_ids() -> None:
    assert built(endpoint="completions")[1]["prompt"] == "hi"
    tokens = {"kind": "synthetic", "unit": "tokens", "length": {"n": 4}}
    assert len(built(endpoint="completions", prompts=tokens)[1]["prompt"]) == 4


def test_a_key_goes_into_its_header_and_nothing_can_be_smuggled_in_with_it() -> None:
    assert "authorization: Bearer sk-1" in built(api_key="sk-1")[0]
    with pytest.raises(UsageError, match="API key"):
        built(api_key="sk\r\nx: y")


def test_messages_need_the_chat_endpoint(tmp_path: Any) -> None:
    from tokenstorm.loadgen.prompts import prompt_file  # noqa: PLC0415

    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}]}')
    pinned = {"kind": "file", "path": str(path), "sha256": prompt_file(path).sha256}
    assert built(prompts=pinned)[1]["messages"] == [{"role": "user", "content": "hi"}]
    with pytest.raises(PlanError, match="chat"):
        built(prompts=pinned, endpoint="completions")
