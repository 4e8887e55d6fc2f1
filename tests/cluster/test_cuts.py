"""SSH that breaks at any moment, between us and a real Slurm: nothing is lost, nothing happens twice, nothing hangs."""

import asyncio
import contextlib
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

import pytest

import slurmlab
import sshd
from cable import Cable, cable
from grouplab import Groups, groups, slurm_says
from groups import GROUPS
from running import Stage
from tokenstorm.cluster.opening import settled, site_over
from tokenstorm.cluster.shell import Shell
from tokenstorm.config.profile import Profile, Ssh
from tokenstorm.errors import Unconfirmed, Unreachable
from waiting import finish

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not slurmlab.THERE, reason=slurmlab.MISSING),
    pytest.mark.skipif(not sshd.SSHD, reason=sshd.MISSING),
]
CUTS = 12
FROZEN_SECONDS = 2.5


def by_cable(ssh: Ssh, cable: Cable, folder: Path) -> Ssh:
    """The same login through a cable."""
    assert ssh.known_hosts
    known = folder / "known_hosts"
    known.write_text(Path(ssh.known_hosts).read_text().replace(f":{ssh.port} ", f":{cable.port} "))
    return ssh.model_copy(update={"port": cable.port, "known_hosts": str(known)})


async def break_it(cable: Cable, how: str) -> None:
    """Break a cable, and mend it."""
    match how:
        case "cut":
            cable.cut()
        case "unplug":
            cable.unplug()
            await asyncio.sleep(0.5)
            await cable.plug()
        case "freeze":
            cable.freeze()
            await asyncio.sleep(FROZEN_SECONDS)
            cable.thaw()


@asynccontextmanager
async def breaking(cable: Cable, cuts: int, seed: int) -> AsyncIterator[list[str]]:
    """Breaks it at random moments while the block runs; what was done so far."""
    done: list[str] = []
    moments = random.Random(seed)

    async def work() -> None:
        while len(done) < cuts:
            await asyncio.sleep(moments.uniform(0.05, 1.2))
            how = moments.choice(["cut", "cut", "unplug", "freeze"])
            await break_it(cable, how)
            done.append(how)

    task = asyncio.create_task(work())
    try:
        yield done
        await task
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def content(shell: Shell, path: PurePosixPath) -> bytes | None:
    try:
        return await shell.get(path)
    except FileNotFoundError:
        return None


def test_commands_files_and_connections_survive_cuts_or_say_that_they_did_not(kind: sshd.Kind, tmp_path: Path) -> None:
    async def work() -> None:
        with sshd.sshd(tmp_path / "sshd") as login:
            assert login.ssh.port
            async with cable(login.ssh.port) as wire:
                shell = kind(by_cable(login.ssh, wire, tmp_path), keepalive_seconds=0.3, back_off_seconds=(0.05,))
                base, tried = PurePosixPath(tmp_path / "base"), 0
                held: set[bytes | None] = {None}  # what may be there: of an unconfirmed one, the old and the new
                async with breaking(wire, CUTS, seed=1) as done:
                    while len(done) < CUTS:
                        tried += 1
                        new = b"%d" % tried * 10_000
                        try:
                            await shell.put(base / "file", new)
                            held = {new}
                        except Unreachable:
                            pass
                        except Unconfirmed:
                            held |= {new}
                        with contextlib.suppress(Unreachable):
                            assert await content(shell, base / "file") in held
                        try:
                            out = await shell.run(["echo", str(tried)])
                            assert (out.status, out.stdout) == (0, b"%d\n" % tried)
                        except (Unreachable, Unconfirmed):
                            pass
                while True:
                    with contextlib.suppress(Unreachable):  # a login that waits after the last cut
                        assert (await shell.run(["true"])).status == 0
                        break
                await shell.put(base / "file", b"end")
                assert await shell.list(base) == ["file"]
                await shell.close()

    finish(work(), 120)


def test_groups_survive_cuts_while_they_are_submitted_followed_and_fetched(
    kind: sshd.Kind, stage: Stage, slurm: Path, lab_profile: Profile, tmp_path: Path
) -> None:
    engine = stage.simulate()

    async def created(api: Groups) -> int:
        """A group, however often that has to be asked for."""
        while True:
            answer = await api.client.post(
                GROUPS,
                json={
                    "service_id": "sim",
                    "num_clients": 4,
                    "requests_per_second": 10.0,
                    "duration_seconds": 2.0,
                    "max_tokens": 2,
                    "prompts": ["a"],
                    "nodes": 2,
                    "ranks": 2,
                },
            )
            assert answer.status_code in {201, 502, 504}, answer.text
            if answer.status_code != 502:
                group_id: int = answer.json()["group_id"]
                return group_id
            await asyncio.sleep(0.2)

    async def work() -> None:
        assert lab_profile.ssh.port
        async with cable(lab_profile.ssh.port) as wire:
            there = lab_profile.model_copy(update={"ssh": by_cable(lab_profile.ssh, wire, tmp_path)})
            shell = kind(there.ssh, keepalive_seconds=0.3, back_off_seconds=(0.05, 0.1))
            await settled(shell, there)
            async with groups(tmp_path, engine.url, site=site_over(shell, there)) as api:
                ids: list[int] = []
                async with breaking(wire, CUTS, seed=2) as done:
                    while len(done) < CUTS:
                        ids.append(await created(api))
                        await api.stopped(ids[-1])
                for group_id in ids:
                    info = await api.stopped(group_id)
                    assert (info["outcome"], info["reason"]) == ("completed", ""), info
                    summary = await api.summary(group_id)
                    assert summary["counts"]["scheduled"] == summary["counts"]["succeeded"] == 20
                    assert len(await api.rows(group_id)) == 20
                    name = f"tokenstorm-{info['run_id']}"
                    assert slurm_says(
                        "squeue", "--noheader", "--states=all", f"--name={name}", "--format=%i"
                    ).split() == [info["job_id"]]

    finish(work(), 240)
    assert subprocess.run(["squeue", "--noheader", "--states=running"], capture_output=True, check=True).stdout == b""
