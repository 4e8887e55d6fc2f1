"""Files behind SSH where SFTP does not do what it should: commands move them, and whoever asks is told why."""

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path, PurePosixPath

import pytest

from sshd import MISSING, SSHD, sshd
from tokenstorm.cluster.setup.doctor import examine
from tokenstorm.cluster.ssh import native as by_asyncssh
from tokenstorm.cluster.ssh.native import SSHManager
from tokenstorm.config.profile import Partitions, Profile, Ssh
from tokenstorm.errors import RefusedFile
from waiting import finish

SERVER = Path("/usr/lib/openssh/sftp-server")
pytestmark = [
    pytest.mark.skipif(SSHD is None or not SERVER.exists(), reason=MISSING),
    pytest.mark.integration,
]
ANSWERS_ONCE = r"head -c 9 >/dev/null; printf '\0\0\0\5\2\0\0\0\3'; exit 0"
ODD = {
    "a start-up file that prints": (f"echo Welcome; exec {SERVER}", "a start-up file"),
    "one that prints a line feed": (f"echo; exec {SERVER}", "a start-up file"),
    "a server that ends": ("exit 1", "ends by itself"),
    "a server that ends at the first question": (ANSWERS_ONCE, "ends by itself"),
    "a server that hangs": ("exec sleep 600", "says nothing"),
    "a server that only reads": (f"exec {SERVER} -R", "does not write"),
    "a server that cannot replace a file": (f"exec {SERVER} -P rename,posix-rename", "does not write"),
}
BIG = bytes(range(256)) * 8192


@contextmanager
def login(folder: Path, does: str | None) -> Iterator[Ssh]:
    """An sshd whose SFTP program is that line of shell; None where there is none."""
    server = folder / "server"
    server.write_text(f"#!/bin/sh\necho started >> {folder}/starts\n{does}\n")
    server.chmod(0o755)
    with sshd(folder / "sshd", sftp=str(server) if does else None) as there:
        yield there.ssh


def use(ssh: Ssh, what: Callable[[SSHManager], Awaitable[None]]) -> None:
    async def scenario() -> None:
        shell = SSHManager(ssh)
        try:
            await what(shell)
        finally:
            await shell.close()

    finish(scenario())


async def files_are_as_ever(shell: SSHManager, folder: Path) -> None:
    """What `test_ssh` holds SFTP to."""
    path = PurePosixPath(folder) / "made" / "on the way" / "file"
    await shell.put(path, b"old", mode=0o755)
    await shell.put(path, BIG)
    assert await shell.get(path) == BIG
    assert await shell.get(path, offset=2, limit=3) == BIG[2:5]
    assert await shell.list(path.parent) == ["file"]
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert Path(path.parent).stat().st_mode & 0o777 == 0o700
    none = path.parent / "none"
    with pytest.raises(FileNotFoundError):
        await shell.get(none)
    assert await shell.list(none) == []
    await shell.remove(none)
    with pytest.raises(RefusedFile, match=r"cannot write .*: .*(directory|exists)"):
        await shell.put(path / "below", b"x")
    await shell.remove(path.parent.parent)
    assert not Path(path.parent.parent).exists()


@pytest.mark.parametrize(("does", "said"), ODD.values(), ids=ODD)
def test_commands_move_files_where_sftp_does_not_and_it_is_found_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, said: str
) -> None:
    monkeypatch.setattr(by_asyncssh, "CONNECT_SECONDS", 2.0)

    async def what(shell: SSHManager) -> None:
        await files_are_as_ever(shell, tmp_path)
        assert said in shell.no_sftp
        assert (tmp_path / "starts").read_text() == "started\n"

    with login(tmp_path, does) as ssh:
        use(ssh, what)


def test_a_server_without_sftp_is_told_as_such(tmp_path: Path) -> None:
    async def what(shell: SSHManager) -> None:
        await files_are_as_ever(shell, tmp_path)
        assert shell.no_sftp == "its SSH server offers no SFTP"

    with login(tmp_path, None) as ssh:
        use(ssh, what)


def test_an_account_whose_every_request_is_a_command_moves_files(tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd", 'ForceCommand sh -c "$SSH_ORIGINAL_COMMAND"\n') as there:
        use(there.ssh, lambda shell: files_are_as_ever(shell, tmp_path))


def test_where_sftp_works_it_is_kept_also_after_a_file_that_cannot_be(tmp_path: Path) -> None:
    async def what(shell: SSHManager) -> None:
        await files_are_as_ever(shell, tmp_path)
        assert shell.no_sftp == ""
        assert "started\nstarted\n" in (tmp_path / "starts").read_text()

    with login(tmp_path, f"exec {SERVER}") as ssh:
        use(ssh, what)


def test_what_a_transfer_left_that_broke_off_is_removed_by_the_next(tmp_path: Path) -> None:
    """The server ends while it writes; the commands that follow clear up after it."""
    path = PurePosixPath(tmp_path) / "file"

    async def what(shell: SSHManager) -> None:
        await shell.put(path, BIG)
        assert [name for name in await shell.list(path.parent) if "file" in name] == ["file"]
        assert await shell.get(path) == BIG

    with login(tmp_path, f"dd bs=1 count=2000 2>/dev/null | {SERVER}") as ssh:
        use(ssh, what)


def test_the_doctor_tells_how_files_go_and_blames_no_base_path(tmp_path: Path) -> None:
    async def scenario(ssh: Ssh) -> None:
        base = PurePosixPath(tmp_path) / "base"
        there = Profile(
            name="p", scheduler="slurm", base_path=base, python=sys.executable, partitions=Partitions(), ssh=ssh
        )
        async with aclosing(examine(there)) as checks:
            found = {check.name: check async for check in checks}["base path"]
        assert found.state == "ok"
        assert "files go by commands: its SFTP server's words are no SFTP" in found.text

    with login(tmp_path, f"echo Welcome; exec {SERVER}") as ssh:
        finish(scenario(ssh))
