"""Calls over sockets that another user of this machine made. Only root can make such sockets."""

import http.client
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


@dataclass
class Told:
    """An answer. `headers` are without those that differ from call to call."""

    status: int
    headers: dict[str, str]
    body: bytes


@contextmanager
def becoming(uid: int) -> Iterator[None]:
    """What this process makes meanwhile is that user's: its sockets, too."""
    before = os.geteuid()
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)


def connect_as(uid: int, host: str, port: int, *, family: int = socket.AF_UNSPEC) -> socket.socket:
    """A connection of that user."""
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)[0]
    with becoming(uid):
        made = socket.socket(*found[:3])
    made.settimeout(60)
    made.connect(found[4])
    return made


def ask_as(
    uid: int, url: str, method: str = "GET", *, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Told:
    """One call over a connection of that user. Only the head of a stream is read."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    call = http.client.HTTPConnection(parts.hostname, parts.port)
    call.sock = connect_as(uid, parts.hostname, parts.port)
    try:
        call.request(method, parts.path or "/", body=body, headers=dict(headers or {}))
        answer = call.getresponse()
        varying = {"date", "transfer-encoding"}
        told = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in varying}
        endless = told.get("content-type", "").startswith(("text/event-stream", "application/x-ndjson"))
        with answer:
            return Told(answer.status, told, b"" if endless and method != "HEAD" else answer.read())
    finally:
        call.close()
