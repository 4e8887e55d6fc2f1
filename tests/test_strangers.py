"""On a machine of many users: who may call what one of them has started, over real sockets of both."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from running import TIMEOUT, Run, Stage, running_second
from serving import Up, end_all, start_up
from strangers import NOBODY, Told, as_root, ask_as, connect_as

ME = os.geteuid()
SERVICES = "/api/v1/services"
GROUPS = "/api/v1/client-groups"
A_SERVICE = {"recipe_name": "inference/sim-single-node", "config": {"preset": "fast"}}
CHAT = {"model": "sim-model", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
pytestmark = pytest.mark.integration


@pytest.fixture
def start(stage: Stage) -> Iterator[Callable[..., Up]]:
    yield lambda *options, **more: start_up(stage, *options, **more)
    end_all(stage)


def post(uid: int, url: str, content: object, **headers: str) -> Told:
    body = json.dumps(content).encode()
    return ask_as(uid, url, "POST", body=body, headers={"content-type": "application/json", **headers})


def running_service(up: Up, **options: Any) -> str:
    with up.sdk(**options) as client:
        service = client.create_service("inference/sim-single-node", {"preset": "fast"})
        client.wait_until_ready(service.id, seconds=TIMEOUT)
        return service.id


@as_root
def test_another_user_gets_nothing_from_the_three_apis_and_the_owner_needs_no_token(start: Callable[..., Up]) -> None:
    up = start()
    service = running_service(up)
    group = {"service_id": service, "num_clients": 1, "request_count": 1, "prompts": ["a"]}
    calls = [(up.server, SERVICES, A_SERVICE), (up.orchestrator, SERVICES, A_SERVICE), (up.client, GROUPS, group)]
    for url, path, content in calls:
        for open_to_all in ("/health", "/ready", "/metrics", "/docs", "/openapi.json", path, "/nothing"):
            is_refused(ask_as(NOBODY, url + open_to_all))
            assert ask_as(NOBODY, url + open_to_all, "HEAD").status == 403
        is_refused(post(NOBODY, url + path, content))
        is_refused(post(NOBODY, url + path, content, authorization="Bearer guess"))
        is_refused(ask_as(NOBODY, f"{url}{path}/{service if url != up.client else 1}", "DELETE"))
        assert ask_as(ME, url + path).status == 200
    through = f"/api/v1/vllm/{service}/v1/chat/completions"
    for url in (up.server, up.orchestrator):
        told = post(NOBODY, url + through, CHAT)
        error = json.loads(told.body)["error"]
        assert (told.status, error["code"]) == (403, "forbidden")
        assert "another user of this machine" in error["message"]
        assert post(ME, url + through, CHAT).status == 200
    with up.sdk() as client:
        assert [one.id for one in client.list_services().services] == [service]
        assert client.list_services().services[0].status == "running"
        assert client.list_groups().count == 0


def is_refused(told: Told) -> None:
    assert (told.status, told.headers["content-type"]) == (403, "application/problem+json"), told
    assert "another user of this machine" in json.loads(told.body)["detail"]


@as_root
def test_another_process_of_another_user_is_refused(start: Callable[..., Up]) -> None:
    url = start().server
    port = url.rpartition(":")[2]
    for host in ("127.0.0.1", f"localhost:{port}"):
        asked = f"GET {SERVICES} HTTP/1.1\\r\\nhost: {host}\\r\\nconnection: close\\r\\n\\r\\n"
        script = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{asked}' >&3; cat <&3"
        said = {
            uid: subprocess.run(
                ["bash", "-c", script], user=uid, group=uid, extra_groups=[], cwd="/", capture_output=True, check=True
            ).stdout.splitlines()[0]
            for uid in (0, NOBODY)
        }
        assert said == {0: b"HTTP/1.1 200 OK", NOBODY: b"HTTP/1.1 403 Forbidden"}


@as_root
def test_a_token_is_made_to_be_given_to_others(start: Callable[..., Up]) -> None:
    up = start(TOKENSTORM_TOKEN="for-the-two-of-us")
    for url, path in ((up.server, SERVICES), (up.orchestrator, SERVICES), (up.client, GROUPS)):
        for uid in (ME, NOBODY):
            assert ask_as(uid, url + path).status == 401
            assert ask_as(uid, url + path, headers={"authorization": "Bearer for-the-two-of-us"}).status == 200


@as_root
def test_a_connection_is_asked_for_its_user_once(start: Callable[..., Up]) -> None:
    up = start()
    port = int(up.server.rpartition(":")[2])
    engine = running_engine(up)
    for at in (port, engine):
        asked = f"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1:{at}\r\n\r\n".encode()
        with connect_as(0, "127.0.0.1", at) as kept, kept.makefile("rb") as answers:
            for owner in (0, NOBODY, NOBODY):
                os.fchown(kept.fileno(), owner, owner)
                kept.sendall(asked)
                assert answers.readline().split()[1] == b"200"
                length = 0
                while line := answers.readline().strip():
                    length = int(line.split()[1]) if line.startswith(b"content-length") else length
                answers.read(length)
        assert ask_as(NOBODY, f"http://127.0.0.1:{at}/metrics").status == 403


def running_engine(up: Up) -> int:
    """The port of a service's engine."""
    with up.sdk() as client:
        service = client.create_service("inference/sim-single-node", {"preset": "fast"})
        endpoint = client.wait_until_ready(service.id, seconds=TIMEOUT).endpoint
    assert endpoint
    return int(endpoint.rpartition(":")[2])


@as_root
def test_another_user_gets_nothing_from_a_simulated_engine(stage: Stage) -> None:
    for host, called in (("127.0.0.1", "[::ffff:127.0.0.1]"), ("::1", "[::1]"), ("0.0.0.0", "127.0.0.2")):
        port = stage.simulate("--host", host).url.rpartition(":")[2]
        url = f"http://{called}:{port}"
        for path in ("/health", "/version", "/metrics", "/v1/models", "/nothing"):
            told = ask_as(NOBODY, url + path)
            assert told.status == 403
            assert "another user of this machine" in json.loads(told.body)["error"]["message"]
            told = ask_as(NOBODY, url + path, "HEAD")
            assert (told.status, told.body) == (403, b"")
        assert post(NOBODY, f"{url}/v1/chat/completions", CHAT).status == 403
        assert post(ME, f"{url}/v1/chat/completions", CHAT).status == 200
        metrics = ask_as(ME, f"{url}/metrics").body.decode()
        assert re.search(r"request_success_total\{[^}]*length[^}]*\} 1(\.0)?$", metrics, re.MULTILINE), metrics


@as_root
def test_the_key_of_a_simulated_engine_is_made_to_be_given_to_others(stage: Stage) -> None:
    url = stage.simulate("--api-key-env", "KEY", KEY="k3y").url
    for path, owner in (("/health", 200), ("/v1/models", 401)):
        assert ask_as(NOBODY, url + path).status == 403
        assert ask_as(NOBODY, url + path, headers={"authorization": "Bearer k3y"}).status == 200
        assert ask_as(ME, url + path).status == owner
    assert post(NOBODY, f"{url}/v1/chat/completions", CHAT).status == 403
    assert post(NOBODY, f"{url}/v1/chat/completions", CHAT, authorization="Bearer k3y").status == 200


@as_root
def test_a_body_that_a_stranger_sends_is_not_waited_for(stage: Stage) -> None:
    port = int(stage.simulate().url.rpartition(":")[2])
    with connect_as(NOBODY, "127.0.0.1", port) as call:
        call.sendall(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 60000000\r\n\r\n")
        assert call.recv(12) == b"HTTP/1.1 403"


@as_root
def test_another_user_gets_nothing_from_a_launcher(stage: Stage) -> None:
    run = Run(stage.folder / "run")
    plan = stage.plan_file(
        run, targets=[{"replica": "0", "url": stage.truth().url}], group_id=7, duration_seconds=60, ranks=2
    )
    (run.root / "secrets.json").write_text(json.dumps({"launcher": "s3cret"}))
    process = stage.loadgen(plan)
    running_second(run, process)
    url = run.json("address.json")["url"]
    for path in ("/status", "/metrics", "/timeline", "/events", "/rank", "/nothing"):
        told = ask_as(NOBODY, url + path)
        assert told.status == 403
        assert "another user of this machine" in json.loads(told.body)["error"]["message"]
        assert ask_as(ME, url + path).status == 401
    assert ask_as(NOBODY, f"{url}/control", "POST", body=b"stop").status == 403
    assert ask_as(NOBODY, f"{url}/control", "POST", body=b"stop", headers={"authorization": "Bearer x"}).status == 403
    as_a_rank = {"connection": "upgrade", "upgrade": "tokenstorm-rank"}
    assert ask_as(NOBODY, f"{url}/rank", headers=as_a_rank).status == 403
    known = {"authorization": "Bearer s3cret"}
    assert json.loads(ask_as(ME, f"{url}/status", headers=known).body)["phase"] == "measured"
    for path in ("/status", "/metrics", "/timeline", "/events", "/rank", "/nothing"):
        same_as_get(url + path, known)
    assert process.poll() is None


@as_root
def test_where_users_have_no_numbers_of_their_own_a_token_is_wanted(stage: Stage) -> None:
    """In a user namespace without them, as in many containers, all others look the same, root too."""
    alone = ["unshare", "--user", f"--map-user={ME}", sys.executable, "-m"]
    if subprocess.run([*alone[:-2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces can be made here")
    for words, path, form in (
        (("tokenstorm", "orchestrator", "--port", "0"), SERVICES, "detail"),
        (("tokenstorm.simulator", "--port", "0"), "/v1/models", "error"),
    ):
        process = stage.popen([*alone, *words], stdout=subprocess.PIPE)
        assert process.stdout
        found = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert found
        assert ask_as(ME, found[0] + path).status == 200
        told = ask_as(NOBODY, found[0] + path)
        assert told.status == 401
        assert "cannot be told who you are" in str(json.loads(told.body)[form])


@as_root
def test_where_the_kernel_tells_no_users_a_token_is_printed_on_loopback_too(stage: Stage) -> None:
    """In a user namespace without any numbers, its owner looks like all the others."""
    if subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces can be made here")
    command = ["unshare", "--user", sys.executable, "-m", "tokenstorm", "server", "--port", "0"]
    process = stage.popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    printed = process.stdout.readline().split()
    assert printed[0] == "token"
    token, url = printed[1], process.stdout.readline().split()[2]
    for uid in (ME, NOBODY):
        assert ask_as(uid, f"{url}/metrics").status == 401
        assert ask_as(uid, f"{url}/metrics", headers={"authorization": f"Bearer {token}"}).status == 200


def test_head_is_answered_as_get_is_without_the_body(start: Callable[..., Up]) -> None:
    up = start()
    service = running_service(up)
    with up.sdk() as client:
        group = client.create_group(
            service_id=service, num_clients=1, request_count=2, prompts=["a"], max_tokens=2
        ).group_id
        client.wait_until_stopped(group, seconds=TIMEOUT)
        held = client.create_group(
            service_id=service, num_clients=1, request_count=2, prompts=["a"], start="manual"
        ).group_id
        same_as_get(f"{up.client}{GROUPS}/{held}/events")
        with connect_as(ME, "127.0.0.1", int(up.client.rpartition(":")[2])) as call, call.makefile("rb") as said:
            for method, path in (("HEAD", f"{GROUPS}/{held}/events"), ("GET", "/health")):
                call.sendall(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
                assert said.readline() == b"HTTP/1.1 200 OK\r\n"
                while said.readline().strip():
                    pass
        client.delete_group(held)
    names = {"service_id": service, "category": "inference", "name": "sim-single-node"}
    more = ["/docs", "/openapi.json", f"/api/v1/vllm/{service}/v1/models", "/api/v1/nothing", "/nothing"]
    seen = 0
    for url in (up.server, up.orchestrator, up.client):
        filled = names | {"group_id": str(group) if url == up.client else service}
        paths = json.loads(ask_as(ME, f"{url}/openapi.json").body)["paths"]
        for path in [*paths, *more]:
            same_as_get(url + re.sub(r"\{(\w+)(?::\w+)?\}", lambda name: filled.get(name[1], "v1"), path))  # noqa: B023 - used at once
            seen += 1
    assert seen > 50


def test_head_is_answered_as_get_is_by_the_simulated_engine(stage: Stage) -> None:
    url = stage.simulate().url
    for path in ("/health", "/ping", "/version", "/metrics", "/tokenize", "/v1/models", "/v1/completions", "/nothing"):
        same_as_get(url + path)
    assert ask_as(ME, f"{url}/v1/models", "DELETE").headers["allow"] == "GET, HEAD"


def same_as_get(url: str, headers: dict[str, str] | None = None) -> None:
    got, head = ask_as(ME, url, headers=headers), ask_as(ME, url, "HEAD", headers=headers)
    assert head.body == b""
    assert head.status == got.status, url
    assert {**head.headers, "content-length": ""} == {**got.headers, "content-length": ""}, url
    assert ("content-length" in head.headers) == ("content-length" in got.headers), url
