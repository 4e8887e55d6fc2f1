"""The whole product on one machine: real processes, from a recipe to results, as a user meets it."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin

import pytest

from running import TIMEOUT, Run, Stage, fetch, free_port, wait_for
from serving import ANY_PORTS, Up, end_all, nothing_is_left, processes_of, start_up
from tokenstorm.errors import ApiError
from tokenstorm.orchestrator.services import LOOK_SECONDS as HEALTH_SECONDS
from tokenstorm.sdk import Change, Second

ROOT = Path(__file__).resolve().parent.parent
SPECIFICATION = (ROOT / "tests" / "specification.txt").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", SPECIFICATION, re.DOTALL)
FAST = {"preset": "fast"}
pytestmark = pytest.mark.integration


@pytest.fixture
def start(stage: Stage) -> Iterator[Callable[..., Up]]:
    """Starts `up`s; at the end of the test nothing of them is left."""
    yield lambda *options, **more: start_up(stage, *options, **more)
    end_all(stage)


def shortened(program: str, up: Up) -> str:
    """A program of the specification with its own addresses, and numbers that make it short."""
    numbers = {
        '"duration_seconds": 60,': '"duration_seconds": 3,',
        '"duration_seconds": 300,': '"duration_seconds": 3,',
        "time.sleep(5)": "time.sleep(0.2)",
        "time.sleep(10)": "time.sleep(1)",
        "http://localhost:8001": up.server,
        "http://localhost:8003": up.client,
    }
    for text, other in numbers.items():
        program = program.replace(text, other)
    return program


def test_the_specifications_basic_load_test_runs_to_its_end(stage: Stage, start: Callable[..., Up]) -> None:
    up = start()
    done = stage.ended(python(stage, shortened(PROGRAMS[0], up)))
    assert (done.code, done.err) == (0, "")
    assert "Service ready!" in done.out
    assert "Load test complete!" in done.out
    with up.sdk() as client:
        (group,) = client.list_groups().groups
        assert group.info.outcome == "completed"
        summary = client.results(group.group_id)
        assert summary.counts.scheduled == summary.counts.succeeded == 6
        assert summary.environment.simulated
        (service,) = client.list_services().services
        assert (service.status, service.engine) == ("cancelled", "simulated")


def test_the_specifications_stress_test_posts_its_group_without_waiting(stage: Stage, start: Callable[..., Up]) -> None:
    up = start()
    done = stage.ended(python(stage, shortened(PROGRAMS[1], up)))
    assert (done.code, done.err) == (0, "")
    (group_id,) = re.findall(r"Stress test started: (\d+)", done.out)
    with up.sdk() as client:
        seen: list[str | None] = []
        group = client.wait_until_stopped(
            int(group_id), seconds=TIMEOUT, on_change=lambda group: seen.append(group.info.reason)
        )
        assert "waiting for the service" in str(seen[0])
        assert group.info.outcome == "completed"
        summary = client.results(int(group_id))
    assert summary.counts.scheduled == 150
    assert [replica.counts.sent > 10 for replica in summary.replicas.values()] == [True] * 4


@pytest.mark.parametrize("name", ["simple_vllm_load_test", "simple_vllm_replica_load_test"])
def test_an_example_runs_as_it_is(stage: Stage, start: Callable[..., Up], name: str) -> None:
    up = start()
    argv = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    options = ["--duration-seconds", "3", "--requests-per-second", "10", "--max-tokens", "10"]
    done = stage.ended(
        stage.popen(
            [*argv, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=stage.environment(**up.variables)
        )
    )
    assert (done.code, done.err) == (0, "")
    assert "30 of 30 requests succeeded" in done.out
    assert "(simulated)" in done.out
    with up.sdk() as client:
        assert {service.status for service in client.list_services().services} == {"cancelled"}


@pytest.mark.parametrize("via", ["direct", "orchestrator"])
def test_a_group_goes_on_when_one_of_four_replicas_is_killed(
    stage: Stage, start: Callable[..., Up], via: Literal["direct", "orchestrator"]
) -> None:
    up = start()
    with up.sdk() as client:
        service = client.create_service("inference/sim-replicas", {"preset": "fast"})
        client.wait_until_ready(service.id, seconds=TIMEOUT)
        created = client.create_group(
            service_id=service.id,
            num_clients=40,
            requests_per_second=40.0,
            duration_seconds=8.0,
            max_tokens=8,
            prompts=["a"],
            via=via,
        )
        for event in client.events(created.group_id):
            if isinstance(event, Second) and event.t >= 1:
                killed_after = event.t
                break
        published = sorted((stage.folder / "home").rglob("replica.*.json"))
        assert len(published) == 4
        os.kill(json.loads(published[1].read_bytes())["pid"], signal.SIGKILL)
        client.wait_until_stopped(created.group_id, seconds=TIMEOUT)
        summary = client.results(created.group_id)
        results = list(client.requests(created.group_id))
    reasons = {reason.code for reason in summary.verdict.reasons}
    assert summary.counts.scheduled == len(results) == 320
    assert summary.environment.simulated, "through the orchestrator too"
    if via == "orchestrator":
        late = [one for one in results if one.error and one.scheduled / 1e9 > killed_after + 2 + HEALTH_SECONDS]
        assert not late
        assert summary.counts.succeeded >= 300
        return
    assert "replica_left_out" in reasons
    assert [report.left_out for report in summary.replicas.values()].count(True) == 1
    (dead,) = (name for name, report in summary.replicas.items() if report.left_out)
    assert summary.counts.failed == summary.replicas[dead].counts.failed >= 3
    # 3 refusals, then one try in 5 s; what was in flight at the kill broke off
    assert summary.counts.failed < 20
    assert {one.replica for one in results} == set(summary.replicas)
    others = [report.counts.sent for name, report in summary.replicas.items() if name != dead]
    assert min(others) > summary.replicas[dead].counts.sent


def test_up_ends_what_it_started_and_keeps_the_results(stage: Stage, start: Callable[..., Up]) -> None:
    up = start()
    service_id, group_id = running_group(up)
    with up.sdk() as client:
        run = Run(Path(client.get_group(group_id).info.run_dir or ""))
    ended = up.stop(signal.SIGINT)
    assert ended.code == 0
    assert "stopping 1 group and 1 service" in ended.err
    assert "Traceback" not in ended.err
    assert run.summary["outcome"] == "cancelled"
    assert run.summary["counts"]["succeeded"] > 0
    nothing_is_left(stage.folder)
    again = start()
    with again.sdk() as client:
        assert client.get_service(service_id).status == "cancelled"
        assert client.get_group(group_id).info.outcome == "cancelled"


def test_up_with_keep_leaves_them_running_and_the_next_one_goes_on_with_them(
    stage: Stage, start: Callable[..., Up]
) -> None:
    up = start("--keep")
    service_id, group_id = running_group(up, duration_seconds=8.0)
    ended = up.stop()
    assert (ended.code, "left running: 1 group, 1 service" in ended.err) == (0, True)
    assert processes_of(stage.folder)
    again = start()
    with again.sdk() as client:
        group = client.wait_until_stopped(group_id, seconds=TIMEOUT)
        assert group.info.outcome == "completed"
        assert client.results(group_id).counts.succeeded == 80
        assert client.get_service(service_id).status == "running"
        client.stop_service(service_id)


def test_what_a_killed_up_left_behind_is_found_again_by_the_next_one(stage: Stage, start: Callable[..., Up]) -> None:
    up = start()
    service_id, group_id = running_group(up, duration_seconds=5.0)
    up.process.kill()
    up.process.communicate(timeout=TIMEOUT)
    again = start()
    with again.sdk() as client:
        assert client.wait_until_stopped(group_id, seconds=TIMEOUT).info.outcome == "completed"
        assert client.results(group_id).counts.succeeded == 50
        assert client.prompt(service_id, "Still there?", max_tokens=2).success
    ended = again.stop()
    assert ended.code == 0
    assert f"left running, as it was before: service {service_id}" in ended.err
    last = start()
    assert last.command("service", "stop", service_id).code == 0


def test_a_group_that_was_deleted_while_it_ran_keeps_nobody_from_ending(stage: Stage, start: Callable[..., Up]) -> None:
    up = start()
    _, group_id = running_group(up)
    with up.sdk() as client:
        client.delete_group(group_id, purge=True)
    ended = up.stop()
    assert (ended.code, "Traceback" in ended.err) == (0, False)
    nothing_is_left(stage.folder)


def test_watching_on_a_terminal_shows_a_line_that_lives(stage: Stage, start: Callable[..., Up]) -> None:
    up = start()
    service_id, _ = running_group(up, duration_seconds=1.0)
    load = ("--num-clients", "5", "--requests-per-second", "20", "--duration", "3", "--max-tokens", "2")
    words = ("group", "create", service_id, *load, "--watch")
    code, said = stage.on_a_terminal(*words, **up.variables, TERM="dumb")
    assert code in {0, 3}
    lines = said.split("\r\x1b[K")
    assert any("of 20 asked · answered" in line for line in lines)
    assert any("is running" in line for line in lines)
    assert said.count("\n") == 1


def test_watching_goes_on_when_the_client_api_is_started_anew(stage: Stage, start: Callable[..., Up]) -> None:
    up = start("--keep")
    service_id, group_id = running_group(up, duration_seconds=6.0)
    watching = up.start("group", "watch", str(group_id), "--json")
    up.stop()
    ports = [
        word for url, name in zip((up.server, up.client), ANY_PORTS[::2], strict=False) for word in (name, url[17:])
    ]
    again = start(ports=(*ports, *ANY_PORTS[4:]))
    ended = stage.ended(watching)
    assert again.command("service", "stop", service_id).code == 0
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["counts"]["succeeded"] == 60


def test_a_second_signal_ends_at_once_a_group_that_drains(stage: Stage, start: Callable[..., Up]) -> None:
    up = start()
    with up.sdk() as client:
        most_stall = {"extra_args": ["--stall", "0.9"], "seed": 16}  # but not the first, or it would never be ready
        service = client.create_service("inference/sim-single-node", most_stall)
        client.wait_until_ready(service.id, seconds=TIMEOUT)
        created = client.create_group(
            service_id=service.id, num_clients=2, prompts=["a"], request_timeout_seconds=600, drain_seconds=300
        )
        for event in client.events(created.group_id):
            if isinstance(event, Second) and event.in_flight:
                break
    up.process.send_signal(signal.SIGTERM)
    assert up.process.stderr
    assert "once more" in up.process.stderr.readline()
    ended = up.stop()
    assert ended.code == 0
    nothing_is_left(stage.folder)


def test_a_port_in_use_is_one_clear_line(stage: Stage, start: Callable[..., Up]) -> None:
    taken = start().server.rpartition(":")[2]
    for option in ("--server-port", "--client-port", "--orchestrator-port"):
        ports = [word for name in ANY_PORTS[::2] for word in (name, taken if name == option else "0")]
        ended = stage.command("up", *ports, TOKENSTORM_HOME=str(stage.folder / "other"))
        one_line(ended.err, f"port {taken}", "choose another port")
        assert (ended.code, ended.out) == (1, "")


def test_two_ups_on_one_data_folder_are_refused(stage: Stage, start: Callable[..., Up]) -> None:
    up = start()
    ended = stage.command("up", *ANY_PORTS)
    assert (ended.code, ended.out) == (1, "")
    one_line(ended.err, str(stage.folder / "home" / "data"), "another")
    with up.sdk() as client:
        assert client.list_services().count == 0


def test_a_folder_that_is_missing_or_cannot_be_written_is_one_clear_line(stage: Stage) -> None:
    ended = stage.command("up", *ANY_PORTS, "--recipes", "/no/such/folder")
    one_line(ended.err, "/no/such/folder")
    assert ended.code in {1, 2}
    (stage.folder / "file").write_text("")
    ended = stage.command("up", *ANY_PORTS, TOKENSTORM_HOME=str(stage.folder / "file" / "home"))
    one_line(ended.err, str(stage.folder / "file"))
    assert ended.code == 1


def test_a_full_disk_is_one_clear_line(stage: Stage) -> None:
    process = stage.popen(
        [sys.executable, "-m", "tokenstorm", "up", *ANY_PORTS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    ended = stage.ended(process)
    assert ended.code == 1
    one_line(ended.err, str(stage.folder / "home" / "data"))


def test_beyond_loopback_a_token_is_wanted_and_printed_once(stage: Stage, start: Callable[..., Up]) -> None:
    up = start("--host", "0.0.0.0", TOKENSTORM_TOKEN="a-token-of-mine")
    port = up.server.rpartition(":")[2]
    assert fetch(f"http://127.0.0.1:{port}/api/v1/services")[0] == 401
    with up.sdk(token="a-token-of-mine") as client:
        service = client.create_service("inference/sim-single-node", FAST)
        client.wait_until_ready(service.id, seconds=TIMEOUT)
        created = client.create_group(
            service_id=service.id, num_clients=2, request_count=4, prompts=["a"], max_tokens=2, via="orchestrator"
        )
        assert client.wait_until_stopped(created.group_id, seconds=TIMEOUT).info.outcome == "completed"
    other = stage.start(
        *("server", "--port", "0", "--host", "0.0.0.0", "--orchestrator-url", f"http://127.0.0.1:{free_port()}")
    )
    assert other.stdout
    (token,) = re.findall(r"^token +(\S+)", other.stdout.readline())
    (url,) = re.findall(r"(http://\S+)  ", other.stdout.readline())
    assert fetch(f"{url}/api/v1/services")[0] == 401
    assert fetch(f"{url}/api/v1/services", secret=token)[0] == 502


def test_the_three_can_be_started_alone(stage: Stage, start: Callable[..., Up]) -> None:
    def url_of(*words: str) -> str:
        process = stage.start(*words, "--port", "0")
        assert process.stdout
        (url,) = re.findall(r"http://[\d.:]+", process.stdout.readline())[:1]
        return str(url)

    orchestrator = url_of("orchestrator")
    server = url_of("server", "--orchestrator-url", orchestrator)
    client_url = url_of("client", "--server-url", server)
    up = Up(stage, stage.processes[-1], server, client_url, orchestrator)
    created = up.command("service", "create", "inference/sim-single-node", "--set", "preset=fast", "--wait", "--json")
    service = json.loads(created.out)
    assert (created.code, service["status"]) == (0, "running")
    load = ("--num-clients", "2", "--request-count", "6", "--max-tokens", "2")
    ended = up.command("group", "create", service["id"], *load, "--watch", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["counts"]["succeeded"] == 6
    assert up.command("service", "stop", service["id"]).out == f"service {service['id']} is cancelled\n"


def test_every_command_tells_what_its_call_answers(start: Callable[..., Up]) -> None:
    up = start()
    created = up.command("service", "create", "inference/sim-replicas", "--config", '{"preset": "fast"}', "--wait")
    (service_id,) = re.findall(r"^service +(\S+)$", created.out, re.MULTILINE)
    assert "4 of 4 answer" in created.out
    for words, said in {
        ("service", "list"): service_id,
        ("service", "show", service_id): "http://127.0.0.1:",
        ("service", "logs", service_id): "simulated engine",
        ("service", "models", service_id): "sim-model",
        ("service", "metrics", service_id): "vllm:num_requests_running",
        ("service", "access", service_id): "API key",
        ("service", "targets"): "__metrics_path__",
        ("service", "prompt", service_id, "Say something", "--max-tokens", "3"): "\n",
        ("recipes",): "inference/vllm-single-node",
        ("recipes", "inference/sim-replicas"): "slow_start",
    }.items():
        ended = up.command(*words)
        assert (ended.code, ended.err) == (0, ""), words
        assert said in ended.out, words
    load = ("--num-clients", "4", "--requests-per-second", "20", "--duration", "1", "--max-tokens", "2")
    held = json.loads(up.command("group", "create", service_id, *load, "--start", "manual", "--json").out)
    group_id = str(held["group_id"])
    assert up.command("group", "run", group_id).out == f"group {group_id} is released\n"
    watched = up.command("group", "watch", group_id)
    assert "20 scheduled, 20 succeeded" in watched.out
    assert (watched.code, watched.err) == (0, "")
    for words, said in {
        ("group", "list"): "completed",
        ("group", "show", group_id): "20 succeeded",
        ("group", "results", group_id): "verdict:",
        ("group", "metrics", group_id): "client_requests_total",
        ("group", "requests", group_id, "--format", "csv"): "seq,rank,replica",
        ("group", "logs", group_id): "",
        ("group", "targets"): "__metrics_path__",
        ("group", "report", group_id): "<html",
        ("group", "observe", group_id, "http://127.0.0.1:9/hook"): "is told of group",
    }.items():
        ended = up.command(*words)
        assert (ended.code, ended.err) == (0, ""), words
        assert said in ended.out, words
    for action in ("show", "results"):
        advice = re.search(r"\(tokenstorm (report) ([0-9a-f]{8})\)", up.command("group", action, group_id).out)
        assert advice, action
        assert "verdict:" in up.command(*advice.groups()).out
    results = up.command("group", "results", group_id, "--json")
    assert json.loads(results.out)["counts"]["succeeded"] == 20
    assert up.command("group", "delete", group_id, "--purge").code == 0
    gone = up.command("group", "show", group_id)
    assert gone.code == 1
    one_line(gone.err, f"no group {group_id}")


def test_what_makes_no_sense_is_exit_code_2_and_one_line(start: Callable[..., Up]) -> None:
    up = start()
    for words, named in {
        ("service", "create", "inference/sim-single-node", "--set", "presets=fast"): "presets",
        ("service", "create", "inference/sim-single-node", "--set", "preset"): "--set",
        ("service", "create", "inference/sim-single-node", "--config", "[]"): "--config",
        ("group", "create"): "SERVICE",
        ("group", "create", "s1", "--target-url", "http://127.0.0.1:9"): "--target-url",
        ("group", "create", "s1", "--num-clients", "0"): "--num-clients",
        ("group", "create", "s1", "--num-clients", "1001"): "num_clients",
        ("group", "create", "s1", "--time-limit", "1"): "time_limit",
        ("group", "create", "s1", "--time-limit", "0:01:00"): "time_limit",
        ("group", "create", "s1", "--time-limit", "soon"): "--time-limit: must be minutes",
        ("group", "create", "s1", "--label", "x"): "--label",
        ("group", "run", "1", "--start-at", "soon"): "--start-at",
    }.items():
        ended = up.command(*words)
        assert (ended.code, ended.out) == (2, ""), words
        one_line(ended.err, named)
    for words, named in {
        ("service", "create", "inference/none"): "inference/sim-single-node",
        ("service", "show", "none"): "none",
        ("service", "show", "../recipes"): "..",
        ("group", "create", "none"): "none",
        ("group", "watch", "999"): "999",
        ("group", "results", "999"): "999",
    }.items():
        ended = up.command(*words)
        assert (ended.code, ended.out) == (1, ""), words
        one_line(ended.err, named)


def test_a_group_whose_run_is_invalid_or_failed_says_so_by_its_exit_code(start: Callable[..., Up]) -> None:
    up = start()
    words = ("service", "create", "inference/sim-single-node", "--wait", "--json", "--set", "preset=fast", "--set")
    faulty = json.loads(up.command(*words, 'extra_args=["--error-500", "0.5"]').out)["id"]
    load = ("--num-clients", "5", "--requests-per-second", "30", "--duration", "1", "--max-tokens", "2", "--watch")
    ended = up.command("group", "create", faulty, *load)
    assert (ended.code, "verdict: INVALID" in ended.out) == (3, True)
    nobody = up.command("group", "create", "--target-url", f"http://127.0.0.1:{free_port()}", *load)
    assert nobody.code == 1
    assert "refused" in nobody.err


def test_an_api_that_is_not_there_is_one_line_that_says_how_to_start_it(stage: Stage) -> None:
    ended = stage.command("service", "list", "--server-url", f"http://127.0.0.1:{free_port()}")
    assert ended.code == 1
    one_line(ended.err, "tokenstorm up")


def test_the_sdk_sees_a_group_live_and_its_results(start: Callable[..., Up]) -> None:
    up = start()
    with up.sdk() as client:
        service = client.create_service("inference/sim-single-node", FAST)
        created = client.create_group(
            service_id=service.id,
            num_clients=3,
            requests_per_second=10,
            duration_seconds=2,
            prompts=["a"],
            max_tokens=3,
        )
        events = [*client.events(created.group_id)]
        assert isinstance(events[0], Change)
        assert isinstance(events[-1], Change)
        assert (events[-1].final, events[-1].outcome) == (True, "completed")
        seconds = [event for event in events if isinstance(event, Second)]
        assert sum(second.sent for second in seconds) == 20
        summary = client.results(created.group_id)
        assert summary.counts.succeeded == 20
        rows = [*client.requests(created.group_id)]
        assert sorted(row.seq for row in rows) == [*range(20)]
        with pytest.raises(ApiError, match="999") as caught:
            client.results(999)
        assert (caught.value.status, caught.value.problem["title"]) == (404, "Not Found")


def test_docs_work_without_the_internet(start: Callable[..., Up]) -> None:
    up = start()
    for url in (up.server, up.client, up.orchestrator):
        _, page, _ = fetch(f"{url}/docs")
        parts = re.findall(r'(?:src|href)="([^"]+)"', page.decode())
        assert len(parts) >= 2
        for part in parts:
            where = urljoin(f"{url}/docs", part)
            assert where.startswith(url)
            assert fetch(where)[0] == 200


def test_a_command_without_the_extra_says_so_in_one_line_and_bench_works(stage: Stage) -> None:
    bare = """
import sys
class OnlyTheBase:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {"httptools", "msgspec", "tokenstorm", "uvloop", *sys.stdlib_module_names}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, OnlyTheBase())
from tokenstorm.cli import main
sys.exit(main())
"""
    for words in (["up"], ["service", "list"], ["group", "list"], ["recipes"], ["demo"], ["client"]):
        ended = stage.ended(python(stage, bare, *words))
        assert ended.code == 1
        one_line(ended.err, "pip install 'tokenstorm[services]'")
    url = stage.simulate().url
    ended = stage.ended(python(stage, bare, "bench", url, "--request-count", "3", "--max-tokens", "2"))
    assert (ended.code, ended.err) == (0, "")


def test_demo_needs_nothing_and_leaves_nothing_behind(stage: Stage) -> None:
    process = stage.start("demo", "--json")
    folder = stage.folder / "home" / "data" / "demo" / "runs"
    root = wait_for(lambda: next(folder.glob("*"), None) if folder.exists() else None, "the demo made no run")
    run = Run(root)
    wait_for(
        lambda: any(line["phase"] == "measured" and line["succeeded"] for line in run.timeline()),
        "nothing was answered",
    )
    process.send_signal(signal.SIGINT)
    ended = stage.ended(process)
    assert ended.code == 0
    assert json.loads(ended.out)["outcome"] == "cancelled"
    assert json.loads(ended.out)["environment"]["simulated"]
    nothing_is_left(stage.folder)


def running_group(up: Up, duration_seconds: float = 300.0) -> tuple[str, int]:
    """A service, and a group that has sent something to it."""
    with up.sdk() as client:
        service = client.create_service("inference/sim-single-node", FAST)
        client.wait_until_ready(service.id, seconds=TIMEOUT)
        created = client.create_group(
            service_id=service.id,
            num_clients=5,
            requests_per_second=10,
            duration_seconds=duration_seconds,
            prompts=["a"],
            max_tokens=2,
        )
        for event in client.events(created.group_id):
            if isinstance(event, Second) and event.succeeded:
                break
    return service.id, created.group_id


def python(stage: Stage, program: str, *words: str) -> subprocess.Popen[str]:
    """A program as a user would write it into a file."""
    path = stage.folder / "program.py"
    path.write_text(program)
    return stage.popen([sys.executable, str(path), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def one_line(said: str, *words: str) -> None:
    assert said.count("\n") == 1, said
    for word in words:
        assert word in said, said
