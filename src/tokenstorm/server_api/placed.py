"""An orchestrator that runs on the cluster, on the login node or as a job.

The first call that needs it starts it. The Server API finds it again after a restart, and starts another one over the
same store when it ended, because its job's time was over or the login node was rebooted. Below `<base_path>/orchestrator/`:

start.json       the latest start: the name of its folder here, with profile.json, token, recipes/, script.sh and logs
address.json     where it listens, written by the orchestrator itself
services.….sqlite    its store; the process that has it open is the orchestrator, and a second one ends
"""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from pathlib import PurePosixPath
from time import monotonic
from typing import Literal, TypeVar

import httpx
import msgspec
from msgspec.structs import replace

from tokenstorm.cluster.http import transport
from tokenstorm.cluster.scheduler import Job, Sent
from tokenstorm.cluster.script import render
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.site import Site
from tokenstorm.config.profile import Ssh
from tokenstorm.errors import NOT_JSON, RefusedJob, Unreachable
from tokenstorm.jobs.poller import Poller
from tokenstorm.server_api.where import Address

START_SECONDS = 30.0
"""How long a call waits for an orchestrator to start. Then it fails with a message, and a later call waits on."""
ALIVE_SECONDS = 10.0
LEAVE_SECONDS = 30
"""How long before its job's time limit it is told to end."""
_LOOK_SECONDS = 0.25
_SOCKET_HOST = "orchestrator"
"""Stands for the unix socket in URLs, which have no form for one."""


_DETACHED = """cd -- "$1" || exit
for fd in /proc/self/fd/*; do fd=${fd##*/}; if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi; done
setsid bash "$1/script.sh" > stdout.log 2> stderr.log < /dev/null &
echo $! > pid
"""
"""It closes all other files: with one of them left open, the caller would wait for the orchestrator's end. uvloop passes
on more than the standard streams.
"""

T = TypeVar("T")


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """`address.json`. `socket` is the path of a unix socket on `host`; where it is None, `url` is the address."""

    start: str
    host: str
    url: str | None = None
    socket: str | None = None
    schema: int = 1


class _Start(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    placement: Literal["login", "job"]
    job_id: str | None = None
    schema: int = 1

    @property
    def sent(self) -> Sent:
        return Sent(f"tokenstorm-orchestrator-{self.name}")


class PlacedOrchestrator:
    """The orchestrator of a site whose profile places it on the cluster. `recipes` are texts, by file name."""

    def __init__(
        self,
        site: Site,
        recipes: Mapping[str, str],
        deployment: Deployment | None = None,
        *,
        poller: Poller | None = None,
    ) -> None:
        self._site = site
        self._poller = poller or Poller(site.scheduler)
        self._deployment = deployment
        self._recipes = recipes
        self._home = site.profile.base_path / "orchestrator"
        self._looking = asyncio.Lock()
        self._known: Address | None = None
        self._deploying: asyncio.Task[PurePosixPath] | None = None
        self._doing = "it has begun"
        self._socket: str | None = None

    @property
    def hint(self) -> str:
        return f"its logs are below {self._home}"

    async def address(self) -> Address:
        """Its address; starts it if need be. Raises `ClusterError` while none answers."""
        async with self._looking:
            if self._known is None:
                self._known = await self._find_running() or await self._start_and_wait()
            return self._known

    async def close(self) -> None:
        """Cancel a deploy under way. A running orchestrator keeps running."""
        if self._deploying:
            self._deploying.cancel()
            await asyncio.wait((self._deploying,))

    def forget(self) -> None:
        self._known = None

    def client(self) -> httpx.AsyncClient:
        """An HTTP client that reaches it."""
        return httpx.AsyncClient(transport=transport(self._site.shell, self._connect), trust_env=False)

    async def exists(self) -> bool:
        """Whether one runs, or waits in the queue. Starts nothing."""
        start = await self._read("start.json", _Start)
        return start is not None and not await self._over(start)

    async def stop(self) -> None:
        """End it. Its services go on."""
        start = await self._read("start.json", _Start)
        if start is None:
            return
        if start.job_id:
            await self._site.scheduler.cancel(start.job_id, start.sent)
        elif start.placement == "login":
            await self._to_process(start, "kill -TERM")
        self.forget()

    async def _connect(self, host: str, port: int) -> Streams:
        if host == _SOCKET_HOST and self._socket is not None:
            return await self._site.shell.open_unix_connection(PurePosixPath(self._socket))
        return await self._site.shell.open_connection(host, port)

    async def _find_running(self) -> Address | None:
        """The address of the running one; None when none runs. Raises `Unreachable` when it runs and does not answer."""
        start, there = await self._read("start.json", _Start), await self._read("address.json", Published)
        if start is None or there is None or there.start != start.name:
            return None
        if (
            start.placement == "job" and start.job_id is None
        ):  # without the id nobody could cancel the job; starting again finds it
            return None
        if there.socket is not None:
            await self._check_host(there.host)
        self._socket = there.socket
        token = (await self._site.shell.get(self._home / start.name / "token")).decode()
        address = Address(there.url or f"http://{_SOCKET_HOST}", token)
        try:
            async with self.client() as client:
                headers = {"authorization": f"Bearer {token}"}
                answer = await client.get(f"{address.url}/health", headers=headers, timeout=ALIVE_SECONDS)
            why = None if answer.is_success else f"/health answers {answer.status_code}"
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
        if why is None:
            return address
        if await self._over(start):
            return None
        message = f"the orchestrator on {there.host} runs and does not answer ({why}): see {self._home / start.name}"
        raise Unreachable(message)

    async def _check_host(self, host: str) -> None:
        """Raises `Unreachable` on another login node: an alias may stand for several, and the socket is on one of them."""
        here = (await self._site.shell.run(["hostname"])).stdout.decode().strip()
        if here != host:
            message = (
                f"the orchestrator runs on {host}, and this login came to {here}: name one login node in `ssh.host`, "
                'or use placement = "job"'
            )
            raise Unreachable(message)

    async def _over(self, start: _Start) -> bool:
        """Whether the process or job of that start is over."""
        if start.placement == "login":
            return await self._to_process(start, "kill -0") != 0
        if start.job_id is None:  # it may have been submitted; submitting under the same name again finds it
            return True
        state = await self._poller.state(start.job_id, start.sent)
        return state is not None and state.phase == "ended"

    async def _to_process(self, start: _Start, what: str) -> int:
        """Signal a start's process on the login node, if the pid is still its own. Returns the command's status."""
        text = f'read -r pid < "$1/pid" && grep -qF -- "$1" "/proc/$pid/cmdline" && {what} "$pid"'
        return (await self._site.shell.run(["bash", "-c", text, "bash", str(self._home / start.name)])).status

    async def _start_and_wait(self) -> Address:
        start = await self._read("start.json", _Start)
        if start is None or await self._over(start):
            start = await self._start(start)
        end = monotonic() + START_SECONDS
        while monotonic() < end:
            with contextlib.suppress(Unreachable):  # it has begun to listen and does not answer yet
                if address := await self._find_running():
                    return address
            if await self._over(start):
                raise Unreachable(await self._how_it_ended(start))
            await asyncio.sleep(_LOOK_SECONDS)
        raise Unreachable(await self._why_it_waits(start))

    async def _start(self, earlier: _Start | None) -> _Start:
        """Write all files that it needs, then start it. A name is submitted at most once."""
        profile, shell = self._site.profile, self._site.shell
        python = await self._python()
        placement = profile.orchestrator.placement
        assert placement != "local", "one that is here is not placed"
        unsure = earlier is not None and earlier.placement == placement == "job" and earlier.job_id is None
        name = earlier.name if earlier is not None and unsure else f"start-{secrets.token_hex(6)}"
        start, folder = _Start(name=name, placement=placement), self._home / name
        there = profile.model_copy(update={"ssh": Ssh()})  # it runs on the cluster itself and needs no login
        # What a table for a kind of job leaves out is the profile's to say: it has to stay out.
        await shell.put(folder / "profile.json", there.model_dump_json(exclude_unset=True).encode())
        if not unsure or "token" not in await shell.list(folder):  # a job that began all the same has read its token
            await shell.put(folder / "token", secrets.token_urlsafe(32).encode())
        for file, text in self._recipes.items():
            await shell.put(folder / "recipes" / file, text.encode())
        await self._write(start)
        job = Job(
            name=start.sent.name,
            command=(python, "-m", "tokenstorm", "orchestrator", "--placed", str(folder)),
            folder=folder,
            time_limit_minutes=profile.orchestrator.time_limit,
            signal_lead_seconds=LEAVE_SECONDS,
        )
        if placement == "job":
            try:
                start = replace(start, job_id=await self._site.scheduler.submit(job))
            except RefusedJob:  # no job has that name, and none will
                await shell.remove(self._home / "start.json")
                raise
            await self._write(start)
            return start
        await shell.put(folder / "script.sh", render(job, profile).encode())
        done = await shell.run(["bash", "-c", _DETACHED, "bash", str(folder)])
        if done.status:
            message = f"cannot start the orchestrator: {done.stderr.decode(errors='replace').strip()}"
            raise Unreachable(message)
        return start

    async def _python(self) -> str:
        """The Python that runs it there. A deploy goes on after a call has stopped waiting, which it does after START_SECONDS."""
        if self._deployment is None:
            return self._site.profile.of("cpu").python
        if self._deploying is None:
            self._deploying = asyncio.create_task(self._deployment.python(say=self._note))
        await asyncio.wait((self._deploying,), timeout=START_SECONDS)
        if not self._deploying.done():
            message = f"this version of tokenstorm is being put on the cluster, where the orchestrator is to run: {self._doing}"
            raise Unreachable(message)
        done, self._deploying = self._deploying, None
        return str(done.result())

    def _note(self, doing: str) -> None:
        self._doing = doing

    async def _how_it_ended(self, start: _Start) -> str:
        folder = self._home / start.name
        try:
            said = (await self._site.shell.get(folder / "stderr.log")).decode(errors="replace").strip()
        except FileNotFoundError:
            said = ""
        last = said.splitlines()[-1] if said else "it said nothing"
        return f"the orchestrator ended as it started: {last} (all of it is in {folder})"

    async def _why_it_waits(self, start: _Start) -> str:
        where = f"see {self._home / start.name}"
        if start.job_id is None:
            return f"the orchestrator does not answer yet: try again, or {where}"
        state = await self._poller.state(start.job_id, start.sent)
        why = f" ({state.reason})" if state and state.reason else ""
        phase = state.phase if state else "not listed yet"
        return f"the orchestrator's job {start.job_id} is {phase}{why} and does not answer yet: try again, or {where}"

    async def _write(self, start: _Start) -> None:
        await self._site.shell.put(self._home / "start.json", msgspec.json.encode(start))

    async def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode(await self._site.shell.get(self._home / name), type=kind)
        except FileNotFoundError:
            return None
        except NOT_JSON as error:
            message = f"{self._home / name} was not written by this version ({error}): move it away"
            raise Unreachable(message) from None
