"""The launcher asks replicas what they say of themselves: once a second, within bounds, and no longer than there is an answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic_ns

import msgspec
import pytest

from plans import plan
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.loadgen.asking import LARGEST_ANSWER
from tokenstorm.loadgen.sampling import LONGEST_PAUSE, Sampler, _Engine
from tokenstorm.metrics.engine import EngineSecond

TEXT = "vllm:num_requests_running {running}\nvllm:generation_tokens_total {tokens}\n"

Handler = Callable[[Request, Reply], None]


@asynccontextmanager
async def engine(handler: Handler, **fields: object) -> AsyncIterator[tuple[Sampler, _Engine]]:
    """A sampler whose clock has its common start now, and the one engine it asks; only the test makes it ask."""
    server = await serve(handler, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sampler = Sampler(plan(targets=[{"replica": "a", "url": f"http://127.0.0.1:{port}/x/v1"}], **fields), "key")
    sampler.start(monotonic_ns() - 10**9)
    await sampler._asking.stop()
    try:
        yield sampler, sampler._watched["a"]
    finally:
        await sampler.close()
        server.close()


def counting(asked: list[Request]) -> Handler:
    """An engine that makes ten tokens between two questions."""

    def handle(request: Request, reply: Reply) -> None:
        asked.append(request)
        reply.send(200, TEXT.format(running=len(asked), tokens=10 * len(asked)).encode())

    return handle


def run(test: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


def test_what_is_counted_between_two_lines_is_never_lost_and_the_key_is_shown() -> None:
    async def test() -> None:
        asked: list[Request] = []
        async with engine(counting(asked)) as (sampler, watched):
            assert await watched.ask(5) == 1
            assert sampler.take() == {}, "the first figures are what later ones are counted from"
            await watched.ask(5)
            await watched.ask(5)  # two answers for one line
            (said,) = sampler.take().values()
            assert (said.running, said.generation_tokens) == (3.0, 20.0)
            assert sampler.take() == {}
            await sampler.finish()
            assert sampler.take()["a"].generation_tokens == 10.0
        assert {(one.path, one.headers["authorization"]) for one in asked} == {("/x/metrics", "Bearer key")}

    run(test())


@pytest.mark.parametrize(
    ("status", "body"), [(404, b""), (401, b""), (405, b""), (200, b"<html>"), (200, b"a 1\n" * (LARGEST_ANSWER // 3))]
)
def test_a_service_without_metrics_is_asked_once(status: int, body: bytes) -> None:
    async def test() -> None:
        async with engine(lambda _, reply: reply.send(status, body)) as (sampler, watched):
            assert await watched.ask(5) is None
            await sampler.finish()
            assert sampler.take() == {}

    run(test())


def test_an_engine_that_is_silent_is_asked_less_and_less_and_holds_nobody() -> None:
    async def test() -> None:
        async with engine(lambda _request, _reply: None) as (sampler, watched):
            pauses = [await watched.ask(0.01) for _ in range(6)]
            assert pauses == [2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE]
            await sampler.finish()
            assert sampler.take() == {}

    run(test())


def test_an_engine_that_answers_again_is_asked_each_second_again() -> None:
    statuses = [503, 503, 200, 503]

    def handle(_: Request, reply: Reply) -> None:
        reply.send(statuses.pop(0), TEXT.format(running=1, tokens=1).encode())

    async def test() -> None:
        async with engine(handle) as (_, watched):
            assert [await watched.ask(5) for _ in range(4)] == [2, 4, 1, 2]

    run(test())


def test_nobody_is_asked_who_was_not_to_be() -> None:
    async def test() -> None:
        sampler = Sampler(plan(engine_metrics=False), None)
        sampler.start(monotonic_ns())
        await sampler.finish()
        assert sampler.take() == {}
        await sampler.close()

    run(test())


def test_an_answer_that_is_given_up_leaves_no_connection() -> None:
    """At the end of a run an engine may be silent: it is left, and is asked on a new connection or not at all."""

    async def test() -> None:
        came, left = asyncio.Event(), asyncio.Event()

        def handle(_: Request, reply: Reply) -> None:
            reply.on_close = left.set
            came.set()

        async with engine(handle) as (_, watched):
            asking = asyncio.create_task(watched.ask(30))
            await came.wait()
            asking.cancel()
            await asyncio.wait([asking])
            await left.wait()

    run(test())


@pytest.mark.parametrize("figure", ["9e15", "1e300", "nan", "-5"])
def test_no_figure_of_an_engine_can_stop_a_run(figure: str) -> None:
    """Its lines are written and read again as what they are."""
    names = [f'vllm:time_to_first_token_seconds_bucket{{le="1",n="{n}"}} {figure}' for n in range(9)]
    names += [f"vllm:time_to_first_token_seconds_{part} {figure}" for part in ("sum", "count")]
    names += [f"vllm:num_requests_running {figure}", "vllm:num_requests_waiting 1"]

    async def test() -> None:
        async with engine(lambda _, reply: reply.send(200, "\n".join(names).encode())) as (sampler, watched):
            for _ in range(2):
                assert await watched.ask(5) == 1
            said = sampler.take()["a"]
            assert msgspec.json.decode(msgspec.json.encode(said), type=EngineSecond) == said

    run(test())
