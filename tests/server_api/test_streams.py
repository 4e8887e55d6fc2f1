"""Prompts and streams through the Server API and the orchestrator to real (simulated) engines, some of which are killed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from running import Engine, Stage, fetch
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.local import LocalShell
from tokenstorm.orchestrator.app import described
from tokenstorm.orchestrator.replicas import Replica
from tokenstorm.orchestrator.routing import Router, vllm_routes
from tokenstorm.server_api.app import create_app
from tokenstorm.server_api.where import Address, Fixed
from tokenstorm.web import Server, new_app

CHAT: Any = [{"role": "user", "content": "hi"}]
MODEL = "served"
KEY = "the-engines-key"


def engines(stage: Stage, count: int, *options: str) -> list[Engine]:
    """Simulated engines with a key."""
    options = ("--model", MODEL, "--api-key-env", "ENGINE_KEY", *options)
    return [stage.simulate(*options, ENGINE_KEY=KEY) for _ in range(count)]


def known(engines: list[Engine]) -> list[Replica]:
    """The engines as replicas that are always said to be well: nobody's health checks help the routing here."""
    return [
        Replica(
            id=f"n.{number}",
            service_id="s1",
            node="n",
            status="running",
            host="127.0.0.1",
            port=int(engine.url.rpartition(":")[2]),
            models=(MODEL,),
            api_key=KEY,
        )
        for number, engine in enumerate(engines)
    ]


@asynccontextmanager
async def gateway(engines: list[Engine]) -> AsyncIterator[str]:
    """The address of a service with these replicas, through both APIs."""
    replicas = known(engines)
    async with asyncio.timeout(50), AsyncExitStack() as stack:
        up = await stack.enter_async_context(httpx.AsyncClient(transport=transport(LocalShell()), trust_env=False))
        below = new_app("routing", "", ready=lambda: None)
        below.include_router(vllm_routes(Router(lambda _: replicas, up), list), prefix="/api/v1")
        orchestrator = Server(below, "127.0.0.1", 0)
        await stack.enter_async_context(orchestrator.running())
        across = await stack.enter_async_context(httpx.AsyncClient(transport=transport(LocalShell()), trust_env=False))
        server = Server(create_app(Fixed(Address(orchestrator.url)), across, described()), "127.0.0.1", 0)
        await stack.enter_async_context(server.running())
        yield f"{server.url}/api/v1/vllm/s1"


def client(url: str) -> openai.AsyncOpenAI:
    """OpenAI's own, which shall not hide failures by trying again."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)


async def stream_of(api: openai.AsyncOpenAI, tokens: int) -> openai.AsyncStream[Any]:
    """A stream, of which at least the first event has come."""
    stream = await api.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=tokens, stream=True)
    await anext(aiter(stream))
    return stream


def running_requests(engine: Engine) -> float:
    text = fetch(f"{engine.url}/metrics", secret=KEY)[1].decode()
    (line,) = (line for line in text.splitlines() if line.startswith("vllm:num_requests_running"))
    return float(line.rpartition(" ")[2])


def test_openais_clients_work_through_both_apis(stage: Stage) -> None:
    async def main() -> None:
        async with gateway(engines(stage, 2)) as url, client(url) as api:
            whole = await api.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=5)
            assert whole.usage is not None
            assert whole.usage.completion_tokens == 5
            said = [chunk.choices[0].delta.content async for chunk in await stream_of(api, 5) if chunk.choices]
            assert len([word for word in said if word]) == 5
            with pytest.raises(openai.NotFoundError, match="nobody"):
                await api.completions.create(model="nobody", prompt="hi")

            def in_a_thread() -> int:
                with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as sync:
                    assert [one.id for one in sync.models.list()] == [MODEL]
                    chunks = sync.completions.create(model=MODEL, prompt="hi", max_tokens=3, stream=True)
                    return sum(bool(chunk.choices and chunk.choices[0].text) for chunk in chunks)

            assert await asyncio.to_thread(in_a_thread) == 3

    asyncio.run(main())


def test_a_caller_that_goes_away_ends_the_work_two_hops_away(stage: Stage) -> None:
    async def main() -> None:
        (engine,) = engines(stage, 1)
        async with gateway([engine]) as url, client(url) as api:
            stream = await stream_of(api, 10_000)
            assert await asyncio.to_thread(running_requests, engine) == 1
            await stream.close()
            while await asyncio.to_thread(running_requests, engine):  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_four_replicas_one_killed_and_no_prompt_fails(stage: Stage) -> None:
    """Not one: those that the killed engine had are asked again elsewhere, as their callers had been sent nothing."""

    async def main() -> None:
        fleet = engines(stage, 4)
        async with gateway(fleet) as url, httpx.AsyncClient(trust_env=False, timeout=40) as api:
            killed = asyncio.Event()
            answers: list[httpx.Response] = []

            async def ask_on() -> None:
                more = 5
                while more:
                    more -= killed.is_set()
                    answers.append(await api.post(f"{url}/prompt", json={"prompt": "hi", "max_tokens": 100}))

            async with asyncio.TaskGroup() as group:
                for _ in range(12):
                    group.create_task(ask_on())
                while not await asyncio.to_thread(running_requests, fleet[1]):  # noqa: ASYNC110 - another process sets no event
                    await asyncio.sleep(0.01)
                fleet[1].process.kill()
                await asyncio.to_thread(fleet[1].process.wait)
                before = len(answers)
                killed.set()
            assert {answer.status_code for answer in answers} == {200}
            late = [answer.json()["routed_to"] for answer in answers[before + 12 :]]
            assert set(late) == {"n.0", "n.2", "n.3"}

    asyncio.run(main())


def test_four_replicas_one_killed_breaks_its_streams_visibly_and_no_later_one(stage: Stage) -> None:
    async def main() -> None:
        fleet = engines(stage, 4)
        async with gateway(fleet) as url, client(url) as api:
            streams = await asyncio.gather(*(stream_of(api, 500) for _ in range(8)))
            fleet[2].process.kill()
            await asyncio.to_thread(fleet[2].process.wait)

            async def finished(stream: openai.AsyncStream[Any]) -> bool:
                try:
                    reasons = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
                except openai.APIConnectionError:
                    return False
                assert reasons[-1] == "length", "a stream that ends in order is whole"
                return True

            ended = await asyncio.gather(*map(finished, streams))
            assert ended.count(False) == 2, "two of eight were on the engine that was killed"
            later = [await finished(await stream_of(api, 5)) for _ in range(12)]
            assert all(later)

    asyncio.run(main())
