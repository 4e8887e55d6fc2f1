"""The user's own ssh as a master (ControlMaster), through which everything of one login goes.

If ~/.ssh/config has a ControlPath and a master answers there, that one is used, and never ended. Otherwise tokenstorm starts
one. Every process with the same login finds it and holds it by a connection to its socket. It ends some seconds after the
last of them, even if that was killed.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import signal
import stat
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path

from tokenstorm.cluster.ssh.asking import TYPING_SECONDS
from tokenstorm.cluster.ssh.backoff import BackOff
from tokenstorm.cluster.ssh.config import Resolved, resolved
from tokenstorm.cluster.ssh.control import Control
from tokenstorm.cluster.ssh.process import ended, escaped, hear, options, quoted, same_terminal, start, words
from tokenstorm.cluster.ssh.reach import CONNECT_SECONDS
from tokenstorm.cluster.ssh.refused import SILENT, about_a_refusal, about_its_key
from tokenstorm.cluster.ssh.remote import KEEPALIVE_COUNT
from tokenstorm.config.profile import Ssh
from tokenstorm.errors import Unreachable, UsageError

PERSIST_SECONDS = 5
"""How long a master of ours stays when nobody holds it."""
SOCKET_ROOM = 40
"""The longest folder above our own that leaves room for its name, a socket's, and what ssh puts behind that."""
NO_MASTER = "tokenstorm-no-master"
"""What an ssh prints when it finds no master to go through."""
NO_ROOM = "Session open refused by peer"
_CUT = re.compile(r"Connection (?:(?:closed|reset) by|to) UNKNOWN port")
_NOBODY = re.compile(r" (?:with|from|by|to) UNKNOWN port \d+")
"""How ssh names the other end of a ProxyCommand, which may have ended, or lead to a machine that refused."""
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
    """A login by ssh. With `asks`, ssh itself asks on the terminal, for the first login alone. One that is `apart`, which is
    a name of its own, shares nobody's master."""

    def __init__(self, ssh: Ssh, *, keepalive_seconds: float, back_off: BackOff, asks: bool, apart: str = "") -> None:
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
        self._apart = apart
        self.back_off = back_off
        self._connecting = asyncio.Lock()
        self._control: Control | None = None
        self._stdin_null = False

    async def login(self) -> None:
        async with self._connecting:
            if self._control is not None and self._control.there:
                return
            await self.close()
            self.back_off.check()
            self._control = await self._master()
            self.back_off.succeeded()
            self._asks = False  # nobody may be there when it is made again

    async def doubt(self) -> None:
        """Give up a master that does not answer, and end it if it is ours: the next command logs in again."""
        control = self._control
        if control is None:
            return
        if (answers := await Control.to(control.path)) is not None:
            await answers.close()
            return
        if control is not self._control:  # another doubted it too, and has logged in since
            return
        if control.path.parent == _folder():  # or it would, when it goes on, remove its successor's socket
            with contextlib.suppress(OSError):
                if Path(f"/proc/{control.pid}/comm").read_text() == "ssh\n":
                    os.kill(control.pid, signal.SIGKILL)
        await control.close()

    async def close(self) -> None:
        """Let go of it."""
        if self._control is not None:
            await self._control.close()

    async def through(self, *arguments: str) -> Process:
        """An ssh that goes through the master, or nowhere."""
        assert self._control, "after the login"
        return await start(*self._mux(self._control.path), *arguments)

    def _mux(self, control: Path) -> list[str]:
        """Options that make ssh go through a master or nowhere: without a master, it prints NO_MASTER."""
        nowhere = f"ProxyCommand=sh -c 'echo {NO_MASTER} >&2'"
        own = options("BatchMode=yes", "ControlMaster=no", nowhere, *(("StdinNull=no",) if self._stdin_null else ()))
        return [*self._options(), *own, "-S", escaped(control)]

    def _options(self) -> list[str]:
        """What the profile says, and what is ours."""
        said = options(
            *_OURS, "LogLevel=INFO", f"ServerAliveInterval={self._keepalive}", f"ServerAliveCountMax={KEEPALIVE_COUNT}"
        )
        if self._ssh.port is not None:
            said += ["-p", str(self._ssh.port)]
        if self._ssh.user is not None:
            said += ["-l", self._ssh.user]
        if self._ssh.identity_file is not None:
            file = Path(self._ssh.identity_file).expanduser()
            if not file.exists():
                raise Unreachable(self._with_host(f"the profile's ssh.identity_file, {file}, is not there"))
            said += options(f"IdentityFile={quoted(file)}", "IdentitiesOnly=yes")
        if self._ssh.known_hosts is not None:
            said += options(
                f"UserKnownHostsFile={quoted(Path(self._ssh.known_hosts).expanduser())}", "GlobalKnownHostsFile=none"
            )
        return said

    async def _master(self) -> Control:
        """A master that answers: the user's own, or ours, found or made."""
        try:
            there = await resolved(self.host, self._options())
        except Unreachable as error:
            raise self.back_off.failed(str(error)) from error
        self._stdin_null = there.stdin_null
        if there.control and not self._apart and (control := await Control.to(there.control)):
            return control
        path = _folder() / hashlib.sha256(f"{there}{self._apart}".encode(errors="replace")).hexdigest()[:16]
        async with _locked(path.with_suffix(".lock")):
            return await Control.to(path) or await self._make_master(path, there)

    async def _make_master(self, control: Path, there: Resolved) -> Control:
        """Log in, and leave a master behind, without a session. ssh asks on the terminal itself, where the site's words are seen too."""
        control.unlink(missing_ok=True)  # of one that was killed
        asked = options(
            f"BatchMode={'no' if self._asks else 'yes'}", "ControlMaster=yes", f"ControlPersist={PERSIST_SECONDS}"
        )
        seconds = TYPING_SECONDS if self._asks else CONNECT_SECONDS
        by_the_way = control.with_suffix(".way")
        by_the_way.unlink(missing_ok=True)
        if way := there.proxy(asks=self._asks):  # whose words an ssh that will be a master throws away
            # in words that each user's own shell reads alike: csh has another way to say where errors go
            command = shlex.join(("/bin/sh", "-c", 'exec "$@" 2>>"$0"', str(by_the_way), *way))
            asked += options(f"ProxyCommand={command.replace('%', '%%')}")
        arguments = [*asked, *self._options(), "-N", "-S", escaped(control), "--", self.host]
        with same_terminal() if self._asks else contextlib.nullcontext():
            process = await start(*arguments, terminal=self._asks)
            heard = bytearray()
            listening = asyncio.create_task(hear(process, heard, aloud=self._asks))
            try:
                async with asyncio.timeout(seconds):
                    await process.wait()
            except TimeoutError:
                raise self.back_off.failed(self._with_host(f"no login in {seconds:g} s")) from None
            finally:
                await asyncio.wait(
                    (listening,), timeout=1.0
                )  # to the end of what it said; the master has let go of that
                listening.cancel()
                await ended(process, politely=True)
                await asyncio.wait((listening,))
        on_the_way = words(_read_and_remove(by_the_way))
        if made := await Control.to(control):
            return made
        said = words(bytes(heard))
        if way and _CUT.search(said):
            why = f"no way there: {on_the_way or SILENT}"
            raise self.back_off.failed(self._with_host(why), refused="ermission denied" in on_the_way)
        raise self.back_off.failed(await self._cause(_NOBODY.sub("", said), there), refused="ermission denied" in said)

    async def _cause(self, said: str, there: Resolved) -> str:
        """Why nobody was logged in, and what to do about it."""
        if "host key" in said.lower():
            return self._with_host(await self._about_its_key(said, there))
        if "ermission denied" in said:
            return self._with_host(f"{about_a_refusal(self._ssh, self.host)}: {said}")
        if re.search("resolve hostname|connect to host|timed out", said):
            return self._with_host(
                f"{said}: see ssh.host and ssh.port of the profile, and whether the network is there"
            )
        return self._with_host(said or "ssh did not log in, and said nothing")

    async def _about_its_key(self, said: str, there: Resolved) -> str:
        """Asks for the key by a login that goes no further."""
        file = self._ssh.known_hosts or there.new_keys
        with tempfile.TemporaryDirectory() as scratch:
            seen = Path(scratch) / "seen"
            asking = options(
                "StrictHostKeyChecking=accept-new",
                f"UserKnownHostsFile={quoted(seen)}",
                "HashKnownHosts=no",
                "BatchMode=yes",
            )
            asking += options("GlobalKnownHostsFile=none", "PreferredAuthentications=none", "ControlPath=none")
            process = await start(*asking, *self._options(), "--", self.host, "exit 0")
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

    def _with_host(self, message: str) -> str:
        return f"{self.host}: {message}"


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


def _read_and_remove(file: Path) -> bytes:
    """A file's content, empty if there is none; the file is removed."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
    finally:
        file.unlink(missing_ok=True)


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
