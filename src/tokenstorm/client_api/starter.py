"""Bringing groups up: from a request to a job that is submitted, once and only once."""

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec.structs import replace

from tokenstorm.api.dry_run import DryRun
from tokenstorm.api.groups import UNKNOWN_LENGTH_MINUTES, GroupRequest, shown_fields
from tokenstorm.api.services import ENDED
from tokenstorm.client_api import group as states
from tokenstorm.client_api.book import Book
from tokenstorm.client_api.dispatcher import SlurmClientDispatcher
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.client_api.refusals import NotNow, SubmissionUnconfirmed
from tokenstorm.client_api.services import Access, ServiceDirectory, ServiceInfo
from tokenstorm.client_api.store import GroupSecrets
from tokenstorm.client_api.tasks import Tasks
from tokenstorm.cluster.scheduler import Outcome
from tokenstorm.cluster.site import Site
from tokenstorm.errors import ClusterError, RunError, Unconfirmed, UsageError
from tokenstorm.jobs.pauses import pauses
from tokenstorm.jobs.settler import REFUSED, UNCONFIRMED, Settler, Steps
from tokenstorm.plan import new_run_id

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
"""Seconds until a group is tried again."""
LOOK_SECONDS = 1.0
"""How soon a group that is stopped while it waits for a deploy gives that up."""


class Endings(Protocol):
    """How groups end that never began."""

    async def give_up(self, group_id: int, outcome: Outcome, reason: str) -> None:
        """End a group that was never submitted, and leave no key of it behind. Raises `ClusterError`, `RunError`."""
        ...

    async def purge(self, group: ClientGroup) -> None:
        """Remove the files of a group that is over, however often that takes."""
        ...


class Starter:
    """Starts the groups of a book; `submitted` is called when the scheduler got one more job."""

    def __init__(
        self,
        book: Book,
        *,
        site: Site,
        endings: Endings,
        tasks: Tasks,
        dispatcher: SlurmClientDispatcher,
        services: ServiceDirectory,
        submitted: Callable[[], None],
    ) -> None:
        self._book, self._site, self._endings, self._tasks = book, site, endings, tasks
        self._dispatcher, self._services, self._submitted = dispatcher, services, submitted
        self._being_created: set[int] = set()
        self._settler = Settler(
            Steps(
                attempt=self._attempt,
                refuse=self._refuse,
                wait=self._wait,
                pauses=lambda: pauses(FIRST_PAUSE, LONGEST_PAUSE),
                refused=(*REFUSED, NotNow),
                spawn=tasks.spawn,
            )
        )

    def start(self) -> None:
        """Bring up every group that is not submitted yet, from now on."""
        self._tasks.spawn(self._settle())

    async def create(self, request: GroupRequest, fingerprint: str, key: str | None) -> ClientGroup:
        """Keep a new group and submit it, or let it wait for its service. See `ClientManager.create`."""
        info, access = await self._find(request)
        if request.dataset is not None:
            await self._dispatcher.check_dataset(request.dataset, request.columns, request.custom)
        asked = {} if request.trace is None else await self._dispatcher.check_trace(request)
        request = self._settled(request, asked.get("duration_seconds"))
        if request.series is not None:
            self._preview(request, info, access)  # where one of its runs makes no sense, nothing is kept
        run_id, created_at = new_run_id(), states.now()

        def make(group_id: int) -> ClientGroup:
            return _new(request, info, access, group_id=group_id, run_id=run_id, created_at=created_at)

        group = self._book.add(
            make,
            msgspec.json.encode(shown_fields(request)),
            GroupSecrets(secrets.token_urlsafe(32), request.api_key),
            idempotency_key=key,
            fingerprint=fingerprint,
        )
        self._being_created.add(group.group_id)
        try:
            if access is not None and await self._dispatcher.deployed():
                return await self._submit(group, request, access)
        except (Unconfirmed, RunError) as error:  # RunError: the disk, with the job submitted or not
            self._say(group.group_id, UNCONFIRMED)
            raise SubmissionUnconfirmed(group.group_id, str(error)) from None
        except (ClusterError, UsageError):
            self._bury(self._book.expect(group.group_id))
            raise
        finally:
            self._being_created.discard(group.group_id)
        return group

    async def dry_run(self, request: GroupRequest) -> DryRun:
        """What `create` would submit. Nothing is kept; the Server API is asked for the service, the cluster for nothing."""
        info, access = await self._find(request)
        request = self._settled(request)
        return self._preview(request, info, access)

    def _preview(self, request: GroupRequest, info: ServiceInfo | None, access: Access | None) -> DryRun:
        group = _new(request, info, access, group_id=1, run_id=new_run_id(), created_at=states.now())
        return self._dispatcher.preview(group, request, access)

    def _settled(self, request: GroupRequest, replay_seconds: float | None = None) -> GroupRequest:
        """The request with the seed and the time limit that it leaves open."""
        seed = secrets.randbits(48) if request.seed is None else request.seed
        unknown = self._site.profile.of("cpu").time_limit or UNKNOWN_LENGTH_MINUTES
        minutes = request.limit(unknown, replay_seconds)
        return replace(request, seed=seed, time_limit=minutes)

    async def _find(self, request: GroupRequest) -> tuple[ServiceInfo | None, Access | None]:
        """How the service stands, and how to reach it once it is ready. Raises `NotNow` when it has ended."""
        if request.target_url is not None:
            return None, Access((("0", request.target_url),))
        service = str(request.service_id)
        info = await self._services.find(service)
        if info.status in ENDED:
            why = f": {info.reason}" if info.reason else ""
            message = f"the service {service!r} has ended ({info.status}{why}): create a new one"
            raise NotNow(message)
        if info.status != "running":
            return info, None
        access = await (self._services.routed if request.via == "orchestrator" else self._services.access)(service)
        return info, dataclasses.replace(access, model=info.model) if access.endpoints else None

    async def _submit(self, group: ClientGroup, request: GroupRequest, access: Access) -> ClientGroup:
        """Prepare the run folder and submit the job; what was prepared before is left as it is."""
        plan = await self._dispatcher.prepared(group)
        if plan is None:
            known = self._book.store.secrets(group.group_id)
            assert known is not None, "a group has its secrets until it stops"
            plan = await self._dispatcher.make_plan(group, request, access)
            key = known.api_key or access.api_key
            await self._dispatcher.prepare(group, request, plan, GroupSecrets(known.launcher, key))
        job_id = await self._dispatcher.submit(group, request, plan)
        group = self._book.change(states.submitted(self._book.expect(group.group_id), job_id))
        self._submitted()
        return group

    async def _settle(self) -> None:
        """From `waiting` or `submitting` to `queued`, however often the Server API or the cluster fails."""
        while True:
            for group in self._book.active:
                if _unsettled(group) and group.group_id not in self._being_created:
                    self._settler.tend(group.group_id)
            await asyncio.sleep(FIRST_PAUSE)

    async def _attempt(self, group_id: int) -> bool:
        if group := self._book.current(group_id):
            request = msgspec.json.decode(self._book.store.request(group_id), type=GroupRequest)
            await self._try_to_submit(group, request)
        return not _unsettled(self._book.current(group_id))

    async def _refuse(self, group_id: int, why: str) -> None:
        if group := self._book.current(group_id):
            await self._endings.give_up(group_id, "cancelled" if group.ending else "failed", why)

    def _wait(self, group_id: int, error: Exception) -> None:
        self._say(group_id, UNCONFIRMED if isinstance(error, Unconfirmed) else str(error))

    async def _try_to_submit(self, group: ClientGroup, request: GroupRequest) -> None:
        if group.ending:
            await self._withdraw(group, request)
            return
        if not await self._dispatcher.deployed():
            await self._deploy(group.group_id)
            return
        if group.stage == "submitting" and await self._dispatcher.prepared(group):
            await self._submit(group, request, Access(()))
            return
        info, access = await self._find(request)
        current = self._book.current(group.group_id)
        if current is None:  # stopped meanwhile
            return
        if access is None:
            self._say(group.group_id, _not_ready(request, info))
            return
        engine = info.engine if info else None
        await self._submit(self._book.change(states.submitting(current, engine)), request, access)

    async def _deploy(self, group_id: int) -> None:
        """Put this version on the cluster; give that up when the group is stopped meanwhile."""
        what = "this version of tokenstorm is being put on the cluster"
        self._say(group_id, what)
        deploying = asyncio.create_task(self._dispatcher.python(lambda line: self._say(group_id, f"{what}: {line}")))
        try:
            while not deploying.done():
                await asyncio.wait((deploying,), timeout=LOOK_SECONDS)
                group = self._book.current(group_id)
                if group is None or group.ending:
                    return
            deploying.result()
        finally:
            deploying.cancel()
            await asyncio.wait((deploying,))

    async def _withdraw(self, group: ClientGroup, request: GroupRequest) -> None:
        """Stop a group whose job is not known: never submit it, and follow a job that exists all the same to its end."""
        submitting = group.stage == "submitting"
        job_id = await self._dispatcher.withdraw(group, request) if submitting else None
        if job_id is None:
            await self._endings.give_up(group.group_id, "cancelled", "stopped before it started")
        else:
            self._book.change(states.submitted(self._book.expect(group.group_id), job_id))
            self._submitted()

    def _say(self, group_id: int, reason: str) -> None:
        """Why a group still waits."""
        if group := self._book.current(group_id):
            with contextlib.suppress(RunError):  # the disk; it is said again at the next try
                self._book.change(replace(group, reason=reason))

    def _bury(self, group: ClientGroup) -> None:
        """Forget a group that could not be created: hide it, remove its files, and free its idempotency key."""
        over = replace(states.stopped(group, "failed", "it could not be submitted"), deleted=True, purge=True)
        try:
            over = self._book.change(over, free_key=True)
        except RunError:  # the disk: it is there, then, and goes on
            return
        self._tasks.spawn(self._endings.purge(over))


def _unsettled(group: ClientGroup | None) -> bool:
    """Whether its job is still to be submitted, or to be ruled out."""
    return group is not None and group.stage in {"waiting", "submitting"}


def _new(
    request: GroupRequest,
    info: ServiceInfo | None,
    access: Access | None,
    *,
    group_id: int,
    run_id: str,
    created_at: str,
) -> ClientGroup:
    """A group as it begins."""
    return ClientGroup(
        group_id=group_id,
        run_id=run_id,
        num_clients=request.num_clients,
        service_id=None if request.service_id is None else str(request.service_id),
        name=request.name,
        labels=request.labels,
        manual=request.start == "manual",
        hold_seconds=request.hold_seconds,
        drain_seconds=request.drain_seconds,
        time_limit_minutes=request.minutes,
        created_at=created_at,
        engine=info.engine if info else None,
        stage="waiting" if access is None else "submitting",
        reason=_not_ready(request, info) if access is None else "being submitted",
    )


def _not_ready(request: GroupRequest, info: ServiceInfo | None) -> str:
    why = f": {info.reason}" if info and info.reason else ""
    return f"waiting for the service {str(request.service_id)!r}, which is {info.status if info else 'not known'}{why}"
