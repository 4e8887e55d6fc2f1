"""The state of one service's replicas: what their nodes published, and what they answer themselves."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import httpx
import msgspec

from tokenstorm.api.services import GpuSamplerInfo
from tokenstorm.cluster.shell import Shell
from tokenstorm.errors import NOT_JSON
from tokenstorm.node.words import last_words

from .health import Health, ask
from .replicas import Replica
from .service import Service

ASK_SECONDS = 3.0
"""An engine that is well answers its health call long before."""
LATE_AT_MOST = 3
"""A busy engine may leave so many health calls in a row unanswered; a refused connection counts at once."""

_PIECE = 65536
_OF_SLURM = re.compile(r"(srun|slurmstepd\S*): ")
"""Lines that only say that a command ended; what it said stands before them."""
_FILE = re.compile(r"replica\..+\.json")
_OF_GPUS = re.compile(r"gpus\..+\.json")
RUN = re.compile(r"job\.run\.([0-9]+)", re.ASCII)
"""The file in which a job that Slurm queued again notes how often it was started."""


class _PublishedGpus(msgspec.Struct, frozen=True):
    """`gpus.<node>.json`, as the process beside the engines writes it."""

    node: str
    url: str
    gpus: int
    run: str = ""


class Published(msgspec.Struct, frozen=True):
    """`replica.<node>.<index>.json`, as the wrapper on the node writes it."""

    replica: str
    node: str
    host: str | None = None
    port: int | None = None
    status: Literal["pending", "starting", "running", "failed", "stopped"] = "starting"
    reason: str | None = None
    nodes: tuple[str, ...] = ()
    run: str = ""
    ran_seconds: float | None = None

    @property
    def over(self) -> bool:
        """Whether the engine has ended."""
        return self.status in {"failed", "stopped"}


@dataclass
class Watch:
    """The replicas of one service as they were last seen, by id."""

    replicas: dict[str, Replica] = field(default_factory=dict)
    _late: dict[str, int] = field(default_factory=dict)
    _was_well: set[str] = field(default_factory=set)
    _before: dict[str, Published] | None = None
    """What was published while the job was in the queue: an earlier run of the job left it."""

    async def look(self, service: Service, nodes: Sequence[str], shell: Shell, client: httpx.AsyncClient) -> None:
        """Read what was published on the nodes of the job, and ask every engine that listens. Raises what the shell raises."""
        self._before = self._before or {}
        found = await _published(service, shell)
        published = {name: one for name, one in found.items() if not nodes or one.node in nodes}
        await asyncio.gather(*(self._look_at(service, replica, client) for replica in published.values()))
        self.replicas = {name: replica for name, replica in self.replicas.items() if name in published}

    async def wait_for_a_run(self, service: Service, shell: Shell) -> None:
        """Note that the job is in the queue: what is published now comes from an earlier run. Raises what the shell raises."""
        if self._before is None or self.replicas:
            self._before = await _published(service, shell)
            self.replicas, self._late, self._was_well = {}, {}, set()

    async def _look_at(self, service: Service, published: Published, client: httpx.AsyncClient) -> None:
        of_a_run_before = (self._before or {}).get(published.replica) == published
        if of_a_run_before and published.status != "running":
            return
        replica = Replica(
            id=published.replica,
            service_id=service.id,
            node=published.node,
            status="failed" if published.over else "starting",
            host=published.host,
            port=published.port,
            reason=published.reason or "",
            nodes=published.nodes or (published.node,),
            over=published.over,
            stopped_after=(published.ran_seconds or 0.0) if published.status == "stopped" else None,
            api_key=service.api_key,
        )
        if published.status == "running" and replica.url:
            health = await ask(client, replica.url, service.api_key, service.probe, service.model, timeout=ASK_SECONDS)
            if of_a_run_before and not health.well:
                return
            replica = self._judged(replica, health)
        self.replicas[replica.id] = replica

    def _judged(self, replica: Replica, health: Health) -> Replica:
        self._late[replica.id] = self._late.get(replica.id, 0) + 1 if health.late else 0
        known = self.replicas.get(replica.id)
        if health.well:
            self._was_well.add(replica.id)
            return replace(replica, status="running", models=health.models)
        if health.late and known and known.status == "running" and self._late[replica.id] < LATE_AT_MOST:
            return known
        return replace(replica, status="failed" if replica.id in self._was_well else "starting", reason=health.reason)


async def last_words_of(service: Service, shell: Shell) -> str:
    """The last words of a job that ended before an engine could say any: of its prologue, or its wrapper. Raises what the shell raises."""
    path, text, offset = service.path / "stderr.log", "", 0
    try:
        while piece := await shell.get(path, offset=offset, limit=_PIECE):
            offset += len(piece)
            text = (text + piece.decode(errors="replace"))[-_PIECE:]
    except FileNotFoundError:
        return ""
    text = text.replace(service.api_key, "…")
    own = "\n".join(line for line in text.split("\n") if not _OF_SLURM.match(line))
    said = last_words(own) or last_words(text)
    return f"the last it said: {said}" if said else ""


async def _published(service: Service, shell: Shell) -> dict[str, Published]:
    """What this run of the job has published, by replica, as far as runs are told apart."""
    found = {}
    names = await shell.list(service.path)
    for name in names:
        if not _FILE.fullmatch(name):
            continue
        try:
            one = msgspec.json.decode(await shell.get(service.path / name), type=Published)
        except FileNotFoundError:
            continue
        except NOT_JSON as error:
            replica = name.removeprefix("replica.").removesuffix(".json")
            reason = f"{service.path / name} is not as the node should have written it: {error}"
            one = Published(replica, replica.rpartition(".")[0], status="failed", reason=reason)
        found[one.replica] = one
    return {name: one for name, one in found.items() if _is_of_this_run(one.run, names)}


async def find_gpu_samplers(service: Service, shell: Shell) -> tuple[GpuSamplerInfo, ...]:
    """Where this run of the job tells what its GPUs say. Raises what the shell raises."""
    found = []
    names = await shell.list(service.path)
    for name in sorted(filter(_OF_GPUS.fullmatch, names)):
        try:
            one = msgspec.json.decode(await shell.get(service.path / name), type=_PublishedGpus)
        except (FileNotFoundError, *NOT_JSON):
            continue
        if _is_of_this_run(one.run, names) and (not service.nodes or one.node in service.nodes):
            found.append(GpuSamplerInfo(node=one.node, url=one.url, gpus=one.gpus))
    return tuple(found)


def _is_of_this_run(run: str, names: Iterable[str]) -> bool:
    """Whether what was published by that run of the job is of the present one, as far as runs are told apart."""
    runs = [int(known[1]) for name in names if (known := RUN.fullmatch(name))]
    return not runs or not run or run.endswith(f".{max(runs)}")
