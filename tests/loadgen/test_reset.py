"""A run may have the engine's prefix cache emptied before its start; an engine that cannot do that is named."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from plans import plan
from tokenstorm.errors import PlanError, PreflightError
from tokenstorm.httpd import Reply, Request, serve
from tokenstorm.loadgen.reset import reset_caches

Statuses = dict[str, int]


def asked(*replicas: Statuses, cache: str = "reset") -> list[list[str]]:
    """What each replica was asked, if it answers with these statuses by path, or else 404."""

    async def main() -> list[list[str]]:
        seen: list[list[str]] = [[] for _ in replicas]

        def answering(place: int) -> Callable[[Request, Reply], None]:
            def answer(request: Request, reply: Reply) -> None:
                seen[place].append(f"{request.method} {request.path} {request.headers.get('authorization')}")
                reply.send(replicas[place].get(request.path, 404))

            return answer

        async with asyncio.timeout(20):
            servers = [await serve(answering(place), "127.0.0.1", 0) for place in range(len(replicas))]
            targets = [
                {"replica": str(place), "url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}
                for place, server in enumerate(servers)
            ]
            try:
                await reset_caches(plan(targets=targets, cache=cache), "k")
            finally:
                for server in servers:
                    server.close()
            return seen

    return uvloop.run(main())


def test_the_cache_of_each_replica_is_emptied_by_its_own_call() -> None:
    vllm, sglang = asked({"/reset_prefix_cache": 200}, {"/flush_cache": 200})
    assert vllm == ["POST /reset_prefix_cache Bearer k"]
    assert sglang == ["POST /reset_prefix_cache Bearer k", "POST /flush_cache Bearer k"]
    assert asked({}, cache="keep") == [[]]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({}, r"has neither POST /reset_prefix_cache \(vLLM has it with VLLM_SERVER_DEV_MODE=1\) nor POST /flush_cache"),
        ({"/reset_prefix_cache": 403}, r"refused POST /reset_prefix_cache \(HTTP 403\)"),
        ({"/flush_cache": 500}, r"refused POST /flush_cache \(HTTP 500\): its prefix cache is not empty"),
    ],
)
def test_a_replica_that_does_not_empty_its_cache_is_named_and_nothing_is_sent(answers: Statuses, words: str) -> None:
    with pytest.raises(PreflightError, match=rf"^http://127.0.0.1:\d+ {words}"):
        asked({"/reset_prefix_cache": 200}, answers)


def test_one_that_is_not_there_is_named_too() -> None:
    with pytest.raises(PreflightError, match=r"http://127\.0\.0\.1:1 refused POST"):
        uvloop.run(reset_caches(plan(cache="reset"), None))


def test_salted_prompts_need_no_empty_cache() -> None:
    assert plan(cache="salt").salted
    assert plan(unique_prompts=True).salted
    assert not plan(cache="reset").salted
    with pytest.raises(PlanError, match="salted prompts find nothing in any cache"):
        plan(cache="reset", unique_prompts=True)
