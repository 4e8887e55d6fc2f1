"""What the launcher asks the service before anything counts."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from held import Service
from plans import plan as made
from tokenstorm.errors import PreflightError
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.loadgen.endpoint import Endpoint, endpoints_of
from tokenstorm.loadgen.openai import Requests, body_request
from tokenstorm.loadgen.preflight import try_service
from tokenstorm.loadgen.prompts import load_prompts
from waiting import until

Answer = Callable[[Request, Reply], None]
ASKED_ENDS = {"prompts": {"kind": "synthetic", "unit": "words", "length": {"n": 3}, "output": {"n": 5}}}
MODELS = b'{"data": [{"id": "first"}, {"id": "second"}]}'


def fine(request: Request, reply: Reply) -> None:
    if request.path == "/v1/models":
        reply.send(200, MODELS)
    elif request.path == "/version":
        reply.send(200, b'{"version": "1.2", "simulated": true}')
    else:
        reply.start(200, "text/event-stream")
        reply.write(b'data: {"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n')


def refusing(status: int, message: str) -> Answer:
    def answer(request: Request, reply: Reply) -> None:
        if request.method == "GET":
            fine(request, reply)
        else:
            reply.send(status, json.dumps({"error": {"message": message}}).encode())

    return answer


def looked(*answers: Answer, api_key: str | None = None, **fields: Any) -> Any:
    """What `look` says of one replica for each answer; None for one that nobody listens at."""

    async def main() -> Any:
        async with asyncio.timeout(20):
            servers = [await serve(answer, "127.0.0.1", 0) for answer in answers]
            ports = [server.sockets[0].getsockname()[1] for server in servers]
            dead = fields.pop("dead", ())
            urls = [f"http://127.0.0.1:{port}" for port in (*ports, *dead)]
            plan = made(
                run_id="ab" * 16,
                targets=[{"replica": str(number), "url": url} for number, url in enumerate(urls)],
                **fields,
            )
            try:
                return await try_service(plan, load_prompts(plan), api_key)
            finally:
                for server in servers:
                    server.close()
                await asyncio.sleep(0.01)  # the loop closes their connections in its next turns

    return uvloop.run(main())


def test_the_model_is_the_first_that_the_service_names_unless_the_plan_names_one() -> None:
    service, facts, notes = looked(fine)
    assert (service.model, notes) == ("first", [])
    assert facts == {"0": {"version": "1.2", "simulated": True}}
    assert looked(fine, model="mine")[0].model == "mine"


def test_a_base_model_is_taken_before_an_adapter_that_is_listed_first() -> None:
    def answer(request: Request, reply: Reply) -> None:
        if request.path == "/v1/models":
            reply.send(200, b'{"data": [{"id": "lora", "parent": "base"}, {"id": "base", "parent": null}]}')
        else:
            fine(request, reply)

    assert looked(answer)[0].model == "base"


def test_a_model_that_is_not_there_is_told_those_there_are() -> None:
    with pytest.raises(PreflightError, match=r"no such model; 'mine' is not among its models, which are first, second"):
        looked(refusing(404, "no such model"), model="mine")
    with pytest.raises(PreflightError, match=r"too long$"):
        looked(refusing(400, "too long"), model="second")


def test_a_first_request_is_left_at_its_first_token() -> None:
    """The stream above never ends; the run would wait for it."""
    left = []

    def answer(request: Request, reply: Reply) -> None:
        fine(request, reply)
        if request.method == "POST":
            assert request.headers["x-request-id"] == f"{'ab' * 16}-preflight"
            reply.on_close = lambda: left.append(True)

    looked(answer)
    assert left == [True]


@pytest.mark.parametrize("fields", [{}, {"unique_prompts": True}, {"endpoint": "completions"}])
def test_a_first_request_asks_what_no_request_of_the_run_asks(fields: dict[str, Any]) -> None:
    """So it warms no prefix cache; but for its words it is as the others."""
    listed = {
        "kind": "list",
        "prompts": ["Why is the sky blue, and what is it made of? Say it in a few words.", "Why?"],
    }
    asked: list[dict[str, Any]] = []

    def answer(request: Request, reply: Reply) -> None:
        fine(request, reply)
        if request.method == "POST":
            asked.append(json.loads(request.body))

    looked(answer, prompts=listed, **fields)
    plan = made(run_id="ab" * 16, prompts=listed, **fields)
    requests = Requests(plan, "first", [Endpoint.parse("http://h")], load_prompts(plan), None)
    sent = [json.loads(requests.build(seq, 0)[0].partition(b"\r\n\r\n")[2]) for seq in range(50)]
    (first,) = asked
    assert first not in sent
    texts = {text_of(body)[:16] for body in sent}
    assert text_of(first)[:16] not in texts
    assert {name: value for name, value in first.items() if name not in {"messages", "prompt"}} == {
        name: value for name, value in sent[0].items() if name not in {"messages", "prompt"}
    }


def text_of(body: dict[str, Any]) -> str:
    text: str = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
    return text


@pytest.mark.parametrize(
    ("status", "words", "hint"),
    [(401, "who are you", "--api-key-env"), (404, "no such model", ""), (400, "too long", "")],
)
def test_a_refusal_ends_the_run_in_the_engines_own_words(status: int, words: str, hint: str) -> None:
    with pytest.raises(PreflightError, match=words) as raised:
        looked(fine, refusing(status, words))
    assert str(status) in str(raised.value)
    assert hint in str(raised.value)


def test_an_engine_that_repeats_the_key_does_not_get_it_into_a_message() -> None:
    with pytest.raises(PreflightError, match=r"no \*\*\* here"):
        looked(fine, refusing(401, "no s3cret here"), api_key="s3cret")
    _, _, notes = looked(refusing(503, "no s3cret now"), api_key="s3cret")
    assert "no *** now" in notes[0]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_fault_of_the_moment_is_only_noted(status: int) -> None:
    _, _, notes = looked(refusing(status, "busy"))
    assert len(notes) == 1
    assert "busy" in notes[0]


def test_a_dead_replica_beside_a_live_one_is_only_noted() -> None:
    _, _, notes = looked(fine, dead=[1])
    assert "127.0.0.1:1" in notes[0]
    assert "refused" in notes[0]


def test_when_nobody_answers_the_run_ends_with_the_address() -> None:
    with pytest.raises(PreflightError, match=r"127\.0\.0\.1:1 .*refused"):
        looked(dead=[1])
    with pytest.raises(PreflightError, match=r"127\.0\.0\.1:1 .*refused"):
        looked(dead=[1], model="mine")


def test_a_service_that_names_no_model_asks_for_one() -> None:
    def answer(request: Request, reply: Reply) -> None:
        reply.send(200, b'{"data": []}')

    with pytest.raises(PreflightError, match="--model"):
        looked(answer)


def redirecting(path: str) -> Answer:
    def answer(request: Request, reply: Reply) -> None:
        if request.path == path:
            reply.start(307, "text/plain", [("location", "https://elsewhere/x")])
            reply.end()
        else:
            fine(request, reply)

    return answer


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
def test_a_redirect_is_told_once_with_where_it_leads(path: str) -> None:
    with pytest.raises(PreflightError, match=r"307.*https://elsewhere/x") as raised:
        looked(redirecting(path))
    assert path in str(raised.value)


def test_a_refusal_names_the_path_that_was_asked() -> None:
    with pytest.raises(PreflightError, match="POST /v1/chat/completions with HTTP 404"):
        looked(refusing(404, "Not Found"))


@pytest.mark.parametrize("body", [b'{"data": []}', b"[]", b"{}", b"hello"])
def test_a_list_without_a_model_is_told_as_what_it_is(body: bytes) -> None:
    def answer(request: Request, reply: Reply) -> None:
        if request.path == "/v1/models":
            reply.send(200, body)
        else:
            fine(request, reply)

    with pytest.raises(PreflightError, match=r"GET /v1/models\): it names none.*--model"):
        looked(answer)


def test_every_request_asks_for_a_body_that_is_not_coded() -> None:
    codings = []

    def answer(request: Request, reply: Reply) -> None:
        codings.append(request.headers["accept-encoding"])
        fine(request, reply)

    looked(answer)
    assert codings == ["identity"] * 3


def test_an_answer_that_came_while_the_launcher_stood_still_is_read_before_it_is_too_late() -> None:
    """It is there in time; the launcher stands still until after that, and looks at its timers first."""
    service = Service(answers=False)
    ours, its = os.pipe()
    some = made(targets=[{"replica": "0", "url": service.url}], model="m", stream=False, request_timeout_seconds=2.0)

    def stand_still() -> None:
        os.read(ours, 1)
        service.release()
        time.sleep(2.5)

    async def main() -> list[str]:
        asyncio.get_running_loop().add_reader(ours, stand_still)
        looking = asyncio.create_task(try_service(some, load_prompts(some), None))
        await until(lambda: service.asked)
        service.release()  # the version
        await until(lambda: service.asked)
        os.write(its, b"x")
        return (await looking)[2]

    assert uvloop.run(main()) == []
    service.close()


@pytest.mark.parametrize(
    ("owner", "fields", "sets", "is_told"),
    [
        ("vllm", ASKED_ENDS, True, False),
        ("sglang", ASKED_ENDS, True, False),
        ("somebody", ASKED_ENDS, False, True),
        ("vllm", {**ASKED_ENDS, "ignore_eos": False}, False, False),
        ("somebody", {**ASKED_ENDS, "ignore_eos": True}, True, False),
        ("vllm", {**ASKED_ENDS, "extra_body": {"min_tokens": 5}}, False, False),
        ("vllm", {}, False, False),
    ],
)
def test_answers_are_as_long_as_asked_where_the_engine_is_known_to_do_that(
    owner: str, fields: dict[str, Any], sets: bool, is_told: bool
) -> None:
    """Unless the user says how answers end. Where the engine is not known, that is told, and nothing is set."""

    def answer(request: Request, reply: Reply) -> None:
        if request.path == "/v1/models":
            reply.send(200, json.dumps({"data": [{"id": "m", "owned_by": owner}]}).encode())
        else:
            fine(request, reply)

    service, _, notes = looked(answer, **fields)
    assert service.ignore_eos is sets
    assert any("answers may be shorter than asked" in note for note in notes) is is_told


def test_a_first_request_is_as_long_as_asked_where_our_words_are_several_tokens() -> None:
    """Else a model whose context just holds the prompt refuses it, and the run does not begin."""

    def count(text: str) -> int:
        return sum(3 if len(word) % 2 else 1 for word in text.split())

    def answer(request: Request, reply: Reply) -> None:
        if request.path == "/tokenize":
            reply.send(200, json.dumps({"count": count(json.loads(request.body)["prompt"])}).encode())
        elif request.path.endswith("/completions"):
            body = json.loads(request.body)
            tokens = count(body["messages"][0]["content"])
            if tokens > 310:  # its beginning may cut a word
                reply.send(400, b'{"error": {"message": "too long"}}')
            elif body["stream"]:
                fine(request, reply)
            else:
                choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "length"}
                usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
                reply.send(200, json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode())
        else:
            fine(request, reply)

    service, _, notes = looked(answer, prompts={"kind": "synthetic", "unit": "text", "length": {"n": 300}})
    assert len(service.vocabulary) > 100
    assert notes == []


def test_a_request_for_one_token_is_no_stream_whatever_the_plan_wants_of_streams() -> None:
    asked = made(slo={"ttft_seconds": 1.0}, cancel={"rate": 0.1, "after_tokens": 5})
    (endpoint,) = endpoints_of(["http://h"], asked.endpoint)
    body = json.loads(body_request(asked, "m", endpoint, None, "hi").partition(b"\r\n\r\n")[2])
    assert (body["stream"], body["max_tokens"]) == (False, 1)
