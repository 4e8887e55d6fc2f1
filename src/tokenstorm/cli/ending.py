"""What was started while the APIs ran, and its end."""

import asyncio
import contextlib
from collections.abc import Collection

from tokenstorm.client_api.manager import ClientManager
from tokenstorm.errors import ClusterError, RunError
from tokenstorm.orchestrator.services import ServiceOrchestrator

GONE_SECONDS = 20.0
"""What jobs that were cancelled may take to end; the scheduler kills them before."""
BEYOND_DRAIN_SECONDS = 30.0
_LOOK_SECONDS = 0.1


class Started:
    """The groups and services that began after this was made; with `earlier` those that were there before, too."""

    def __init__(self, manager: ClientManager, orchestrator: ServiceOrchestrator, *, earlier: bool = False) -> None:
        self._manager = manager
        self._orchestrator = orchestrator
        self._earlier_groups = frozenset[int]() if earlier else frozenset(self._active_groups())
        self._earlier_services = frozenset[str]() if earlier else frozenset(self._active_services())

    @property
    def groups(self) -> list[int]:
        """Those that have not ended."""
        return [group for group in self._active_groups() if group not in self._earlier_groups]

    @property
    def services(self) -> list[str]:
        """Those that have not ended."""
        return [service for service in self._active_services() if service not in self._earlier_services]

    @property
    def others(self) -> list[str]:
        """What goes on from before, in words."""
        groups = [f"group {group}" for group in self._active_groups() if group in self._earlier_groups]
        return groups + [
            f"service {service}" for service in self._active_services() if service in self._earlier_services
        ]

    async def stop(self, hurry: asyncio.Event) -> list[str]:
        """Drain the groups, cancel the services, wait until their jobs are gone; with `hurry`, cancel all at once.

        Returns what could not be ended, in words.
        """
        left = await self._stop_groups(self.groups, hurry)
        return left + await self._stop_services(self.services)

    def _active_groups(self) -> list[int]:
        return [group.group_id for group in self._manager.active]

    def _active_services(self) -> list[str]:
        return [service.id for service in self._orchestrator.list() if not service.ended]

    async def _stop_groups(self, groups: list[int], hurry: asyncio.Event) -> list[str]:
        found = [group for number in groups if (group := self._manager.current(number))]
        for group in found:
            with contextlib.suppress(RunError):  # the disk: its job is cancelled below
                if not group.deleted:
                    self._manager.stop(group.group_id)
        drain = max((group.drain_seconds for group in found), default=0.0)
        await self._groups_end(groups, drain + BEYOND_DRAIN_SECONDS, hurry)
        late = [group for number in groups if (group := self._manager.current(number))]
        for group in late:
            if group.job_id:
                with contextlib.suppress(ClusterError):
                    await self._manager.site.scheduler.cancel(group.job_id)
        await self._groups_end(groups, GONE_SECONDS, asyncio.Event())
        return [f"group {number}" for number in groups if self._manager.current(number)]

    async def _groups_end(self, groups: Collection[int], seconds: float, hurry: asyncio.Event) -> None:
        """Wait until they have, or the time is over, or somebody is in a hurry."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not hurry.is_set() and any(self._manager.current(number) for number in groups):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(_LOOK_SECONDS)

    async def _stop_services(self, services: list[str]) -> list[str]:
        going: dict[str, str] = {}
        left: list[str] = []
        for service in services:
            try:
                ended = await self._orchestrator.cancel(service)
            except (ClusterError, RunError) as error:
                left.append(f"service {service} ({error})")
            else:
                going |= {ended.job_id: service} if ended.job_id else {}
        with contextlib.suppress(TimeoutError, ClusterError):
            async with asyncio.timeout(GONE_SECONDS):
                while going:
                    states = await self._orchestrator.site.scheduler.states(going.keys())
                    going = {job: service for job, service in going.items() if states[job].phase != "ended"}
                    await asyncio.sleep(_LOOK_SECONDS if going else 0)
        return left + [f"service {service}" for service in going.values()]
