"""The shell over SSH, against a real sshd: what it does, and what it says when the way there is cut."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pytest

from sshd import MISSING, SSHD, Kind, Login, sshd
from tokenstorm.cluster.ssh.remote import Remote
from tokenstorm.config.profile import Ssh
from tokenstorm.errors import Unconfirmed, Unreachable, UsageError

pytestmark = [pytest.mark.skipif(SSHD is None, reason=MISSING), pytest.mark.integration]
T = TypeVar("T")


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    with sshd(tmp_path / "sshd") as login:
        yield login


def use(kind: Kind, ssh: Ssh, what: Callable[[Remote], Awaitable[T]]) -> T:
    async def run() -> T:
        shell = kind(ssh, keepalive_seconds=1)
        try:
            async with asyncio.timeout(30):
                return await what(shell)
        finally:
            await shell.close()

    return asyncio.run(run())


async def greeted(shell: Remote, port: int) -> bytes:
    """How an SSH server begins."""
    reader, writer = await shell.open_connection("127.0.0.1", port)
    said = await reader.readexactly(4)
    writer.close()
    await writer.wait_closed()
    return said


def test_arguments_input_and_environment_reach_a_command_as_they_are(kind: Kind, login: Login) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['X'], sys.stdin.read()); sys.exit(3)"
    argv = [sys.executable, "-c", code, "$(id)", "a b", "'\n"]
    out = use(kind, login.ssh, lambda shell: shell.run(argv, stdin=b"in", environment={"X": "$HOME"}))
    assert (out.status, out.stdout, out.stderr) == (3, b"""['$(id)', 'a b', "'\\n"] $HOME in\n""", b"")


def test_what_cannot_be_an_argument_is_refused(kind: Kind, login: Login) -> None:
    with pytest.raises(UsageError, match="embedded null byte"):
        use(kind, login.ssh, lambda shell: shell.run(["echo", "a\0b"]))


def test_a_file_is_read_back_whole_and_in_parts_and_is_ours_alone(kind: Kind, login: Login, tmp_path: Path) -> None:
    path = PurePosixPath(tmp_path) / "made" / "on the way" / "file"

    async def what(shell: Remote) -> tuple[bytes, bytes, list[str]]:
        await shell.put(path, b"old")
        await shell.put(path, b"0123456789")
        return await shell.get(path), await shell.get(path, offset=2, limit=3), await shell.list(path.parent)

    assert use(kind, login.ssh, what) == (b"0123456789", b"234", ["file"])
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert Path(path.parent).stat().st_mode & 0o777 == 0o700
    use(kind, login.ssh, lambda shell: shell.remove(path.parent.parent))
    assert not Path(path.parent.parent).exists()


def test_what_is_not_there_is_no_file_an_empty_folder_and_nothing_to_remove(
    kind: Kind, login: Login, tmp_path: Path
) -> None:
    none = PurePosixPath(tmp_path) / "none"
    with pytest.raises(FileNotFoundError):
        use(kind, login.ssh, lambda shell: shell.get(none))
    assert use(kind, login.ssh, lambda shell: shell.list(none)) == []
    use(kind, login.ssh, lambda shell: shell.remove(none))


def test_more_commands_than_sshd_has_sessions_all_run(kind: Kind, login: Login) -> None:
    async def what(shell: Remote) -> set[int]:
        outputs = await asyncio.gather(*(shell.run(["true"]) for _ in range(30)))
        return {output.status for output in outputs}

    assert use(kind, login.ssh, what) == {0}


def test_a_connection_reaches_a_listener_and_fails_where_there_is_none(kind: Kind, login: Login) -> None:
    port = login.ssh.port
    assert port
    assert use(kind, login.ssh, lambda shell: greeted(shell, port)) == b"SSH-"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            use(kind, login.ssh, lambda shell: shell.open_connection(*nobody.getsockname()))


def test_what_is_given_up_at_any_moment_holds_no_session_of_the_server(kind: Kind, tmp_path: Path) -> None:
    """Were two of them held, the next command would find no room."""

    async def what(shell: Remote) -> None:
        path, moments = PurePosixPath(tmp_path) / "file", random.Random(1)
        await shell.put(path, b"0")
        for work in (lambda: shell.run(["true"]), lambda: shell.put(path, b"1"), lambda: shell.get(path)) * 40:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(moments.uniform(0, 0.05)):
                    await work()
        assert (await shell.run(["true"], timeout=10)).status == 0

    with sshd(tmp_path / "sshd", "MaxSessions 2\n") as login:
        use(kind, login.ssh, what)


def test_an_unknown_host_key_is_refused_with_what_to_do(kind: Kind, login: Login, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    ssh = login.ssh.model_copy(update={"known_hosts": str(tmp_path / "empty")})
    with pytest.raises(Unreachable, match="SHA256:") as refused:
        use(kind, ssh, lambda shell: shell.run(["true"]))
    (tmp_path / "empty").write_text(str(refused.value).rpartition("): ")[2] + "\n")
    assert use(kind, ssh, lambda shell: shell.run(["true"])).status == 0


def test_another_host_key_than_the_known_one_is_refused(kind: Kind, login: Login, tmp_path: Path) -> None:
    assert login.ssh.known_hosts
    known = Path(login.ssh.known_hosts).read_text().split()
    other = (tmp_path / "sshd" / "user.pub").read_text().split()
    (tmp_path / "other").write_text(f"{known[0]} {other[0]} {other[1]}\n")
    ssh = login.ssh.model_copy(update={"known_hosts": str(tmp_path / "other")})
    with pytest.raises(Unreachable, match="may be an attack"):
        use(kind, ssh, lambda shell: shell.run(["true"]))


def test_a_host_that_does_not_listen_is_unreachable(kind: Kind, login: Login) -> None:
    login.daemon.kill()
    login.daemon.wait()
    with pytest.raises(Unreachable):
        use(kind, login.ssh, lambda shell: shell.run(["true"]))


def test_a_command_that_takes_too_long_is_unconfirmed(kind: Kind, login: Login) -> None:
    with pytest.raises(Unconfirmed, match="sleep did not end in 3 s"):
        use(kind, login.ssh, lambda shell: shell.run(["sleep", "600"], timeout=3))


def test_a_command_whose_connection_was_cut_is_unconfirmed_and_the_next_one_runs(kind: Kind, login: Login) -> None:
    async def what(shell: Remote) -> int:
        await shell.run(["true"])
        (server,) = login.servers()
        with pytest.raises(Unconfirmed, match="connection was lost"):
            await shell.run(["kill", "-9", str(server)])
        return (await shell.run(["true"])).status

    assert use(kind, login.ssh, what) == 0


@pytest.mark.parametrize("doing", ["run", "put", "open_connection"])
def test_a_frozen_server_is_noticed_and_what_was_not_begun_goes_through_a_new_login(
    kind: Kind, login: Login, tmp_path: Path, doing: str
) -> None:
    path = PurePosixPath(tmp_path) / "file"

    async def what(shell: Remote) -> None:
        assert login.ssh.port
        await shell.put(path, b"0")
        (server,) = login.servers()
        os.kill(server, signal.SIGSTOP)
        try:
            if doing == "run":
                assert (await shell.run(["true"])).status == 0
            elif doing == "open_connection":
                assert await greeted(shell, login.ssh.port) == b"SSH-"
            else:
                with contextlib.suppress(Unreachable):  # by SFTP: it may be tried again
                    await shell.put(path, b"1")
                await shell.put(path, b"1")
                assert await shell.get(path) == b"1"
        finally:
            os.kill(server, signal.SIGCONT)

    use(kind, login.ssh, what)
