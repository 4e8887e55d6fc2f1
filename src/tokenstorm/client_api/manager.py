"""The groups: created, brought up, followed to their end, kept. What is known survives the process at any moment.

A group's way is written down before each step is taken: `waiting` → `submitting` → `queued` → `running` → `stopped`. Whoever
finds a group in the store goes on from there; a job is submitted by its name, so no step is ever taken twice.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import httpx
import msgspec
from msgspec.structs import replace

from tokenstorm.api.group_answers import GroupStatus, StatusChange
from tokenstorm.api.groups import GroupRequest, shown_fields
from tokenstorm.client_api import group as states
from tokenstorm.client_api.archive import Archive
from tokenstorm.client_api.dispatcher import SlurmClientDispatcher
from tokenstorm.client_api.feed import Feed
from tokenstorm.client_api.follower import Follower
from tokenstorm.client_api.group import ClientGroup, Progress
from tokenstorm.client_api.homecoming import Expected
from tokenstorm.client_api.link import LauncherLink, Said
from tokenstorm.client_api.observers import Observers
from tokenstorm.client_api.pauses import pauses
from tokenstorm.client_api.refusals import NotNow, SubmissionUnconfirmed
from tokenstorm.client_api.releases import latest_start, not_releasable
from tokenstorm.client_api.services import ServiceDirectory
from tokenstorm.client_api.starter import Starter
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.http import EACH_ANEW, transport
from tokenstorm.cluster.scheduler import JobState, Outcome
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.site import Site
from tokenstorm.errors import ClusterError, KeyUsed, RunError, Unknown, UsageError
from tokenstorm.metrics.exposition import with_age

MOST_OBSERVERS = 32
SEEN_AFTER_SECONDS = 60.0
"""After so long a shared file system shows what another node wrote before."""
LOOK_AGAIN_SECONDS = 3.0
_ENDED_WELL = (0, 3)
"""What the load generator ends with when it wrote a summary."""


@dataclass(frozen=True)
class Live:
    """The latest of a running group, when its launcher said it, and when that came (monotonic seconds).

    `written` is how many bytes of result lines each rank has on disk.
    """

    progress: Progress
    said_at: datetime
    at: float
    written: Mapping[int, int]

    @property
    def age_seconds(self) -> float:
        """How old it is."""
        return time.monotonic() - self.at


class ClientManager:
    """All groups of one user on one site. `start` once before anything else, `close` at the end; jobs go on.

    With a `deployment` the code is put on the cluster when it is missing; without, the profile's Python has to have it.
    """

    def __init__(
        self, site: Site, store: Store, services: ServiceDirectory, home: Path, deployment: Deployment | None = None
    ) -> None:
        self.site = site
        self.store = store
        self.services = services
        self.dispatcher = SlurmClientDispatcher(site, deployment)
        self.archive = Archive(site.shell, site.profile.base_path / "runs", home)
        self.trouble: str | None = None
        self._bug: str | None = None
        self._active: dict[int, ClientGroup] = {}
        self._live: dict[int, Live] = {}
        self._feeds: dict[int, Feed] = {}
        self._keys: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cluster = httpx.AsyncClient(transport=transport(site.shell), trust_env=False)
        self._outside = httpx.AsyncClient(trust_env=False, limits=EACH_ANEW)
        self._observers = Observers(store, self._outside, self.spawn)
        self._follower = Follower(self)
        self._starter = Starter(self, self._follower.wake)
        self.dry_run = self._starter.dry_run
        self._started = False

    async def start(self) -> None:
        """Go on with every group that is not over. A second call does nothing."""
        if self._started:
            return
        self._started = True
        for group in self.store.active():
            self._active[group.group_id] = group
            if group.stage in {"waiting", "submitting"}:
                self.spawn(self._starter.bring_up(group.group_id))
        for group in self.store.to_purge():
            self.spawn(self.purge(group))
        self._follower.start()
        self._observers.look()

    async def close(self) -> None:
        """Stop following; the next start goes on from here."""
        self.hang_up()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._cluster.aclose()
        await self._outside.aclose()

    def hang_up(self) -> None:
        """End the streams of everybody who watches: an API that ends waits for them."""
        for feed in self._feeds.values():
            feed.close()

    # What users ask for.

    async def create(self, request: GroupRequest, key: str | None = None) -> ClientGroup:
        """A new group, or the one that was made with the same `key`. It exists wholly or not at all.

        Raises `Unknown`, `NotNow`, `UsageError` or `ClusterError`; `SubmissionUnconfirmed` where the group stays.
        """
        fingerprint = _fingerprint(request)
        if key is None:
            return await self._starter.create(request, fingerprint, None)
        lock = self._keys.setdefault(key, asyncio.Lock())
        async with lock:
            known = self.store.by_key(key)
            if known is None:
                return await self._starter.create(request, fingerprint, key)
        group, earlier = known
        if not secrets.compare_digest(earlier, fingerprint):
            message = f"the Idempotency-Key {key!r} was used for another request: use a new one"
            raise KeyUsed(message)
        if group.deleted:
            message = f"group {group.group_id}, created with the Idempotency-Key {key!r}, was deleted: use a new one"
            raise NotNow(message)
        if group.reason == states.UNCONFIRMED:
            raise SubmissionUnconfirmed(group.group_id, "the cluster was lost on the way")
        return group

    def get(self, group_id: int) -> ClientGroup:
        """One group. Raises `Unknown`."""
        group = self._known(group_id)
        if group.deleted:
            files = "" if group.purge or group.purged else "; its files stay until DELETE …?purge=true"
            message = f"there is no group {group_id} any more: it was deleted{files}"
            raise Unknown(message)
        return group

    def _known(self, group_id: int) -> ClientGroup:
        """One group, deleted ones included. Raises `Unknown`."""
        group = self._active.get(group_id) or self.store.get(group_id)
        if group is None:
            there = ", ".join(map(str, self.store.ids()[-10:])) or "none yet"
            message = f"there is no group {group_id}: there is {there}; GET /api/v1/client-groups lists all"
            raise Unknown(message)
        return group

    def ids(self, status: GroupStatus | None = None) -> list[int]:
        """All groups, oldest first."""
        return self.store.ids(status)

    def live(self, group: ClientGroup) -> Live | None:
        """How far a running group is."""
        return self._live.get(group.group_id)

    def run(self, group_ids: Iterable[int], start_at: float, *, at_hand: bool = False) -> None:
        """Release held groups, all or none, at one Unix time (0: at once). Raises `Unknown`, `NotNow`, `UsageError`.

        With `at_hand` the moment is so near that each of several has to hold already: else one would start alone, later.
        """
        groups = [self.get(group_id) for group_id in dict.fromkeys(group_ids)]
        for group in groups:
            phase = live.progress.phase if (live := self.live(group)) else ""
            if why := not_releasable(group, phase, together=at_hand and len(groups) > 1):
                raise NotNow(why)
            if start_at > (latest := latest_start(group)):
                until = datetime.fromtimestamp(latest, UTC).isoformat(timespec="seconds")
                message = f"is beyond the hold_seconds of group {group.group_id}, which may be held until {until}"
                raise UsageError(message, "start_at")
        released = [replace(group, released=start_at) for group in groups]
        self.store.save(*released)
        for group in released:
            self.change(group)
            self.spawn(self._follower.release(group.group_id))

    def stop(self, group_id: int) -> ClientGroup:
        """Drain a group and keep everything. One that is over stays as it is."""
        group = self.get(group_id)
        what = (
            "what was sent is waited for" if group.stage == "running" else "its job, which has not begun, is cancelled"
        )
        return self.end(group, "stop", f"stopping: {what}")

    def delete(self, group_id: int, *, purge: bool) -> None:
        """Take a group off the list, and stop it if need be. `purge` removes its files too, also those of a deleted one.

        Raises `Unknown`.
        """
        known = self._known(group_id)
        if known.deleted and purge and not known.purged:
            self._purge_deleted(known)
            return
        group = self.end(self.get(group_id), "stop", "deleted")
        group = self.change(replace(group, deleted=True, purge=purge))
        if group.stage == "stopped" and purge:
            self.spawn(self.purge(group))

    def _purge_deleted(self, group: ClientGroup) -> None:
        if group.purge:
            return  # asked for before
        group = replace(group, purge=True)
        if group.stage != "stopped":
            self.change(group)  # whoever sees it to its end removes them
            return
        self.store.save(group)
        self.spawn(self.purge(group))

    def observe(self, group_id: int, url: str) -> None:
        """Tell that address of every change from now on."""
        group = self.get(group_id)
        if url not in group.observers and len(group.observers) >= MOST_OBSERVERS:
            message = f"group {group_id} has {MOST_OBSERVERS} observers already: more are not told"
            raise UsageError(message, "url")
        if url not in group.observers:
            self.change(replace(group, observers=(*group.observers, url)))

    async def metrics(self, group: ClientGroup) -> tuple[bytes, float | None] | None:
        """The group's Prometheus text, and how old it is in seconds where that is known; None before there is any."""
        if group.stage == "stopped":
            text = self.archive.metrics(group.run_id)
            return None if text is None else (text, None)
        found = await self.link(group).metrics() if group.stage == "running" else None
        if found is None:
            return None
        live = self.live(group)
        age = 0.0 if not found.written else live.age_seconds if live else None  # it is written with the status
        return (found.text if age is None else with_age(found.text, str(group.group_id), age)), age

    def feed(self, group: ClientGroup) -> Feed:
        """Its live updates."""
        feed = self._feeds.get(group.group_id)
        if feed is None:
            feed = Feed()
            feed.publish("status", _told(group))
            if group.stage == "stopped":
                feed.publish("done", _told(group))
            else:
                self._feeds[group.group_id] = feed
        return feed

    def ready(self) -> str | None:
        """Why it cannot work now; None when it can."""
        return self._bug or self.trouble

    # How groups change.

    @property
    def active(self) -> tuple[ClientGroup, ...]:
        """The groups that are not over, deleted ones included."""
        return tuple(self._active.values())

    def current(self, group_id: int) -> ClientGroup | None:
        """An active group as it is now."""
        return self._active.get(group_id)

    def expect(self, group_id: int) -> ClientGroup:
        """An active group that is known to be there."""
        return self._active[group_id]

    def take(self, group: ClientGroup) -> None:
        """A group that the store has got."""
        self._active[group.group_id] = group

    def change(self, group: ClientGroup, *, free_key: bool = False) -> ClientGroup:
        """Write a new state down, then act on it and tell whoever wants to know. Raises `RunError` for a bad disk."""
        before = self._active.get(group.group_id)
        if group == before:
            return group
        news = before is None or before.shown != group.shown
        self.store.save(group, message=_told(group) if news else None, free_key=free_key)
        if group.stage == "stopped":
            self._active.pop(group.group_id, None)
            self._live.pop(group.group_id, None)
        else:
            self._active[group.group_id] = group
        if feed := self._feeds.get(group.group_id):
            if news:
                feed.publish("status", _told(group))
            if group.stage == "stopped":
                feed.publish("done", _told(group))
                del self._feeds[group.group_id]
        if news and group.observers:
            self._observers.look()
        return group

    def progressed(self, group_id: int, said: Said, line: bytes | None, written: Mapping[int, int]) -> None:
        """A second of a running group. What was seen before is as old as then, and what is seen first as its writer says."""
        known, now = self._live.get(group_id), time.monotonic()
        if known is None:
            age = (datetime.now(UTC) - said.status.at).total_seconds() if said.written else 0.0
            at = now - max(0.0, age)
        else:
            at = known.at if known.said_at == said.status.at else now
        before = known.written if known else {}
        self._live[group_id] = Live(Progress.of(said.status), said.status.at, at, {**before, **written})
        if line is not None and (feed := self._feeds.get(group_id)):
            feed.publish("progress", line)

    def end(self, group: ClientGroup, why: states.Ending, reason: str) -> ClientGroup:
        """See to it that a group ends early."""
        if group.stage == "stopped" or group.ending:
            return group
        group = self.change(states.ending(group, why, reason))
        if group.stage == "waiting":
            return self.change(states.stopped(group, "cancelled", "stopped before it started"))
        self.spawn(self._follower.end_early(group.group_id))
        return group

    async def give_up(self, group_id: int, outcome: Outcome, reason: str) -> None:
        """End a group that was never submitted, and leave no key of it behind. Raises `ClusterError`, `RunError`."""
        group = self.expect(group_id)
        if group.stage != "waiting":
            await self.archive.forget_secrets(group.run_id)  # before it is over: then nobody looks any more
        if current := self.current(group_id):
            group = self.change(states.stopped(current, outcome, reason))
            if group.purge:
                self.spawn(self.purge(group))

    def link(self, group: ClientGroup) -> LauncherLink:
        """The way to its launcher."""
        known = self.store.secrets(group.group_id)
        secret = known.launcher if known else ""
        return LauncherLink(self.site.shell, self._cluster, self.archive.folder(group.run_id), secret)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the rest, until `close`. A bug in it shows, in the log and in `/ready`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    async def finish(self, group_id: int, job: JobState) -> None:
        """The job is over: bring home what it left and say how it went, however often that takes."""
        deadline, expected = time.monotonic() + SEEN_AFTER_SECONDS, self._expected(group_id, job)
        for pause in pauses(0.2, 30.0):
            group = self._active[group_id]
            try:
                missing = await self.archive.bring(group.run_id, expected)
                if missing and time.monotonic() < deadline:
                    await asyncio.sleep(min(pause, LOOK_AGAIN_SECONDS))
                    continue
                left = await self.archive.sum_up(group.run_id)
                await self.archive.forget_secrets(group.run_id)
                group = self._active[group_id]
                progress = Progress.of(left.status) if left.status else None
                late = left.status.late_seconds if left.status else group.late_seconds
                known = replace(group, progress=progress, late_seconds=late)
                group = self.change(states.ended(known, job, left.summary, left.said, missing))
            except (ClusterError, RunError) as error:
                self.trouble = str(error)
                await asyncio.sleep(pause)
                continue
            self.trouble = None
            if group.purge:
                await self.purge(group)
            return

    def _expected(self, group_id: int, job: JobState) -> Expected:
        """What a job that is over must have left."""
        group, live = self._active[group_id], self._live.get(group_id)
        had_nodes = group.started_at is not None or bool(job.nodes)
        never_ran = job.outcome == "cancelled" and not had_nodes  # Slurm says that it ended with 0 all the same
        return Expected(
            ran=job.outcome != "lost" and had_nodes,
            ended_well=(job.exit_code in _ENDED_WELL and not never_ran)
            or job.outcome == "completed"
            or (live is not None and live.progress.phase == "finished"),
            written=live.written if live else {},
        )

    async def purge(self, group: ClientGroup) -> None:
        """Remove the files of a group that is over, however often that takes."""
        for pause in pauses(0.5, 60.0):
            try:
                await self.archive.purge(group.run_id)
                self.store.save(replace(group, purge=False, purged=True))
            except (ClusterError, RunError, OSError) as error:
                self.trouble = f"the files of run {group.run_id} could not be removed: {error}"
                await asyncio.sleep(pause)
            else:
                if self.trouble and group.run_id in self.trouble:
                    self.trouble = None
                return

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bug = "this is a bug of tokenstorm: its traceback is in the log of the API"
            context = {"message": "tokenstorm: a bug in the Client API", "exception": error, "task": task}
            asyncio.get_running_loop().call_exception_handler(context)


def _fingerprint(request: GroupRequest) -> str:
    """The same for the same request, API key included."""
    return states.digest(json.dumps(shown_fields(request), sort_keys=True) + "\n" + (request.api_key or ""))


def _told(group: ClientGroup) -> bytes:
    """What observers and viewers get at a change of status."""
    return msgspec.json.encode(
        StatusChange(
            group_id=group.group_id,
            run_id=group.run_id,
            name=group.name,
            status=group.status,
            outcome=group.outcome,
            reason=group.reason,
            deleted=group.deleted,
            at=states.now(),
        )
    )
