"""One login by asyncssh, from what the user configured to a connection, and what is told where it fails."""

import asyncio
import shutil
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh

from tokenstorm.cluster.ssh import keys
from tokenstorm.cluster.ssh.asking import TYPING_SECONDS, Ask, typed
from tokenstorm.cluster.ssh.backoff import BackOff
from tokenstorm.cluster.ssh.config import PORT, Resolved, resolved
from tokenstorm.cluster.ssh.process import ended, hear, words
from tokenstorm.cluster.ssh.reach import CONNECT_SECONDS
from tokenstorm.cluster.ssh.refused import SILENT, about_a_refusal, about_its_key
from tokenstorm.cluster.ssh.remote import KEEPALIVE_COUNT
from tokenstorm.config.profile import Ssh
from tokenstorm.errors import Unreachable, UsageError

OPENSSH = 'set ssh.shell = "openssh" in the profile'


class Login:
    """Logs in to the machine of a profile. `ask` is asked for the first login alone."""

    def __init__(self, ssh: Ssh, *, keepalive_seconds: float, back_off: BackOff, ask: Ask | None) -> None:
        if not ssh.host:
            message = "the profile has no host to log in to: set `host` in its [ssh] section"
            raise UsageError(message)
        self.host = ssh.host
        self.back_off = back_off
        self._ssh, self._keepalive, self._ask = ssh, keepalive_seconds, ask
        self._there: Resolved | None = None
        self._way: Piped | None = None

    async def connection(self) -> asyncssh.SSHClientConnection:
        """A new one. After a login that failed the next is not tried at once: a site would ban us. Raises `Unreachable`."""
        self.back_off.check()
        await self.close()
        self._there = await self._configured()
        try:
            async with asyncio.timeout(self._seconds):
                options = await self._options()
                if self._there and (proxy := self._there.proxy()):
                    self._way = await Piped.start(proxy)
                    options["sock"] = self._way.near
                made = await asyncssh.connect(**options)
        except (OSError, ValueError, asyncssh.Error) as error:
            why = await self._cause(error)
            await self.close()
            raise self.back_off.failed(why, refused=isinstance(error, asyncssh.PermissionDenied)) from error
        except BaseException:
            await self.close()
            raise
        self.back_off.succeeded()
        self._ask = None  # nobody may be there when it is made again
        return made

    async def close(self) -> None:
        """End the command that the connection went through, if it went through one."""
        way, self._way = self._way, None
        if way is not None:
            await way.close()

    @property
    def _seconds(self) -> float:
        return TYPING_SECONDS if self._ask else CONNECT_SECONDS

    async def _configured(self) -> Resolved | None:
        """What ssh reads of the user's configuration; None where there is no ssh here, and asyncssh reads it by itself."""
        if shutil.which("ssh") is None:
            return None
        return await resolved(self.host, [*self._given("-p", self._ssh.port), *self._given("-l", self._ssh.user)])

    @staticmethod
    def _given(option: str, value: object) -> Sequence[str]:
        return () if value is None else (option, str(value))

    async def _options(self) -> dict[str, object]:
        """For asyncssh. Commands and terminals of the user's configuration are not ours."""
        said: dict[str, object] = {
            "host": self.host,
            **({"port": self._ssh.port} if self._ssh.port is not None else {}),
            **({"username": self._ssh.user} if self._ssh.user is not None else {}),
            **(self._there.options() if self._there else {}),
            "keepalive_interval": self._keepalive,
            "keepalive_count_max": KEEPALIVE_COUNT,
            "login_timeout": self._seconds,
            "command": None,
            "request_pty": False,
        }
        if ask := self._ask:
            said["client_factory"] = lambda: Asking(ask)
        if self._ssh.known_hosts is not None:
            said["known_hosts"] = str(Path(self._ssh.known_hosts).expanduser())
        if self._ssh.identity_file is not None:
            file = Path(self._ssh.identity_file).expanduser()
            if not file.exists():
                raise Unreachable(self._with_host(f"the profile's ssh.identity_file, {file}, is not there"))
            said |= await keys.only(file, self._ask)
        elif self._there:
            said |= keys.named(self._there.keys(), alone=self._there.only_those)
        return said

    async def _cause(self, error: Exception) -> str:
        """Why nobody was logged in, and what to do about it."""
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return self._with_host(await self._about_its_key(error) + self._beyond("KnownHostsCommand"))
        if isinstance(error, asyncssh.PermissionDenied):
            other = self._beyond() or f"; where `ssh {self.host}` gets in and tokenstorm does not, {OPENSSH}"
            return self._with_host(about_a_refusal(self._ssh, self.host) + other)
        on_the_way = words(await self._way.heard()) if self._way else ""
        late = isinstance(error, TimeoutError) and not on_the_way  # what goes there may be well
        if self._way and isinstance(error, (OSError, asyncssh.ConnectionLost)) and not late:
            return self._with_host(f"no way there: {on_the_way or SILENT}{self._beyond()}")
        return self._with_host(
            self._failure(error) + (f"; on the way there it said: {on_the_way}" if on_the_way else "")
        )

    def _failure(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no login in {self._seconds:g} s{self._beyond()}"
        if isinstance(error, OSError):
            return f"{error}: see ssh.host and ssh.port of the profile, and whether the network is there"
        if isinstance(error, ValueError):
            return f"asyncssh cannot use what ~/.ssh/config says of it: {error}; {OPENSSH}"
        return f"{error}; where `ssh {self.host}` gets in, {OPENSSH}{self._beyond()}"

    def _beyond(self, name: str = "") -> str:
        """What of the configuration only ssh itself can do, in words: all of it, or the setting of that name."""
        lines = [line for line in self._there.beyond() if line.startswith(name)] if self._there else []
        if not lines:
            return ""
        said = f"asyncssh does not do {', '.join(lines)} of your ssh configuration"
        return f"; {said}: where `ssh {self.host}` gets in, {OPENSSH}"

    async def _about_its_key(self, error: asyncssh.HostKeyNotVerifiable) -> str:
        """What to do about a host key that is not in known_hosts: the line to add, and by what to check it before."""
        file = self._ssh.known_hosts or (self._there.new_keys if self._there else "~/.ssh/known_hosts")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                key, name = await self._key()
        except (OSError, ValueError, asyncssh.Error):
            key, name = None, ""
        if key is None:  # that of a jump host, perhaps
            return f"its host key, or that of a host on the way, is not in {file}, or is another one: {error.reason}"
        return about_its_key(file, f"{name} {key.export_public_key('openssh').decode().strip()}", key.get_fingerprint())

    async def _key(self) -> tuple[asyncssh.SSHKey | None, str]:
        """The machine's key, and the name by which it is looked for."""
        if self._there is None:
            port = self._ssh.port or ()
            key = await asyncssh.get_server_host_key(self.host, port)
            options = await asyncssh.SSHClientConnectionOptions.construct(config=(), host=self.host, port=port)
            return key, _known_as(options.host_key_alias or "", options.host, options.port)
        async with _through(self._there.proxy()) as sock:
            key = await asyncssh.get_server_host_key(self._there.host, self._there.port, sock=sock, config=None)
        return key, _known_as(self._there.alias, self._there.host, self._there.port)

    def _with_host(self, message: str) -> str:
        return f"{self.host}: {message}"


def _known_as(alias: str, host: str, port: int) -> str:
    return alias or (host if port == PORT else f"[{host}]:{port}")


class Piped:
    """A command whose standard input and output are one socket, as ProxyCommand wants it. What it says besides is kept."""

    def __init__(self, process: Process, near: socket.socket) -> None:
        self._process, self.near = process, near
        self._said = bytearray()
        self._hearing = asyncio.create_task(hear(process, self._said, aloud=False))

    @classmethod
    async def start(cls, argv: Sequence[str]) -> "Piped":
        """Without our terminal, where Ctrl-C would end it before its time."""
        near, far = socket.socketpair()
        with far:
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv, stdin=far.fileno(), stdout=far.fileno(), stderr=PIPE, start_new_session=True
                )
            except BaseException:
                near.close()
                raise
        return cls(process, near)

    async def heard(self) -> bytes:
        """What it said, with what it may be about to say of its end."""
        await asyncio.wait((self._hearing,), timeout=1.0)
        return bytes(self._said)

    async def close(self) -> None:
        """End it."""
        self._hearing.cancel()
        await asyncio.wait((self._hearing,))
        await ended(self._process)
        self.near.close()  # asyncssh has it, unless nothing came of it


@asynccontextmanager
async def _through(argv: Sequence[str] | None) -> AsyncIterator[socket.socket | None]:
    if argv is None:
        yield None
        return
    way = await Piped.start(argv)
    try:
        yield way.near
    finally:
        await way.close()


class Asking(asyncssh.SSHClient):
    """Logs in with what the user types, where keys are not enough."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._left = 3

    def kbdint_auth_requested(self) -> str | None:
        return self._once("")

    async def kbdint_challenge_received(
        self, name: str, instructions: str, _lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str]:
        said = "".join(f"{text.strip()}\n" for text in (name, instructions) if text.strip())
        answers = []
        for text, shown in prompts:
            answers.append(await typed(self._ask, said + text, shown))
            said = ""
        return answers

    async def password_auth_requested(self) -> str | None:
        return None if self._once("") is None else await typed(self._ask, "Password: ", False)  # noqa: FBT003

    def _once(self, answer: str) -> str | None:
        self._left -= 1
        return answer if self._left >= 0 else None
