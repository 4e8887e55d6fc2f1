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
from tokenstorm.cluster.ssh.openssh import OpenSSH
from tokenstorm.config.profile import Ssh
from tokenstorm.errors import Unconfirmed, Unreachable, UsageError
from waiting import finish, until

pytestmark = [
    pytest.mark.skipif(SSHD is None, reason=MISSING),
    pytest.mark.integration,
    pytest.mark.usefixtures("sockets"),
]
HOLD = """
import asyncio, sys
from tokenstorm.cluster.ssh.openssh import OpenSSH
from tokenstorm.config.profile import Ssh

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


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


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
            assert shell._master._control
            old = shell._master._control.pid
            os.kill(old, how)
            with contextlib.suppress(Unreachable):
                await shell.run(["true"], timeout=1)
            await runs_again(shell)
            assert shell._master._control.pid != old
            assert gone(old)

    finish(scenario())


def test_a_login_that_is_given_up_leaves_no_ssh_behind(login: Login) -> None:
    async def scenario() -> None:
        os.kill(login.daemon.pid, signal.SIGSTOP)  # it listens, and says nothing
        try:
            before = children()
            async with opened(login.ssh) as shell:
                given_up = asyncio.create_task(shell.run(["true"]))
                await until(lambda: any(b"ControlMaster=yes" in cmdline(pid) for pid in children() - before))
                given_up.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await given_up
                assert children() == before
        finally:
            os.kill(login.daemon.pid, signal.SIGCONT)
        await until(lambda: not login.servers())

    finish(scenario())


@pytest.mark.parametrize("what", ["logs in", "may ask"])
def test_a_job_in_the_background_of_a_terminal_is_not_stopped(login: Login, what: str) -> None:
    """It would be, for setting that terminal."""
    code = HOLD.replace("await asyncio.sleep(600)", "await shell.close()")
    if what == "may ask":
        code = "from tokenstorm.cli.terminal import asking\nassert asking()"
    child, terminal = pty.fork()
    if child == 0:
        job = os.fork()
        if job == 0:
            os.setpgid(0, 0)
            os.execv(sys.executable, [sys.executable, "-c", code, login.ssh.model_dump_json()])
        _, status = os.waitpid(job, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(job, signal.SIGKILL)
        os._exit(os.WIFSTOPPED(status) or os.WEXITSTATUS(status))
    try:
        with contextlib.suppress(OSError):  # the end of a terminal
            while os.read(terminal, 4096):
                pass
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        os.close(terminal)


def test_the_paths_of_keys_may_hold_what_names_of_files_do(login: Login, tmp_path: Path) -> None:
    for file in ("user", "user.pub", "known_hosts"):
        (tmp_path / f"a %h b {file}").write_bytes((tmp_path / "sshd" / file).read_bytes())
        (tmp_path / f"a %h b {file}").chmod(0o600)

    async def scenario() -> None:
        files = {"identity_file": f"{tmp_path}/a %h b user", "known_hosts": f"{tmp_path}/a %h b known_hosts"}
        async with opened(login.ssh.model_copy(update=files)) as shell:
            assert (await shell.run(["true"])).status == 0

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
