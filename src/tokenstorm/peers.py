"""Whose process is at the other end of a connection.

Loopback is everybody's: on a login node any user reaches what listens there. Of a connection that stays on this machine
the kernel knows who made the other end, and tells it by sock_diag in some 30 µs, however many sockets there are. Where
there is no sock_diag, /proc/net/tcp has the same, and takes longer the more there are.
"""

import atexit
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from threading import get_ident
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["Peer", "find_peer", "users_are_known"]

Peer: TypeAlias = Literal["owner", "stranger", "unknown", "remote"]
"""`owner`: the user who runs this process, or root. `stranger`: another user of this machine. `unknown`: the connection
came over loopback, and the kernel does not tell whose it is. `remote`: it came by an address that other machines reach,
and nobody here is at its other end.
"""

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_ANY_COOKIE: Final = 2**32 - 1
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_QUESTION = struct.Struct("=BBBxI2s2s16s16sIII")  # inet_diag_req_v2
_ANSWER = struct.Struct("=xBxx48xIIIII")  # inet_diag_msg: its state, and last the uid and the inode
_ERRNO = struct.Struct("=i")
_CONNECTED: Final = frozenset((1, 4, 5, 8, 9, 11))
"""TCP states of an end that may belong to a process, and has greeted the other end: none that only asks to connect."""
_OURS_OPEN: Final = frozenset((1, 8))
"""While our end is ESTABLISHED or CLOSE_WAIT nobody else can be connected to it from the same port."""
_MAPPED: Final = bytes(10) + b"\xff\xff"
_EVERY_UID: Final = 2**32 - 1
_numbers = count(1)
"""Of the questions to the kernel, whose answers repeat them."""

_End: TypeAlias = tuple[bytes, int]
"""An address, 4 bytes or 16, and a port."""


class _Socket(NamedTuple):
    """What the kernel tells of a TCP socket. `inode` is 0 where no process has it any more: then `uid` says nothing."""

    state: int
    uid: int
    inode: int


def find_peer(connection: socket.socket) -> Peer:
    """Who is at the other end of a connection that was accepted; ask once, while it is new.

    Who may open a unix socket is for its file to say: there everybody is the owner.
    """
    if connection.family == socket.AF_UNIX:
        return "owner"
    try:
        here, there = _ends(connection)
    except OSError:
        return "unknown"  # it is over already
    try:
        uid = _uid_of(_lookup()(there, here))
    except (OSError, LookupError):
        return "unknown" if _is_loopback(here[0]) else "remote"
    if uid == _unmapped_uid() or not _is_open(connection):
        return "unknown"
    return "owner" if uid in (0, os.geteuid()) else "stranger"


def users_are_known() -> bool:
    """Whether this machine tells the users of connections at all, tried on one of our own."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()),
            server.accept()[0] as accepted,
        ):
            return find_peer(accepted) == "owner"
    except OSError:
        return False


def _uid_of(found: _Socket) -> int:
    """Raises `LookupError` for a socket that no process has: the kernel shows many of those as root's."""
    if found.state not in _CONNECTED or not found.inode:
        raise LookupError(found)
    return found.uid


def _is_open(connection: socket.socket) -> bool:
    with suppress(OSError):
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _OURS_OPEN
    return False


@cache
def _lookup() -> Callable[[_End, _End], _Socket]:
    """The way that works on this machine: it takes a socket's own end and its other one. Raises OSError, LookupError."""
    with suppress(OSError, LookupError), socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as ours:
            _uid_of(_diagnosed(*_ends(ours)))
        return _diagnosed
    return _listed


def _diagnosed(near: _End, far: _End) -> _Socket:
    """Ask the kernel for one socket, by sock_diag."""
    if sys.platform != "linux":
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    family = socket.AF_INET if len(near[0]) == 4 else socket.AF_INET6  # noqa: PLR2004 - bytes of an address
    question = _QUESTION.pack(
        family,
        socket.IPPROTO_TCP,
        0,
        _EVERY_UID,  # in any state
        near[1].to_bytes(2, "big"),
        far[1].to_bytes(2, "big"),
        near[0],
        far[0],
        0,
        _ANY_COOKIE,
        _ANY_COOKIE,
    )
    number = next(_numbers) % 2**32
    header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, number, 0)
    kernel = _kernel(os.getpid(), get_ident())
    kernel.send(header + question)
    kind, answered = 0, -1
    while answered != number:
        answer = kernel.recv(4096, socket.MSG_DONTWAIT)  # it is there when `send` returns
        _, kind, _, answered, _ = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        code = -_ERRNO.unpack_from(answer, _HEADER.size)[0]
        raise OSError(code, os.strerror(code))
    state, _, _, _, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    return _Socket(state, uid, inode)


@cache
def _kernel(_process: int, _thread: int) -> socket.socket:
    """Kept, since to open it takes longer than to ask; one for each that asks, so that nobody gets another's answer."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
    atexit.register(opened.close)
    return opened


def _listed(near: _End, far: _End) -> _Socket:
    """Look for one socket among all of them."""
    for name in ("tcp", "tcp6"):
        table = Path(f"/proc/net/{name}").read_bytes()
        mapped = name == "tcp6"
        place = table.find(b": %b %b " % (_as_listed(near, mapped=mapped), _as_listed(far, mapped=mapped)))
        if place >= 0:
            words = table[place : table.find(b"\n", place)].split()
            return _Socket(int(words[3], 16), int(words[7]), int(words[9]))
    raise LookupError(near)


def _as_listed(end: _End, *, mapped: bool) -> bytes:
    """An end as /proc/net has it: words of four bytes, in this machine's order. `mapped` makes IPv6 of IPv4."""
    address = _MAPPED + end[0] if mapped and len(end[0]) == 4 else end[0]  # noqa: PLR2004 - bytes of an address
    words = struct.unpack(f"={len(address) // 4}I", address)
    return b"%b:%04X" % (b"".join(b"%08X" % word for word in words), end[1])


def _ends(connection: socket.socket) -> tuple[_End, _End]:
    """Our end and the other one. ::ffff:127.0.0.1 is 127.0.0.1: there the kernel finds sockets of both families."""
    names = connection.getsockname(), connection.getpeername()
    here, there = ((socket.inet_pton(connection.family, name[0]).removeprefix(_MAPPED), name[1]) for name in names)
    return here, there


def _is_loopback(address: bytes) -> bool:
    return address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\x01"  # noqa: PLR2004 - 127.0.0.0/8


@cache
def _unmapped_uid() -> int | None:
    """The uid that stands for all users who have none in this user namespace; None where everybody has one."""
    try:
        ranges = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
        if sum(int(line.split()[2]) for line in ranges) >= _EVERY_UID:
            return None
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except FileNotFoundError:
        return None  # a kernel without user namespaces
