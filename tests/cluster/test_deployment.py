"""One deploy for many who wait for it, without a cluster."""

import asyncio
from pathlib import Path, PurePosixPath

import pytest

from orchestrating import RUNNING, HandScheduler, MemoryShell, slurm
from tokenstorm.cluster.scheduler import Job, JobId, Kind
from tokenstorm.cluster.setup import bundle, deploy
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.setup.hold import Say, hold
from tokenstorm.cluster.site import Site
from tokenstorm.errors import RunError, Unreachable

PYTHON = PurePosixPath("/deployed/bin/python")


def test_whoever_asks_while_a_deploy_is_given_up_gets_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, started, clearing, cleared = 0, asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def nothing(_site: Site, _kind: Kind) -> None:
        return None

    async def by_hand(_site: Site, _say: Say, _kind: Kind) -> PurePosixPath:
        nonlocal begun
        begun += 1
        started.set()
        if begun > 1:
            return PYTHON
        try:
            return await asyncio.Future()
        finally:
            clearing.set()
            await cleared.wait()  # its job is cancelled, and its folder removed

    monkeypatch.setattr(deploy, "deployed", nothing)
    monkeypatch.setattr(deploy, "deploy", by_hand)

    async def scenario() -> None:
        cluster = slurm(tmp_path)
        deployment = Deployment(Site(cluster.profile, cluster.shell, cluster.scheduler, has_gpu=True), print)
        first = asyncio.create_task(deployment.python())
        await started.wait()
        first.cancel()
        await clearing.wait()
        second = asyncio.create_task(deployment.python())
        await asyncio.sleep(0)
        cleared.set()
        assert await second == PYTHON
        assert await deployment.python() == PYTHON
        assert (begun, first.cancelled()) == (2, True)

    asyncio.run(asyncio.wait_for(scenario(), 30))


class Asked(MemoryShell):
    """Keeps what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[PurePosixPath] = []

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        self.asked.append(path)
        return await super().get(path, offset=offset, limit=limit)


def test_what_was_found_on_one_cluster_is_not_believed_of_another_with_the_same_base_path(tmp_path: Path) -> None:
    shell = Asked()
    for name in ("one", "two", "one"):
        cluster = slurm(tmp_path, cluster=name)
        site = Site(cluster.profile, shell, cluster.scheduler, has_gpu=True)
        assert asyncio.run(deploy.deployed(site)) is None
    assert shell.asked[0] == shell.asked[2] != shell.asked[1]


def test_a_disk_here_that_takes_no_wheels_is_named(tmp_path: Path) -> None:
    full = tmp_path / "wheels"
    full.write_bytes(b"")
    target = bundle.Target(
        node="n1",
        machine="x86_64",
        libc="glibc",
        libc_version="2.28",
        implementation="cpython",
        version=(3, 11, 4),
        abi="cp311",
        executable="/usr/bin/python3.11",
        missing=(),
        code=None,
    )
    with pytest.raises(RunError, match=f"cannot be kept in {full} on this machine: File exists"):
        bundle.wheels(bundle.bundle(), target, full)


class RunsAtOnce(HandScheduler):
    """Every job has its node as soon as it is submitted."""

    async def submit(self, job: Job) -> JobId:
        number = await super().submit(job)
        self.state[number] = RUNNING
        return number


class AwayOnce(MemoryShell):
    """Cannot be reached at the second look at a folder."""

    looks = 0

    async def list(self, path: PurePosixPath) -> list[str]:
        self.looks += 1
        if self.looks == 2:
            message = "the connection broke"
            raise Unreachable(message)
        if self.looks > 2:
            self.files[path / "node"] = b"n1"
        return await super().list(path)


@pytest.mark.parametrize("patient", [True, False])
def test_a_login_node_that_is_away_for_a_moment_costs_who_is_patient_no_place(tmp_path: Path, patient: bool) -> None:
    scheduler = RunsAtOnce()
    site = Site(slurm(tmp_path).profile, AwayOnce(), scheduler, has_gpu=True)

    async def held() -> str:
        async with hold(site, say=print, patient=patient) as node:
            return node.name

    if patient:
        assert asyncio.run(held()) == "n1"
    else:
        with pytest.raises(Unreachable, match="the connection broke"):
            asyncio.run(held())
    assert len(scheduler.submitted) == 1
    assert scheduler.cancelled == ["100"]
