"""Sites whose SSH server gives few sessions at a time (MaxSessions 1, 2, 3): all works, one after another where it must."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath

import pytest

from sshd import MISSING, SSHD, Kind, Login, sshd
from tokenstorm.cluster.ssh import openssh
from tokenstorm.cluster.ssh.openssh import OpenSSH
from tokenstorm.cluster.ssh.process import ended
from tokenstorm.cluster.ssh.remote import Remote
from tokenstorm.cluster.ssh.sessions import COUNTED
from tokenstorm.errors import Unreachable
from waiting import finish, until

pytestmark = [pytest.mark.integration]
has_sshd = pytest.mark.skipif(SSHD is None, reason=MISSING)


def use(kind: Kind, folder: Path, most: int, what: Callable[[Remote, Login], Awaitable[None]], more: str = "") -> None:
    async def scenario() -> None:
        there = kind(login.ssh)
        try:
            await what(there, login)
        finally:
            await there.close()

    with sshd(folder / "sshd", f"MaxSessions {most}\n{more}") as login:
        finish(scenario())


@has_sshd
@pytest.mark.parametrize("most", [1, 2, 3])
def test_commands_files_and_connections_work_however_few_sessions_there_are(
    kind: Kind, tmp_path: Path, most: int
) -> None:
    async def what(there: Remote, login: Login) -> None:
        files = [PurePosixPath(tmp_path) / str(number) for number in range(6)]
        commands, puts = [there.run(["true"]) for _ in range(6)], [there.put(path, b"x") for path in files]
        assert {done.status for done in await asyncio.gather(*commands)} == {0}
        await asyncio.gather(*puts)
        assert await asyncio.gather(*(there.get(path) for path in files)) == [b"x"] * 6
        assert login.ssh.port
        reader, writer = await there.open_connection("127.0.0.1", login.ssh.port)
        assert await reader.readexactly(4) == b"SSH-"
        assert (await there.run(["true"])).status == 0
        writer.close()
        await writer.wait_closed()

    use(kind, tmp_path, most, what)


@has_sshd
@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_relay_that_stays_leaves_room_for_commands(kind: Kind, tmp_path: Path, most: int) -> None:
    async def what(there: Remote, login: Login) -> None:
        path, ended = tmp_path / "socket", asyncio.Event()

        async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()
            await writer.wait_closed()
            ended.set()

        async with await asyncio.start_unix_server(echoes, path):
            reader, writer = await there.open_unix_connection(PurePosixPath(path))
            commands = [there.run(["true"]) for _ in range(4)]
            assert {done.status for done in await asyncio.gather(*commands)} == {0}
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            assert len(login.servers()) == (2 if most == 1 else 1)
            writer.close()
            await writer.wait_closed()
            await ended.wait()

    use(kind, tmp_path, most, what)


@has_sshd
def test_a_relay_never_keeps_the_only_session_though_the_end_of_an_ssh_is_seen_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine, where the next command began before we saw the end of the one before."""

    async def late(process: asyncio.subprocess.Process) -> None:
        await asyncio.sleep(1.0)
        await ended(process)

    async def what(there: Remote, login: Login) -> None:
        await there.login()
        with monkeypatch.context() as busy:
            busy.setattr(openssh, "ended", late)
            await asyncio.gather(there.run(["true"]), there.run(["true"]))
        async with await asyncio.start_unix_server(lambda _, writer: writer.close(), tmp_path / "socket"):
            reader, writer = await there.open_unix_connection(PurePosixPath(tmp_path) / "socket")
            assert await reader.read() == b""
            assert (await there.run(["true"], timeout=20)).status == 0
            writer.close()

    use(OpenSSH, tmp_path, 1, what)


@has_sshd
def test_a_relay_without_room_says_why_where_nobody_gets_in_twice(kind: Kind, tmp_path: Path) -> None:
    """As where each login wants a code."""

    async def what(there: Remote, login: Login) -> None:
        assert (await there.run(["true"])).status == 0
        (tmp_path / "sshd" / "authorized").write_text("")
        with pytest.raises(Unreachable, match="a login of its own, since its SSH server gives 1 session at a time"):
            await there.open_unix_connection(PurePosixPath(tmp_path) / "socket")
        assert (await there.run(["true"])).status == 0

    use(kind, tmp_path, 1, what)


@has_sshd
@pytest.mark.parametrize(("most", "counted"), [(1, 1), (2, 2), (3, 3), (10, COUNTED)])
def test_how_many_there_are_is_counted(kind: Kind, tmp_path: Path, most: int, counted: int) -> None:
    async def what(there: Remote, login: Login) -> None:
        assert await there.count_sessions() == counted
        assert (await there.run(["true"])).status == 0

    use(kind, tmp_path, most, what)


@has_sshd
def test_a_wait_for_a_session_that_is_given_up_ends_at_once(kind: Kind, tmp_path: Path) -> None:
    """Ctrl-C, while the one session is taken by a long command."""

    async def what(there: Remote, login: Login) -> None:
        text = 'touch "$1"; exec sleep 600'
        long = asyncio.create_task(there.run(["sh", "-c", text, "sh", str(tmp_path / "began")], timeout=600))
        await until((tmp_path / "began").exists)
        waiting = [asyncio.create_task(there.run(["true"])) for _ in range(3)]
        await asyncio.sleep(0.5)  # as long as it likes: they have no room
        for task in (*waiting, long):
            task.cancel()
        began = time.process_time(), asyncio.get_running_loop().time()
        await asyncio.wait((*waiting, long), timeout=30)
        assert [task.cancelled() or task.exception() for task in (*waiting, long)] == [True] * 4
        assert asyncio.get_running_loop().time() - began[1] < 30

    use(kind, tmp_path, 1, what)


@has_sshd
def test_who_waits_for_the_only_session_in_vain_is_told_that_there_is_one(kind: Kind, tmp_path: Path) -> None:
    async def what(there: Remote, login: Login) -> None:
        assert await there.count_sessions() == 1
        text = 'touch "$1"; exec sleep 600'
        long = asyncio.create_task(there.run(["sh", "-c", text, "sh", str(tmp_path / "began")], timeout=600))
        await until((tmp_path / "began").exists)
        with pytest.raises(Unreachable, match="not begun in 2 s: its SSH server gives 1 session at a time"):
            await there.run(["true"], timeout=2)
        long.cancel()

    use(kind, tmp_path, 1, what)
