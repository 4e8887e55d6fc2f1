"""An engine that spans nodes, part by part: its head, which serves and answers for all parts, and those that join it.

The parts live and die together. The end of one ends the others, and the head publishes why, with the last words of each
part.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from tokenstorm.errors import UsageError
from tokenstorm.node import engine, ports
from tokenstorm.node.keeper import Slot
from tokenstorm.node.muster import Muster, Tie, join
from tokenstorm.node.parts import STOPPED, Failed, Head, Part, find_head, publish_head
from tokenstorm.node.publishing import AGAIN_SECONDS, Publisher
from tokenstorm.node.replica import PORTS_TRIED, Place, Replica
from tokenstorm.node.service import LAST_PORT, Published, Service

HEAD_PORTS = range(29_600, 32_700, 10)
"""Where an engine's parts meet. Below the ports of outgoing connections; engines use some that follow theirs, too."""
TOGETHER_SECONDS = 1.0
"""The end of one part breaks the others: so long the head waits for their words before it tells why the engine ended."""


REACH_SECONDS = 30.0
"""How long a part tries to reach its head, which listens before it says where."""


class HeadPart:
    """The part that serves. Its end is the engine's, and so is the end of any other."""

    def __init__(self, service: Service, place: Place, part: Part, api_key_file: Path, slot: Slot) -> None:
        self._service = service
        self._place = place
        self._part = part
        self._api_key_file = api_key_file
        self._slot = slot

    async def run(self) -> None:
        """Until the engine ended, which is always a failure. Cancelling ends all its parts."""
        port, mark = ports.take(self._service.host, HEAD_PORTS) or (0, None)
        muster = Muster(self._part)
        replica = Replica(
            self._service,
            self._place,
            self._api_key_file,
            self._slot,
            values={"head": self._service.host, "head_port": str(port), "node_rank": "0"},
            nodes=tuple(dict.fromkeys(self._part.nodes)),
            lacking=lambda: muster.missing,
        )
        reason = STOPPED
        try:
            if mark is None:
                reason = f"no port is free from {HEAD_PORTS.start} to {HEAD_PORTS.stop} for its parts to meet at"
            else:
                reason = await self._lead(replica, muster, port)
        except OSError as error:
            reason = f"its parts cannot meet: {error}"
        finally:
            await replica.end(reason)
            if mark is not None:
                mark.close()

    async def _lead(self, replica: Replica, muster: Muster, port: int) -> str:
        """Let the other parts join, and follow all of them. Returns why the engine is over."""
        folder = self._place.folder
        head = Head(
            run=self._part.run,
            node=self._place.node,
            host=self._service.host,
            port=port,
            wrapper_port=await muster.open(self._service.host),
            secret=muster.secret,
        )
        announcing = asyncio.create_task(_announce(folder, self._part, head))
        try:
            return await self._until_a_part_ends(replica, muster)
        finally:
            announcing.cancel()
            await asyncio.wait((announcing,))
            muster.close()
            with contextlib.suppress(OSError):  # parts that come late then find out by not reaching it
                publish_head(folder, self._part, replace(head, over=True))

    async def _until_a_part_ends(self, replica: Replica, muster: Muster) -> str:
        """Why the engine is over, in the words of all parts that ended by themselves."""
        own, broken = asyncio.create_task(replica.follow()), asyncio.create_task(muster.broken())
        try:
            await asyncio.wait((own, broken), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((own, broken), timeout=TOGETHER_SECONDS)
            if muster.stopped:
                return STOPPED
            words = [own.result()] if own.done() else []
            words += muster.reports
            if not (replica.was_ready or muster.reports):
                words += [one for one in muster.missing if one not in words[0]]
                words += self._last_words(muster)
            return "; ".join(words)
        finally:
            for task in (own, broken):
                task.cancel()
            await asyncio.wait((own, broken))

    def _last_words(self, muster: Muster) -> Iterator[str]:
        """What the other parts said last: it may be one of them that keeps the engine from getting ready."""
        for rank, name in sorted(muster.joined.items()):
            log = Place(self._place.folder, *name).log
            if words := engine.last_words(log, self._service.api_key):
                yield f"the part on {self._part.node_of(rank)} said last: {words}"


async def _announce(folder: Path, part: Part, head: Head) -> None:
    """Say where the head is, as soon as the file system takes it."""
    while True:
        try:
            publish_head(folder, part, head)
        except OSError:
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            return


class WorkerPart:
    """A part that joins the head: it finds it, starts its share of the engine, and ends with it."""

    def __init__(self, service: Service, place: Place, part: Part, api_key_file: Path, slot: Slot) -> None:
        self._service = service
        self._place = place
        self._part = part
        self._api_key_file = api_key_file
        self._slot = slot
        self._publisher = Publisher(place.folder)
        self._tie: Tie | None = None
        self._process: engine.Engine | None = None
        self._reserved: socket.socket | None = None

    async def run(self) -> None:
        """Until the engine is over. The head is told why this part ended; where it cannot be told, this part says so itself."""
        reason: str | None = STOPPED
        try:
            reason = await self._follow()
        except (Failed, UsageError) as error:
            reason = str(error)
        except OSError as error:
            reason = engine.not_started(error)
        finally:
            if self._process is not None:
                await engine.stop(self._process, self._slot, self._service.mark(self._place.index))
            if self._reserved is not None:
                self._reserved.close()
            if reason is not None and not (self._tie and await self._tie.tell(reason)):
                self._publish("stopped" if reason == STOPPED else "failed", reason)
            await self._publisher.finish()

    async def _follow(self) -> str | None:
        """Why this part ended by itself; None when the head said that the engine is over."""
        deadline = time.monotonic() + self._service.ready_seconds
        self._publish("starting", f"waits for the engine's head on {self._part.head}")
        head = await self._join(deadline)
        self._publisher.withdraw(self._place.name)
        if self._tie is None:
            return None
        self._process = self._start(head)
        over, ended = asyncio.create_task(self._tie.over()), asyncio.create_task(self._wait_for_end(self._process))
        try:
            await asyncio.wait((over, ended), return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                over.result()
                return None
            return ended.result()
        finally:
            for task in (over, ended):
                task.cancel()
            await asyncio.wait((over, ended))

    async def _join(self, deadline: float) -> Head:
        """Find the head and connect to it, unless the engine is over already. Raises `Failed`."""
        until = time.monotonic() + REACH_SECONDS
        while True:
            head = await find_head(self._place.folder, self._part, deadline)
            if head.over:
                return head
            try:
                self._tie = await join(head, self._part, self._place.node)
            except OSError as error:
                if time.monotonic() > until:
                    message = (
                        f"the engine's head on {head.node} cannot be reached at {head.host}:{head.wrapper_port} "
                        f"({error.strerror or 'no answer'}): nodes must reach each other on the profile's `interface`"
                    )
                    raise Failed(message) from None
                await asyncio.sleep(1.0)
            else:
                return head

    def _start(self, head: Head) -> engine.Engine:
        first = self._service.base_port
        taken = ports.take(self._service.host, range(first, min(first + PORTS_TRIED, LAST_PORT + 1)))
        if taken is None:
            message = f"no free port from {first} up: choose another `ports` (of replicas: `base_port`) in the recipe"
            raise Failed(message)
        port, self._reserved = taken
        values = {
            **self._service.values(self._place.index, port, self._api_key_file),
            "head": head.host,
            "head_port": str(head.port),
            "node_rank": str(self._part.rank),
        }
        environment = self._service.engine_environment(self._place.index, values)
        words = self._service.words(values, worker=True)
        return engine.start(words, environment, self._place.log, self._slot)

    async def _wait_for_end(self, process: engine.Engine) -> str:
        await engine.ended(process)
        return f"{engine.how_it_ended(process)}{engine.said(self._place.log, self._service.api_key)}"

    def _publish(self, status: Literal["starting", "failed", "stopped"], reason: str) -> None:
        published = Published(
            replica=self._place.name,
            node=self._place.node,
            host=self._service.host,
            port=None,
            pid=self._process.pid if self._process else None,
            status=status,
            reason=reason,
            nodes=self._part.nodes,
        )
        self._publisher.publish(published)
