"""Commands behind SSH, whatever shell the account has there, whatever that prints, and however little of them arrives."""

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath

import pytest

from sshd import MISSING, SSHD, Kind, sshd
from tokenstorm.cluster.ssh.command import once
from tokenstorm.cluster.ssh.remote import OUTPUT_BYTES, Remote
from tokenstorm.errors import CommandFailed, Unconfirmed, Unreachable
from waiting import finish, until

pytestmark = [pytest.mark.skipif(SSHD is None, reason=MISSING), pytest.mark.integration]
HARD = ["a\nb", "'", '"', "\\", "\\n", "!", "!!", "$HOME", "`id`", "*", "#", "~", " ", "", "é", "%d", "{a,b}", ";", "&"]


def use(kind: Kind, folder: Path, what: Callable[[Remote], Awaitable[None]], settings: str = "") -> None:
    async def scenario() -> None:
        there = kind(login.ssh)
        try:
            await what(there)
        finally:
            await there.close()

    with sshd(folder / "sshd", settings) as login:
        finish(scenario())


@pytest.mark.parametrize("shell", ["bash", "dash", "zsh", "tcsh", "fish"])
def test_every_login_shell_hands_arguments_on_as_they_are(kind: Kind, tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here: scripts/lab install brings it")

    async def what(there: Remote) -> None:
        done = await there.run(["printf", r"%s\0", *HARD], environment={"LANG": "C.UTF-8"})
        assert (done.status, done.stdout.decode().split("\0")[:-1], done.stderr) == (0, HARD, b"")
        done = await there.run(["sh", "-c", 'cat; echo "$A" >&2; exit 255'], stdin=b"in", environment={"A": "'\n!"})
        assert (done.status, done.stdout, done.stderr) == (255, b"in", b"'\n!\n")

    use(kind, tmp_path, what, f'ForceCommand {shell} -c "$SSH_ORIGINAL_COMMAND"\n')


def test_what_a_login_prints_is_no_part_of_an_answer(kind: Kind, tmp_path: Path) -> None:
    async def what(there: Remote) -> None:
        assert (await there.run(["echo", "said"])).stdout == b"said\n"

    use(kind, tmp_path, what, 'ForceCommand echo Welcome; printf "no newline"; eval "$SSH_ORIGINAL_COMMAND"\n')


def test_an_account_that_may_run_nothing_is_told_in_its_own_words(kind: Kind, tmp_path: Path) -> None:
    async def what(there: Remote) -> None:
        with pytest.raises(Unreachable, match="runs no commands: This account is closed"):
            await there.run(["true"])

    use(kind, tmp_path, what, "ForceCommand echo This account is closed; exit 1\n")


def test_a_command_that_arrives_in_part_is_not_run(tmp_path: Path) -> None:
    """Cut at every byte, the last one too."""
    command = once(["rm", "-r", str(tmp_path / "a" / "b")], {"A": "b"}, 60)
    (tmp_path / "a" / "b").mkdir(parents=True)
    for size in range(len(command.script)):
        subprocess.run(["sh", "-c", command.line], input=command.script[:size], capture_output=True, check=False)
        assert (tmp_path / "a" / "b").is_dir(), command.script[:size]
    whole = subprocess.run(["sh", "-c", command.line], input=command.script, capture_output=True, check=True)
    assert command.answer(b"", whole.stderr) is not None
    assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a").is_dir()


def test_a_command_that_was_ended_at_its_deadline_has_no_status(tmp_path: Path) -> None:
    """Whoever waits for it may have slept meanwhile: that it was ended is no answer of the command's."""
    command = once(["sh", "-c", f"sleep 60; touch {tmp_path}/after"], {}, 1)
    done = subprocess.run(["sh", "-c", command.line], input=command.script, capture_output=True, check=False)
    assert command.answer(done.stdout, done.stderr) is None
    assert not (tmp_path / "after").exists()


def test_nobody_there_sees_the_environment_of_a_command(kind: Kind, tmp_path: Path) -> None:
    async def what(there: Remote) -> None:
        seen = await there.run(
            ["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null; true"], environment={"KEY": "s3cr3t"}
        )
        assert b"tokenstorm-" in seen.stdout  # it is among them
        assert b"s3cr3t" not in seen.stdout

    use(kind, tmp_path, what)


def test_a_server_that_gives_few_sessions_is_waited_for(kind: Kind, tmp_path: Path) -> None:
    async def what(there: Remote) -> None:
        files = [PurePosixPath(tmp_path) / str(number) for number in range(6)]
        doing = [there.run(["sleep", "0.1"]) for _ in range(6)], [there.put(path, b"x") for path in files]
        await asyncio.gather(*doing[0], *doing[1])
        assert [await there.get(path) for path in files] == [b"x"] * 6

    use(kind, tmp_path, what, "MaxSessions 3\n")


def test_a_command_that_talks_without_end_is_given_up(kind: Kind, tmp_path: Path) -> None:
    async def what(there: Remote) -> None:
        with pytest.raises(Unconfirmed, match="said more than 64 MB"):
            await there.run(["head", "-c", str(OUTPUT_BYTES * 2), "/dev/zero"])
        assert (await there.run(["true"])).status == 0

    use(kind, tmp_path, what)


def test_a_command_whose_deadline_is_over_is_ended_there_too(kind: Kind, tmp_path: Path) -> None:
    async def what(there: Remote) -> None:
        text = 'echo $$ > "$1.new" && mv "$1.new" "$1"; exec sleep 600'
        await there.run(["true"])  # logs in, which is not what the deadline is for
        with pytest.raises(Unconfirmed):
            await there.run(["sh", "-c", text, "sh", str(tmp_path / "pid")], timeout=4)
        pid = (tmp_path / "pid").read_text().strip()
        await until(lambda: not Path(f"/proc/{pid}").exists())

    use(kind, tmp_path, what)


def test_the_specifications_names_do_what_they_say(kind: Kind, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request), request))
        await writer.drain()
        writer.close()

    async def what(there: Remote) -> None:
        assert await there.execute_remote_command(["cat"], stdin=b"in") == b"in"
        with pytest.raises(CommandFailed, match="status 3: why"):
            await there.execute_remote_command(["sh", "-c", "echo why >&2; exit 3"])
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/path"
            said = await there.http_request_via_ssh("POST", url, content=b"body", headers={"X-A": "b"})
            assert said.text.startswith("POST /path HTTP/1.1")
        remote, home = tmp_path / "remote", tmp_path / "home"
        remote.mkdir()
        home.mkdir()
        (remote / "stdout.log").write_text("one\n")
        await there.sync_logs_from_remote(PurePosixPath(remote), home)
        with (remote / "stdout.log").open("a") as log:
            log.write("two\n")
        await there.sync_logs_from_remote(PurePosixPath(remote), home)
        assert [path.name for path in home.iterdir()] == ["stdout.log"]
        assert (home / "stdout.log").read_text() == "one\ntwo\n"

    use(kind, tmp_path, what)
