"""A site whose SSH server gives one session at a time, from the doctor to a group's results."""

import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path, PurePosixPath
from typing import Literal

import pytest

from grouplab import cancel_everything, groups, profile
from running import Stage
from sshd import sshd
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.setup.doctor import examine
from tokenstorm.config.profile import Partitions, Profile, Ssh
from waiting import finish

Shell = Literal["asyncssh", "openssh"]
pytestmark = pytest.mark.usefixtures("calm", "sockets")
ONE = "MaxSessions 1\n"
NO_FORWARDING = "AllowTcpForwarding no\n"


@pytest.fixture
def calm(slurm: Path) -> Iterator[None]:
    """No job of one test is there in the next."""
    yield
    cancel_everything(slurm)


def there(folder: Path, ssh: Ssh, shell: Shell) -> Profile:
    fields = {"python": sys.executable, "ssh": ssh.model_copy(update={"shell": shell})}
    return profile(folder / "base").model_copy(update={**fields, "partitions": Partitions(cpu="cpu")})


@pytest.mark.parametrize("shell", ["asyncssh", "openssh"])
def test_the_doctor_finds_nothing_wrong_and_says_how_many_there_are(slurm: Path, tmp_path: Path, shell: Shell) -> None:
    async def work(ssh: Ssh) -> None:
        async with aclosing(examine(there(tmp_path, ssh, shell))) as checks:
            found = {check.name: check async for check in checks}
        assert "its SSH server gives 1 session at a time" in found["login"].text
        assert {check.state for check in found.values()} <= {"ok", "skipped"}
        assert found["reach inside job"].state == "ok"

    with sshd(tmp_path / "sshd", f"{ONE}SetEnv SLURM_CONF={slurm}\n") as login:
        finish(work(login.ssh), 180)


@pytest.mark.parametrize(
    ("shell", "more"), [("asyncssh", ""), ("openssh", ""), ("asyncssh", NO_FORWARDING), ("openssh", NO_FORWARDING)]
)
def test_a_group_runs_is_watched_and_brings_its_results_home(
    slurm: Path, tmp_path: Path, stage: Stage, shell: Shell, more: str
) -> None:
    engine = stage.simulate()

    async def work(ssh: Ssh) -> None:
        site = await open_site(there(tmp_path, ssh, shell))
        async with groups(tmp_path, engine.url, site=site) as api:
            group = await api.create(nodes=2, ranks=2)
            await api.sending(group)
            info = await api.stopped(group)
            assert (info["outcome"], info["reason"]) == ("completed", "")
            assert len(await api.rows(group)) == 40
            assert "summary.json" in (await api.get(f"/{group}/logs")).json()["logs"]
            assert PurePosixPath(info["run_dir"]).is_relative_to(tmp_path)

    with sshd(tmp_path / "sshd", f"{ONE}{more}SetEnv SLURM_CONF={slurm}\n") as login:
        finish(work(login.ssh), 180)
