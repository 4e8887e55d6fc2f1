"""What a group must know of the service it loads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tokenstorm.targets import GpuSampler


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

    `model` is the one to ask for, if it is known. `gpu_samplers` tell of the GPUs of its nodes.
    """

    endpoints: tuple[tuple[str, str], ...]
    api_key: str | None = field(default=None, repr=False)
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    model: str | None = None
    gpu_samplers: tuple[GpuSampler, ...] = ()


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
