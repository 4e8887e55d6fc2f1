"""The parts of an engine that runs on several nodes: which of them are this wrapper's, and where their head is.

The head says where it is in a file of the service's folder, `head.<engine>.json`. It belongs to one run of the job: one
that was requeued has other nodes, and does not believe the file of the run before.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tokenstorm.errors import NOT_JSON, UsageError
from tokenstorm.hostlist import expand
from tokenstorm.node.service import Service, run_of
from tokenstorm.runs import write_atomically

LOOK_SECONDS = 0.5
"""Between two looks for the head's file: all parts but one look for it in a shared folder."""
STOPPED = "the service was stopped"


class Failed(Exception):
    """The engine will not run; the message says why."""


@dataclass(frozen=True)
class Part:
    """One of an engine's `of` parts. The part of rank 0 is its head; `nodes` are where they run, by rank.

    `index` counts the parts on one node. `run` names the run of the job that the part belongs to.
    """

    engine: int
    rank: int
    of: int
    index: int
    nodes: tuple[str, ...]
    run: str

    @property
    def head(self) -> str:
        """The node of the part that serves."""
        return self.nodes[0]

    def node_of(self, rank: int) -> str:
        """The node of another part of the engine, for people to read."""
        return self.nodes[rank]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """`head.<engine>.json`: where a head is for its engine (`port`) and for the wrappers of its other parts (`wrapper_port`).

    `over` tells parts that come late that the engine has ended already.
    """

    run: str
    node: str
    host: str
    port: int
    wrapper_port: int
    secret: str
    over: bool = False
    schema: int = 1

    def __repr__(self) -> str:
        return f"Head({self.node!r})"  # it holds a secret


def parts_here(service: Service, environment: Mapping[str, str], node: str) -> list[Part]:
    """The parts that run on this node: all where the service is `together` on one machine, else one. Raises UsageError."""
    assert service.parts, "the service has parts"
    run = run_of(environment)
    if service.together:
        places = [(engine, rank) for rank in range(service.parts) for engine in range(service.replicas_per_node)]
        nodes = (node,) * service.parts  # heads first, so that they have the numbers of the replicas
        return [Part(engine, rank, service.parts, index, nodes, run) for index, (engine, rank) in enumerate(places)]
    number = environment.get("SLURM_NODEID", "")
    if not number.isdecimal():
        message = (
            "an engine that spans nodes needs a task on each of them, and SLURM_NODEID, by which a task learns its place, "
            f"is {number!r} on {node}"
        )
        raise UsageError(message)
    engine, rank = divmod(int(number), service.parts)
    names = expand(environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", ""))
    nodes = names[engine * service.parts : (engine + 1) * service.parts]
    if (
        len(nodes) < service.parts or nodes[rank] != node
    ):  # the names are for people: a list we cannot read is no reason to stop
        nodes = tuple(node if other == rank else f"the node of rank {other}" for other in range(service.parts))
    return [Part(engine, rank, service.parts, 0, nodes, run)]


def head_file(folder: Path, part: Part) -> Path:
    """Where the head of a part's engine says where it is."""
    return folder / f"head.{part.engine}.json"


def publish_head(folder: Path, part: Part, head: Head) -> None:
    """Let the other parts find their head."""
    write_atomically(head_file(folder, part), msgspec.json.encode(head), mode=0o600)


async def find_head(folder: Path, part: Part, deadline: float) -> Head:
    """Wait until the head of this run has said where it is. Raises `Failed` at the deadline, on the monotonic clock."""
    path = head_file(folder, part)
    while True:
        found = _read_head(path)
        if found is not None and found.run == part.run:
            return found
        if time.monotonic() > deadline:
            message = (
                f"{part.head}, where the engine's head belongs, has not said where it is ({path.name}): "
                "its wrapper did not start, or the folder is not shared between the nodes"
            )
            raise Failed(message)
        await asyncio.sleep(LOOK_SECONDS)


def _read_head(path: Path) -> Head | None:
    try:
        os.listdir(path.parent)  # noqa: PTH208 - for its effect: a shared folder that is looked into is asked for anew
        return msgspec.json.decode(path.read_bytes(), type=Head)
    except (OSError, *NOT_JSON):  # not there yet, or not whole on this node yet
        return None
