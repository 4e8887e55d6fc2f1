"""Has each replica empty its prefix cache before the start, by the engine's own call."""

import asyncio
from typing import Final

from tokenstorm.errors import PreflightError
from tokenstorm.loadgen.document import OK, Document, fetch
from tokenstorm.loadgen.endpoint import endpoints_of
from tokenstorm.loadgen.openai import service_head
from tokenstorm.loadgen.pool import Pool, pools_of
from tokenstorm.plan import Plan

CALLS: Final = ("/reset_prefix_cache", "/flush_cache")
"""vLLM's, which it has in its development mode alone, and SGLang's."""
_NO_SUCH_CALL: Final = (404, 405)
_SECONDS: Final = 30.0
_MOST_BYTES: Final = 1 << 16


async def reset_caches(plan: Plan, api_key: str | None) -> None:
    """Empty the prefix cache of every replica, if the plan asks for that. Raises `PreflightError` that names the one that does not do it, and why."""
    if plan.cache != "reset":
        return
    pools = pools_of(endpoints_of((target.url for target in plan.targets), plan.endpoint))
    try:
        said = await asyncio.gather(*(_reset(plan, pool, api_key) for pool in pools))
    finally:
        for pool in pools:
            pool.close()
    trouble = [f"{target.url} {one}" for target, one in zip(plan.targets, said, strict=True) if one]
    if trouble:
        message = f"{'; '.join(trouble)}: its prefix cache is not empty (use --cache salt, or keep)"
        raise PreflightError(message)


async def _reset(plan: Plan, pool: Pool, api_key: str | None) -> str | None:
    """What went wrong with one replica."""
    for call in CALLS:
        where = f"{pool.endpoint.path}{call}"
        request = service_head(plan, "POST", pool.endpoint, where, api_key) + b"content-length: 0\r\n\r\n"
        answer = await fetch(pool, request, seconds=_SECONDS, limit=_MOST_BYTES)
        if answer.status == OK and answer.failure is None:
            return None
        if answer.status not in _NO_SUCH_CALL:
            return f"refused POST {where} ({_why(answer)})"
    return f"has neither POST {CALLS[0]} (vLLM has it with VLLM_SERVER_DEV_MODE=1) nor POST {CALLS[1]} (SGLang)"


def _why(answer: Document) -> str:
    if answer.failure is not None:
        return answer.failure.detail or answer.failure.kind
    return f"HTTP {answer.status}"
