"""The launcher asks samplers what GPUs say: each reading at its own time, once, and one from after the end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic_ns

import pytest

from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.loadgen.power import PowerSampler, _Node
from tokenstorm.metrics.energy import GpuReading
from tokenstorm.metrics.gputext import write_gpus
from tokenstorm.targets import GpuSampler

SECOND = 10**9


@asynccontextmanager
async def gpus(handler: Callable[[Request, Reply], None], *, keyed: bool) -> AsyncIterator[tuple[PowerSampler, _Node]]:
    """A sampler whose common start was 10 s ago, and the node it asks; only the test makes it ask."""
    server = await serve(handler, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/gpus"
    power = PowerSampler([GpuSampler(node="n1", url=url, keyed=keyed)], "key")
    power.start(monotonic_ns() - 10 * SECOND)
    await power._asking.stop()
    try:
        yield power, power._nodes[0]
    finally:
        await power.close()
        server.close()


def said(watts: float, joules: float) -> GpuReading:
    return GpuReading(at=0.0, gpu="GPU-a", node="-", watts=watts, joules=joules)


def run(test: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


@pytest.mark.parametrize("keyed", [True, False])
def test_a_reading_has_its_own_time_and_only_the_services_sampler_gets_the_key(keyed: bool) -> None:
    asked: list[Request] = []

    def handle(request: Request, reply: Reply) -> None:
        asked.append(request)
        reply.send(200, write_gpus([said(300, len(asked))], age=4.0))

    async def test() -> None:
        async with gpus(handle, keyed=keyed) as (power, node):
            before = (monotonic_ns() - node._start_at) / SECOND
            for _ in range(2):
                assert await node.ask() == 1
                await asyncio.sleep(0.002)
            after = (monotonic_ns() - node._start_at) / SECOND
            first, second = power.take()
            assert round(before - 4, 3) <= first.at < second.at <= round(after - 4, 3)  # each 4 s old
            assert (first.node, first.watts, first.joules) == ("n1", 300, 1)
            assert power.take() == []
        assert [one.path for one in asked] == ["/gpus"] * 2
        assert [one.headers.get("authorization") for one in asked] == ["Bearer key" if keyed else None] * 2

    run(test())


def test_what_an_exporter_repeats_is_no_new_reading() -> None:
    """DCGM reads at its own pace and does not tell how long ago: a figure that stands still may be old."""
    told = [b"1", b"1", b"1", b"2"]

    def handle(_: Request, reply: Reply) -> None:
        reply.send(200, b'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a"} 30%b\n' % told.pop(0))

    async def test() -> None:
        async with gpus(handle, keyed=False) as (power, node):
            for _ in range(4):
                await node.ask()
                await asyncio.sleep(0.002)
            assert [reading.watts for reading in power.take()] == [301, 302]

    run(test())


def test_the_last_reading_is_one_from_after_the_end() -> None:
    """A reading may be older than its answer: it is asked for again until it is from after the end."""
    ages = [0.0, 9.0, 0.0]

    def handle(_: Request, reply: Reply) -> None:
        reply.send(200, write_gpus([said(300, 9)], age=ages.pop(0)))

    async def test() -> None:
        async with gpus(handle, keyed=False) as (power, node):
            await node.ask()
            end = (monotonic_ns() - node._start_at) / SECOND
            await power.finish()
            assert power.take()[-1].at >= round(end, 6)
            assert ages == []

    run(test())


def test_a_node_without_an_answer_holds_nobody() -> None:
    async def test() -> None:
        async with gpus(lambda _request, _reply: None, keyed=False) as (power, node):
            assert await node.ask(0.01) == 1
            await power.finish()
            assert power.take() == []

    run(test())
