"""An engine over several nodes: its parts find each other, live and die together, and the head tells why."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from running import Stage, alive, fetch, wait_for
from tokenstorm.node.ports import is_free
from tokenstorm.node.spanning import HEAD_PORTS

KEY = "sk-of-this-service"
ENGINE = Path(__file__).parents[1] / "partsengine.py"
WORDS = [sys.executable, str(ENGINE), "{host}", "{port}", "{head}", "{head_port}", "{node_rank}"]


class Nodes:
    """A service's folder, and a wrapper on each of its nodes."""

    def __init__(self, stage: Stage, *, parts: int = 2, **fields: Any) -> None:
        self.stage = stage
        self.folder = stage.folder / "service"
        self.folder.mkdir()
        self.parts = parts
        content = {
            "schema": 1,
            "service_id": "service",
            "api_key": KEY,
            "replicas_per_node": 1,
            "base_port": 8300,  # not one that another test's connection may get while an engine starts
            "host": "127.0.0.1",
            "command": [*WORDS, str(parts)],
            "worker_command": [*WORDS, str(parts)],
            "parts": parts,
            "api_key_env": "ENGINE_KEY",
            "ready_seconds": 60,
            **fields,
        }
        (self.folder / "service.json").write_text(json.dumps(content))
        self.wrappers: dict[int, subprocess.Popen[str]] = {}

    def start(self, *numbers: int, run: str = "7", of: int | None = None) -> "Nodes":
        for number in numbers:
            environment = self.stage.environment(
                SLURM_NODEID=str(number),
                SLURM_JOB_ID=run,
                SLURM_STEP_NODELIST=f"n[1-{of or self.parts}]",
                SLURMD_NODENAME=f"n{number + 1}",
            )
            self.wrappers[number] = self.wrapper(environment, f"wrapper.{number}")
        return self

    def together(self) -> "Nodes":
        self.wrappers[0] = self.wrapper(self.stage.environment(), "wrapper.0")
        return self

    def wrapper(self, environment: dict[str, str], log: str) -> subprocess.Popen[str]:
        with (self.stage.folder / log).open("ab") as said:
            argv = [sys.executable, "-m", "tokenstorm.node", str(self.folder)]
            return self.stage.popen(argv, env=environment, stderr=said)

    def said(self, number: int) -> str:
        """What a wrapper said: nothing, where all is as it should be."""
        return (self.stage.folder / f"wrapper.{number}").read_text()

    def published(self, name: str = "n1.0") -> dict[str, Any]:
        path = self.folder / f"replica.{name}.json"
        content: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {"status": None, "reason": ""}
        return content

    def reaches(self, status: str, name: str = "n1.0") -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            found = self.published(name)
            assert found["status"] in (status, "starting", "running", None), found["reason"]
            return found if found["status"] == status else None

        return wait_for(there, f"{name} never was {status}")

    def ended(self, *numbers: int) -> list[int]:
        return [self.wrappers[number].wait(60) for number in numbers]

    def engines(self) -> list[int]:
        """The pids of all parts of the engine."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
                environment = (path.parent / "environ").read_bytes()
            except OSError:
                continue
            if str(ENGINE).encode() in words and str(self.stage.folder).encode() in environment:
                found.append(int(path.parent.name))
        return found

    def pid(self, rank: int) -> int:
        """The process of one part."""

        def there() -> int | None:
            of_rank = (pid for pid in self.engines() if _words(pid)[6:7] == [str(rank)])
            return next(of_rank, None)

        return wait_for(there, f"the engine's part of rank {rank} never ran")

    def all_is_gone(self) -> None:
        wait_for(lambda: not any(map(alive, self.engines())), "parts of the engine are left")


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


@pytest.fixture
def nodes(stage: Stage) -> Iterator[Nodes]:
    made = Nodes(stage)
    yield made
    for pid in made.engines():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_an_engine_is_ready_once_all_its_parts_have_joined_and_is_one_replica(nodes: Nodes) -> None:
    nodes.start(0)
    assert nodes.reaches("starting")["nodes"] == ["n1", "n2"]
    assert nodes.published()["reason"].endswith("; the part on n2 has not joined")
    nodes.start(1)
    found = nodes.reaches("running")
    assert (found["node"], found["nodes"]) == ("n1", ["n1", "n2"])
    assert fetch(f"http://127.0.0.1:{found['port']}/v1/models", secret=KEY)[0] == 200
    assert [path.name for path in nodes.folder.glob("replica.*.json")] == ["replica.n1.0.json"]
    assert (nodes.folder / "replica.n2.0.log").read_text() == "part 1 of 2 on n2\n"
    assert nodes.folder.joinpath("head.0.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("last", [0, 1])
def test_the_order_in_which_parts_start_makes_no_difference(nodes: Nodes, last: int) -> None:
    nodes.start(1 - last)
    if last == 0:
        assert nodes.reaches("starting", "n2.0")["reason"] == "waits for the engine's head on n1"
    nodes.start(last)
    nodes.reaches("running")
    assert not (nodes.folder / "replica.n2.0.json").exists()


def test_a_part_that_is_killed_fails_the_engine_and_is_named(nodes: Nodes) -> None:
    nodes.start(0, 1).reaches("running")
    os.kill(nodes.pid(1), signal.SIGKILL)
    reason = nodes.reaches("failed")["reason"]
    assert "the part on n2: the engine was killed by SIGKILL; the last it said: part 1 of 2 on n2" in reason
    assert nodes.ended(0, 1) == [1, 1]
    nodes.all_is_gone()
    assert not (nodes.folder / "replica.n2.0.json").exists()


def test_a_head_that_is_killed_fails_the_engine_and_ends_its_parts(nodes: Nodes) -> None:
    nodes.start(0, 1).reaches("running")
    os.kill(nodes.pid(0), signal.SIGKILL)
    assert nodes.reaches("failed")["reason"].startswith("the engine was killed by SIGKILL")
    assert nodes.ended(0, 1) == [1, 1]
    nodes.all_is_gone()


def test_a_part_that_dies_before_the_engine_is_ready_fails_it_at_once(stage: Stage) -> None:
    nodes = Nodes(stage, worker_command=["no-such-engine"], ready_seconds=3600).start(0, 1)
    reason = nodes.reaches("failed")["reason"]
    assert reason == "the part on n2: cannot start the engine: no-such-engine: No such file or directory"
    assert nodes.ended(0, 1) == [1, 1]
    nodes.all_is_gone()


def test_a_part_that_never_joins_is_named_when_time_is_up(stage: Stage) -> None:
    nodes = Nodes(stage, parts=3, ready_seconds=2).start(0, 1)
    reason = nodes.reaches("failed")["reason"]
    assert reason.startswith("it was not ready in 2 s: it does not listen on port ")
    assert "; the part on n3 has not joined; the last it said: part 0 of 3 on n1" in reason
    assert reason.endswith("; the part on n2 said last: part 1 of 3 on n2")
    nodes.all_is_gone()


def test_a_head_that_never_says_where_it_is_is_named_when_time_is_up(stage: Stage) -> None:
    nodes = Nodes(stage, ready_seconds=1).start(1)
    assert "n1, where the engine's head belongs, has not said where it is" in nodes.reaches("failed", "n2.0")["reason"]
    assert nodes.ended(1) == [1]


def test_a_job_that_was_requeued_does_not_believe_the_head_of_the_run_before(nodes: Nodes) -> None:
    nodes.start(0, run="6").reaches("starting")
    nodes.wrappers[0].kill()
    before = nodes.folder.joinpath("head.0.json").read_bytes()
    nodes.start(1, run="7").reaches("starting", "n2.0")
    nodes.start(0, run="7").reaches("running")
    assert nodes.folder.joinpath("head.0.json").read_bytes() != before


def test_a_part_whose_wrapper_is_killed_fails_the_engine_and_leaves_nothing(nodes: Nodes) -> None:
    nodes.start(0, 1).reaches("running")
    nodes.wrappers[1].kill()
    assert "the part on n2 is gone: its node is down, or its wrapper was killed" in nodes.reaches("failed")["reason"]
    nodes.all_is_gone()


def test_a_head_whose_wrapper_is_killed_is_told_by_its_part_and_leaves_nothing(nodes: Nodes) -> None:
    nodes.start(0, 1).reaches("running")
    nodes.wrappers[0].kill()
    wait_for(lambda: nodes.published("n2.0")["reason"], "the part tells what happened")
    nodes.all_is_gone()
    assert nodes.ended(1) == [1]


@pytest.mark.parametrize("first", [0, 1])
def test_a_service_that_is_stopped_is_no_failure_of_a_part(nodes: Nodes, first: int) -> None:
    nodes.start(0, 1).reaches("running")
    nodes.wrappers[first].terminate()
    nodes.wrappers[1 - first].terminate()
    assert set(nodes.ended(0, 1)) <= {1, 128 + signal.SIGTERM}
    assert nodes.published()["reason"] == "the service was stopped"
    assert nodes.published("n2.0")["status"] is None
    assert [nodes.said(0), nodes.said(1)] == ["", ""]
    nodes.all_is_gone()


def test_a_part_that_starts_when_the_engine_is_over_ends_quietly(stage: Stage) -> None:
    nodes = Nodes(stage, command=["no-such-engine"]).start(0)
    reason = nodes.reaches("failed")["reason"]
    assert reason.startswith("cannot start the engine: no-such-engine: No such file or directory")
    assert nodes.ended(0) == [1]
    assert nodes.start(1).ended(1) == [1]
    assert nodes.published("n2.0")["status"] is None


def test_a_port_that_somebody_has_is_not_where_parts_meet(nodes: Nodes) -> None:
    port = next(port for port in HEAD_PORTS if is_free("127.0.0.1", port))  # engines of other tests may have the first
    with socket.create_server(("127.0.0.1", port)):
        nodes.start(0, 1).reaches("running")
    assert json.loads(nodes.folder.joinpath("head.0.json").read_bytes())["port"] != port


def test_a_stranger_who_calls_the_wrapper_of_a_head_is_no_part(nodes: Nodes) -> None:
    nodes.start(0).reaches("starting")
    port = json.loads(nodes.folder.joinpath("head.0.json").read_bytes())["wrapper_port"]
    for words in (b"", b"\xff\n", b'{"secret": "guessed", "rank": 1}\n', b"x" * 200_000):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(words)
    nodes.start(1).reaches("running")
    assert nodes.said(0) == ""


def test_the_nodes_of_a_job_are_shared_out_among_its_engines(nodes: Nodes) -> None:
    nodes.start(0, 1, 2, 3, of=4)
    assert nodes.reaches("running", "n1.0")["nodes"] == ["n1", "n2"]
    assert nodes.reaches("running", "n3.0")["nodes"] == ["n3", "n4"]
    os.kill(nodes.pid(0), signal.SIGKILL)
    wait_for(lambda: "failed" in (nodes.published("n1.0")["status"], nodes.published("n3.0")["status"]), "one fails")
    nodes.wrappers[0 if nodes.published("n1.0")["status"] == "failed" else 2].wait(60)
    ends = [nodes.published("n1.0"), nodes.published("n3.0")]
    assert sorted(one["status"] for one in ends) == ["failed", "running"], [one["reason"] for one in ends]


def test_on_one_machine_all_parts_of_all_engines_run_together_with_their_share_of_the_gpus(stage: Stage) -> None:
    nodes = Nodes(stage, together=True, replicas_per_node=2, gpus_per_replica=2).together()
    node = socket.gethostname()
    found = [nodes.reaches("running", f"{node}.{index}") for index in range(2)]
    assert found[0]["port"] != found[1]["port"]
    assert [one["nodes"] for one in found] == [[node], [node]]
    shares = sorted(
        line.decode()
        for pid in nodes.engines()
        for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if line.startswith(b"CUDA_VISIBLE_DEVICES=")
    )
    assert shares == [f"CUDA_VISIBLE_DEVICES={share}" for share in ("0,1", "2,3", "4,5", "6,7")]
    nodes.wrappers[0].terminate()
    assert nodes.ended(0) == [128 + signal.SIGTERM]
    assert nodes.said(0) == ""
    nodes.all_is_gone()


def test_a_node_that_has_no_address_in_the_network_says_so_at_once(stage: Stage) -> None:
    nodes = Nodes(stage, host="no-such-network").start(1)
    assert nodes.ended(1) == [2]
    assert "n2 has no address in the network 'no-such-network'" in nodes.published("n2.0")["reason"]


def test_without_a_task_on_each_node_a_wrapper_says_what_it_lacks(nodes: Nodes) -> None:
    nodes.together()
    assert nodes.ended(0) == [2]
    assert "SLURM_NODEID" in nodes.said(0)
    assert nodes.said(0).count("\n") == 1
