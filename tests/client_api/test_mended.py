"""Moments at which a disk, a crash or an odd request used to leave something behind."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest
from msgspec.structs import replace

from groups import Jobs, Services, api
from running import free_port
from tokenstorm.client_api.group import ClientGroup
from tokenstorm.client_api.services import ServiceInfo
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.local import LocalShell
from tokenstorm.errors import RefusedJob, RunError, Unreachable
from tokenstorm.sdk.lines import Lines
from waiting import finish, until

FULL = "the disk is full"


def test_a_group_that_is_refused_late_leaves_no_key_behind(tmp_path: Path) -> None:
    async def work() -> None:
        services = Services({"s": ServiceInfo(status="starting")})
        async with api(tmp_path, Jobs(refuse=RefusedJob("no such account")), services) as it:
            group = await it.create(service_id="s", target_url=None, api_key="a-secret")
            services.known["s"] = ServiceInfo(status="running")
            info = await it.until(group, status="stopped", outcome="failed")
            assert "no such account" in info["reason"]
            async with asyncio.timeout(20):
                while list((tmp_path / "cluster").rglob("secrets.json")):  # noqa: ASYNC110 - a file tells nobody
                    await asyncio.sleep(0.01)

    finish(work(), 60)


class Away(LocalShell):
    """Nothing can be removed: the way to the cluster is cut by then."""

    async def remove(self, path: PurePosixPath) -> None:
        message = f"cannot remove {path}: the cluster is away"
        raise Unreachable(message)


def test_a_key_that_could_not_be_removed_is_removed_by_the_next_api(tmp_path: Path) -> None:
    async def work() -> None:
        jobs = Jobs(refuse=RefusedJob("no such account"))
        services = Services({"s": ServiceInfo(status="starting")})
        async with api(tmp_path, jobs, services, Away()) as it:
            group = await it.create(service_id="s", target_url=None, api_key="a-secret")
            services.known["s"] = ServiceInfo(status="running")
            await until(lambda: len(jobs.submits) > 1)
        async with api(tmp_path, jobs, services) as it:
            await it.until(group, status="stopped", outcome="failed")
            assert list((tmp_path / "cluster").rglob("secrets.json")) == []

    finish(work(), 60)


def test_a_group_that_never_came_to_be_is_gone_wholly_or_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is free if, and only if, it is gone: else a second request would be a second run."""

    async def work() -> None:
        jobs = Jobs(refuse=Unreachable("the cluster is away"))
        async with api(tmp_path, jobs) as it:
            save = Store.save

            def full(store: Store, *groups: ClientGroup, message: bytes | None = None, free_key: bool = False) -> None:
                if free_key:
                    raise RunError(FULL)
                save(store, *groups, message=message)

            headers = {"idempotency-key": "once"}
            body = {"target_url": "http://127.0.0.1:9", "num_clients": 1, "duration_seconds": 1, "prompts": ["a"]}
            with monkeypatch.context() as patched:
                patched.setattr(Store, "save", full)
                assert (await it.client.post("/api/v1/client-groups", json=body, headers=headers)).status_code == 502
            jobs.refuse = None
            again = await it.client.post("/api/v1/client-groups", json=body, headers=headers)
            assert (again.status_code, again.json()["group_id"]) == (201, 1)
            await it.until(1, job_id="100")
            assert len({job.name for job in jobs.submits}) == 1

    finish(work(), 60)


def test_groups_are_released_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            ids = [await it.create(start="manual") for _ in range(2)]
            soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
            write = Store._save

            def full(store: Store, execute: object, group: ClientGroup, *rest: object, **more: object) -> None:
                if group.group_id == ids[1] and group.released is not None:
                    raise RunError(FULL)
                write(store, execute, group, *rest, **more)  # type: ignore[arg-type]

            with monkeypatch.context() as patched:
                patched.setattr(Store, "_save", full)
                assert (await it.post("/run", group_ids=ids, start_at=soon)).status_code == 507
            assert [it.manager.get(group).released for group in ids] == [None, None]
            assert (await it.post("/run", group_ids=ids, start_at=soon)).status_code == 200

    finish(work(), 60)


def test_several_groups_are_released_at_once_only_when_all_of_them_hold(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            ids = [await it.create(start="manual") for _ in range(2)]
            refused = await it.post("/run", group_ids=ids)
            assert refused.status_code == 409
            assert "group 1 is not ready to start with the others (pending: " in refused.json()["detail"]
            assert [it.manager.get(group).released for group in ids] == [None, None]
            assert (await it.post("/run", group_ids=ids[:1])).status_code == 200

    finish(work(), 60)


def test_a_group_is_not_released_for_a_moment_at_which_its_time_limit_would_cut_the_run(tmp_path: Path) -> None:
    """Its job has run for a while: what is left of `hold_seconds` counts, and of the start-up allowance."""

    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create(start="manual", hold_seconds=300.0)
            started = (datetime.now(UTC) - timedelta(seconds=250)).isoformat()
            it.manager.book.change(replace(it.manager.get(group), stage="running", started_at=started))
            for ahead, status in ((200, 422), (100, 200)):
                moment = (datetime.now(UTC) + timedelta(seconds=ahead)).isoformat()
                answer = await it.post(f"/{group}/run", start_at=moment)
                assert answer.status_code == status, answer.text

    finish(work(), 60)


def test_a_group_that_is_being_stopped_is_not_released(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create(start="manual")
            assert (await it.post(f"/{group}/stop")).status_code == 200
            assert (await it.post(f"/{group}/run")).status_code == 409

    finish(work(), 60)


@pytest.mark.parametrize(("url", "status"), [("http://127.0.0.1:99999/x", 422), ("http://[1:2]:80", 201)])
def test_an_observer_that_nobody_can_reach_breaks_nothing(tmp_path: Path, url: str, status: int) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create(start="manual")
            assert (await it.post(f"/{group}/observers", url=url)).status_code == status
            await it.post(f"/{group}/stop")
            await it.until(group, status="stopped")
            assert (await it.client.get("/ready")).status_code == 200

    finish(work(), 60)


def test_the_same_labels_in_another_order_are_the_same_request(tmp_path: Path) -> None:
    async def work() -> None:
        async with api(tmp_path) as it:
            body = {"target_url": "http://127.0.0.1:9", "num_clients": 1, "duration_seconds": 1, "prompts": ["a"]}
            found = [
                await it.client.post(
                    "/api/v1/client-groups", json={**body, "labels": labels}, headers={"idempotency-key": "k"}
                )
                for labels in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
            ]
            assert [(answer.status_code, answer.json()["group_id"]) for answer in found] == [(201, 1), (201, 1)]

    finish(work(), 60)


def test_only_a_newline_ends_a_line() -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    lines = Lines()
    pieces = f"{text}\r\n{text}\n{text}".encode()
    assert [line for byte in pieces for line in lines.feed(bytes([byte]))] == [text, text]


def test_of_a_key_nothing_is_left_in_the_store_of_a_group_that_is_over(tmp_path: Path) -> None:
    def known() -> bool:
        files = [path for path in (tmp_path / "home").iterdir() if path.is_file()]
        return any(b"a-secret-key" in path.read_bytes() for path in files)

    async def work() -> None:
        async with api(tmp_path) as it:
            group = await it.create(api_key="a-secret-key")
            assert known()
            await it.post(f"/{group}/stop")
            await it.until(group, status="stopped")
            assert not known()

    finish(work(), 60)


def test_an_observer_that_is_gone_does_not_fill_the_disk(tmp_path: Path) -> None:
    """Messages that have been there for longer than one is tried are tried once each."""

    async def work() -> None:
        async with api(tmp_path) as it:
            group = it.manager.get(await it.create(start="manual"))
            told = replace(group, observers=(f"http://127.0.0.1:{free_port()}/gone",))
            for _ in range(20):
                it.manager.book.store.save(told, message=b'{"at": "2020-01-01T00:00:00.000+00:00"}')
            it.manager.book.change(told)
            await it.post(f"/{group.group_id}/stop")
            await until(lambda: it.manager.book.store.next_message(told.observers[0]).id > 20)  # type: ignore[union-attr]

    finish(work(), 60)
