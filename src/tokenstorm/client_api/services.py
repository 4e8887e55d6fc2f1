"""What a group must know of the service it loads, asked of the Server API."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from tokenstorm.cluster.http import EACH_ANEW
from tokenstorm.errors import NOT_JSON, Unknown, Unreachable, UsageError

ENDED = frozenset(("completed", "failed", "cancelled", "timeout"))
_NOT_FOUND = 404

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ServiceInfo:
    """How a service stands. `status` is one of the Server API's."""

    status: str
    engine: str | None = None
    model: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Access:
    """What a client needs to talk to the engine: (replica, base URL) pairs, the key, and the nodes of replicas by name.

    `model` is the one to ask for, if it is known.
    """

    endpoints: tuple[tuple[str, str], ...]
    api_key: str | None = field(default=None, repr=False)
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model: str | None = None


class ServiceDirectory(Protocol):
    """Where services are known. Raises `Unknown` for an id that is none, `Unreachable` when nobody answers."""

    async def find(self, service_id: str) -> ServiceInfo:
        """How that service stands."""
        ...

    async def access(self, service_id: str) -> Access:
        """The engine itself, replica by replica."""
        ...

    async def routed(self, service_id: str) -> Access:
        """The service through the orchestrator's routing. Raises `UsageError` where its nodes cannot reach that."""
        ...


class _Service(msgspec.Struct):
    status: str
    engine: str | None = None
    model: str | None = None
    reason: str | None = None


class _Endpoint(msgspec.Struct):
    replica: str
    url: str
    nodes: tuple[str, ...] = ()


class _Access(msgspec.Struct):
    endpoints: list[_Endpoint]
    api_key: str | None = None


class _Orchestrator(msgspec.Struct):
    endpoint: str | None
    api_key: str | None = None


class _Problem(msgspec.Struct):
    detail: str = ""


class HttpServices:
    """The services of a Server API. `token` is that API's, where it wants one."""

    def __init__(self, server_url: str, token: str | None = None, client: httpx.AsyncClient | None = None) -> None:
        self._url = server_url.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = client or httpx.AsyncClient(trust_env=False, timeout=15.0, limits=EACH_ANEW)

    async def find(self, service_id: str) -> ServiceInfo:
        found = await self._get(f"/services/{quote(service_id, safe='')}", _Service)
        return ServiceInfo(status=found.status, engine=found.engine, model=found.model, reason=found.reason or "")

    async def access(self, service_id: str) -> Access:
        found = await self._get(f"/services/{quote(service_id, safe='')}/access", _Access)
        pairs = tuple((endpoint.replica, endpoint.url) for endpoint in found.endpoints)
        return Access(pairs, found.api_key, {endpoint.replica: endpoint.nodes for endpoint in found.endpoints})

    async def routed(self, service_id: str) -> Access:
        found = await self._get("/orchestrator/endpoint", _Orchestrator)
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
        await self._client.aclose()

    async def _get(self, path: str, kind: type[T]) -> T:
        where = f"the Server API at {self._url}"
        try:
            answer = await self._client.get(f"{self._url}/api/v1{path}", headers=self._headers)
        except httpx.TransportError as error:
            message = f"{where} is not reachable ({error or type(error).__name__}): start it, then try again"
            raise Unreachable(message) from None
        try:
            if answer.status_code == _NOT_FOUND:
                detail = msgspec.json.decode(answer.content, type=_Problem).detail
                raise Unknown(detail or f"{where} has nothing at {path}")
            if answer.is_success:
                return msgspec.json.decode(answer.content, type=kind)
        except NOT_JSON:
            pass
        message = f"{where} answered {answer.status_code} to GET {path}: {answer.text[:200]}"
        raise Unreachable(message)
