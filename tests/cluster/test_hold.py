"""A node is asked for once, and what is run on it is told to nobody else."""

import asyncio
import contextlib
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

import pytest

from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.setup import hold as held
from tokenstorm.cluster.setup.hold import hold
from tokenstorm.cluster.shell import Output
from tokenstorm.cluster.site import Site
from tokenstorm.config.profile import Partitions, Profile
from tokenstorm.errors import NoNodeFree, RefusedJob, UsageError
from waiting import finish, until

pytestmark = [pytest.mark.integration]


def profile(base: Path, **more: object) -> Profile:
    fields = {"scheduler": "slurm", "python": sys.executable, "partitions": Partitions(cpu="cpu", gpu="gpu"), **more}
    return Profile(name="lab", base_path=PurePosixPath(base), **fields)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def opened(profile: Profile) -> AsyncIterator[Site]:
    site = await open_site(profile)
    try:
        yield site
    finally:
        await site.close()


def ignore(line: str) -> None:
    """Progress that this test does not look at."""


def command_lines() -> str:
    found = b""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            found += (process / "cmdline").read_bytes()
    return found.decode(errors="replace")


def jobs(column: str) -> list[str]:
    """The jobs that are not over."""
    command = ["squeue", "--me", "--noheader", f"--format={column}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize("scheduler", ["slurm", "local"])
def test_no_variable_and_no_prologue_of_the_profile_stands_on_a_command_line(
    slurm: Path, tmp_path: Path, scheduler: str
) -> None:
    token, loaded = secrets.token_hex(), secrets.token_hex()
    wait = 'touch "$1"; until [ -e "$1.go" ]; do sleep 0.05; done'
    prologue = (f": {loaded}", f"bash -c '{wait}' bash {tmp_path}/prologue")
    partitions = Partitions(cpu="cpu") if scheduler == "slurm" else Partitions()
    there = profile(
        tmp_path / "base",
        scheduler=scheduler,
        partitions=partitions,
        environment={"HF_TOKEN": token},
        prologue=prologue,
    )
    done: list[Output] = []

    async def work(site: Site) -> None:
        async with hold(site, say=ignore) as node:
            text = f'{wait}; echo "$HF_TOKEN"'
            done.append(await node.run(["bash", "-c", text, "bash", str(tmp_path / "command")]))

    async def scenario() -> None:
        async with opened(there) as site, asyncio.TaskGroup() as group:
            group.create_task(work(site))
            for place in ("prologue", "command"):
                await until((tmp_path / place).exists)
                seen = command_lines()
                assert str(tmp_path / place) in seen
                assert token not in seen
                assert loaded not in seen
                (tmp_path / f"{place}.go").touch()

    finish(scenario())
    assert done[0].stdout.decode().splitlines()[-1] == token
    assert not list((tmp_path / "base").iterdir())


def test_all_commands_run_in_one_job_which_is_over_afterwards(slurm: Path, tmp_path: Path) -> None:
    there = profile(
        tmp_path / "base", prologue=(f"echo began >> {tmp_path}/prologue", "echo no such module >&2", "cd /")
    )
    odd = "it's $HOME;\n*"

    async def scenario() -> None:
        async with opened(there) as site:
            async with hold(site, say=ignore) as node:
                assert node.complaints == "no such module"
                first = await node.run(
                    ["bash", "-c", 'echo "$SLURM_JOB_ID"; printf "%s" "$1" >&2; exit 3', "bash", odd]
                )
                assert (first.status, first.stderr.decode()) == (3, odd)
                assert (await node.run(["no-such-program"])).status == 127
                assert (await node.run(["cat"])).stdout == b"", "its standard input is empty"
                assert (await node.run(["bash", "-c", 'echo "$SLURM_JOB_ID"'])).stdout == first.stdout
            assert first.stdout.decode().strip() not in jobs("%i")

    finish(scenario())
    assert (tmp_path / "prologue").read_text() == "began\n"
    assert not list((tmp_path / "base").iterdir())


def probes() -> set[str]:
    """The held nodes there are; a test that killed who held one leaves it for two minutes."""
    return {name for name in jobs("%j") if name.startswith("tokenstorm-probe")}


def test_a_node_that_is_not_free_in_time_is_no_fault_and_what_it_waits_for_is_told(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "START_SECONDS", 1.0)
    there = profile(tmp_path / "base", sbatch=("--begin=now+1hour",))
    said: list[str] = []
    before = probes()

    async def scenario() -> None:
        async with opened(there) as site:
            with pytest.raises(NoNodeFree, match=r"no node of partition cpu was free in .*\(BeginTime\)"):
                async with hold(site, say=said.append):
                    pass

    finish(scenario())
    assert len(said) == 1
    assert said[0].startswith("waiting for a node of partition cpu: job ")
    assert not probes() - before


@pytest.mark.parametrize(
    ("more", "error", "why"),
    [
        ({"sbatch": ("--hold",)}, RefusedJob, "partition cpu gives no node: job .* is pending .JobHeldUser."),
        ({"partitions": Partitions(cpu="none")}, RefusedJob, "partition none gives no node: .*invalid partition"),
        (
            {"prologue": ("echo no such module >&2", "exit 1")},
            UsageError,
            r"profiles.lab.prologue: the job \d+ on n\d ended .failed.: no such module",
        ),
    ],
)
def test_where_no_time_brings_a_node_it_is_told_at_once(
    slurm: Path, tmp_path: Path, more: dict[str, object], error: type[Exception], why: str
) -> None:
    async def scenario() -> None:
        async with opened(profile(tmp_path / "base", **more)) as site:
            with pytest.raises(error, match=why):
                async with hold(site, say=ignore):
                    pass

    finish(scenario())
    assert not list((tmp_path / "base").iterdir())


def test_a_job_that_nobody_asks_anything_ends_by_itself(slurm: Path, tmp_path: Path) -> None:
    """Whoever asked was killed, and will not cancel it."""
    before = probes()

    async def scenario() -> None:
        async with opened(profile(tmp_path / "base")) as site, hold(site, say=ignore, idle_seconds=1):
            await until(lambda: not probes() - before)

    finish(scenario())
