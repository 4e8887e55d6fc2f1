"""Engines on a node get ports of their own, are proved to be ours before they are published, and leave no orphans."""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from running import Stage, alive, free_port, wait_for
from wrapped import KEY, NODE, Service

OWN_ENGINE = """
import http.server, sys, time

class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        given = self.headers.get("authorization", "")
        right = KEY is None or self.path == "/health" or given == "Bearer " + KEY
        self.send_response(200 if right else 401)
        self.end_headers()

    def log_message(self, *_):
        pass

def serve(port):
    http.server.HTTPServer.allow_reuse_address = True
    http.server.HTTPServer(("127.0.0.1", port), Engine).serve_forever()
"""


@contextmanager
def listening(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


@pytest.fixture
def engines(stage: Stage) -> Iterator[list[int]]:
    """The pids of engines that a test wants to be gone in the end, whatever happens."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def engine_script(stage: Stage, end: str, key: str | None = KEY) -> list[str]:
    path = stage.folder / "engine.py"
    path.write_text(f"KEY = {key!r}\n{OWN_ENGINE}\nport = int(sys.argv[1])\n{end}\n")
    return [sys.executable, str(path), "{port}"]


def test_an_engine_is_published_once_it_answers_with_its_key(stage: Stage) -> None:
    service = Service(stage).start()
    found = service.reaches("running")
    assert found == {
        "schema": 1,
        "replica": f"{NODE}.0",
        "node": NODE,
        "host": "127.0.0.1",
        "port": service.base_port,
        "pid": found["pid"],
        "status": "running",
        "reason": "",
        "run": ".0",
        "ran_seconds": found["ran_seconds"],
        "nodes": [NODE],
    }
    assert alive(found["pid"])
    assert service.answers() == 200
    modes = {path.name: path.stat().st_mode & 0o777 for path in service.folder.glob("replica.*")}
    assert modes == {f"replica.{NODE}.0.json": 0o600, f"replica.{NODE}.0.log": 0o600}
    assert KEY not in Path(f"/proc/{found['pid']}/cmdline").read_text()
    assert b"serving" in (service.folder / f"replica.{NODE}.0.log").read_bytes()


def test_replicas_of_a_node_have_a_port_each(stage: Stage) -> None:
    service = Service(stage, replicas_per_node=3).start()
    found = [service.reaches("running", index) for index in range(3)]
    assert len({one["port"] for one in found}) == 3
    assert len({one["pid"] for one in found}) == 3
    assert [service.answers(index) for index in range(3)] == [200] * 3


def test_a_port_that_somebody_has_is_passed_over(stage: Stage) -> None:
    port = free_port()
    with listening(port):
        found = Service(stage, base_port=port).start().reaches("running")
    assert found["port"] > port


def test_services_that_start_at_once_on_one_port_never_clash(stage: Stage) -> None:
    port = free_port()
    services = [Service(stage, f"service-{n}", base_port=port, replicas_per_node=2).start() for n in range(3)]
    ports = [service.reaches("running", index)["port"] for service in services for index in range(2)]
    assert len(set(ports)) == 6
    assert all(service.answers(index) == 200 for service in services for index in range(2))


def test_a_listener_that_was_quicker_than_the_engine_is_not_taken_for_it(stage: Stage) -> None:
    """The foreign engine even accepts our key, and has none of our variables; ours sees that the port is taken and ends."""
    taken = stage.folder / "taken"
    quicker = f"import pathlib, subprocess\nif not pathlib.Path({str(taken)!r}).exists():\n"
    quicker += (
        f"    subprocess.Popen([sys.executable, __file__, str(port), 'foreign'], start_new_session=True, env=dict())\n"
        f"    pathlib.Path({str(taken)!r}).write_text(str(port))\n"
        "    while True:\n"
        "        try:\n"
        "            http.server.HTTPServer(('127.0.0.1', port), Engine)\n"
        "        except OSError as error:\n"
        "            sys.exit(str(error))\n"
    )
    # The one that daemonizes is no child of ours any more.
    daemon = (
        "import os\nif len(sys.argv) > 2:\n"
        "    parent = os.getpid()\n    if os.fork(): os._exit(0)\n"
        "    while os.getppid() == parent: time.sleep(0.001)\n"
        "    serve(port)\n"
    )
    end = f"{daemon}{quicker}serve(port)"
    service = Service(stage, command=engine_script(stage, end)).start()
    try:
        found = service.reaches("running")
        assert found["port"] > int(taken.read_text()) == service.base_port
    finally:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if process.joinpath("cmdline").read_bytes().endswith(f"{service.base_port}\0foreign\0".encode()):
                    os.kill(int(process.name), signal.SIGKILL)


def test_a_foreign_listener_that_comes_while_the_engine_loads_makes_it_move_on(stage: Stage) -> None:
    loads = "time.sleep(600 if port == int(sys.argv[2]) else 0)\nserve(port)"
    port = free_port()
    service = Service(stage, base_port=port, command=[*engine_script(stage, loads), str(port)]).start()
    assert service.reaches("starting")["port"] == port
    first = service.published()["pid"]
    with listening(port):
        found = service.reaches("running")
    assert found["port"] > port
    assert not alive(first)


def test_an_engine_that_listens_in_a_child_of_its_own_is_ours(stage: Stage) -> None:
    end = "import subprocess\nif len(sys.argv) > 2: serve(port)\nsubprocess.run([sys.executable, __file__, str(port), 'x'])"
    service = Service(stage, command=engine_script(stage, end)).start()
    assert service.reaches("running")["port"] == service.base_port


def test_an_engine_that_dies_at_once_is_failed_with_its_last_words(stage: Stage) -> None:
    words = f"sys.exit('no GPU for {KEY}')"
    service = Service(stage, command=engine_script(stage, words)).start()
    found = service.reaches("failed")
    assert found["reason"] == "the engine ended with status 1; the last it said: no GPU for …"
    assert service.process.wait(60) == 1


def test_an_engine_that_is_not_there_is_failed_by_name(stage: Stage) -> None:
    service = Service(stage, command=["no-such-engine"]).start()
    assert service.reaches("failed")["reason"] == "cannot start the engine: no-such-engine: No such file or directory"
    assert service.process.wait(60) == 1


def test_an_engine_that_wants_another_key_is_failed_and_ended(stage: Stage) -> None:
    service = Service(stage, command=engine_script(stage, "serve(port)", key="another")).start()
    found = service.reaches("failed")
    assert "does not accept its API key" in found["reason"]
    assert service.process.wait(60) == 1


def test_an_engine_that_never_gets_ready_is_failed_and_ended(stage: Stage, engines: list[int]) -> None:
    service = Service(stage, command=engine_script(stage, "time.sleep(600)"), ready_seconds=0.5).start()
    engines.append(service.reaches("starting")["pid"])
    assert service.reaches("failed")["reason"].startswith("it was not ready in 0.5 s: it does not listen on port")
    assert not alive(engines[0])


def test_one_engine_killed_is_failed_and_the_others_go_on(stage: Stage) -> None:
    service = Service(stage, replicas_per_node=2).start()
    first, second = (service.reaches("running", index)["pid"] for index in range(2))
    os.kill(first, signal.SIGKILL)
    assert "was killed by SIGKILL" in service.reaches("failed")["reason"]
    assert service.published(1)["status"] == "running"
    assert service.answers(1) == 200
    assert service.process.poll() is None
    os.kill(second, signal.SIGKILL)
    assert service.process.wait(60) == 1
    assert service.published(1)["status"] == "failed"


WORKS = """
import signal, subprocess
signal.signal(15, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(f"{__file__}.{port}", "w").write(str(child.pid))
"""


def with_workers(service: Service, status: str) -> list[int]:
    """The pids of two engines and of what each has started."""

    def worker(port: int) -> int | None:
        path = service.stage.folder / f"engine.py.{port}"
        return int(path.read_text()) if path.exists() and path.read_text() else None

    pids = []
    for index in range(2):
        found = service.reaches(status, index)
        pids += [found["pid"], wait_for(lambda port=found["port"]: worker(port), "the engine starts a worker")]  # type: ignore[misc]
    return pids


def test_term_ends_all_engines_their_workers_too(stage: Stage, engines: list[int]) -> None:
    service = Service(stage, command=engine_script(stage, f"{WORKS}serve(port)"), replicas_per_node=2).start()
    engines += with_workers(service, "running")
    service.process.terminate()
    assert service.process.wait(60) == 128 + signal.SIGTERM
    assert not any(alive(pid) for pid in engines)
    assert {service.published(index)["reason"] for index in range(2)} == {"the service was stopped"}


def test_a_service_that_is_stopped_leaves_no_traceback(stage: Stage) -> None:
    service = Service(stage, replicas_per_node=2)
    with (stage.folder / "log").open("wb") as log:
        argv = [sys.executable, "-m", "tokenstorm.node", str(service.folder)]
        service.process = stage.popen(argv, stderr=log)
    for index in range(2):
        service.reaches("running", index)
    service.process.terminate()
    assert service.process.wait(60) == 128 + signal.SIGTERM
    assert (stage.folder / "log").read_text() == ""


@pytest.mark.parametrize("status", ["starting", "running"])
def test_engines_and_their_workers_end_with_a_wrapper_that_is_killed(
    stage: Stage, engines: list[int], status: str
) -> None:
    end = WORKS + ("serve(port)" if status == "running" else "time.sleep(600)")
    service = Service(stage, command=engine_script(stage, end), replicas_per_node=2).start()
    engines += with_workers(service, status)
    os.killpg(service.process.pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in engines), "the engines end with their wrapper")


SHOWS = "import json, os; open(f'{__file__}.{sys.argv[2]}', 'w').write(json.dumps([sys.argv, dict(os.environ)])); serve(port)"


def shown(stage: Stage, index: int) -> tuple[list[str], dict[str, str]]:
    argv, environment = json.loads((stage.folder / f"engine.py.{index}").read_bytes())
    return argv, environment


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0,1", "2,3"]), ("4,5,6,7", ["4,5", "6,7"]), ("GPU-a,GPU-b,GPU-c,GPU-d", ["GPU-a,GPU-b", "GPU-c,GPU-d"])],
)
def test_each_replica_sees_its_own_gpus(stage: Stage, visible: str | None, expected: list[str]) -> None:
    command = [*engine_script(stage, SHOWS), "{index}"]
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    service = Service(stage, command=command, gpus_per_replica=2, replicas_per_node=2).start(**environment)
    for index in range(2):
        service.reaches("running", index)
        assert shown(stage, index)[1]["CUDA_VISIBLE_DEVICES"] == expected[index]


def test_too_few_gpus_fail_the_replica_that_gets_none(stage: Stage) -> None:
    service = Service(stage, gpus_per_replica=1, replicas_per_node=2).start(CUDA_VISIBLE_DEVICES="0")
    service.reaches("running", 0)
    assert "replica 1 needs 1 GPUs, and the job has 1" in service.reaches("failed", 1)["reason"]


def test_placeholders_are_filled_in_once_and_other_text_reaches_the_engine_as_typed(stage: Stage) -> None:
    typed = ['{"a": {"port": 1}}', "$(id); {host}", "{unknown}", "--x={api_key_file}", "ünï\n'\""]
    command = [*engine_script(stage, SHOWS), "{index}", *typed]
    hostile = {"MODEL": "a; $(id)\n{port}"}
    service = Service(stage, command=command, environment=hostile, api_key_env=None).start()
    service.reaches("running")
    argv, environment = shown(stage, 0)
    key_file = service.folder / f"api_key.{NODE}"
    assert argv[3:] == ['{"a": {"port": 1}}', "$(id); 127.0.0.1", "{unknown}", f"--x={key_file}", "ünï\n'\""]
    assert environment["MODEL"] == hostile["MODEL"]
    assert KEY not in environment.values()
    assert (key_file.read_text(), key_file.stat().st_mode & 0o777) == (KEY, 0o600)


def test_an_engine_without_keys_is_asked_without_one(stage: Stage) -> None:
    service = Service(stage, command=engine_script(stage, "serve(port)", key=None), api_key_env=None).start()
    service.reaches("running")


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "No such file"), ("{", "service.json"), ('{"schema": 1}', "service_id"), ('{"schema": 2}', "schema")],
)
def test_a_service_file_that_is_wrong_is_one_clear_line(stage: Stage, content: str | None, named: str) -> None:
    folder = stage.folder / "service"
    folder.mkdir()
    if content is not None:
        (folder / "service.json").write_text(content)
    process = stage.popen([sys.executable, "-m", "tokenstorm.node", str(folder)], stderr=-1)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.count("\n")) == (2, 1)
    assert named in said
