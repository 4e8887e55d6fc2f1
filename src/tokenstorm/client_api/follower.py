"""Following groups: one question for all jobs, one connection to each running launcher, a look at their services."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from tokenstorm.api.services import ENDED
from tokenstorm.client_api import group as states
from tokenstorm.client_api.answers import progress_answer
from tokenstorm.client_api.book import Book
from tokenstorm.client_api.dispatcher import SlurmClientDispatcher
from tokenstorm.client_api.group import ClientGroup, Progress
from tokenstorm.client_api.link import LauncherLink, Said
from tokenstorm.client_api.services import ServiceDirectory
from tokenstorm.client_api.tasks import Tasks
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.cluster.site import Site
from tokenstorm.errors import ClusterError, RunError, Unknown, UsageError
from tokenstorm.jobs.pauses import pauses
from tokenstorm.jobs.poller import Watch

FIRST_POLL, LAST_POLL = 0.1, 5.0
"""Seconds between questions for the jobs' states: soon after a change, then less and less often."""
LEAST_BETWEEN = 0.5
"""The least seconds between two questions to a cluster's scheduler: it serves others too."""
SERVICES_EVERY = 2.0
BARREN_SECONDS = 5
"""After so many seconds in which the engine only refused connections, we try one of our own."""
_NOBODY_THERE = frozenset(("refused", "unreachable"))
"""The failures of clients that found nobody. Ours alone prove nothing: a site may let none of them through."""
ABORT_AFTER_SECONDS = 5.0
"""How long a run has to drain when its service died."""
CANCEL_AFTER_SECONDS = 20.0
"""What the launcher may take beyond its drain before its job is cancelled."""


class Follower:
    """Sees every group of a book to its end. `finish` brings home what a job left, `link` is the way to a group's launcher."""

    def __init__(
        self,
        book: Book,
        *,
        site: Site,
        finish: Callable[[int, JobState], Awaitable[None]],
        tasks: Tasks,
        dispatcher: SlurmClientDispatcher,
        services: ServiceDirectory,
        link: Callable[[ClientGroup], LauncherLink],
        jobs: Watch,
    ) -> None:
        self._book, self._site, self._bring_home, self._tasks = book, site, finish, tasks
        self._dispatcher, self._services, self._link, self._jobs = dispatcher, services, link, jobs
        self._news = asyncio.Event()
        self._finishing: set[int] = set()
        self._followed: set[int] = set()

    def start(self) -> None:
        """Begin; groups that were being followed, ended or released before are taken up again."""
        self._tasks.spawn(self._poll())
        self._tasks.spawn(self._watch_services())
        for group in self._book.active:
            self._attend(group)
            if group.ending and group.stage != "waiting":
                self._tasks.spawn(self.end_early(group.group_id))
            if group.released is not None:
                self._tasks.spawn(self.release(group.group_id))

    def wake(self) -> None:
        """Something happened: ask now."""
        self._news.set()

    def end(self, group: ClientGroup, why: states.Ending, reason: str) -> ClientGroup:
        """Let a group end early. One that is over or ends already stays as it is."""
        if group.stage == "stopped" or group.ending:
            return group
        group = self._book.change(states.ending(group, why, reason))
        if group.stage == "waiting":
            return self._book.change(states.stopped(group, "cancelled", "stopped before it started"))
        self._tasks.spawn(self.end_early(group.group_id))
        return group

    async def release(self, group_id: int) -> None:
        """Tell a held group's launcher to start, as soon as there is one."""
        for pause in pauses(0.2, 2.0):
            group = self._book.current(group_id)
            if group is None or group.released is None or group.ending:
                return
            if group.stage == "running":
                try:
                    await self._link(group).control(f"run {group.released:.3f}" if group.released else "run")
                except ClusterError:
                    pass  # not up yet, or lost for a moment
                except UsageError:  # it runs already
                    return
                else:
                    return
            await asyncio.sleep(pause)

    async def end_early(self, group_id: int) -> None:
        """End a group whose job may be there: by its launcher, so that everything is kept; by the scheduler at last."""
        began = time.monotonic()
        aborted = False
        for pause in pauses(0.2, 1.0):
            group = self._book.current(group_id)
            if group is None or group_id in self._finishing:
                return
            died = group.ending == "service died"
            patience = (ABORT_AFTER_SECONDS if died else group.drain_seconds) + CANCEL_AFTER_SECONDS * (not died)
            spent = time.monotonic() - began
            try:
                if group.job_id and (group.stage == "queued" or spent > patience + ABORT_AFTER_SECONDS * died):
                    await self._site.scheduler.cancel(group.job_id, group.sent)
                    self.wake()
                    if group.stage != "queued":
                        return
                elif group.stage == "running" and not group.told:
                    await self._link(group).control("stop")
                    self._note_told(group_id)
                elif died and group.told and not aborted and spent > ABORT_AFTER_SECONDS:
                    await self._link(group).control("abort")
                    aborted = True
            except (ClusterError, RunError, UsageError):
                pass  # tried again, and cancelled when time is up
            await asyncio.sleep(pause)

    def _note_told(self, group_id: int) -> None:
        if group := self._book.current(group_id):
            self._book.change(replace(group, told=True))

    async def _poll(self) -> None:
        """Ask how the jobs stand: at once after news of them, else less and less often."""
        book, wait = self._book, pauses(FIRST_POLL, LAST_POLL)
        least = 0.0 if self._site.profile.scheduler == "local" else LEAST_BETWEEN
        while True:
            news = self._news.is_set()
            self._news.clear()
            if news:
                wait = pauses(FIRST_POLL, LAST_POLL)
            jobs = {
                group.job_id: group for group in book.active if group.job_id and group.group_id not in self._finishing
            }
            try:
                found = await self._jobs.states({job: group.sent for job, group in jobs.items()}, fresh=news)
                told = [self._job_says(jobs[job].group_id, state) for job, state in found.items()]
                if any(told):
                    wait = pauses(FIRST_POLL, LAST_POLL)
                if jobs:
                    book.trouble = None
            except (ClusterError, RunError) as error:
                book.trouble = str(error)
            if jobs:
                await asyncio.sleep(least)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(next(wait) if jobs else None):
                    await self._news.wait()

    def _job_says(self, group_id: int, job: JobState) -> bool:
        """Take in a job's state; whether it is news."""
        group = self._book.current(group_id)
        if group is None:
            return False
        if job.phase == "ended":
            self._finishing.add(group_id)
            self._tasks.spawn(self._finish(group_id, job))
            return True
        seen = states.observed(group, job)
        if seen == group:
            return False
        self._attend(self._book.change(seen))
        return True

    async def _finish(self, group_id: int, job: JobState) -> None:
        try:
            await self._bring_home(group_id, job)
        finally:
            self._finishing.discard(group_id)

    def _attend(self, group: ClientGroup) -> None:
        if group.stage == "running" and group.group_id not in self._followed:
            self._followed.add(group.group_id)
            self._tasks.spawn(self._follow(group))

    async def _follow(self, group: ClientGroup) -> None:
        """One connection to the launcher, made anew when it breaks; its files while there is none."""
        group_id, link, wait, seen = group.group_id, self._link(group), pauses(0.1, 5.0), _Seen()
        try:
            while self._book.current(group_id) and group_id not in self._finishing:
                try:
                    async for said in link.events():
                        wait = pauses(0.1, 5.0)
                        self._take(group_id, link, said, seen)
                        await self._probe(group_id, seen)
                    self.wake()  # it is over, or its launcher is
                except RunError as error:  # the disk: what was said is said again
                    self._book.trouble = str(error)
                except ClusterError:
                    await self._read_files(group_id, link, seen)
                await asyncio.sleep(next(wait))
        finally:
            self._followed.discard(group_id)

    def _take(self, group_id: int, link: LauncherLink, said: Said, seen: "_Seen") -> None:
        group = self._book.current(group_id)
        if group is None:  # it ended while this was on its way
            return
        self._book.change(states.heard(group, link.address, said.status))
        line = said.line if seen.is_new(said.line) else None
        shown = line and {name: value for name, value in line.items() if name != "histograms"}
        so_far = {"so_far": progress_answer(Progress.of(said.status)), "status": replace(said.status, environment=None)}
        data = msgspec.json.encode({**shown, **so_far}) if shown else None
        self._book.progressed(group_id, said, data, _bytes_written(line))

    async def _read_files(self, group_id: int, link: LauncherLink, seen: "_Seen") -> None:
        try:
            for said in await link.files():
                self._take(group_id, link, said, seen)
            await self._probe(group_id, seen)  # now that all is read: some of it may be long ago
        except (ClusterError, RunError):
            return  # its age shows

    async def _watch_services(self) -> None:
        """End groups whose service ended."""
        while True:
            await asyncio.sleep(SERVICES_EVERY)
            watched = [
                group for group in self._book.active if group.stage in {"queued", "running"} and not group.ending
            ]
            for service in {group.service_id for group in watched if group.service_id}:
                reason = await self._why_service_ended(service)
                for group in watched:
                    current = self._book.current(group.group_id)
                    if reason and group.service_id == service and current:
                        self._end_with_service(current, reason)

    async def _why_service_ended(self, service: str) -> str | None:
        try:
            info = await self._services.find(service)
        except Unknown:
            return f"the service {service!r} is gone"
        except ClusterError:
            return None  # the Server API does not answer; the run goes on
        if info.status not in ENDED:
            return None
        return f"the service {service!r} ended ({info.status}{': ' + info.reason if info.reason else ''})"

    async def _probe(self, group_id: int, seen: "_Seen") -> None:
        """Try a connection of our own to the engine, after clients got none for some seconds."""
        if seen.barren < BARREN_SECONDS:
            return
        seen.barren = 0
        group = self._book.current(group_id)
        try:
            plan = await self._dispatcher.prepared(group) if group else None
        except (ClusterError, UsageError):
            return
        for target in plan.targets if plan else ():
            parts = urlsplit(target.url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            try:
                async with asyncio.timeout(5.0):
                    _, writer = await self._site.shell.open_connection(parts.hostname or "", port)
            except (OSError, TimeoutError):
                continue
            except ClusterError:
                return
            writer.close()
            return
        if plan and (group := self._book.current(group_id)):
            self._end_with_service(group, "the service died: nobody takes a connection at its address any more")

    def _end_with_service(self, group: ClientGroup, reason: str) -> None:
        try:
            self.end(group, "service died", reason)
        except RunError as error:  # the disk: seen again in a moment
            self._book.trouble = str(error)


class _Seen:
    """The seconds of a run that were taken in. `barren` is how many clients found nobody in, since anybody answered."""

    def __init__(self) -> None:
        self._attempt, self._last = 0, -1
        self.barren = 0

    def is_new(self, line: Mapping[str, object] | None) -> bool:
        """Take in a second, unless it was taken in before: by the launcher's port, and now by its files."""
        t, attempt = (line.get("t"), line.get("attempt", 0)) if line else (None, 0)
        if isinstance(attempt, int) and attempt > self._attempt:  # the job started anew
            self._attempt, self._last = attempt, -1
        if line is None or not isinstance(t, int) or t <= self._last or attempt != self._attempt:
            return False
        self._last = t
        kinds = line.get("failed_by_kind")
        answered = line.get("succeeded") or (isinstance(kinds, dict) and not kinds.keys() <= _NOBODY_THERE)
        self.barren = 0 if answered else self.barren + bool(line.get("failed"))
        return True


class _Disk(msgspec.Struct):
    written_bytes: int = 0


class _Rank(msgspec.Struct):
    disk: _Disk


def _bytes_written(line: Mapping[str, object] | None) -> dict[int, int]:
    """How many bytes of result lines each rank has on disk, as a second tells."""
    try:
        ranks = msgspec.convert(line.get("ranks", {}) if line else {}, dict[str, _Rank])
    except msgspec.ValidationError:
        return {}
    return {int(rank): second.disk.written_bytes for rank, second in ranks.items()}
