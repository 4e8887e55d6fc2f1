"""What is seen of one service's replicas: what their node published, and what they answer themselves."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import httpx
import msgspec

from tokenstorm.cluster.shell import Shell
from tokenstorm.errors import NOT_JSON

from .health import Health, ask
from .replicas import Replica
from .service import Service

ASK_SECONDS = 3.0
"""An engine that is well answers its health call long before."""
LATE_AT_MOST = 3
"""So many health calls in a row a busy engine may let pass; a refusal counts at once."""

_FILE = re.compile(r"replica\..+\.json")


class Published(msgspec.Struct, frozen=True):
    """`replica.<node>.<index>.json`, as the wrapper on the node writes it."""

    replica: str
    node: str
    host: str | None = None
    port: int | None = None
    status: Literal["pending", "starting", "running", "failed"] = "starting"
    reason: str | None = None
    nodes: tuple[str, ...] = ()


@dataclass
class Watch:
    """The replicas of one service as they were last seen, by id."""

    replicas: dict[str, Replica] = field(default_factory=dict)
    _late: dict[str, int] = field(default_factory=dict)
    _was_well: set[str] = field(default_factory=set)

    async def look(self, service: Service, shell: Shell, client: httpx.AsyncClient) -> None:
        """Read what was published and ask every engine that listens. Raises what the shell raises."""
        published = await _published(service, shell)
        self.replicas = {name: replica for name, replica in self.replicas.items() if name in published}
        await asyncio.gather(*(self._look_at(service, replica, client) for replica in published.values()))

    async def _look_at(self, service: Service, published: Published, client: httpx.AsyncClient) -> None:
        replica = Replica(
            id=published.replica,
            service_id=service.id,
            node=published.node,
            status="failed" if published.status == "failed" else "starting",
            host=published.host,
            port=published.port,
            reason=published.reason or "",
            nodes=published.nodes or (published.node,),
            api_key=service.api_key,
        )
        if published.status == "running" and replica.url:
            health = await ask(client, replica.url, service.api_key, service.probe, timeout=ASK_SECONDS)
            replica = self._judged(replica, health)
        self.replicas[replica.id] = replica

    def _judged(self, replica: Replica, health: Health) -> Replica:
        self._late[replica.id] = self._late.get(replica.id, 0) + 1 if health.late else 0
        known = self.replicas.get(replica.id)
        if health.well:
            self._was_well.add(replica.id)
            return replace(replica, status="running", reason="", models=health.models)
        if health.late and known and known.status == "running" and self._late[replica.id] < LATE_AT_MOST:
            return known
        return replace(replica, status="failed" if replica.id in self._was_well else "starting", reason=health.reason)


async def _published(service: Service, shell: Shell) -> Mapping[str, Published]:
    found = {}
    for name in await shell.list(service.path):
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
    return found
