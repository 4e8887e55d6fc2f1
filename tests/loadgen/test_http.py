"""The wire, over real sockets."""

import asyncio
import contextlib
import resource
import socket
import ssl
import struct
from pathlib import Path
from time import monotonic_ns

import pytest
import trustme

import scripted
from scripted import Serve, listening, run, saying, server
from tokenstorm.errors import UsageError
from tokenstorm.loadgen.endpoint import Endpoint, endpoints_of
from tokenstorm.loadgen.http import Exchange, Receive
from tokenstorm.loadgen.pool import RETIRE_NS, Pool
from tokenstorm.loadgen.room import Room
from tokenstorm.result import EXHAUSTED, INTERNAL
from waiting import until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True, params=["the kernel's stamps", "the loop's reads"])
def _both_ways_to_read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "stamped", request.param == "the kernel's stamps")


class Kept(Exchange):
    """Keeps the pieces of body with their times."""

    def __init__(self) -> None:
        self.request = b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"
        self.sent = monotonic_ns()
        self.pieces: list[tuple[bytes, int]] = []
        self.over = asyncio.Event()
        self.ends = 0

    def began(self, status: int) -> Receive:
        return lambda piece, at: self.pieces.append((piece, at))

    def ended(self) -> None:
        self.ends += 1
        self.over.set()

    @property
    def body(self) -> bytes:
        return b"".join(piece for piece, _ in self.pieces)

    @property
    def kind(self) -> str | None:
        return self.failure.kind if self.failure else None


async def ask(pool: Pool) -> Kept:
    exchange = Kept()
    pool.send(exchange)
    await exchange.over.wait()
    return exchange


async def ask_once(url: str, tls: ssl.SSLContext | None = None) -> Kept:
    """Ask through a pool of its own."""
    with contextlib.closing(Pool(Endpoint.parse(url), tls or ssl.create_default_context())) as pool:
        return await ask(pool)


def test_one_connection_carries_one_request_after_another() -> None:
    async def main() -> None:
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await saying(*[OK] * 5)(reader, writer)

        async with server(serve) as pool:
            answers = [await ask(pool) for _ in range(5)]
        assert [answer.body for answer in answers] == [b"ok"] * 5
        assert connections == 1

    run(main)


def test_the_connection_used_last_is_used_first_again() -> None:
    async def main() -> None:
        seen: list[int] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            port = writer.get_extra_info("peername")[1]
            while True:
                await reader.readuntil(b"\r\n\r\n")
                seen.append(port)
                writer.write(OK)

        async with server(serve) as pool:
            await pool.open(3)
            for _ in range(4):
                await ask(pool)
        assert len(set(seen)) == 1

    run(main)


def test_a_connection_that_was_idle_for_four_seconds_is_not_used_again() -> None:
    async def main() -> None:
        async with server(saying(OK, OK)) as pool:
            first = await ask(pool)
            later = Kept()
            later.sent = (first.done or 0) + RETIRE_NS + 1
            pool.send(later)
            await later.over.wait()
            assert later.body == b"ok"
            assert not later.resent
            assert (later.connected or 0) > (first.done or 0)

    run(main)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"ok"),
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (CHUNKED + b"3;x=y\r\nabc\r\n0\r\ntrailer: z\r\n\r\n", b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_a_body_is_the_same_however_its_bytes_are_split_over_reads(answer: bytes, body: bytes) -> None:
    """Every split into two reads, and byte by byte."""

    async def main() -> None:
        splits = [[answer[:at], answer[at:]] for at in range(1, len(answer))]
        splits.append([answer[at : at + 1] for at in range(len(answer))])
        turn = iter(splits)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for part in next(turn):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)

        async with server(serve) as pool:
            for _ in splits:
                exchange = await ask(pool)
                assert (exchange.body, exchange.kind, exchange.ends) == (body, None, 1)

    run(main)


def test_chunks_that_share_a_read_share_its_time_which_is_not_before_the_write() -> None:
    async def main() -> None:
        written = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await reader.readuntil(b"\r\n\r\n")
            written = monotonic_ns()
            writer.write(CHUNKED + b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")

        async with server(serve) as pool:
            exchange = await ask(pool)
        assert [piece for piece, _ in exchange.pieces] == [b"a", b"b", b"c"]
        assert len({at for _, at in exchange.pieces}) == 1
        assert exchange.pieces[0][1] >= written
        assert exchange.done == exchange.pieces[0][1]

    run(main)


def test_a_server_that_closes_after_each_answer_is_asked_on_fresh_connections() -> None:
    async def main() -> None:
        answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
        async with server(saying(answer)) as pool:
            answers = [await ask(pool) for _ in range(4)]
        assert [(one.body, one.resent) for one in answers] == [(b"ok", False)] * 4

    run(main)


def test_an_idle_connection_that_the_server_closes_at_the_request_is_replaced_once() -> None:
    async def main() -> None:
        turn = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal turn
            turn += 1
            await saying(OK)(reader, writer)
            if turn == 1:
                await reader.readuntil(b"\r\n\r\n")  # the race: it closes as the next request arrives

        async with server(serve) as pool:
            await ask(pool)
            second = await ask(pool)
        assert (second.body, second.resent, second.kind) == (b"ok", True, None)
        assert turn == 2

    run(main)


def test_a_fresh_connection_that_is_closed_without_an_answer_is_a_failure() -> None:
    async def main() -> None:
        turns = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal turns
            turns += 1
            await reader.readuntil(b"\r\n\r\n")

        async with server(serve) as pool:
            exchange = await ask(pool)
        assert (exchange.kind, exchange.resent, turns) == ("closed", False, 1)

    run(main)


def test_a_request_is_sent_again_only_once() -> None:
    async def main() -> None:
        turns = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal turns
            turns += 1
            if turns == 1:
                await saying(OK)(reader, writer)
            await reader.readuntil(b"\r\n\r\n")

        async with server(serve) as pool:
            await ask(pool)
            exchange = await ask(pool)
        assert (exchange.kind, exchange.resent, turns) == ("closed", True, 2)

    run(main)


def test_a_connection_that_ends_long_after_the_request_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenstorm.loadgen.http.RACE_NS", 0)

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await saying(OK)(reader, writer)
            await reader.readuntil(b"\r\n\r\n")

        async with server(serve) as pool:
            await ask(pool)
            exchange = await ask(pool)
        assert (exchange.kind, exchange.resent) == ("closed", False)

    run(main)


def test_connections_that_are_opened_ahead_are_used_however_long_the_start_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokenstorm.loadgen.pool.RETIRE_NS", 50_000_000)

    async def main() -> None:
        connections = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await saying(OK)(reader, writer)

        async with server(serve) as pool:
            start = monotonic_ns() + 300_000_000
            await pool.open(3, start)
            await asyncio.sleep((start - monotonic_ns()) / 1e9)
            assert (await asyncio.gather(*(ask(pool) for _ in range(3))))[0].body == b"ok"
            assert connections == 3
            await pool.open(3, monotonic_ns() - 1)  # what would come too late is left to the requests
            assert connections == 3

    run(main)


def test_many_connections_at_once_find_the_address_that_listens() -> None:
    """Of the two that the name stands for, the first one refuses."""

    async def main() -> None:
        async with server(saying(OK)) as pool:
            pool._addresses = ["127.0.0.2", "127.0.0.1"]
            await pool.open(50)
            assert pool._addresses == ["127.0.0.1", "127.0.0.2"]
            assert len(pool._idle) == 50

    run(main)


def test_where_there_is_no_room_the_connection_that_was_idle_for_longest_goes_whichever_replica_it_leads_to() -> None:
    async def main() -> None:
        open_now: dict[str, int] = {"a": 0, "b": 0}

        def counting(name: str) -> Serve:
            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                open_now[name] += 1
                try:
                    await saying(*[OK] * 9)(reader, writer)
                finally:
                    open_now[name] -= 1

            return serve

        room = Room(4)
        async with server(counting("a"), room) as a, server(counting("b"), room) as b:
            await asyncio.gather(*(ask(a) for _ in range(3)))
            await ask(b)
            assert open_now == {"a": 3, "b": 1}
            answers = await asyncio.gather(*(ask(b) for _ in range(4)))
            assert [answer.body for answer in answers] == [b"ok"] * 4
            await until(lambda: open_now == {"a": 0, "b": 4})

    run(main)


def test_a_request_is_sent_though_there_is_no_room_and_no_connection_is_idle() -> None:
    async def main() -> None:
        async with server(saying(OK), Room(1)) as pool:
            answers = await asyncio.gather(*(ask(pool) for _ in range(3)))
            assert [answer.body for answer in answers] == [b"ok"] * 3

    run(main)


def test_connections_are_opened_ahead_only_as_far_as_there_is_room() -> None:
    async def main() -> None:
        async with server(saying(OK), Room(5)) as pool:
            await pool.open(50)
            assert len(pool._idle) == 5

    run(main)


def test_a_machine_without_sockets_left_is_not_the_services_fault() -> None:
    async def main() -> None:
        async with server(saying(OK)) as pool:
            await pool.resolve()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                exchange = await ask(pool)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert exchange.kind == EXHAUSTED

    run(main)


@pytest.mark.parametrize(
    ("answer", "reset", "kind"),
    [
        (CHUNKED + b"5\r\nab", True, "reset"),
        (CHUNKED + b"5\r\nab", False, "closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab", False, "closed"),
        (b"HTTP/1.1 200", False, "closed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", False, "malformed"),
        (CHUNKED + b"zz\r\n", False, "malformed"),
    ],
)
def test_an_answer_that_breaks_off_is_a_failure_with_its_kind(answer: bytes, reset: bool, kind: str) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await saying(answer)(reader, writer)
            if reset:
                peer = writer.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

        async with server(serve) as pool:
            exchange = await ask(pool)
            assert (exchange.kind, exchange.ends) == (kind, 1)

    run(main)


def test_bytes_that_nobody_asked_for_do_not_become_the_next_answer() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await saying(OK + b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\nlate", OK)(reader, writer)

        async with server(serve) as pool:
            first, second = await ask(pool), await ask(pool)
        assert (first.status, first.body) == (200, b"ok")
        assert (second.status, second.body) == (200, b"ok")

    run(main)


@pytest.mark.parametrize("more", [OK, b"and more\r\n", CHUNKED + b"5\r\nab"], ids=["twice", "bytes", "half"])
def test_what_follows_a_whole_answer_in_one_read_is_not_the_next_requests(more: bytes) -> None:
    """The next request leaves as soon as the answer is whole, and gets its own, on another connection."""

    async def main() -> None:
        turn = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal turn
            turn += 1
            await saying(OK + more if turn == 1 else OK, OK)(reader, writer)

        async with server(serve) as pool:
            following = Kept()

            class First(Kept):
                def ended(self) -> None:
                    super().ended()
                    following.sent = monotonic_ns()
                    pool.send(following)

            first = First()
            pool.send(first)
            await following.over.wait()
        assert (first.body, first.kind) == (b"ok", None)
        assert (following.body, following.kind) == (b"ok", None)
        assert following.done is not None
        assert following.done > following.sent

    run(main)


def test_nobody_listening_is_refused() -> None:
    async def main() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            assert (await ask_once(f"http://127.0.0.1:{free.getsockname()[1]}")).kind == "refused"

    run(main)


def test_a_name_that_is_not_known_is_dns() -> None:
    async def main() -> None:
        assert (await ask_once("http://nowhere.invalid:80")).kind == "dns"

    run(main)


def test_localhost_is_found_on_whichever_address_listens() -> None:
    async def main() -> None:
        async with server(saying(OK)) as pool:
            assert (await ask_once(f"http://localhost:{pool.endpoint.port}")).body == b"ok"

    run(main)


def test_ipv6_and_unix_sockets_are_addresses_too(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "engine.sock"
        async with listening(lambda serve: asyncio.start_server(serve, "::1", 0), saying(OK)) as six:
            assert (await ask_once(f"http://[::1]:{six.sockets[0].getsockname()[1]}")).body == b"ok"
        async with listening(lambda serve: asyncio.start_unix_server(serve, str(path)), saying(OK)):
            assert (await ask_once(f"unix:{path}")).body == b"ok"
        assert (await ask_once(f"unix:{tmp_path}/none.sock")).kind == "refused"

    run(main)


def test_tls_is_verified() -> None:
    async def main() -> None:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        async with server(saying(OK), ssl=context) as plain:
            url = f"https://127.0.0.1:{plain.endpoint.port}"
            assert (await ask_once(url)).kind == "tls"
            assert (await ask_once(url, trusting)).body == b"ok"

    run(main)


def test_what_is_meant_for_tls_is_never_sent_in_the_clear() -> None:
    with pytest.raises(ValueError, match="needs a TLS context"):
        Pool(Endpoint.parse("https://127.0.0.1:9"))


def test_a_connection_over_tls_gives_up_its_place_too_and_one_whose_handshake_failed_takes_none() -> None:
    async def main() -> None:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        room = Room(2)
        async with server(saying(OK, OK), ssl=context) as one, server(saying(OK, OK), ssl=context) as other:
            urls = [f"https://127.0.0.1:{pool.endpoint.port}" for pool in (one, other)]
            with contextlib.closing(Pool(Endpoint.parse(urls[0]), ssl.create_default_context(), room)) as mistrusting:
                assert [(await ask(mistrusting)).kind for _ in range(3)] == ["tls"] * 3
            assert not room.full
            pools = [Pool(Endpoint.parse(url), trusting, room) for url in urls]
            for pool in (*pools, *pools):
                answers = await asyncio.gather(ask(pool), ask(pool))
                assert [answer.body for answer in answers] == [b"ok"] * 2
            for pool in pools:
                pool.close()
            await until(lambda: not room.full)

    run(main)


def test_a_bug_in_whoever_takes_the_body_fails_that_request_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    class Buggy(Kept):
        def began(self, status: int) -> Receive:
            raise ZeroDivisionError

    async def main() -> None:
        async with server(saying(OK, OK)) as pool:
            exchange = Buggy()
            pool.send(exchange)
            await exchange.over.wait()
            assert exchange.failure is not None
            assert exchange.kind == INTERNAL
            assert "ZeroDivisionError" in exchange.failure.detail
            assert (await ask(pool)).body == b"ok"

    run(main)
    assert "Traceback" in capsys.readouterr().err


def test_a_connection_attempt_that_is_given_up_fails_once_and_leaves_nothing_behind() -> None:
    async def main() -> None:
        pool = Pool(Endpoint.parse("http://127.0.0.1:9"))
        exchange = Kept()
        pool.send(exchange)
        exchange.fail("timeout", "no complete answer in 1 s")
        await asyncio.sleep(0)
        assert (exchange.kind, exchange.ends) == ("timeout", 1)
        pool.close()

    run(main)


@pytest.mark.parametrize(
    ("url", "path", "authority"),
    [
        ("http://h:8000", "", "h:8000"),
        ("http://h:8000/v1", "", "h:8000"),
        ("http://h:8000/v1/", "", "h:8000"),
        ("https://h/proxy/v1", "/proxy", "h"),
        ("http://[::1]:8", "", "[::1]:8"),
    ],
)
def test_a_url_is_taken_with_and_without_v1(url: str, path: str, authority: str) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.path, endpoint.authority) == (path, authority)


@pytest.mark.parametrize(
    ("url", "chat", "completions", "models"),
    [
        ("http://h", "/v1/chat/completions", "/v1/completions", "/v1/models"),
        ("http://h//v1//", "/v1/chat/completions", "/v1/completions", "/v1/models"),
        ("http://h/a/v1/", "/a/v1/chat/completions", "/a/v1/completions", "/a/v1/models"),
        ("http://h/v1/chat/completions", "/v1/chat/completions", "/v1/completions", "/v1/models"),
        ("http://h/v1/completions/", "/v1/chat/completions", "/v1/completions", "/v1/models"),
        ("http://h/chat/completions", "/chat/completions", "/completions", "/models"),
        ("http://h/api/paas/v4", "/api/paas/v4/chat/completions", "/api/paas/v4/completions", "/api/paas/v4/models"),
        (
            "https://h/openai/deployments/m/chat/completions?api-version=2024-10-21",
            "/openai/deployments/m/chat/completions?api-version=2024-10-21",
            "/openai/deployments/m/completions?api-version=2024-10-21",
            "/openai/deployments/m/models?api-version=2024-10-21",
        ),
    ],
)
def test_an_address_of_an_operation_is_taken_as_it_is(url: str, chat: str, completions: str, models: str) -> None:
    endpoint = Endpoint.parse(url)
    assert (endpoint.target_of("chat"), endpoint.target_of("completions")) == (chat, completions)
    assert endpoint.target("/models") == models


def test_an_address_of_another_operation_than_the_loads_is_refused_with_the_way_out() -> None:
    assert len(endpoints_of(["http://h/v1/chat/completions"], "chat")) == 1
    with pytest.raises(UsageError, match=r"`endpoint`: .*say completions here"):
        endpoints_of(["http://h/v1/completions"], "chat")


@pytest.mark.parametrize(
    "url",
    [
        "h:8000",
        "127.0.0.1:8000",
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://u:p@h",
        "http://:p@h",
        "http://a..b",
        "http://h:0",
        "http://h/?x=1",
        "http://h/v1?key=secret",
        "http://h/v1/models",
        "http://h/v1/tokenize/",
        "http://h/v1?api-version=1&key=secret",
        "unix:relative",
        "http://h\r\nx: y",
    ],
)
def test_what_is_no_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(UsageError):
        Endpoint.parse(url)
