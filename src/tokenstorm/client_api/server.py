"""The services of a Server API, for the groups that load them."""

from dataclasses import replace
from typing import TypeVar
from urllib.parse import quote

import httpx

from tokenstorm.client_api.services import Access, ServiceInfo
from tokenstorm.cluster.http import EACH_ANEW
from tokenstorm.errors import ApiError, Unknown, Unreachable, UsageError
from tokenstorm.sdk import calls
from tokenstorm.sdk.client import AsyncClient
from tokenstorm.targets import GpuSampler

PATIENCE_SECONDS = 15.0
_NOT_FOUND = 404

T = TypeVar("T")


class ServerServices:
    """The services of a Server API, by the calls of the SDK. `token` is that API's, where it wants one."""

    def __init__(self, server_url: str, token: str | None = None, http: httpx.AsyncClient | None = None) -> None:
        self._where = f"the Server API at {server_url.rstrip('/')}"
        http = http or httpx.AsyncClient(trust_env=False, limits=EACH_ANEW)
        self._client = AsyncClient(server_url, token=token, http=http)

    async def find(self, service_id: str) -> ServiceInfo:
        found = await self._ask(calls.get_service(service_id))
        engine, model = found.engine or None, found.model or None
        return ServiceInfo(status=found.status, engine=engine, model=model, reason=found.reason)

    async def access(self, service_id: str) -> Access:
        found = await self._ask(calls.get_access(service_id))
        pairs = tuple((endpoint.replica, endpoint.url) for endpoint in found.endpoints)
        nodes = {endpoint.replica: endpoint.nodes for endpoint in found.endpoints}
        samplers = (GpuSampler(node=one.node, url=one.url, gpus=one.gpus, keyed=True) for one in found.gpu_samplers)
        return Access(pairs, found.api_key, nodes, gpu_samplers=tuple(samplers))

    async def routed(self, service_id: str) -> Access:
        found = await self._ask(calls.get_orchestrator())
        if found.endpoint is None:
            message = (
                'compute nodes do not reach the orchestrator, which runs elsewhere: send "direct", or have it run as '
                'a job, with placement = "job" in the profile'
            )
            raise UsageError(message, "via")
        url = f"{found.endpoint.rstrip('/')}/api/v1/vllm/{quote(service_id, safe='')}"
        return Access((("orchestrator", url),), found.api_key)

    async def close(self) -> None:
        """Give up connections."""
        await self._client.close()

    async def _ask(self, call: calls.Call[T]) -> T:
        try:
            return await self._client.send(replace(call, seconds=PATIENCE_SECONDS))
        except ApiError as error:
            if error.status is None:
                raise Unreachable(str(error)) from None
            detail = error.problem.get("detail")
            if error.status == _NOT_FOUND:
                raise Unknown(str(detail or f"{self._where} has nothing at {call.path}")) from None
            message = f"{self._where} answered {error.status} to {call.method} {call.path}: {detail or error}"
            raise Unreachable(message) from None
