"""Where the SSH server forwards nothing, every connection still gets through: by one relay on the login node."""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from sshd import MISSING, SSHD, Kind, sshd
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.shell import Streams
from tokenstorm.cluster.ssh import relay
from tokenstorm.cluster.ssh.relay import HELLO, WINDOW, Relay
from tokenstorm.cluster.ssh.remote import Remote
from waiting import finish, until

pytestmark = [pytest.mark.integration]
has_sshd = pytest.mark.skipif(SSHD is None, reason=MISSING)
CLOSED = "AllowTcpForwarding no\n"


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that gives back what it gets; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # its caller is gone
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def said_back(streams: Streams, data: bytes) -> bool:
    """Whether all of it comes back, and then the end."""
    reader, writer = streams

    async def say() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    saying = asyncio.create_task(say())
    heard = await reader.read(-1)
    await saying
    writer.close()
    return heard == data


@has_sshd
def test_many_connections_at_once_pass_through_one_session(kind: Kind, tmp_path: Path) -> None:
    """Forty, four times what MaxSessions allows, each with more than its window."""

    async def scenario(shell: Remote) -> None:
        async with echo() as port:
            data = [bytes([number]) * (WINDOW + 12345 * number) for number in range(40)]
            streams = [await shell.open_connection("127.0.0.1", port) for _ in data]
            assert all(await asyncio.gather(*map(said_back, streams, data)))
            assert (await shell.run(["echo", "and commands still run"])).status == 0
        await shell.close()

    with sshd(tmp_path / "sshd", CLOSED) as login:
        finish(scenario(kind(login.ssh)))


@has_sshd
def test_one_that_is_not_read_holds_up_no_other(kind: Kind, tmp_path: Path) -> None:
    async def scenario(shell: Remote) -> None:
        async with echo() as port:
            _, writer = await shell.open_connection("127.0.0.1", port)
            stuck = asyncio.create_task(send_much(writer))
            assert await said_back(await shell.open_connection("127.0.0.1", port), b"x" * 1_000_000)
            assert not stuck.done()
            stuck.cancel()
            writer.transport.abort()
        await shell.close()

    with sshd(tmp_path / "sshd", CLOSED) as login:
        finish(scenario(kind(login.ssh)))


async def send_much(writer: asyncio.StreamWriter) -> None:
    for _ in range(1000):
        writer.write(bytes(WINDOW))
        await writer.drain()


@has_sshd
@pytest.mark.parametrize("settings", ["", CLOSED], ids=["forwarded", "relayed"])
def test_what_is_given_up_is_closed_though_the_other_side_never_says_a_word(
    kind: Kind, tmp_path: Path, settings: str
) -> None:
    """As an engine that stands still, which is asked for its health every second."""

    async def scenario(shell: Remote) -> None:
        with socket.create_server(("127.0.0.1", 0)) as engine:
            await shell.run(["true"])
            before = open_files()
            for _ in range(20):
                _, writer = await shell.open_connection(*engine.getsockname())
                writer.close()
                await writer.wait_closed()
            await until(lambda: open_files() < before + 10)  # a relay has some, and stays
            there, _ = engine.accept()
            with there:
                await until(lambda: speaks_to_nobody(there))
        await shell.close()

    with sshd(tmp_path / "sshd", settings) as login:
        finish(scenario(kind(login.ssh)))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def speaks_to_nobody(there: socket.socket) -> bool:
    try:
        there.send(b"?")
    except OSError:
        return True
    return False


@has_sshd
def test_where_nobody_listens_is_told_as_by_forwarding(kind: Kind, tmp_path: Path) -> None:
    async def scenario(shell: Remote) -> None:
        async with echo() as port:
            pass
        with pytest.raises(ConnectionRefusedError):
            await shell.open_connection("127.0.0.1", port)
        async with echo() as port:
            assert await said_back(await shell.open_connection("127.0.0.1", port), b"after it")
        await shell.close()

    with sshd(tmp_path / "sshd", CLOSED) as login:
        finish(scenario(kind(login.ssh)))


@has_sshd
def test_http_passes_through_it(kind: Kind, tmp_path: Path) -> None:
    async def scenario(shell: Remote) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, httpx.AsyncClient(transport=transport(shell), trust_env=False) as client:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            assert [(await client.get(url)).text for _ in range(3)] == ["ok"] * 3
        await shell.close()

    with sshd(tmp_path / "sshd", CLOSED) as login:
        finish(scenario(kind(login.ssh)))


@has_sshd
def test_when_the_ssh_connection_is_lost_what_passed_through_ends_and_the_next_is_made_anew(
    kind: Kind, tmp_path: Path
) -> None:
    async def scenario(shell: Remote) -> None:
        async with echo() as port:
            reader, writer = await shell.open_connection("127.0.0.1", port)
            writer.write(b"one")
            assert await reader.readexactly(3) == b"one"
            for server in login.servers():
                os.kill(server, signal.SIGKILL)
            assert await reader.read(-1) == b""
            writer.close()
            assert await said_back(await shell.open_connection("127.0.0.1", port), b"two")
        await shell.close()

    with sshd(tmp_path / "sshd", CLOSED) as login:
        finish(scenario(kind(login.ssh)))


@has_sshd
def test_without_a_python_on_the_login_node_it_says_what_is_needed(kind: Kind, tmp_path: Path) -> None:
    async def scenario(shell: Remote) -> None:
        with pytest.raises(
            ConnectionRefusedError, match=r"(?s)the relay on the login node did not start.* needs a python3"
        ):
            await shell.open_connection("127.0.0.1", 1)
        await shell.close()

    for program in ("sh", "dd"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    with sshd(tmp_path / "sshd", f"{CLOSED}SetEnv PATH={tmp_path}\n") as login:
        finish(scenario(kind(login.ssh)))


@has_sshd
def test_a_command_that_reads_its_input_to_the_end_finds_one(kind: Kind, tmp_path: Path) -> None:
    async def scenario(shell: Remote) -> None:
        assert (await shell.run(["cat"], timeout=10)).stdout == b""
        assert (await shell.run(["cat"], stdin=b"some", timeout=10)).stdout == b"some"
        await shell.close()

    with sshd(tmp_path / "sshd") as login:
        finish(scenario(kind(login.ssh)))


@pytest.mark.parametrize("python", ["python3", "/usr/bin/python3"])
def test_the_far_side_needs_nothing_but_a_python(python: str) -> None:
    if shutil.which(python) is None:
        pytest.skip(f"no {python} here")

    async def scenario() -> None:
        source, pipe = Path(relay.__file__).read_text(), asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(python, "-I", "-c", source, stdin=pipe, stdout=pipe)
        assert process.stdin is not None
        assert process.stdout is not None
        assert await process.stdout.readuntil(HELLO) == HELLO
        ours = Relay(process.stdout, process.stdin)
        running = asyncio.create_task(ours.run())
        async with echo() as port:
            one, other = socket.socketpair()
            near, far = await asyncio.open_connection(sock=one), await asyncio.open_connection(sock=other)
            await ours.open("127.0.0.1", port, far)
            assert await said_back(near, b"y" * 1_000_000)
        process.stdin.close()
        assert await process.wait() == 0
        await running

    finish(scenario())
