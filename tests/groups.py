"""What tests of the Client API start: the API over fakes or over the real scheduler, and callers of it."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from tokenstorm.client_api.app import create_app
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.services import Access, ServiceInfo
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import Job, JobId, JobState
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.shell import Shell
from tokenstorm.cluster.site import Site
from tokenstorm.config.profile import Profile
from tokenstorm.errors import TokenstormError, Unknown
from tokenstorm.report.page import try_page

GROUPS = "/api/v1/client-groups"
SMALL: dict[str, Any] = {"target_url": "http://127.0.0.1:9", "num_clients": 2, "prompts": ["hello"]}


@dataclass
class Services:
    """A directory of services that a test writes."""

    known: dict[str, ServiceInfo] = field(default_factory=dict)
    url: str = "http://127.0.0.1:9"
    api_key: str | None = None
    replica: str = "node.0"
    nodes: tuple[str, ...] = ()

    async def find(self, service_id: str) -> ServiceInfo:
        if service_id not in self.known:
            message = f"there is no service {service_id!r}: there is {', '.join(self.known) or 'none'}"
            raise Unknown(message)
        return self.known[service_id]

    async def access(self, service_id: str) -> Access:
        return Access(((self.replica, self.url),), self.api_key, {self.replica: self.nodes})

    async def routed(self, service_id: str) -> Access:
        return Access((("orchestrator", f"{self.url}/api/v1/vllm/{service_id}"),))


@dataclass
class Jobs:
    """A scheduler that keeps jobs in memory; a test says how they stand. `refuse` is raised by the next submits.

    `taken` is whether a submit that raises took the job nevertheless.
    """

    submits: list[Job] = field(default_factory=list)
    by_name: dict[str, JobId] = field(default_factory=dict)
    found: dict[JobId, JobState] = field(default_factory=dict)
    cancelled: list[JobId] = field(default_factory=list)
    refuse: TokenstormError | None = None
    taken: bool = False
    first: JobState = field(default_factory=lambda: JobState("pending", reason="Priority"))

    def fan_out(self, job: Job) -> tuple[str, ...]:
        return ()

    async def submit(self, job: Job) -> JobId:
        self.submits.append(job)
        if self.refuse is None or self.taken:
            known = self.by_name.setdefault(job.name, str(100 + len(self.by_name)))
            self.found.setdefault(known, self.first)
        if self.refuse is not None:
            raise self.refuse
        return self.by_name[job.name]

    async def withdraw(self, job: Job) -> JobId | None:
        return self.by_name.get(job.name)

    async def states(self, ids: Collection[JobId], sent: object = None) -> dict[JobId, JobState]:
        return {job: self.found[job] for job in ids}

    async def cancel(self, job: JobId, sent: object = None) -> None:
        self.cancelled.append(job)
        self.found[job] = JobState("ended", "cancelled", "cancelled by the user")


def profile(folder: Path) -> Profile:
    return Profile(name="local", scheduler="local", base_path=PurePosixPath(folder), python="python3")


@dataclass
class Api:
    """A Client API that runs on this loop, and a caller of it."""

    manager: ClientManager
    jobs: Jobs
    services: Services
    client: httpx.AsyncClient

    async def post(self, path: str = "", /, **body: Any) -> httpx.Response:
        """POST below /client-groups."""
        return await self.client.post(GROUPS + path, json=body)

    async def get(self, path: str = "", **query: Any) -> httpx.Response:
        """GET below /client-groups."""
        return await self.client.get(GROUPS + path, params=query)

    async def create(self, **fields: Any) -> int:
        """A group that is taken."""
        answer = await self.post(**{**SMALL, **fields})
        assert answer.status_code == 201, answer.text
        group_id: int = answer.json()["group_id"]
        return group_id

    async def info(self, group_id: int) -> dict[str, Any]:
        """One group's info."""
        answer = await self.get(f"/{group_id}")
        assert answer.status_code == 200, answer.text
        info: dict[str, Any] = answer.json()["info"]
        return info

    async def until(self, group_id: int, **wanted: Any) -> dict[str, Any]:
        """Its info, once it is as wanted."""
        async with asyncio.timeout(30):
            while True:
                info = await self.info(group_id)
                if all(info[name] == value for name, value in wanted.items()):
                    return info
                await asyncio.sleep(0.01)


@asynccontextmanager
async def api(
    folder: Path,
    jobs: Jobs | None = None,
    services: Services | None = None,
    shell: Shell | None = None,
    deployment: Deployment | None = None,
    *,
    token: str | None = None,
) -> AsyncIterator[Api]:
    """The API over a real folder and a fake scheduler; leaving it is like the end of its process."""
    jobs, services = jobs or Jobs(), services or Services()
    store = Store.open(folder / "home" / "client.db")
    site = Site(profile(folder / "cluster"), shell or LocalShell(), jobs, has_gpu=False)
    manager = ClientManager(site, store, services, folder / "home", make_page=try_page, deployment=deployment)
    app = create_app(manager, token=token)
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await manager.start()
            yield Api(manager, jobs, services, client)
    finally:
        await manager.close()
        store.close()
