"""The simulated engine, spoken to over HTTP as a client of vLLM would."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from tokenstorm.httpd import serve
from tokenstorm.simulator.server import SimulatedEngine
from tokenstorm.simulator.settings import Faults, Settings

# No time between the steps: what is tested here is what is said, not when.
QUICK = Settings(
    step_base_ms=0,
    step_per_sequence_ms=0,
    step_per_prefill_token_ms=0,
    max_model_len=1000,
    kv_cache_tokens=16_000,
)
HELLO = [{"role": "user", "content": "hello"}]


class Client:
    """Sends one request per connection and reads the answer to its end."""

    def __init__(self, port: int, engine: SimulatedEngine) -> None:
        self.port = port
        self.engine = engine

    async def open(
        self, method: str, path: str, body: object = None, headers: str = ""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        if "content-type" not in headers:
            headers += "content-type: application/json\r\n"
        head = f"{method} {path} HTTP/1.1\r\n{headers}content-length: {len(data)}\r\n"
        writer.write(f"{head}connection: close\r\n\r\n".encode() + data)
        return reader, writer

    async def ask(self, method: str, path: str, body: object = None, headers: str = "") -> tuple[int, str, bytes]:
        """Status, head and body (its chunks put together)."""
        reader, writer = await self.open(method, path, body, headers)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        rest = await reader.read()
        writer.close()
        if "transfer-encoding: chunked" in head:
            rest = unchunk(rest)
        return int(head.split()[1]), head, rest

    async def post(self, path: str, **body: object) -> tuple[int, Any]:
        status, _, answer = await self.ask("POST", path, body)
        return status, json.loads(answer)

    async def stream(self, path: str, **body: object) -> list[Any]:
        """The events of a stream, [DONE] left out."""
        status, _, answer = await self.ask("POST", path, {**body, "stream": True})
        assert status == 200
        events = answer.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def unchunk(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        out, data = out + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return out


def simulate(
    talk: Callable[[Client], Awaitable[None]],
    settings: Settings = QUICK,
    faults: Faults | None = None,
    api_key: str | None = None,
    clock: Callable[[], int] | None = None,
) -> None:
    async def main() -> None:
        extra = {"clock": clock} if clock else {}
        engine = SimulatedEngine("sim-model", settings, faults, api_key=api_key, seed=1, **extra)
        server = await serve(engine.handle, "127.0.0.1", 0)
        async with asyncio.timeout(20):
            await talk(Client(server.sockets[0].getsockname()[1], engine))
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_a_chat_stream_is_a_role_then_one_chunk_a_token_then_the_end() -> None:
    async def talk(client: Client) -> None:
        events = await client.stream("/v1/chat/completions", messages=HELLO, max_tokens=3)
        choices = [event["choices"][0] for event in events]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert all(choice["delta"]["content"].startswith(" ") for choice in choices[1:4])
        assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["length"]
        assert {event["object"] for event in events} == {"chat.completion.chunk"}
        assert all("usage" not in event for event in events)

    simulate(talk)


def test_usage_comes_on_a_chunk_of_its_own_when_asked_for() -> None:
    async def talk(client: Client) -> None:
        events = await client.stream(
            "/v1/chat/completions",
            messages=HELLO,
            max_completion_tokens=3,
            stream_options={"include_usage": True},
        )
        usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        assert (events[-1]["choices"], events[-1]["usage"]) == ([], usage)
        assert all("usage" not in event for event in events[:-1])

    simulate(talk)


def test_continuous_usage_counts_along() -> None:
    async def talk(client: Client) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        events = await client.stream("/v1/completions", prompt="hello", max_tokens=3, stream_options=options)
        counts = [event["usage"]["completion_tokens"] for event in events]
        assert counts == [1, 2, 3, 3, 3]  # tokens, finish, usage

    simulate(talk)


def test_the_same_seed_gives_the_same_text_streamed_or_not() -> None:
    async def talk(client: Client) -> None:
        asked = {"messages": HELLO, "max_tokens": 20, "seed": 7}
        events = await client.stream("/v1/chat/completions", **asked)
        streamed = "".join(event["choices"][0]["delta"]["content"] for event in events)
        status, whole = await client.post("/v1/chat/completions", **asked)
        assert status == 200
        assert whole["choices"][0]["message"] == {"role": "assistant", "content": streamed}
        assert whole["usage"]["completion_tokens"] == len(streamed.split()) == 20

    simulate(talk)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_the_first_tokens_can_be_reasoning(field: Any) -> None:
    async def talk(client: Client) -> None:
        asked = {"messages": HELLO, "max_tokens": 3, "seed": 7}
        events = await client.stream("/v1/chat/completions", **asked)
        deltas = [event["choices"][0]["delta"] for event in events[1:4]]
        assert [list(delta) for delta in deltas] == [[field], [field], ["content"]]
        message = (await client.post("/v1/chat/completions", **asked))[1]["choices"][0]["message"]
        assert message[field] == deltas[0][field] + deltas[1][field]
        assert message["content"] == deltas[2]["content"]

    simulate(talk, replace(QUICK, reasoning_tokens=2, reasoning_field=field))


@pytest.mark.parametrize(("when", "roles"), [("early", 1), ("with-token", 1), ("none", 0)])
def test_the_role_chunk_can_be_left_out(when: Any, roles: int) -> None:
    async def talk(client: Client) -> None:
        events = await client.stream("/v1/chat/completions", messages=HELLO, max_tokens=2)
        assert sum("role" in event["choices"][0]["delta"] for event in events) == roles
        assert len(events) == roles + 3

    simulate(talk, replace(QUICK, role_chunk=when))


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [("", 1), ("abcd", 1), ("abcde", 2), ("éé", 1), (["abcde"], 2), ([5, 6, 7], 3), ([[5, 6]], 2)],
)
def test_a_prompt_has_a_token_for_four_bytes_and_token_ids_count_themselves(prompt: object, tokens: int) -> None:
    async def talk(client: Client) -> None:
        status, answer = await client.post("/v1/completions", prompt=prompt)
        assert status == 200
        assert answer["usage"]["prompt_tokens"] == tokens
        assert answer["usage"]["completion_tokens"] == 16, "the default of completions"

    simulate(talk)


def test_tokenize_counts_as_the_engine_does() -> None:
    async def talk(client: Client) -> None:
        parts = [{"type": "text", "text": "abcd"}, {"type": "text", "text": "e"}]
        messages = [*HELLO, {"role": "user", "content": parts}, {"role": "user", "content": None}]
        status, answer = await client.post("/tokenize", messages=messages)
        assert (status, answer["count"], len(answer["tokens"])) == (200, 5, 5)
        assert (await client.post("/tokenize", prompt="hello"))[1]["count"] == 2
        assert (await client.post("/tokenize"))[0] == 400

    simulate(talk)


def test_without_ignore_eos_some_answers_stop_early_and_say_so() -> None:
    async def talk(client: Client) -> None:
        reasons = []
        for number in range(40):
            _, answer = await client.post("/v1/completions", prompt="x", max_tokens=50, min_tokens=5, seed=number)
            tokens = answer["usage"]["completion_tokens"]
            reasons.append(answer["choices"][0]["finish_reason"])
            assert 5 <= tokens <= 50
            assert reasons[-1] == ("stop" if tokens < 50 else "length")
        assert set(reasons) == {"stop", "length"}
        asked = {"prompt": "x", "max_tokens": 50, "ignore_eos": True}
        for _ in range(10):
            answer = (await client.post("/v1/completions", **asked))[1]
            assert answer["usage"]["completion_tokens"] == 50

    simulate(talk, replace(QUICK, early_stop_rate=0.5))


def test_a_chat_without_max_tokens_ends_by_itself() -> None:
    async def talk(client: Client) -> None:
        _, answer = await client.post("/v1/chat/completions", messages=HELLO)
        assert answer["usage"]["completion_tokens"] == QUICK.natural_output_tokens
        assert answer["choices"][0]["finish_reason"] == "stop"

    simulate(talk)


CHAT = {"messages": HELLO}


@pytest.mark.parametrize(
    ("status", "param", "body"),
    [
        (404, "model", {**CHAT, "model": "gpt-4"}),
        (400, "max_tokens", {**CHAT, "max_tokens": 0}),
        (400, "max_tokens", {**CHAT, "max_tokens": 999}),
        (400, "input_tokens", {"messages": [{"role": "user", "content": "x" * 4000}]}),
        (400, "temperature", {**CHAT, "temperature": -0.1}),
        (400, "temperature", {**CHAT, "temperature": 2.1}),
        (400, "top_p", {**CHAT, "top_p": 0}),
        (400, "min_tokens", {**CHAT, "min_tokens": 5, "max_tokens": 4}),
        (400, "n", {**CHAT, "n": 2}),
        (400, "messages", {"messages": []}),
        (400, "stream_options", {**CHAT, "stream_options": {"include_usage": True}}),
        (400, None, {"model": "sim-model"}),
        (400, None, {"messages": "hello"}),
        (400, None, b"{"),
        (400, None, b"\xff"),
        (400, None, b'{"messages":[{"role":"user","content":"\\ud800"}]}'),
    ],
)
def test_a_bad_request_gets_vllms_status_and_error_object(status: int, param: str | None, body: object) -> None:
    async def talk(client: Client) -> None:
        answered, _, answer = await client.ask("POST", "/v1/chat/completions", body)
        error = json.loads(answer)["error"]
        assert (answered, error["code"], error["param"]) == (status, status, param)
        assert error["type"] == ("NotFoundError" if status == 404 else "BadRequestError")
        assert error["message"]

    simulate(talk)


@pytest.mark.parametrize("prompt", [["a", "b"], [[1], [2]], [], [[]], [1, "a"]])
def test_several_prompts_in_one_request_are_refused_and_so_is_none(prompt: object) -> None:
    async def talk(client: Client) -> None:
        status, answer = await client.post("/v1/completions", prompt=prompt)
        assert (status, answer["error"]["param"]) == (400, "prompt")

    simulate(talk)


def test_unknown_paths_wrong_methods_and_wrong_content_types_are_refused() -> None:
    async def talk(client: Client) -> None:
        status, _, body = await client.ask("GET", "/nowhere")
        assert (status, json.loads(body)) == (404, {"detail": "Not Found"})
        status, head, body = await client.ask("GET", "/v1/completions")
        assert (status, json.loads(body)) == (405, {"detail": "Method Not Allowed"})
        assert "allow: POST" in head
        status, _, body = await client.ask("POST", "/v1/completions", {"prompt": "x"}, "content-type: text/plain\r\n")
        assert status == 400

    simulate(talk)


def test_the_api_key_guards_v1_alone() -> None:
    async def talk(client: Client) -> None:
        for headers in ("", "authorization: Bearer wrong\r\n"):
            status, _, body = await client.ask("GET", "/v1/models", headers=headers)
            assert (status, json.loads(body)) == (401, {"error": "Unauthorized"})
        right = "authorization: Bearer secret\r\n"
        assert (await client.ask("GET", "/v1/models", headers=right))[0] == 200
        assert (await client.ask("GET", "/health"))[0] == 200

    simulate(talk, api_key="secret")


def test_it_names_its_model_and_says_that_it_is_simulated() -> None:
    async def talk(client: Client) -> None:
        models = json.loads((await client.ask("GET", "/v1/models"))[2])
        assert models["object"] == "list"
        assert models["data"][0]["id"] == "sim-model"
        assert models["data"][0]["max_model_len"] == 1000
        assert json.loads((await client.ask("GET", "/version"))[2])["simulated"] is True

    simulate(talk)


def test_x_request_id_is_echoed_and_names_the_answer() -> None:
    async def talk(client: Client) -> None:
        given = "x-request-id: run-7\r\n"
        _, head, body = await client.ask("POST", "/v1/completions", {"prompt": "x"}, given)
        assert "x-request-id: run-7\r\n" in head
        assert json.loads(body)["id"] == "cmpl-run-7"

    simulate(talk)


def test_metrics_bear_vllms_names_and_count_the_requests() -> None:
    async def talk(client: Client) -> None:
        for _ in range(2):
            await client.post("/v1/completions", prompt=[1, 2, 3], max_tokens=5)
        _, head, body = await client.ask("GET", "/metrics")
        assert "content-type: text/plain; version=0.0.4" in head
        samples = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
        labels = 'engine="0",model_name="sim-model"'
        assert samples[f"vllm:prompt_tokens_total{{{labels}}}"] == "6"
        assert samples[f"vllm:generation_tokens_total{{{labels}}}"] == "10"
        finished = f'vllm:request_success_total{{{labels},finished_reason="length"}}'
        assert samples[finished] == "2"
        assert samples[f"vllm:num_requests_running{{{labels}}}"] == "0"
        assert samples[f"vllm:num_requests_waiting{{{labels}}}"] == "0"
        assert samples[f"vllm:kv_cache_usage_perc{{{labels}}}"] == "0.0"
        for name, count in (
            ("time_to_first_token", 2),
            ("inter_token_latency", 8),
            ("e2e_request_latency", 2),
            ("request_queue_time", 2),
        ):
            assert samples[f"vllm:{name}_seconds_count{{{labels}}}"] == str(count)
            assert samples[f'vllm:{name}_seconds_bucket{{{labels},le="+Inf"}}'] == str(count)

    simulate(talk)


def test_a_client_that_leaves_is_forgotten() -> None:
    """Steps of an hour: only the client's leaving can take it out of the engine."""

    async def talk(client: Client) -> None:
        reader, writer = await client.open("POST", "/v1/chat/completions", {**CHAT, "stream": True})
        await reader.readuntil(b"\r\n\r\n")
        assert len(client.engine.engine.running) == 1
        writer.close()
        while client.engine.engine.running:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0)
        assert client.engine.metrics.finish_reasons["abort"] == 1

    simulate(talk, replace(QUICK, step_base_ms=3_600_000))


@pytest.mark.parametrize("status", [500, 429])
def test_injected_statuses_come_as_error_objects(status: int) -> None:
    async def talk(client: Client) -> None:
        answered, answer = await client.post("/v1/completions", prompt="x")
        assert (answered, answer["error"]["code"]) == (status, status)

    faults = Faults(error_500=1.0) if status == 500 else Faults(error_429=1.0)
    simulate(talk, faults=faults)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reset_ends_the_connection_the_hard_way(stream: bool) -> None:
    async def talk(client: Client) -> None:
        body = {"prompt": "x", "max_tokens": 50, "stream": stream}
        reader, _ = await client.open("POST", "/v1/completions", body)
        with pytest.raises(ConnectionResetError):
            await reader.read()

    simulate(talk, faults=Faults(reset=1.0))


def test_a_stalled_stream_never_ends_but_holds_no_place_in_the_engine() -> None:
    async def talk(client: Client) -> None:
        body = {"prompt": "x", "max_tokens": 50, "stream": True}
        reader, writer = await client.open("POST", "/v1/completions", body)
        received = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                while piece := await reader.read(65536):
                    received += piece
                pytest.fail("the stream ended")
        assert b"200 OK" in received
        assert b"[DONE]" not in received
        assert not client.engine.engine.running
        writer.close()

    simulate(talk, faults=Faults(stall=1.0))


def test_a_malformed_answer_has_one_event_that_is_no_json_and_still_ends() -> None:
    async def talk(client: Client) -> None:
        body = {"prompt": "x", "max_tokens": 9, "stream": True}
        _, _, answer = await client.ask("POST", "/v1/completions", body)
        events = [event.removeprefix("data: ") for event in answer.decode().split("\n\n")][:-1]
        assert events[-1] == "[DONE]"
        broken = 0
        for event in events[:-1]:
            try:
                json.loads(event)
            except ValueError:
                broken += 1
        assert broken == 1
        _, _, answer = await client.ask("POST", "/v1/completions", {"prompt": "x"})
        with pytest.raises(ValueError, match=r"."):
            json.loads(answer)

    simulate(talk, faults=Faults(malformed=1.0))


def test_fault_rates_are_met_and_the_same_seed_gives_the_same_faults() -> None:
    async def statuses() -> list[int]:
        found: list[int] = []

        async def talk(client: Client) -> None:
            asked = {"prompt": "x", "max_tokens": 1}
            found.extend([(await client.post("/v1/completions", **asked))[0] for _ in range(200)])

        engine = SimulatedEngine("m", QUICK, Faults(error_500=0.2, error_429=0.1), seed=3)
        server = await serve(engine.handle, "127.0.0.1", 0)
        await talk(Client(server.sockets[0].getsockname()[1], engine))
        server.close()
        return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        first, second = runner.run(statuses()), runner.run(statuses())
    assert first == second
    assert 20 < first.count(500) < 62  # 40, give or take four sigma
    assert 4 < first.count(429) < 38  # 20, likewise


def test_until_it_is_ready_it_answers_503() -> None:
    now = [0]

    async def talk(client: Client) -> None:
        assert (await client.ask("GET", "/health"))[0] == 503
        status, answer = await client.post("/v1/completions", prompt="x")
        assert (status, answer["error"]["code"]) == (503, 503)
        assert (await client.ask("GET", "/version"))[0] == 200
        now[0] = 30_000_000_000
        assert (await client.ask("GET", "/health"))[0] == 200

    simulate(talk, faults=Faults(slow_start=30.0), clock=lambda: now[0])


def test_cached_tokens_are_told_until_the_cache_is_emptied() -> None:
    async def talk(client: Client) -> None:
        async def cached(*messages: str) -> int:
            asked = [{"role": "user", "content": text} for text in messages]
            _, answer = await client.post("/v1/chat/completions", messages=asked, max_tokens=1)
            details = answer["usage"].get("prompt_tokens_details") or {}
            return int(details.get("cached_tokens", 0))

        assert await cached("x" * 400) == 0
        assert await cached("x" * 400) == 96
        assert await cached("x" * 200 + "y" * 200) == 48
        assert await cached("x" * 200, "y" * 200) == 96, "messages follow each other"
        _, _, metrics = await client.ask("GET", "/metrics")
        assert 'vllm:prefix_cache_queries_total{engine="0",model_name="sim-model"} 400' in metrics.decode()
        assert 'vllm:prefix_cache_hits_total{engine="0",model_name="sim-model"} 240' in metrics.decode()
        assert (await client.ask("POST", "/reset_prefix_cache"))[0] == 200
        assert await cached("x" * 400) == 0

    simulate(talk, replace(QUICK, prefix_cache_tokens=16_000))
