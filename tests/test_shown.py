"""What is shown to people: a server's words are not obeyed, and every command says what it is asked in the form it is asked for."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from running import TIMEOUT, Run, Stage, wait_for
from serving import Up, end_all, start_up
from tokenstorm.sdk import Service

HOSTILE = "boom \x1b[2J\x1b]0;owned\x07 \u202e \x9b31m\nverdict: VALID"
SHOWN = r"boom \x1b[2J\x1b]0;owned\x07 \u202e"
STEADY = ("--requests-per-second", "20", "--duration", "1", "--max-tokens", "4")
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


class Hostile(BaseHTTPRequestHandler):
    """An engine whose every word is meant for the terminal."""

    protocol_version = "HTTP/1.1"
    status: ClassVar[int] = 400

    def reply(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.command == "GET":
            self.answer(200, {"data": [{"id": f"model {HOSTILE}"}]} if self.path.endswith("/models") else {})
        else:
            self.answer(self.status, {"error": {"message": HOSTILE, "type": HOSTILE, "code": HOSTILE}})

    def answer(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = reply  # noqa: N815 - the names that the base class looks for

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def hostile(status: int) -> Iterator[str]:
    handler = type("Engine", (Hostile,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.fixture
def up(stage: Stage) -> Iterator[Up]:
    yield start_up(stage)
    end_all(stage)


def simulated_service(up: Up, recipe: str) -> Service:
    with up.sdk() as client:
        return client.wait_until_ready(client.create_service(recipe, {"preset": "fast"}).id, seconds=TIMEOUT)


def test_a_refusal_in_a_servers_words_is_seen_and_not_obeyed(stage: Stage) -> None:
    with hostile(400) as url:
        ended = stage.command("bench", url, *STEADY)
    assert (ended.code, ended.out) == (1, "")
    assert SHOWN in ended.err
    assert not OBEYED.search(ended.err)
    assert all(line.startswith(("tokenstorm: ", "  ")) for line in ended.err.splitlines()), "no line looks like ours"


def test_a_run_that_failed_in_a_servers_words_is_shown_and_they_are_not_obeyed(stage: Stage) -> None:
    run = Run(stage.folder / "run")
    with hostile(500) as url:
        ended = stage.command("bench", url, *STEADY, "--run-dir", str(run.root))
    reported = stage.command("report", str(run.root))
    as_json = stage.command("report", str(run.root), "--json")
    for shown in (ended, reported, as_json):
        assert shown.code == 3
        assert not OBEYED.search(shown.out + shown.err)
    assert SHOWN in reported.out
    assert reported.out.count("verdict:") - reported.out.count(r"\nverdict:") == 1
    assert HOSTILE in json.loads(as_json.out)["environment"]["model"], "JSON keeps the truth"
    assert run.lines()[0]["error"]["detail"].startswith("boom \x1b[2J"), "and so do files"


def test_what_was_typed_is_quoted_without_being_obeyed(stage: Stage) -> None:
    for words in (("bench", "\x1b[2J"), ("bench", "http://127.0.0.1:9", "--speed\x1b[2J"), ("report", "\x1b[2J\udcff")):
        ended = stage.command(*words)
        assert ended.code in {1, 2}
        assert not OBEYED.search(ended.err)


def test_a_terminal_that_has_no_micro_sign_is_given_another_way_to_write_it(stage: Stage) -> None:
    ended = stage.command("bench", stage.truth().url, *STEADY, PYTHONIOENCODING="ascii")
    assert (ended.code in {0, 3}, ended.err) == (True, "")
    assert r" \xb5s" in ended.out


def test_a_run_that_goes_on_is_not_said_to_be_cut_off(stage: Stage) -> None:
    options = ("--requests-per-second", "20", "--duration", "60", "--max-tokens", "2", "--drain", "1")
    process, run = stage.starting(stage.truth().url, *options)
    wait_for(lambda: run.root.exists() and run.lines() and run.timeline(), "it sent nothing")
    going = stage.command("report", str(run.root))
    assert "the run goes on: these are its numbers so far" in going.out
    assert "cut off" not in going.out
    assert json.loads(stage.command("report", str(run.root), "--json").out)["outcome"] == "running"
    process.kill()
    process.wait(TIMEOUT)
    killed = stage.command("report", str(run.root))
    assert "the run was cut off" in killed.out
    assert "goes on" not in killed.out


def test_simulated_is_said_through_the_gateway_and_the_orchestrator(up: Up) -> None:
    service = simulated_service(up, "inference/sim-replicas")
    assert service.simulated
    for api in (up.server, up.orchestrator):
        base = f"{api}/api/v1/vllm/{service.id}"
        for url in (base, f"{base}/v1"):
            ended = up.stage.command("bench", url, *STEADY)
            assert ended.out.startswith("*** SIMULATED ENGINE"), (url, ended)
    load = ("--num-clients", "4", *STEADY, "--via", "orchestrator")
    ended = up.command("group", "create", service.id, *load, "--watch")
    assert "*** SIMULATED ENGINE" in ended.out, ended
    with up.sdk() as client:
        assert client.prompt(service.id, "hi", max_tokens=2).simulated
        assert [one.simulated for one in client.list_vllm_services().services] == [True]
        assert [one.simulated for one in client.list_services().services] == [True]


def test_each_command_answers_in_the_form_that_it_is_asked_for(up: Up) -> None:
    service_id = simulated_service(up, "inference/sim-single-node").id
    logs = json.loads(up.command("service", "logs", service_id, "--json").out)
    assert "simulated engine" in logs["logs"]
    wrong = up.command("service", "logs", service_id, "--source", "xx")
    assert (wrong.code, wrong.out) == (2, "")
    assert re.search(r"there is no source 'xx' of its logs: there is job, \S+\.0 \(GET \S+: 404\)", wrong.err)
    held = up.command("group", "create", service_id, "--num-clients", "2", *STEADY, "--start", "manual")
    (group,) = re.findall(
        r"^it holds once it is ready; release it: tokenstorm group run (\d+)$", held.out, re.MULTILINE
    )
    wait_for(lambda: "it holds until" in up.command("group", "show", group).out, "it never held")
    assert re.search(r"^status +running \(holding\)$", up.command("group", "show", group).out, re.MULTILINE)
    assert "running (holding)" in up.command("group", "list").out
    assert up.command("group", "run", group).code == 0
    assert up.command("group", "watch", group).code in {0, 3}
    report = up.command("group", "report", group, "--json")
    assert json.loads(report.out) == json.loads(up.command("group", "results", group, "--json").out)
    for words in (("group", "metrics", group), ("group", "requests", group), ("service", "metrics", service_id)):
        refused = up.command(*words, "--json")
        assert (refused.code, refused.out) == (2, ""), words
        assert "--json" in refused.err
    code, said = up.stage.printed_on_a_terminal("group", "requests", group, "--format", "parquet", **up.variables)
    assert (code, "> requests" in said) == (2, True)
    assert up.command("group", "delete", group).code == 0
    assert up.command("group", "delete", group, "--purge").out == f"group {group} is deleted, with its files\n"


def test_an_engines_log_is_printable_on_a_terminal_and_whole_in_a_file(up: Up, stage: Stage) -> None:
    service_id = simulated_service(up, "inference/sim-single-node").id
    (log,) = stage.folder.rglob("replica.*.log")
    with log.open("a", encoding="utf-8") as file:
        file.write("\x1b[31mred\x1b[0m \x1b[2J loading 10%\rloading 99%\n")
    assert "\x1b[31mred\x1b[0m \x1b[2J loading 10%" in up.command("service", "logs", service_id).out
    _, said = stage.printed_on_a_terminal("service", "logs", service_id, **up.variables)
    assert "red \\x1b[2J loading 10%\r\nloading 99%\r\n" in said
    assert "\x1b" not in said
