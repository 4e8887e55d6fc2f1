"""One login by the user's own ssh: who shares it, who ends it, and what comes after one that was killed or stands still."""

import asyncio
import contextlib
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from passwords import conversation, site
from sshd import MISSING, SSHD, Login, sshd
from tokenstorm.cluster.openssh import OpenSSH
from tokenstorm.config import Ssh
from tokenstorm.errors import Unconfirmed, Unreachable, UsageError
from waiting import finish, until

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason=MISSING),
    pytest.mark.integration,
    pytest.mark.usefixtures("sockets"),
]
HOLD = """
import asyncio, sys
from tokenstorm.cluster.openssh import OpenSSH
from tokenstorm.config import Ssh

async def hold():
    shell = OpenSSH(Ssh.model_validate_json(sys.argv[1]), ask=(lambda *_: "") if sys.argv[2:] else None)
    print((await shell.run(["echo", "held"])).stdout.decode(), flush=True)
    await asyncio.sleep(600)

asyncio.run(hold())
"""


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    with sshd(tmp_path / "sshd") as login:
        yield login


@asynccontextmanager
async def opened(ssh: Ssh, **options: float) -> AsyncIterator[OpenSSH]:
    shell = OpenSSH(ssh, **options)  # type: ignore[arg-type]
    try:
        yield shell
    finally:
        await shell.close()


def gone(pid: int) -> bool:
    """Whether it is no process any more, or waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b""
    except FileNotFoundError:
        return True


async def runs_again(shell: OpenSSH) -> None:
    """Whatever the next commands say of what came before, one runs soon."""
    async with asyncio.timeout(30):
        while True:
            try:
                assert (await shell.run(["true"])).status == 0
            except (Unreachable, Unconfirmed):
                await asyncio.sleep(0.05)
            else:
                return


def test_processes_share_one_login_which_ends_after_the_last_of_them_killed_or_not(login: Login) -> None:
    async def scenario() -> None:
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLD, login.ssh.model_dump_json(), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert holder.stdout
            assert await holder.stdout.readline() == b"held\n"
            async with opened(login.ssh) as shell:
                assert (await shell.run(["true"])).status == 0
                assert len(login.servers()) == 1
                holder.kill()
                await holder.wait()
                assert (await shell.run(["true"])).status == 0
                assert len(login.servers()) == 1
            await until(lambda: not login.servers())
        finally:
            if holder.returncode is None:
                holder.kill()
                await holder.wait()

    finish(scenario())


def test_two_that_log_in_at_once_log_in_once(login: Login) -> None:
    async def scenario() -> None:
        async with opened(login.ssh) as one, opened(login.ssh) as other:
            await asyncio.gather(one.run(["true"]), other.run(["true"]))
            assert len(login.servers()) == 1

    finish(scenario())


def test_a_master_of_the_users_own_is_used_and_left(login: Login, dot_ssh: Path) -> None:
    (dot_ssh / "known_hosts").write_text(Path(str(login.ssh.known_hosts)).read_text())
    (dot_ssh / "config").write_text(
        f"Host cluster\n HostName 127.0.0.1\n Port {login.ssh.port}\n IdentityFile {login.ssh.identity_file}\n"
        f" ControlPath {os.environ['XDG_RUNTIME_DIR']}/own-%n\n"
    )

    async def scenario() -> None:
        mine = await asyncio.create_subprocess_exec("ssh", "-M", "-N", "cluster")
        try:
            await until(lambda: len(login.servers()) == 1 and list(Path(os.environ["XDG_RUNTIME_DIR"]).glob("own-*")))
            async with opened(Ssh(host="cluster")) as shell:
                assert (await shell.run(["true"])).status == 0
                assert len(login.servers()) == 1
            check = await asyncio.create_subprocess_exec(
                "ssh", "-O", "check", "cluster", stderr=asyncio.subprocess.PIPE
            )
            assert await check.wait() == 0
        finally:
            mine.kill()
            await mine.wait()

    finish(scenario())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_after_a_master_that_was_killed_or_stands_still_one_logs_in_anew(login: Login, how: signal.Signals) -> None:
    async def scenario() -> None:
        async with opened(login.ssh, back_off_seconds=(0.05,)) as shell:  # type: ignore[arg-type]
            await shell.run(["true"])
            old = shell._master._pid
            assert old
            os.kill(old, how)
            with contextlib.suppress(Unreachable):
                await shell.run(["true"], timeout=1)
            await runs_again(shell)
            assert shell._master._pid != old
            assert gone(old)

    finish(scenario())


def test_a_host_that_would_be_an_option_is_refused() -> None:
    with pytest.raises(UsageError, match="option"):
        OpenSSH(Ssh(host="-oProxyCommand=x"))


def test_on_a_terminal_ssh_itself_asks_and_what_the_site_says_is_seen(dot_ssh: Path) -> None:
    async def scenario() -> None:
        async with site(dot_ssh / "known_hosts") as there:
            ssh = Ssh(host="127.0.0.1", port=there.port, user="me")
            async with opened(ssh) as nobody:
                with pytest.raises(Unreachable, match="in a terminal"):
                    await nobody.run(["true"])
            assert there.typed == []
            child, terminal = pty.fork()
            if child == 0:
                os.execv(sys.executable, [sys.executable, "-c", HOLD, ssh.model_dump_json(), "asks"])
            try:
                seen = await conversation(terminal, [("Password: ", "secret\n"), ("Code: ", "123456\n"), ("held", "")])
                assert "Welcome" in seen
                async with opened(ssh) as service:  # which finds that login
                    assert (await service.run(["true"])).status == 0
                assert there.typed == [["secret", "123456"]]
            finally:
                os.kill(child, signal.SIGKILL)
                await asyncio.to_thread(os.waitpid, child, 0)
                os.close(terminal)

    finish(scenario())
