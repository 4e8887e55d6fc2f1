"""The groups: created, brought up, followed to their end, kept. What is known survives the process at any moment.

A group's way is written down before each step is taken: `waiting` → `submitting` → `queued` → `running` → `stopped`. A process
that finds a group in the store goes on from there. A job is submitted by its name, so no step is ever taken twice.

`ClientManager` is what users of this package call. Below it stand the `Book` (what is known), the `Starter` (from a request
to a job), the `Follower` (from a job to its end) and the `Endings`.
"""

import asyncio
import json
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import httpx
from msgspec.structs import replace

from tokenstorm.api.groups import GroupRequest, shown_fields
from tokenstorm.client_api import group as states
from tokenstorm.client_api.archive import Archive, MakePage
from tokenstorm.client_api.book import Book
from tokenstorm.client_api.dispatcher import SlurmClientDispatcher
from tokenstorm.client_api.endings import Endings
from tokenstorm.client_api.follower import Follower
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.client_api.link import LauncherLink
from tokenstorm.client_api.observers import Observers
from tokenstorm.client_api.refusals import NotNow, SubmissionUnconfirmed
from tokenstorm.client_api.releases import latest_start, not_releasable
from tokenstorm.client_api.services import ServiceDirectory
from tokenstorm.client_api.starter import Starter
from tokenstorm.client_api.store import Store
from tokenstorm.client_api.tasks import Tasks
from tokenstorm.cluster.http import EACH_ANEW, transport
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.site import Site
from tokenstorm.errors import KeyUsed, UsageError
from tokenstorm.jobs.poller import Poller
from tokenstorm.jobs.settler import UNCONFIRMED
from tokenstorm.metrics.exposition import with_age
from tokenstorm.report.load import load_summary

MOST_OBSERVERS = 32


class ClientManager:
    """All groups of one user on one site. `start` once before anything else, `close` at the end; jobs go on.

    With a `deployment` the code is put on the cluster when it is missing; without, the profile's Python has to have it.
    `poller` is shared by all that ask about jobs of this site.
    """

    def __init__(
        self,
        site: Site,
        store: Store,
        services: ServiceDirectory,
        home: Path,
        *,
        make_page: MakePage,
        deployment: Deployment | None = None,
        poller: Poller | None = None,
    ) -> None:
        self.site = site
        self.archive = Archive(
            site.shell, site.profile.base_path / "runs", home, make_page, partial(load_summary, rebuild=True)
        )
        self._keys: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks = Tasks()
        self._cluster = httpx.AsyncClient(transport=transport(site.shell), trust_env=False)
        self._outside = httpx.AsyncClient(trust_env=False, limits=EACH_ANEW)
        self._observers = Observers(store, self._outside, self._tasks.spawn)
        self.book = Book(store, self._observers.look)
        self._endings = Endings(self.book, self.archive, self._tasks)
        dispatcher = SlurmClientDispatcher(site, deployment)
        self._jobs = (poller or Poller(site.scheduler)).watch()
        self._follower = Follower(
            self.book,
            site=site,
            finish=self._endings.finish,
            tasks=self._tasks,
            dispatcher=dispatcher,
            services=services,
            link=self._link,
            jobs=self._jobs,
        )
        self._starter = Starter(
            self.book,
            site=site,
            endings=self._endings,
            tasks=self._tasks,
            dispatcher=dispatcher,
            services=services,
            submitted=self._follower.wake,
        )
        self.get, self.ids, self.live, self.feed = self.book.get, self.book.ids, self.book.live, self.book.feed
        self.hang_up = self.book.close
        self.dry_run = self._starter.dry_run
        self._started = False

    async def start(self) -> None:
        """Go on with every group that is not over. A second call does nothing."""
        if self._started:
            return
        self._started = True
        self.book.open()
        self._starter.start()
        for group in self.book.store.to_purge():
            self._tasks.spawn(self._endings.purge(group))
        self._follower.start()
        self._observers.look()

    async def close(self) -> None:
        """Stop following; the next start goes on from here."""
        self.hang_up()
        await self._tasks.close()
        await self._jobs.close()
        await self._cluster.aclose()
        await self._outside.aclose()

    async def create(self, request: GroupRequest, key: str | None = None) -> ClientGroup:
        """A new group, or the one that was made with the same `key`. It exists wholly or not at all.

        Raises `Unknown`, `NotNow`, `UsageError` or `ClusterError`; `SubmissionUnconfirmed` where the group stays.
        """
        fingerprint = _fingerprint(request)
        if key is None:
            return await self._starter.create(request, fingerprint, None)
        lock = self._keys.setdefault(key, asyncio.Lock())
        async with lock:
            known = self.book.store.by_key(key)
            if known is None:
                return await self._starter.create(request, fingerprint, key)
        group, earlier = known
        if not secrets.compare_digest(earlier, fingerprint):
            message = f"the Idempotency-Key {key!r} was used for another request: use a new one"
            raise KeyUsed(message)
        if group.deleted:
            message = f"group {group.group_id}, created with the Idempotency-Key {key!r}, was deleted: use a new one"
            raise NotNow(message)
        if group.reason == UNCONFIRMED:
            raise SubmissionUnconfirmed(group.group_id, "the cluster was lost on the way")
        return group

    def run(self, group_ids: Iterable[int], start_at: float, *, at_hand: bool = False) -> None:
        """Release held groups, all or none, at one Unix time (0: at once). Raises `Unknown`, `NotNow`, `UsageError`.

        With `at_hand` (start within seconds) each of several must already be holding, or they would not start together.
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
        self.book.store.save(*released)
        for group in released:
            self.book.change(group)
            self._tasks.spawn(self._follower.release(group.group_id))

    def stop(self, group_id: int) -> ClientGroup:
        """Drain a group and keep everything. One that is over stays as it is."""
        group = self.get(group_id)
        what = (
            "what was sent is waited for" if group.stage == "running" else "its job, which has not begun, is cancelled"
        )
        return self._follower.end(group, "stop", f"stopping: {what}")

    def delete(self, group_id: int, *, purge: bool) -> None:
        """Take a group off the list, and stop it if need be. `purge` removes its files too, also those of a deleted one.

        Raises `Unknown`.
        """
        known = self.book.find(group_id)
        if known.deleted and purge and not known.purged:
            self._purge_deleted(known)
            return
        group = self._follower.end(self.get(group_id), "stop", "deleted")
        group = self.book.change(replace(group, deleted=True, purge=purge))
        if group.stage == "stopped" and purge:
            self._tasks.spawn(self._endings.purge(group))

    def _purge_deleted(self, group: ClientGroup) -> None:
        if group.purge:
            return  # asked for before
        group = replace(group, purge=True)
        if group.stage != "stopped":
            self.book.change(group)  # the files are removed when the group ends
            return
        self.book.store.save(group)
        self._tasks.spawn(self._endings.purge(group))

    def observe(self, group_id: int, url: str) -> None:
        """Notify that address of every change from now on."""
        group = self.get(group_id)
        if url not in group.observers and len(group.observers) >= MOST_OBSERVERS:
            message = f"group {group_id} has {MOST_OBSERVERS} observers already: more are not told"
            raise UsageError(message, "url")
        if url not in group.observers:
            self.book.change(replace(group, observers=(*group.observers, url)))

    async def metrics(self, group: ClientGroup) -> tuple[bytes, float | None] | None:
        """The group's Prometheus text, and how old it is in seconds where that is known; None before there is any."""
        if group.stage == "stopped":
            text = self.archive.metrics(group.run_id)
            return None if text is None else (text, None)
        found = await self._link(group).metrics() if group.stage == "running" else None
        if found is None:
            return None
        live = self.live(group)
        age = 0.0 if not found.written else live.age_seconds if live else None  # it is written with the status
        return (found.text if age is None else with_age(found.text, str(group.group_id), age)), age

    def _link(self, group: ClientGroup) -> LauncherLink:
        """The way to its launcher."""
        known = self.book.store.secrets(group.group_id)
        secret = known.launcher if known else ""
        return LauncherLink(self.site.shell, self._cluster, self.archive.folder(group.run_id), secret)

    def ready(self) -> str | None:
        """Why it cannot work now; None when it can."""
        return self._tasks.bug or self.book.trouble


def _fingerprint(request: GroupRequest) -> str:
    """The same for the same request, API key included."""
    return states.digest(json.dumps(shown_fields(request), sort_keys=True) + "\n" + (request.api_key or ""))
