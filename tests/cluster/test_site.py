"""The profile `local`, with nothing configured, is a place where jobs run."""

import asyncio
import sys
from pathlib import Path, PurePosixPath

import pytest

from tokenstorm.cluster.opening import open_shell, open_site
from tokenstorm.cluster.scheduler import Job, JobState
from tokenstorm.cluster.ssh.native import SSHManager
from tokenstorm.cluster.ssh.openssh import OpenSSH
from tokenstorm.cluster.ssh.remote import Remote
from tokenstorm.config.file import load_config
from tokenstorm.errors import Unreachable


def test_a_job_runs_with_nothing_configured(tmp_path: Path) -> None:
    home = tmp_path / "above" / "home"

    async def run() -> JobState:
        site = await open_site(load_config({"TOKENSTORM_HOME": str(home)}).profile())
        folder = PurePosixPath(site.profile.base_path) / "work"
        job = await site.scheduler.submit(Job(name="job", command=("true",), folder=folder))
        async with asyncio.timeout(60):
            while (state := (await site.scheduler.states([job]))[job]).phase != "ended":  # noqa: ASYNC110 - asked, not told
                await asyncio.sleep(0.01)
        await site.close()
        return state

    assert asyncio.run(run()).outcome == "completed"
    assert home.stat().st_mode & 0o777 == 0o700
    assert home.parent.stat().st_mode & 0o777 == 0o700


def test_a_python_in_the_users_home_runs_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    python = tmp_path / "my venv" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$0" >> {tmp_path}/ran\nexec {sys.executable} "$@"\n')
    python.chmod(0o700)
    environment = {"TOKENSTORM_HOME": str(tmp_path / "data"), "TOKENSTORM_PYTHON": "~/my venv/python"}

    async def run() -> None:
        site = await open_site(load_config(environment).profile())
        folder = PurePosixPath(site.profile.base_path) / "work"
        await site.scheduler.submit(Job(name="job", command=(site.profile.python, "-c", ""), folder=folder))
        async with asyncio.timeout(60):
            while not (tmp_path / "ran").exists():  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.01)
        await site.close()

    asyncio.run(run())
    assert (tmp_path / "ran").read_text().splitlines()[0] == str(python)


@pytest.mark.parametrize(("word", "kind"), [("asyncssh", SSHManager), ("openssh", OpenSSH)])
def test_the_profile_chooses_the_shell(tmp_path: Path, word: str, kind: type[Remote]) -> None:
    environment = {"TOKENSTORM_SCHEDULER": "slurm", "TOKENSTORM_SSH_HOST": "h", "TOKENSTORM_SSH_SHELL": word}
    profile = load_config({"TOKENSTORM_HOME": str(tmp_path), "TOKENSTORM_BASE_PATH": "/x", **environment}).profile()
    assert type(open_shell(profile)) is kind


def test_a_base_path_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    profile = load_config({"TOKENSTORM_HOME": str(tmp_path / "file" / "below")}).profile()
    with pytest.raises(Unreachable, match=r"cannot make .*file/below.*Not a directory"):
        asyncio.run(open_site(profile))
