"""Requests of one's own: each shipped one loads a stand-in with the service's real shape, and what is odd is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from plans import plan
from running import Run, Stage
from shapes import Service, lines, ollama, qdrant, serving, tgi, triton, vision, whole
from tokenstorm.api.groups import GroupRequest
from tokenstorm.errors import PlanError
from tokenstorm.load import make
from tokenstorm.loadgen.answers import Answer
from tokenstorm.loadgen.endpoint import endpoints_of
from tokenstorm.loadgen.openai import body_of, head_of
from tokenstorm.loadgen.operations import answers_of
from tokenstorm.loadgen.prompts import Prompt, load_prompts, prompt_file
from tokenstorm.typed import SHIPPED, typed_custom

LIGHT = (
    "--request-count",
    "6",
    "--requests-per-second",
    "60",
    "--max-tokens",
    "4",
    "--num-clients",
    "6",
    "--model",
    "tiny",
)
FIELDS: dict[str, list[dict[str, Any]]] = {
    "qdrant-search": [{"vector": [0.25, 0.5, number + 0.5]} for number in range(3)],
    "vision-chat": [{"prompt": "What is this?", "image": "data:image/png;base64,QUJD"}],
}
SHAPES: dict[str, tuple[Service, int | None, int | None, int]] = {
    # the stand-in, and of each answer: tokens of its prompt, of itself, and the pieces with text that came
    "ollama-chat": (ollama, 11, 4, 4),
    "ollama-generate": (ollama, 11, 4, 4),
    "tgi-generate-stream": (tgi, 11, 4, 4),
    "triton-generate": (triton, None, None, 0),
    "triton-generate-stream": (triton, None, 4, 4),
    "qdrant-search": (qdrant, None, None, 0),
    "vision-chat": (vision, 11, 4, 4),
}


def loaded(stage: Stage, url: str, name: str, *options: str) -> Run:
    file: tuple[str, ...] = ()
    if records := FIELDS.get(name):
        path = stage.folder / "fields.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        file = ("--prompts-file", str(path))
    return stage.bench(url, "--custom", name, *LIGHT, *file, *options)


def test_every_shipped_request_is_tried() -> None:
    assert {path.stem for path in SHIPPED.glob("*.json")} == set(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shipped_request_loads_the_service_that_it_is_for(stage: Stage, name: str) -> None:
    service, prompt_tokens, output_tokens, chunks = SHAPES[name]
    with serving(service) as asked:
        run = loaded(stage, asked.url, name)
    counts = run.summary["counts"]
    assert (counts["scheduled"], counts["succeeded"]) == (6, 6), run.summary["failures"]
    assert run.summary["warnings"] == {}
    found = {(line["prompt_tokens"], line["output_tokens"], line["chunks"]) for line in run.lines()}
    assert found == {(prompt_tokens, output_tokens, chunks)}
    assert {line["finish_reason"] for line in run.lines()} <= {"length", None}
    assert (run.summary["metrics"]["ttft_seconds"]["count"] == 6) == bool(chunks)
    path = typed_custom(name)["path"].replace("{model}", "tiny")
    assert {
        request[1] for request in asked.requests if "metrics" not in request[1] and "version" not in request[1]
    } == {path}


def test_a_service_that_streams_can_be_asked_for_answers_in_one_piece(stage: Stage) -> None:
    with serving(ollama) as asked:
        run = loaded(stage, asked.url, "ollama-generate", "--no-stream")
    assert run.summary["counts"]["succeeded"] == 6
    assert {(line["output_tokens"], line["chunks"]) for line in run.lines()} == {(4, 0)}


@pytest.mark.parametrize(
    ("name", "service", "words"),
    [
        ("ollama-chat", ollama, "model 'other' not found"),
        ("triton-generate", triton, "Request for unknown model: 'other' is not found"),
        ("qdrant-search", qdrant, "Collection `other` doesn't exist!"),
    ],
)
def test_what_the_service_refuses_is_told_in_its_words_before_the_start(
    stage: Stage, name: str, service: Service, words: str
) -> None:
    path = stage.folder / "fields.jsonl"
    path.write_text(json.dumps({"prompt": "x", "vector": [0.5]}))
    with serving(service) as asked:
        ended = stage.command("bench", asked.url, "--custom", name, "--model", "other", "--prompts-file", str(path))
    assert (ended.code, words in ended.err) == (1, True), ended


def test_an_error_in_a_stream_and_one_that_is_cut_off_are_failures(stage: Stage) -> None:
    said = {"model": "tiny", "response": "a", "done": False}
    answers = [lines(said, {"error": "out of memory"}), lines(said, said), whole({"oops": 1})]

    def service(_path: str, body: dict[str, Any]) -> Any:
        return ollama(_path, body) if len(asked.requests) == 1 else answers[len(asked.requests) % 3]

    with serving(service) as asked:
        run = loaded(stage, asked.url, "ollama-generate", "--num-clients", "1", "--request-count", "3")
    assert run.summary["counts"]["succeeded"] + sum(run.summary["counts"]["failed_by_kind"].values()) == 3
    assert run.summary["failures"]["stream_error"] == "out of memory"
    assert "truncated" in run.summary["failures"]


def custom(body: object = None, **answer: Any) -> dict[str, Any]:
    return {"path": "/x", "body": body, "answer": answer}


def read(answer: dict[str, Any], *pieces: bytes, stream: bool = True) -> Answer:
    found = answers_of(plan(endpoint="custom", custom=custom(**answer), stream=stream))(200, None)
    for number, piece in enumerate(pieces):
        found.receive(piece, 1000 + 10 * number)
    found.finish(200)
    return found


def test_lines_are_read_wherever_they_are_cut() -> None:
    answer = {"form": "ndjson", "text": "/t", "done": "/d"}
    found = read(answer, b'{"t": "a"}\n{"t"', b': "b"', b'}\n\n{"t": "", "d": tr', b"ue}")
    assert (found.failure, found.chunks, found.first_token, found.last_token) == (None, 2, 1000, 1020)


def test_pointers_reach_into_lists_and_odd_names() -> None:
    found = read({"text": "/a~1b/1/c~0d", "output_tokens": "/n"}, b'{"a/b": [0, {"c~d": "x"}], "n": 3}')
    assert (found.failure, found.output_tokens, list(found.warnings)) == (None, 3, [])


@pytest.mark.parametrize(
    ("answer", "body", "kind"),
    [
        ({"required": ["/result"]}, b'{"status": "ok"}', "malformed"),
        ({"required": ["/result"]}, b'{"error": "no"}', "stream_error"),
        ({"text": "/t"}, b'{"detail": "no"}', "stream_error"),
        ({"text": "/t"}, b'{"x": 1}', "malformed"),
        ({"text": "/t"}, b"no", "malformed"),
        ({}, b'{"x": 1}', None),
        ({"required": ["/result"]}, b'{"result": null}', None),
    ],
)
def test_a_whole_answer_needs_what_its_pointers_name(answer: dict[str, Any], body: bytes, kind: str | None) -> None:
    found = read(answer, body)
    assert (found.failure and found.failure.kind) == kind


def test_placeholders_become_the_field_or_stand_in_a_text() -> None:
    some = plan(
        endpoint="custom",
        custom=custom({"v": "{vector}", "t": "<{prompt}> {n} {{x}}", "k": ["{max_tokens}"]}),
        max_tokens=5,
    )
    prompt = Prompt(text="hi", fields={"vector": [1, 2], "n": 7})
    assert body_of(some, "m", prompt) == {"v": [1, 2], "t": "<hi> 7 {x}", "k": [5]}


def test_a_field_that_a_prompt_lacks_is_told_before_the_start(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"vector": [1]}\n{"other": 1}\n')
    made = plan(endpoint="custom", custom=custom({"v": "{vector}"}))
    with pytest.raises(PlanError, match=r"\{vector\} stands in its body, and prompt 2 of .* has no such field"):
        prompt_file(path, custom=made.custom)
    with pytest.raises(PlanError, match=r"\{vector\} stands in its body, and prompt 1 of these prompts"):
        load_prompts(made)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"endpoint": "custom"}, "belong together"),
        ({"custom": custom()}, "belong together"),
        ({"endpoint": "custom", "custom": {**custom(), "path": "/{prompt}"}}, "only {model}"),
        ({"endpoint": "custom", "custom": {**custom("x"), "method": "GET"}}, "a GET has no body"),
        ({"endpoint": "custom", "custom": custom(text="t")}, "regex"),
        ({"endpoint": "custom", "custom": custom(), "ignore_eos": True}, "write it into its body"),
        ({"endpoint": "custom", "custom": {**custom(), "headers": {"Cookie": "x"}}}, "looks like a secret"),
        ({"headers": {"X-Api-Key": "x"}}, "looks like a secret"),
        ({"headers": {"Authorization": "x"}}, "--api-key-env"),
        ({"headers": {"Host": "x"}}, "is set by tokenstorm itself"),
        ({"api_key_header": "Host"}, "has another content already"),
        ({"api_key_header": "x-team", "headers": {"X-Team": "a"}}, "has another content already"),
        ({"headers": {"a b": "x"}}, "printable ASCII"),
        ({"headers": {"a": "x\r\nb: c"}}, "printable ASCII"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError) as refused:
        plan(**fields)
    assert words in str(refused.value)


@pytest.mark.parametrize("value", ["[" * 100_000 + "]" * 100_000, '"half of a pair: \\ud83d"'], ids=["deep", "half"])
def test_a_record_that_no_request_can_carry_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(f'{{"prompt": "a", "n": 1}}\n{{"prompt": "b", "n": {value}}}\n')
    made = plan(endpoint="custom", custom=custom({"n": "{n}"}))
    with pytest.raises(PlanError, match="line 2: "):
        prompt_file(path, custom=made.custom)


def test_headers_and_a_key_under_another_name_go_with_every_request_and_into_no_file(stage: Stage) -> None:
    with serving(triton) as asked:
        options = ("--header", "x-tenant=hpc", "--api-key-header", "x-api-key", "--api-key-env", "KEY_OF_THE_TEST")
        ended = stage.command(
            *(
                "bench",
                asked.url,
                "--custom",
                "triton-generate",
                *options,
                *LIGHT,
                "--run-dir",
                str(stage.folder / "b"),
            ),
            KEY_OF_THE_TEST="sk-of-the-test",
        )
    assert ended.code in {0, 3}, ended
    sent = [headers for _, _, headers, _ in asked.requests]
    assert {(each.get("x-tenant"), each.get("x-api-key"), each.get("authorization")) for each in sent} == {
        ("hpc", "sk-of-the-test", None)
    }
    files = [path.read_bytes() for path in (stage.folder / "b").rglob("*") if path.is_file()]
    assert not any(b"sk-of-the-test" in content for content in files)


def test_a_header_that_tokenstorm_sends_as_well_is_sent_once_as_it_was_asked() -> None:
    made = plan(endpoint="messages", headers={"Anthropic-Version": "2024-01-01", "User-Agent": "mine"})
    (endpoint,) = endpoints_of(["http://h"], "messages")
    head = head_of(made, endpoint, "m", None).decode().lower().splitlines()
    names = [line.partition(":")[0] for line in head]
    assert len(names) == len(set(names)), head
    assert {"anthropic-version: 2024-01-01", "user-agent: mine"} <= set(head)


def test_a_request_that_is_not_there_is_told_with_those_that_are(stage: Stage) -> None:
    ended = stage.command("bench", "http://127.0.0.1:1", "--custom", "nothing")
    assert (ended.code, "those that are shipped: ollama-chat," in ended.err) == (2, True), ended


@pytest.mark.parametrize("value", [float("nan"), "\ud800"])
def test_a_body_that_json_cannot_carry_is_refused_when_a_group_is_asked_for(value: object) -> None:
    request = {
        "service_id": "a",
        "num_clients": 1,
        "prompts": ["x"],
        "endpoint": "custom",
        "custom": custom({"v": [value]}),
    }
    with pytest.raises(PlanError, match="`custom`: it holds"):
        make(request, GroupRequest)
