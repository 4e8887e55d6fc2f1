"""An SSH server that wants a password and a code, as sites with two factors do."""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from tokenstorm.cluster.ssh.process import ended


class Asking(asyncssh.SSHServer):
    """A site that wants a password and a code from an app, by keyboard-interactive; `typed` is what it is given."""

    def __init__(self, typed: list[list[str]]) -> None:
        self._typed = typed

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return False

    def kbdint_auth_supported(self) -> bool:
        return True

    def get_kbdint_challenge(
        self, username: str, lang: str, submethods: str
    ) -> tuple[str, str, str, list[tuple[str, bool]]]:
        return "", "Welcome", "", [("Password: ", False), ("Code: ", True)]

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
        self._typed.append(list(responses))
        return list(responses) == ["secret", "123456"]


@dataclass
class Site:
    """Where it listens, what it was given, and who is logged in."""

    port: int = 0
    typed: list[list[str]] = field(default_factory=list)
    connections: list[asyncssh.SSHServerConnection] = field(default_factory=list)
    running: set[asyncio.Task[None]] = field(default_factory=set)

    def run(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        """Run a command, as sshd does."""
        task = asyncio.create_task(_run(process))
        self.running.add(task)
        task.add_done_callback(self.running.discard)


async def _run(process: "asyncssh.SSHServerProcess[bytes]") -> None:
    pipe = asyncio.subprocess.PIPE
    shell = await asyncio.create_subprocess_shell(str(process.command), stdin=pipe, stdout=pipe, stderr=pipe)

    async def carry(source: Any, target: Any) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):  # its caller is gone
            while data := await source.read(65536):
                target.write(data)
            target.write_eof()

    given = asyncio.create_task(carry(process.stdin, shell.stdin))
    try:
        await asyncio.gather(carry(shell.stdout, process.stdout), carry(shell.stderr, process.stderr))
        process.exit(await shell.wait())
    finally:
        given.cancel()
        await ended(shell)


@asynccontextmanager
async def site(known_hosts: Path) -> AsyncIterator[Site]:
    """Such a site, whose key is written down as known."""
    site, key = Site(), asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: Asking(site.typed),
        server_host_keys=[key],
        process_factory=site.run,
        encoding=None,
        acceptor=site.connections.append,
    )
    site.port = server.get_port()
    known_hosts.write_text(f"[127.0.0.1]:{site.port} {key.export_public_key().decode()}")
    try:
        yield site
    finally:
        server.close()
        await server.wait_closed()
        for connection in site.connections:
            connection.abort()
            await connection.wait_closed()
        for task in tuple(site.running):
            task.cancel()
            await asyncio.wait((task,))


async def conversation(terminal: int, turns: Sequence[tuple[str, str]]) -> str:
    """Wait for each prompt and answer it; all that was seen."""
    seen, rest = "", ""
    for prompt, answer in turns:
        while not re.search(re.escape(prompt), rest):
            piece = (await asyncio.to_thread(os.read, terminal, 4096)).decode(errors="replace")
            seen, rest = seen + piece, rest + piece
        rest = rest.partition(prompt)[2]
        os.write(terminal, answer.encode())
    return seen
