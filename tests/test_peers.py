"""Whose a connection is, asked of the kernel about real sockets of several users."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from running import wait_for
from strangers import NOBODY, as_root, becoming, connect_as
from tokenstorm import peers
from tokenstorm.peers import find_peer, users_are_known

ME = os.geteuid()


@contextmanager
def connected(uid: int, listening: str, called: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A user's end of a connection, and the end that was accepted."""
    family = socket.AF_INET6 if ":" in listening else socket.AF_INET
    options = {"family": family, "dualstack_ipv6": True} if listening == "::" else {"family": family}
    with socket.create_server((listening, 0), **options) as server:
        theirs = connect_as(uid, called, server.getsockname()[1])
        with theirs, server.accept()[0] as ours:
            yield theirs, ours


@pytest.mark.parametrize(
    ("listening", "called"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("0.0.0.0", "127.0.0.2"),
        ("::1", "::1"),
        ("::", "::1"),
        ("::", "127.0.0.1"),
        ("::", "::ffff:127.0.0.1"),
    ],
)
@pytest.mark.parametrize(
    ("uid", "peer"),
    [
        (ME, "owner"),
        pytest.param(NOBODY, "stranger", marks=as_root),
        pytest.param(1000, "stranger", marks=as_root),
    ],
)
def test_the_kernel_tells_whose_a_connection_is_in_both_of_its_ways(
    uid: int, peer: str, listening: str, called: str
) -> None:
    with connected(uid, listening, called) as (_, ours):
        assert find_peer(ours) == peer
        here, there = peers._ends(ours)
        assert peers._diagnosed(there, here) == peers._listed(there, here)
        assert peers._listed(there, here).uid == uid


@as_root
def test_root_is_let_in_by_a_user_and_that_user_is_a_stranger_to_another() -> None:
    with connected(0, "127.0.0.1", "127.0.0.1") as (_, of_root), connected(1000, "::1", "::1") as (_, of_a_user):
        os.seteuid(1000)
        try:
            assert (find_peer(of_root), find_peer(of_a_user)) == ("owner", "owner")
            os.seteuid(0)
            os.seteuid(NOBODY)
            assert (find_peer(of_root), find_peer(of_a_user)) == ("owner", "stranger")
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("uid", [ME, pytest.param(NOBODY, marks=as_root)])
def test_who_has_left_is_unknown_and_not_root(uid: int) -> None:
    with connected(uid, "127.0.0.1", "127.0.0.1") as (theirs, ours):
        theirs.shutdown(socket.SHUT_WR)
        ours.recv(1)
        assert find_peer(ours) == ("owner" if uid == ME else "stranger")  # it said all that it had to say, and listens
        theirs.close()
        assert find_peer(ours) == "unknown"


def test_who_broke_off_is_unknown() -> None:
    with connected(ME, "127.0.0.1", "127.0.0.1") as (theirs, ours):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        assert find_peer(ours) == "unknown"


@as_root
def test_a_port_that_somebody_else_took_over_does_not_lend_its_name() -> None:
    """The first caller's request still waits to be read when a second one has the same port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with becoming(NOBODY), socket.socket() as theirs:
            theirs.bind(
                ("127.0.0.77", 0)
            )  # no other program connects from there, which could be quicker than the second one
            theirs.connect(server.getsockname())
            theirs.send(b"GET / HTTP/1.1\r\n\r\n")
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            ours, name = server.accept()
        with ours, socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(name)
            other.setblocking(False)
            other.connect_ex(ours.getsockname())
            here, there = ours.getsockname(), name
            plain = [(socket.inet_aton(address), port) for address, port in (there, here)]
            wait_for(lambda: peers._diagnosed(plain[0], plain[1]).inode or None, "the second one is not known")
            assert find_peer(ours) == "unknown"


def test_a_unix_socket_is_for_whoever_may_open_its_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as caller:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        caller.connect(str(tmp_path / "socket"))
        with server.accept()[0] as accepted:
            assert find_peer(accepted) == "owner"


def test_this_machine_tells_its_users() -> None:
    assert users_are_known()


@as_root
def test_who_comes_from_another_machine_is_remote() -> None:
    """Another network namespace, which is as far away as another machine."""
    name = f"ts{os.getpid()}"
    lines = (
        f"ip link add {name} type veth peer name {name}p",
        f"ip addr add 198.18.77.1/30 dev {name}",
        f"ip link set {name} up",
    )
    away = (
        f"ip addr add 198.18.77.2/30 dev {name}p && ip link set {name}p up && exec 3<>/dev/tcp/198.18.77.1/$0 && read"
    )
    there = ["unshare", "--net", "bash", "-c", f"read; {away}"]
    if subprocess.run(["sh", "-ec", "; ".join(lines)], capture_output=True, check=False).returncode:
        pytest.skip("no networks can be made here")
    try:
        with socket.create_server(("198.18.77.1", 0)) as server:
            port = str(server.getsockname()[1])
            process = subprocess.Popen([*there, port], stdin=subprocess.PIPE)
            assert process.stdin
            try:
                moved = ["ip", "link", "set", f"{name}p", "netns", str(process.pid)]
                wait_for(
                    lambda: Path(f"/proc/{process.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink(), ""
                )
                subprocess.run(moved, check=True)
                process.stdin.write(b"\n")
                process.stdin.flush()
                server.settimeout(30)
                with server.accept()[0] as accepted:
                    assert find_peer(accepted) == "remote"
            finally:
                process.kill()
                process.communicate()
    finally:
        subprocess.run(["ip", "link", "del", name], check=False)
