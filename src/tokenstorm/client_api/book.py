"""What is known of all groups: the active ones in memory, all of them in the store. Watchers of a group are told of changes.

A change is on disk before anybody acts on it, so the process may be killed at any moment.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import msgspec

from tokenstorm.api.group_answers import GroupStatus, StatusChange
from tokenstorm.client_api import group as states
from tokenstorm.client_api.feed import Feed
from tokenstorm.client_api.group import ClientGroup, Live, Progress
from tokenstorm.client_api.link import Said
from tokenstorm.client_api.store import GroupSecrets, Store
from tokenstorm.errors import Unknown


class Book:
    """The groups. `notify` is called when observers of one have something to be told. Raises `RunError` for a bad disk.

    `trouble` is why the cluster or the disk could not be used the last time, or None.
    """

    def __init__(self, store: Store, notify: Callable[[], None]) -> None:
        self.store = store
        self.trouble: str | None = None
        self._notify = notify
        self._active: dict[int, ClientGroup] = {}
        self._live: dict[int, Live] = {}
        self._feeds: dict[int, Feed] = {}

    def open(self) -> None:
        """Take up every group that is not over."""
        self._active = {group.group_id: group for group in self.store.active()}

    def close(self) -> None:
        """End the event streams of all viewers: an API that ends waits for them."""
        for feed in self._feeds.values():
            feed.close()

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

    def get(self, group_id: int) -> ClientGroup:
        """One group. Raises `Unknown`."""
        group = self.find(group_id)
        if group.deleted:
            files = "" if group.purge or group.purged else "; its files stay until DELETE …?purge=true"
            message = f"there is no group {group_id} any more: it was deleted{files}"
            raise Unknown(message)
        return group

    def find(self, group_id: int) -> ClientGroup:
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

    def attempt(self, group_id: int) -> int | None:
        """Which start of its job a group is at, as far as its launcher told; None where it is over."""
        live = self._live.get(group_id)
        return None if self.current(group_id) is None else live.attempt if live else 0

    def feed(self, group: ClientGroup) -> Feed:
        """Its live updates."""
        feed = self._feeds.get(group.group_id)
        if feed is None:
            feed = Feed()
            feed.publish("status", _status_event(group))
            if group.stage == "stopped":
                feed.publish("done", _status_event(group))
            else:
                self._feeds[group.group_id] = feed
        return feed

    def add(
        self,
        make: Callable[[int], ClientGroup],
        request: bytes,
        secrets: GroupSecrets,
        *,
        idempotency_key: str | None,
        fingerprint: str,
    ) -> ClientGroup:
        """Keep a new group, made with the id that it gets."""
        group = self.store.add(make, request, secrets, idempotency_key=idempotency_key, fingerprint=fingerprint)
        self._active[group.group_id] = group
        return group

    def change(self, group: ClientGroup, *, free_key: bool = False) -> ClientGroup:
        """Store a group's new state, then tell its viewers and observers."""
        before = self._active.get(group.group_id)
        if group == before:
            return group
        news = before is None or before.shown != group.shown
        self.store.save(group, message=_status_event(group) if news else None, free_key=free_key)
        if group.stage == "stopped":
            self._active.pop(group.group_id, None)
            self._live.pop(group.group_id, None)
        else:
            self._active[group.group_id] = group
        if feed := self._feeds.get(group.group_id):
            if news:
                feed.publish("status", _status_event(group))
            if group.stage == "stopped":
                feed.publish("done", _status_event(group))
                del self._feeds[group.group_id]
        if news and group.observers:
            self._notify()
        return group

    def progressed(self, group_id: int, said: Said, line: bytes | None, written: Mapping[int, int]) -> None:
        """Take in one second of a running group."""
        known, now = self._live.get(group_id), time.monotonic()
        if known is None:
            age = (datetime.now(UTC) - said.status.at).total_seconds() if said.written else 0.0
            at = now - max(0.0, age)
        else:
            at = known.at if known.said_at == said.status.at else now
        before = known.written if known and known.attempt == said.status.attempt else {}
        self._live[group_id] = Live(
            Progress.of(said.status), said.status.at, at, {**before, **written}, said.status.attempt
        )
        if line is not None and (feed := self._feeds.get(group_id)):
            feed.publish("progress", line)


def _status_event(group: ClientGroup) -> bytes:
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
