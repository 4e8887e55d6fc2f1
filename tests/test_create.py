"""`tokenstorm service create`, as its user sees it: what it says first, when it is interrupted, and when answers are lost."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from running import Stage
from serving import Up, end_all, start_up

CREATE = ("service", "create", "inference/sim-single-node", "--wait", "--set", "preset=fast")
SLOW = ("--set", 'extra_args=["--slow-start", "600"]')


@pytest.fixture
def start(stage: Stage) -> Iterator[Callable[..., Up]]:
    """Starts `up`s; at the end of the test nothing of them is left."""
    yield lambda *options, **more: start_up(stage, *options, **more)
    end_all(stage)


def test_who_waits_is_told_the_id_first_and_on_ctrl_c_what_goes_on_and_how_to_stop_it(start: Callable[..., Up]) -> None:
    up = start()
    process = up.start(*CREATE, *SLOW)
    assert process.stderr
    first = process.stderr.readline()
    (service_id,) = re.findall(r"service (s\w+) is pending.*; it is waited for", first)
    process.send_signal(signal.SIGINT)
    ended = up.stage.ended(process)
    assert ended.code == 130
    assert f"service {service_id} goes on: `tokenstorm service stop {service_id}` ends it" in ended.err
    with up.sdk() as client:
        assert client.get_service(service_id).status not in {"failed", "cancelled"}
        assert client.stop_service(service_id).status == "cancelled"
        assert client.stop_service(service_id).status == "cancelled"


@pytest.mark.parametrize("lost", ["a 504", "the connection"])
def test_an_answer_that_is_lost_makes_no_second_service(start: Callable[..., Up], lost: str) -> None:
    """Something between the command and the API does what was asked and loses the answer, twice."""
    up = start()
    with up.sdk() as client:
        seen: list[str | None] = []

        class Between(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                key = self.headers["idempotency-key"]
                seen.append(key)
                made = client.create_service(body["recipe_name"], body["config"], idempotency_key=key)
                if len(seen) > 2:
                    self.say(201, {"id": made.id, "status": made.status, "recipe_name": made.recipe_name, "engine": ""})
                elif lost == "a 504":
                    self.say(504, {"detail": "no answer in time"})

            def do_GET(self) -> None:
                service_id = self.path.rpartition("/")[2]
                one = client.get_service(service_id)
                self.say(200, {"id": one.id, "status": one.status, "recipe_name": one.recipe_name, "engine": ""})

            def say(self, status: int, content: object) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Silent."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Between) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_address[1]}"
            ended = up.stage.command(*CREATE, "--json", "--server-url", url)
            server.shutdown()
        assert ended.code == 0, ended
        assert (len(seen), len(set(seen))) == (3, 1)
        assert ended.err.count("asking again") == 1
        (service,) = client.list_services().services
        assert json.loads(ended.out)["id"] == service.id
        client.stop_service(service.id)


def test_a_key_passes_through_the_server_api_and_is_known_after_a_restart(stage: Stage) -> None:
    def created(up: Up, *more: str) -> str:
        ended = up.command(*CREATE, "--json", "--idempotency-key", "mine", *more)
        assert ended.code == 0, ended
        service_id: str = json.loads(ended.out)["id"]
        return service_id

    up = start_up(stage)
    first = created(up)
    assert created(up) == first
    up.stop(signal.SIGKILL)
    up = start_up(stage)
    try:
        assert created(up) == first
        other = up.command(*CREATE, "--idempotency-key", "mine", "--set", "seed=7")
        assert other.code == 2
        assert "the Idempotency-Key 'mine' was used for another request" in other.err
        assert up.command("service", "stop", first).code == 0
    finally:
        end_all(stage)
