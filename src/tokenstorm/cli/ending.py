"""What was started while the APIs ran, and its end."""

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from tokenstorm.api.services import ENDED
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.errors import ApiError, ClusterError, RunError
from tokenstorm.orchestrator.services import ServiceOrchestrator
from tokenstorm.sdk import AsyncClient
from tokenstorm.server_api.placed import PlacedOrchestrator

GONE_SECONDS = 20.0
"""What jobs that were cancelled may take to end; the scheduler kills them before."""
BEYOND_DRAIN_SECONDS = 30.0
_LOOK_SECONDS = 0.1


class Services(Protocol):
    """The services of an orchestrator, which may be elsewhere."""

    async def active(self) -> list[str]:
        """The ids of those that have not ended."""
        ...

    async def end(self, services: Collection[str]) -> list[str]:
        """Cancel those, and wait until they are gone. Returns what could not be ended, in words."""
        ...


@dataclass(frozen=True)
class OwnServices:
    """Those of an orchestrator in this process."""

    orchestrator: ServiceOrchestrator

    async def active(self) -> list[str]:
        return [service.id for service in self.orchestrator.list() if not service.ended]

    async def end(self, services: Collection[str]) -> list[str]:
        left: list[str] = []
        for service in services:
            try:
                await self.orchestrator.cancel(service)
            except (ClusterError, RunError) as error:
                left.append(f"service {service} ({error})")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GONE_SECONDS):
                await self.orchestrator.settled()
        ended = [one for one in map(self.orchestrator.get, services) if one.ended]
        left += [
            f"a job of service {one.id}, if there is one: the next start cancels it" for one in ended if one.unsettled
        ]
        going = {one.job_id: one.id for one in ended if one.job_id}
        with contextlib.suppress(TimeoutError, ClusterError):
            async with asyncio.timeout(GONE_SECONDS):
                while going:
                    sent = {job: self.orchestrator.get(service).sent for job, service in going.items()}
                    states = await self.orchestrator.site.scheduler.states(going.keys(), sent)
                    gone = {job for job, state in states.items() if state.phase == "ended"}
                    going = {job: service for job, service in going.items() if job not in gone}
                    await asyncio.sleep(_LOOK_SECONDS if going else 0)
        return left + [f"service {service}" for service in going.values()]


@dataclass(frozen=True)
class PlacedServices:
    """Those of an orchestrator on the cluster; it ends with the last of them."""

    orchestrator: PlacedOrchestrator
    client: AsyncClient

    async def active(self) -> list[str]:
        if not await self.orchestrator.exists():
            return []
        found = await self.client.list_services()
        return [service.id for service in found.services if service.status not in ENDED]

    async def end(self, services: Collection[str]) -> list[str]:
        left: list[str] = []
        for service in services:
            try:
                await self.client.stop_service(service)
            except ApiError as error:
                left.append(f"service {service} ({error})")
        try:
            if not await self.active():
                await self.orchestrator.stop()
        except (ApiError, ClusterError) as error:
            left.append(f"the orchestrator ({error})")
        return left


@dataclass(frozen=True)
class Active:
    """Groups and services that have not ended."""

    groups: frozenset[int] = frozenset()
    services: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.groups or self.services)

    def __sub__(self, other: "Active") -> "Active":
        return Active(self.groups - other.groups, self.services - other.services)

    def __and__(self, other: "Active") -> "Active":
        return Active(self.groups & other.groups, self.services & other.services)

    def __str__(self) -> str:
        groups = [f"group {group}" for group in sorted(self.groups)]
        return ", ".join([*groups, *(f"service {service}" for service in sorted(self.services))])


async def active(manager: ClientManager, services: Services) -> Active:
    """All there are now. Raises `ClusterError` or `ApiError` when nobody tells."""
    return Active(frozenset(group.group_id for group in manager.book.active), frozenset(await services.active()))


async def stop(manager: ClientManager, services: Services, which: Active, hurry: asyncio.Event) -> list[str]:
    """Drain the groups, cancel the services, wait until their jobs are gone; with `hurry`, cancel all at once.

    Returns what could not be ended, in words.
    """
    left = await _stop_groups(manager, sorted(which.groups), hurry)
    return left + await services.end(sorted(which.services))


async def _stop_groups(manager: ClientManager, groups: list[int], hurry: asyncio.Event) -> list[str]:
    found = [group for number in groups if (group := manager.book.current(number))]
    for group in found:
        with contextlib.suppress(RunError):  # the disk: its job is cancelled below
            if not group.deleted:
                manager.stop(group.group_id)
    drain = max((group.drain_seconds for group in found), default=0.0)
    await _groups_end(manager, groups, drain + BEYOND_DRAIN_SECONDS, hurry)
    late = [group for number in groups if (group := manager.book.current(number))]
    for group in late:
        if group.job_id:
            with contextlib.suppress(ClusterError):
                await manager.site.scheduler.cancel(group.job_id, group.sent)
    await _groups_end(manager, groups, GONE_SECONDS, asyncio.Event())
    return [f"group {number}" for number in groups if manager.book.current(number)]


async def _groups_end(manager: ClientManager, groups: Collection[int], seconds: float, hurry: asyncio.Event) -> None:
    """Wait until they have, or the time is over, or somebody is in a hurry."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not hurry.is_set() and any(manager.book.current(number) for number in groups):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(_LOOK_SECONDS)
