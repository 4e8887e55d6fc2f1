"""One engine process of a service, as the rest of the orchestrator sees it."""

from dataclasses import dataclass, field

from tokenstorm.api.services import ReplicaStatus
from tokenstorm.hosts import in_url


@dataclass(frozen=True, kw_only=True)
class Replica:
    """Where an engine listens, and how it does. `host` and `port` are None until its node has published them.

    `nodes` are all on which it runs; the first one listens. `over`: its node says that the engine ended;
    `stopped_after` is how long its wrapper had run, in seconds, when it was told to end it.
    """

    id: str
    service_id: str
    node: str
    status: ReplicaStatus
    host: str | None = None
    port: int | None = None
    models: tuple[str, ...] = ()
    reason: str = ""
    nodes: tuple[str, ...] = ()
    over: bool = False
    stopped_after: float | None = None
    api_key: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str | None:
        """The base URL without `/v1`, as the cluster sees it."""
        if self.host is None or self.port is None:
            return None
        return f"http://{in_url(self.host)}:{self.port}"
