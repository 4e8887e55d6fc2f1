"""Ports of this node: which is free, who listens, and whether it is one of ours. Linux only: it reads /proc.

A port is reserved by the name of an abstract unix socket: it lives in the kernel beside the ports themselves, belongs
to one process at a time, and is gone with it. So wrappers that start at the same moment take different ports, and
only somebody who knows nothing of this can still take one away.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

Owner = Literal["nobody", "ours", "foreign", "unknown"]
_PROC = Path("/proc")
_LISTEN = "0A"


def reserve(port: int) -> socket.socket | None:
    """Keep other wrappers of this node off a port until the socket is closed; None when one has it already."""
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mark.bind(f"\0tokenstorm-port-{port}")
    except OSError:
        mark.close()
        return None
    return mark


def take(host: str, candidates: Iterable[int]) -> tuple[int, socket.socket] | None:
    """Reserve the first of some ports that nobody has; None when all are taken."""
    for port in candidates:
        if (mark := reserve(port)) is not None:
            if is_free(host, port):
                return port, mark
            mark.close()
    return None


def is_free(host: str, port: int) -> bool:
    """Whether one could listen there now. Raises OSError when `host` is no address of this machine."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what lingers of old connections is no listener
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def listener(port: int, root: int, mark: bytes | None = None) -> Owner:
    """Who listens on a port: the process `root`, one below it or one with the mark (ours), or another.

    Unknown when it may not be seen.
    """
    inodes = _listening(port)
    if not inodes:
        return "nobody"
    hidden = False
    for pid in chain((root,), _descendants(root), marked(mark) if mark else ()):
        held = _sockets(pid)
        if held is None:
            hidden = True
        elif held & inodes:
            return "ours"
    return "unknown" if hidden else "foreign"


def marked(mark: bytes) -> Iterator[int]:
    """The processes whose environment holds a mark, `NAME=VALUE`, wherever they are below."""
    for entry in os.listdir(_PROC):  # noqa: PTH208 - names are all that is wanted
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if mark in (_PROC / entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry)


def _listening(port: int) -> set[str]:
    """The inodes of the sockets that listen on a port, on whatever address."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                _, local, _, state, *rest = line.split()
                if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                    found.add(rest[5])
    return found


def _sockets(pid: int) -> set[str] | None:
    """The inodes of a process's sockets; None when it may not be looked into."""
    try:
        handles = list((_PROC / str(pid) / "fd").iterdir())
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return set()
    found = set()
    for handle in handles:
        with contextlib.suppress(OSError):
            target = str(handle.readlink())
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    return found


def _descendants(root: int) -> Iterator[int]:
    """The processes below one, at this moment."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):  # noqa: PTH208 - names are all that is wanted
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = (_PROC / entry / "stat").read_bytes()
                parent = int(stat.rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    waiting = list(children.get(root, ()))
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, ())
