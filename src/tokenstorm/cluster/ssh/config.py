"""The user's ~/.ssh/config, as ssh itself reads it: `ssh -G HOST` tells what it makes of it, and asyncssh is told that.

So an `Include`, a `Match exec`, a time as `1m30s` or a file that is not there mean to both shells what they mean to ssh. Where
there is no ssh on this machine, asyncssh reads the file by itself.
"""

import asyncio
import getpass
import hashlib
import os
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs

from tokenstorm.cluster.ssh.process import ended, start, words
from tokenstorm.errors import Unreachable

PORT = 22
_SECONDS = 20.0
_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
_ALGORITHMS = {
    "kexalgorithms": ("kex_algs", get_kex_algs),
    "ciphers": ("encryption_algs", get_encryption_algs),
    "macs": ("mac_algs", get_mac_algs),
}
_BEYOND = {
    "gssapiauthentication": ("GSSAPIAuthentication", "no"),
    "hostbasedauthentication": ("HostbasedAuthentication", "no"),
    "knownhostscommand": ("KnownHostsCommand", "none"),
    "pkcs11provider": ("PKCS11Provider", "none"),
    "proxyusefdpass": ("ProxyUseFdpass", "no"),
    "securitykeyprovider": ("SecurityKeyProvider", "internal"),
}
"""What asyncssh does not do, as ssh_config names it, and the value that asks for nothing."""


@dataclass(frozen=True)
class Resolved:
    """What ssh makes of a host: each keyword in small letters, with its values in order."""

    name: str
    values: Mapping[str, Sequence[str]]

    @property
    def host(self) -> str:
        """The machine's own name or address."""
        return self._one("hostname") or self.name

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._one("port") or PORT)

    @property
    def alias(self) -> str:
        """By which its key is looked for, where that is not its name."""
        return self._one("hostkeyalias")

    @property
    def control(self) -> Path | None:
        """Where a master of the user's own would listen."""
        path = self._one("controlpath")
        return Path(path) if path and path != "none" else None

    @property
    def stdin_null(self) -> bool:
        """Whether commands are to read nothing. An ssh that is too old to be told so does not know the word."""
        return self._one("stdinnull") == "yes"

    def proxy(self, *, asks: bool = False) -> list[str] | None:
        """The command whose streams are the connection, as ssh makes it of ProxyCommand or ProxyJump; None without. An ssh in
        it may ask on the terminal with `asks`."""
        if (jump := self._one("proxyjump")) and jump != "none":
            *before, last = jump.split(",")
            user, host, port = _place(last)
            how = [] if asks else ["-o", "BatchMode=yes"]
            how += [*(["-l", user] if user else []), *(["-p", port] if port else [])]
            how += ["-J", ",".join(before)] if before else []
            return ["ssh", *how, "-W", f"[{self.host}]:{self.port}", "--", host]
        if (command := self._one("proxycommand")) and command != "none":
            return [os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {self.expanded(command)}"]
        return None

    def keys(self) -> list[Path]:
        """The files of keys that are there; ssh passes over the others."""
        return self._files("identityfile")

    @property
    def only_those(self) -> bool:
        """Whether the agent's other keys are left out."""
        return self._one("identitiesonly") == "yes"

    def options(self) -> dict[str, object]:
        """The same for asyncssh, but for its keys and its proxy."""
        said: dict[str, object] = {"config": None, "host": self.host, "port": self.port}
        said["family"] = _FAMILIES.get(self._one("addressfamily"), socket.AF_UNSPEC)
        said["known_hosts"] = self.known_hosts() or asyncssh.import_known_hosts("")
        said["client_certs"] = [str(file) for file in self._files("certificatefile")]
        if user := self._one("user"):
            said["username"] = user
        if alias := self._one("hostkeyalias"):
            said["host_key_alias"] = alias
        if (address := self._one("bindaddress")) and address != "none":
            said["local_addr"] = (address, 0)
        if methods := self._one("preferredauthentications"):
            said["preferred_auth"] = methods
        agent = self._one("identityagent")
        if agent == "none":
            said["agent_path"] = None
        elif agent and agent != "SSH_AUTH_SOCK":
            said["agent_path"] = os.environ.get(agent[1:], "") if agent.startswith("$") else str(self._path(agent))
        for keyword, (option, known) in _ALGORITHMS.items():
            there = {name.decode() for name in known()}
            if names := [name for name in self._one(keyword).split(",") if name in there]:
                said[option] = names
        return said

    def known_hosts(self) -> list[str]:
        """The files of known hosts that are there."""
        return [str(file) for kind in ("user", "global") for file in self._files(f"{kind}knownhostsfile")]

    @property
    def new_keys(self) -> str:
        """The file that a host key is to be added to, in words where ssh is told to keep none."""
        first = next(iter(self._one("userknownhostsfile").split()), "none")
        return first if first not in {"none", os.devnull} else "a file that ssh.known_hosts of the profile names"

    def beyond(self) -> list[str]:
        """The settings that asyncssh does not have, as they would stand in the file."""
        given = [(name, self._one(key)) for key, (name, idle) in _BEYOND.items() if self._one(key) not in {"", idle}]
        return [f"{name} {value}" for name, value in given]

    def expanded(self, value: str) -> str:
        """With ssh's tokens filled in: %h, %p, %r and the like."""
        home, here = str(Path.home()), socket.gethostname()
        user, jump = self._one("user"), self._one("proxyjump").replace("none", "")
        all_of_it = f"{here}{self.host}{self.port}{user}{jump}"
        tokens = {
            "%": "%", "h": self.host, "n": self.name, "p": str(self.port), "r": user, "u": getpass.getuser(), "d": home,
            "i": str(os.getuid()), "k": self._one("hostkeyalias") or self.name, "l": here, "L": here.partition(".")[0],
            "j": jump, "C": hashlib.sha1(all_of_it.encode(), usedforsecurity=False).hexdigest(),
        }  # fmt: skip
        return re.sub("%(.)", lambda found: tokens.get(found[1], found[0]), value)

    def _one(self, keyword: str) -> str:
        return next(iter(self.values.get(keyword, ())), "")

    def _files(self, keyword: str) -> list[Path]:
        """Those that are there. A line of ssh's may hold several, or one with blanks."""
        found: list[Path] = []
        for value in self.values.get(keyword, ()):
            paths = [self._path(value)]
            if not _readable(paths[0]):
                paths = [self._path(part) for part in value.split()]
            found += [path for path in paths if _readable(path)]
        return list(dict.fromkeys(found))

    def _path(self, value: str) -> Path:
        plain = re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], ""), self.expanded(value))
        return Path(plain.strip('"')).expanduser()


def _readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _place(jump: str) -> tuple[str, str, str]:
    """User, host and port of one of ProxyJump's hosts; nothing for what it leaves out."""
    user, _, place = jump.removeprefix("ssh://").rpartition("@")
    found = re.fullmatch(r"\[(.*)\](?::(\d+))?|([^:]*)(?::(\d+))?", place)
    if found is None:  # an IPv6 address as it is
        return user, place, ""
    return user, found[1] or found[3], found[2] or found[4] or ""


async def resolved(host: str, arguments: Sequence[str]) -> Resolved:
    """What ssh makes of that host with these arguments. Raises `Unreachable` in its own words, and UsageError without an ssh."""
    process = await start(*arguments, "-G", "--", host)
    try:
        async with asyncio.timeout(_SECONDS):
            said, why = await process.communicate()
    except TimeoutError:
        message = (
            f"{host}: ssh did not read its configuration in {_SECONDS:g} s: see what `ssh -G {shlex.quote(host)}` does"
        )
        raise Unreachable(message) from None
    finally:
        await ended(process)
    if process.returncode:
        message = f"{host}: ssh cannot read its configuration: {words(why)}"
        raise Unreachable(message)
    return parsed(host, said.decode(errors="surrogateescape"))


def parsed(host: str, said: str) -> Resolved:
    """What `ssh -G` printed."""
    values: dict[str, list[str]] = {}
    for line in said.splitlines():
        keyword, _, value = line.partition(" ")
        values.setdefault(keyword.lower(), []).append(value.strip())
    return Resolved(host, values)
