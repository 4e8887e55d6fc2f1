"""The user's own ssh as a master (ControlMaster), through which everything of one login goes.

A master of the user's own, by a ControlPath of ~/.ssh/config, is used where it answers, and never ended. Else the master is
ours: whoever logs in the same way finds it, each holds it by a session of its own, and it ends some seconds after the last
of them, killed or not.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import signal
import stat
import sys
import tempfile
import termios
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path

from tokenstorm.cluster.backoff import BackOff
from tokenstorm.cluster.reach import CONNECT_SECONDS
from tokenstorm.cluster.ssh import KEEPALIVE_COUNT, TYPING_SECONDS, about_a_refusal, about_its_key
from tokenstorm.cluster.tty import restore
from tokenstorm.config import Ssh
from tokenstorm.errors import Unreachable, UsageError
from tokenstorm.printable import printable

PERSIST_SECONDS = 5
"""How long a master of ours stays when nobody holds it."""
ANSWER_SECONDS = 5.0
"""A master that says nothing for so long has stopped."""
NOISE_BYTES = 2**20
"""What a site's start-up files may print."""
_KEEPER = "exec sh -c 'echo tokenstorm; exec cat >/dev/null'"
SOCKET_ROOM = 40
"""The longest folder above our own that leaves room for its name, a socket's, and what ssh puts behind that."""
NO_MASTER = "tokenstorm-no-master"
"""What an ssh says that finds no master to go through."""
NO_ROOM = "Session open refused by peer"
# What ~/.ssh/config may say for terminals is not for us. A host key is known, or refused.
_OURS = (
    "StrictHostKeyChecking=yes",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "Tunnel=no",
    "EscapeChar=none",
    f"ConnectTimeout={CONNECT_SECONDS:.0f}",
    "ConnectionAttempts=1",
)


class Master:
    """A login by ssh. With `asks`, ssh itself asks on the terminal, for the first login alone."""

    def __init__(self, ssh: Ssh, *, keepalive_seconds: float, back_off_seconds: Sequence[float], asks: bool) -> None:
        if not ssh.host:
            message = "the profile has no host to log in to: set `host` in its [ssh] section"
            raise UsageError(message)
        if ssh.host.startswith("-"):
            message = f"{ssh.host!r} is no host: it would be an option of ssh"
            raise UsageError(message)
        self.host = ssh.host
        self._ssh = ssh
        self._keepalive = max(1, ceil(keepalive_seconds))
        self._asks = asks
        self._back_off = BackOff(back_off_seconds)
        self._connecting = asyncio.Lock()
        self._control: Path | None = None
        self._pid: int | None = None
        self._keeper: Process | None = None

    async def login(self) -> None:
        async with self._connecting:
            if self._keeper is not None and self._keeper.returncode is None:
                return
            self._back_off.check()
            self._control, self._pid = await self._master()
            self._keeper = await self._hold()
            self._back_off.succeeded()
            self._asks = False  # nobody may be there when it is made again

    async def doubt(self) -> None:
        """A master that stands still is given up, and ended if it is ours: the next command logs in anew."""
        keeper, pid = self._keeper, self._pid
        if keeper is None or self._control is None or await self._answers(self._control) is not None:
            return
        if keeper is not self._keeper:  # another doubted it too, and has logged in since
            return
        if pid and self._control.parent == _folder():  # or it would, when it goes on, remove its successor's socket
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "ssh\n":
                    os.kill(pid, signal.SIGKILL)
        await ended(keeper)

    async def close(self) -> None:
        """Let go of it."""
        if self._keeper is not None:
            await ended(self._keeper)

    async def through(self, *arguments: str) -> Process:
        """An ssh that goes through the master, or nowhere."""
        assert self._control, "after the login"
        return await _ssh(*self._mux(self._control), *arguments)

    def _mux(self, control: Path) -> list[str]:
        """Options with which ssh goes through a master or nowhere: where there is none, it says a word of ours."""
        nowhere = f"ProxyCommand=sh -c 'echo {NO_MASTER} >&2'"
        return [*self._options(), *_o("BatchMode=yes", "ControlMaster=no", nowhere), "-S", _escaped(control)]

    def _options(self) -> list[str]:
        """What the profile says, and what is ours."""
        said = _o(
            *_OURS, "LogLevel=INFO", f"ServerAliveInterval={self._keepalive}", f"ServerAliveCountMax={KEEPALIVE_COUNT}"
        )
        if self._ssh.port is not None:
            said += ["-p", str(self._ssh.port)]
        if self._ssh.user is not None:
            said += ["-l", self._ssh.user]
        if self._ssh.identity_file is not None:
            file = Path(self._ssh.identity_file).expanduser()
            if not file.exists():
                raise Unreachable(self._said(f"the profile's ssh.identity_file, {file}, is not there"))
            said += _o(f"IdentityFile={_quoted(file)}", "IdentitiesOnly=yes")
        if self._ssh.known_hosts is not None:
            said += _o(
                f"UserKnownHostsFile={_quoted(Path(self._ssh.known_hosts).expanduser())}", "GlobalKnownHostsFile=none"
            )
        return said

    async def _master(self) -> tuple[Path, int]:
        """The socket and the process of a master that answers: the user's own, or ours, found or made."""
        resolved = await self._resolved()
        own = re.search(r"^controlpath (.+)$", resolved, re.MULTILINE)
        if own and own[1] != "none" and (pid := await self._answers(Path(own[1]))):
            return Path(own[1]), pid
        control = _folder() / hashlib.sha256(resolved.encode()).hexdigest()[:16]
        async with _locked(control.with_suffix(".lock")):
            return control, await self._answers(control) or await self._make_master(control)

    async def _resolved(self) -> str:
        """What ssh makes of the host by all configuration there is: where two agree, they log in alike."""
        process = await _ssh(*self._options(), "-G", "--", self.host)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                said, why = await process.communicate()
        except TimeoutError:
            raise self._back_off.failed(
                self._said(
                    f"ssh did not read its configuration in {CONNECT_SECONDS:g} s: see what `ssh -G {self.host}` does"
                )
            ) from None
        finally:
            await ended(process)
        if process.returncode:
            raise Unreachable(self._said(words(why)))
        return said.decode(errors="replace")

    async def _make_master(self, control: Path) -> int:
        """Log in, and leave a master behind; its process. ssh asks on the terminal itself, where the site's words are seen too."""
        control.unlink(missing_ok=True)  # of one that was killed
        asked = _o(
            f"BatchMode={'no' if self._asks else 'yes'}", "ControlMaster=yes", f"ControlPersist={PERSIST_SECONDS}"
        )
        seconds = TYPING_SECONDS if self._asks else CONNECT_SECONDS
        arguments = [*asked, *self._options(), "-S", _escaped(control), "--", self.host, "exit 0"]
        with _same_terminal() if self._asks else contextlib.nullcontext():
            process = await _ssh(*arguments, terminal=self._asks)
            heard = bytearray()
            listening = asyncio.create_task(_hear(process, heard, aloud=self._asks))
            try:
                async with asyncio.timeout(seconds):
                    await process.wait()
            except TimeoutError:
                raise self._back_off.failed(self._said(f"no login in {seconds:g} s")) from None
            finally:
                await asyncio.wait(
                    (listening,), timeout=1.0
                )  # to the end of what it said; the master has let go of that
                listening.cancel()
                await ended(process, politely=True)
        if pid := await self._answers(control):
            return pid
        said = words(bytes(heard))
        raise self._back_off.failed(await self._cause(said), refused="ermission denied" in said)

    async def _hold(self) -> Process:
        """A session that does nothing: while it is there, so is the master, and its end tells that of the master."""
        assert self._control
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                while True:
                    process = await self.through("--", self.host, _KEEPER)
                    try:
                        refusal = await _refusal(process)
                    except BaseException:
                        await ended(process)
                        raise
                    if refusal is None:
                        return process
                    await ended(process)
                    if NO_ROOM not in refusal:
                        raise self._back_off.failed(self._said(f"its login shell runs no commands: {refusal}"))
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise self._back_off.failed(self._said(f"no session in {CONNECT_SECONDS:g} s")) from None

    async def _answers(self, control: Path) -> int | None:
        """The process of the master at a socket; None where there is none, or none that answers."""
        if not control.exists():
            return None
        process = await _ssh("-S", _escaped(control), "-O", "check", "--", self.host)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                _, said = await process.communicate()
        except TimeoutError:
            return None
        finally:
            await ended(process)
        found = re.search(rb"pid=(\d+)", said)
        return int(found[1]) if found and process.returncode == 0 else None

    async def _cause(self, said: str) -> str:
        """Why nobody was logged in, and what to do about it."""
        if "host key" in said.lower():
            return self._said(await self._about_its_key(said))
        if "ermission denied" in said:
            return self._said(f"{about_a_refusal(self._ssh, self.host)}: {said}")
        if re.search("resolve hostname|connect to host|timed out", said):
            return self._said(f"{said}: see ssh.host and ssh.port of the profile, and whether the network is there")
        return self._said(said or "ssh did not log in, and said nothing")

    async def _about_its_key(self, said: str) -> str:
        """Asks for the key by a login that goes no further."""
        file = self._ssh.known_hosts or "~/.ssh/known_hosts"
        with tempfile.TemporaryDirectory() as scratch:
            seen = Path(scratch) / "seen"
            asking = _o(
                "StrictHostKeyChecking=accept-new",
                f"UserKnownHostsFile={_quoted(seen)}",
                "HashKnownHosts=no",
                "BatchMode=yes",
            )
            asking += _o("GlobalKnownHostsFile=none", "PreferredAuthentications=none", "ControlPath=none")
            process = await _ssh(*asking, *self._options(), "--", self.host, "exit 0")
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await process.communicate()
            except TimeoutError:
                pass  # it may have seen the key
            finally:
                await ended(process)
            line = seen.read_text().splitlines()[0] if seen.exists() and seen.read_text() else None
            if line is None:  # that of a jump host
                return f"its host key, or that of a host on the way, is not in {file}, or is another one: {said}"
            shown = await asyncio.create_subprocess_exec("ssh-keygen", "-l", "-f", str(seen), stdout=PIPE)
            fingerprint = (await shown.communicate())[0].split()[1].decode()
        return about_its_key(file, line, fingerprint)

    def _said(self, message: str) -> str:
        return f"{self.host}: {message}"


async def _ssh(*arguments: str, terminal: bool = False) -> Process:
    """An ssh. Without our terminal, Ctrl-C there does not end it."""
    try:
        return await asyncio.create_subprocess_exec(
            "ssh",
            *arguments,
            stdin=DEVNULL if terminal else PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=not terminal,
            limit=NOISE_BYTES,
        )
    except FileNotFoundError:
        message = 'there is no ssh on this machine: install it, or leave out ssh.shell = "openssh"'
        raise UsageError(message) from None


async def _refusal(keeper: Process) -> str | None:
    """What a session says that does not hold; nothing of one that does."""
    assert keeper.stdout
    assert keeper.stderr
    try:
        await keeper.stdout.readuntil(b"tokenstorm\n")
    except asyncio.IncompleteReadError as end:
        return words(end.partial + await keeper.stderr.read())
    except asyncio.LimitOverrunError:
        return "it talks without end"
    return None


async def _hear(process: Process, heard: bytearray, *, aloud: bool) -> None:
    """What an ssh says, kept, and passed on to our own standard error."""
    assert process.stderr
    while part := await process.stderr.read(NOISE_BYTES):
        heard += part
        if aloud:
            sys.stderr.write(printable(part.decode(errors="replace")))
            sys.stderr.flush()


async def ended(process: Process, *, politely: bool = False) -> None:
    """End it, if it has not. One that may have a terminal in its hands is first given the time to let go of it."""
    for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, None)) if politely else ((signal.SIGKILL, None),):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)  # Process.kill() takes away the status that asyncio waits for
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(
        TimeoutError, OSError
    ):  # what it started may hold them open, as the ssh to a jump host does
        async with asyncio.timeout(1.0):
            if process.stdin is not None:
                await process.stdin.wait_closed()
            for stream in (process.stdout, process.stderr):
                while stream is not None and await stream.read(NOISE_BYTES):
                    pass  # up to its end, which closes it


@contextlib.contextmanager
def _same_terminal() -> Iterator[None]:
    """However ssh is left at a prompt of its own: afterwards one sees again what one types."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        yield
        return
    was = termios.tcgetattr(terminal)
    try:
        yield
    finally:
        restore(terminal, was)
        os.close(terminal)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """One process at a time: of two that log in, the second finds the first one's master."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        async with asyncio.timeout(TYPING_SECONDS):
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.1)
    except TimeoutError:
        os.close(file)
        message = f"another tokenstorm has been logging in there for {TYPING_SECONDS:g} s: answer it, or end it"
        raise Unreachable(message) from None
    except BaseException:
        os.close(file)
        raise
    try:
        yield
    finally:
        os.close(file)


def _folder() -> Path:
    """Where our masters' sockets lie: for this user alone, and with a short path, since sockets have no room for long ones."""
    places = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - of ours is a folder in it
    above = next(place for place in places if place and len(place) < SOCKET_ROOM)
    folder = Path(above) / f"tokenstorm-ssh-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        message = f"{folder} is not a folder of yours alone (0700), as the sockets of logins need: remove it"
        raise UsageError(message)
    return folder


def _o(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("-o", setting)]


def _escaped(path: Path) -> str:
    """As ssh reads a path: a percent sign begins a token."""
    return str(path).replace("%", "%%")


def _quoted(path: Path) -> str:
    return f'"{_escaped(path)}"'


def words(said: bytes) -> str:
    return " ".join(said.decode(errors="replace").split())
