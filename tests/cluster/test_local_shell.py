"""The shell of this machine runs what it is told to the letter, and moves files whole."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pytest
import uvloop

from running import alive, wait_for
from tokenstorm.cluster.local import LocalShell
from tokenstorm.errors import Unconfirmed, Unreachable, UsageError

T = TypeVar("T")


def with_shell(use: Callable[[LocalShell], Awaitable[T]]) -> T:
    async def run() -> T:
        shell = LocalShell()
        try:
            return await use(shell)
        finally:
            await shell.close()

    return asyncio.run(run())


@pytest.fixture
def folder(tmp_path: Path) -> PurePosixPath:
    return PurePosixPath(tmp_path)


def test_arguments_input_and_environment_reach_a_command_as_they_are() -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['X'], sys.stdin.read()); sys.exit(3)"
    argv = [sys.executable, "-c", code, "$(id)", "a b", "'\n"]
    out = with_shell(lambda shell: shell.run(argv, stdin=b"in", environment={"X": "$HOME"}))
    assert (out.status, out.stdout, out.stderr) == (3, b"""['$(id)', 'a b', "'\\n"] $HOME in\n""", b"")


def test_a_command_that_reads_nothing_of_its_input_ends_as_any_other() -> None:
    async def run() -> set[int]:
        shell = LocalShell()
        outputs = [await shell.run(["true"], stdin=stdin) for stdin in (b"", b"a" * 1_000_000) for _ in range(20)]
        return {output.status for output in outputs}

    assert uvloop.run(run()) == {0}


def test_a_command_that_is_not_there_ends_as_a_shell_says_it(folder: PurePosixPath) -> None:
    out = with_shell(lambda shell: shell.run(["no-such-command"]))
    assert (out.status, out.stderr) == (127, b"no-such-command: No such file or directory")
    assert with_shell(lambda shell: shell.run([str(folder)])).status == 126


def test_what_cannot_be_an_argument_is_refused() -> None:
    with pytest.raises(UsageError, match="embedded null byte"):
        with_shell(lambda shell: shell.run(["echo", "a\0b"]))


def test_a_command_that_takes_too_long_is_killed_with_its_children(folder: PurePosixPath) -> None:
    pid_file = Path(folder) / "pid"
    code = f"sleep 600 & echo $! > {pid_file}; wait"
    with pytest.raises(Unconfirmed, match=r"bash did not end in 0\.5 s"):
        with_shell(lambda shell: shell.run(["bash", "-c", code], timeout=0.5))
    pid = int(pid_file.read_text())
    wait_for(lambda: not alive(pid), "the child ends too")


def test_running_commands_end_when_the_shell_is_closed() -> None:
    async def use(shell: LocalShell) -> int:
        running = asyncio.create_task(shell.run(["sleep", "600"]))
        while not shell._running:  # noqa: ASYNC110 - the shell sets no event
            await asyncio.sleep(0.001)
        await shell.close()
        return (await running).status

    assert with_shell(use) == -9


def test_a_file_is_read_back_whole_and_in_parts_and_is_ours_alone(folder: PurePosixPath) -> None:
    path = folder / "made" / "on the way" / "file"

    async def use(shell: LocalShell) -> tuple[bytes, bytes, list[str]]:
        await shell.put(path, b"old")
        await shell.put(path, b"0123456789")
        return await shell.get(path), await shell.get(path, offset=2, limit=3), await shell.list(path.parent)

    assert with_shell(use) == (b"0123456789", b"234", ["file"])
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert {Path(parent).stat().st_mode & 0o777 for parent in (path.parent, path.parent.parent)} == {0o700}


def test_many_that_write_one_file_at_once_leave_one_whole_content(folder: PurePosixPath) -> None:
    async def use(shell: LocalShell) -> bytes:
        await asyncio.gather(*(shell.put(folder / "file", str(n).encode() * 1000) for n in range(10)))
        return await shell.get(folder / "file")

    content = with_shell(use)
    assert (len(content), len(set(content))) == (1000, 1)
    assert [path.name for path in Path(folder).iterdir()] == ["file"]


def test_what_is_not_there_is_no_file_an_empty_folder_and_nothing_to_remove(folder: PurePosixPath) -> None:
    with pytest.raises(FileNotFoundError):
        with_shell(lambda shell: shell.get(folder / "none"))
    assert with_shell(lambda shell: shell.list(folder / "none")) == []
    with_shell(lambda shell: shell.remove(folder / "none"))


def test_remove_takes_folders_whole_and_links_without_what_they_point_to(folder: PurePosixPath) -> None:
    (Path(folder) / "kept").mkdir()
    (Path(folder) / "gone").mkdir()
    (Path(folder) / "gone" / "file").touch()
    (Path(folder) / "link").symlink_to(Path(folder) / "kept")
    for name in ("gone", "link"):
        with_shell(lambda shell, name=name: shell.remove(folder / name))  # type: ignore[misc]
    assert [path.name for path in Path(folder).iterdir()] == ["kept"]


def test_a_file_that_cannot_be_written_is_said_by_name(folder: PurePosixPath) -> None:
    (Path(folder) / "file").touch()
    with pytest.raises(Unreachable, match=r"cannot write .*file/below: "):
        with_shell(lambda shell: shell.put(folder / "file" / "below", b""))


def test_a_connection_reaches_a_listener_and_fails_where_there_is_none() -> None:
    def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def use(shell: LocalShell) -> bytes:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        async with server:
            reader, writer = await shell.open_connection(*server.sockets[0].getsockname())
            said = await reader.read()
            writer.close()
            await writer.wait_closed()
        return said

    assert with_shell(use) == b"hello"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            with_shell(lambda shell: shell.open_connection(*nobody.getsockname()))
