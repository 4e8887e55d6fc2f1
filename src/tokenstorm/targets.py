"""Whom a run is sent to, and where the GPUs of those nodes can be read."""

from tokenstorm.strict import Strict


class Target(Strict, frozen=True, kw_only=True):
    """One replica of the service: its name in the results, its base URL without `/v1`, and its nodes where they are known."""

    replica: str
    url: str
    nodes: tuple[str, ...] = ()


class GpuSampler(Strict, frozen=True, kw_only=True):
    """Where a node's GPUs can be read, and how many there are; None where nobody said. It wants the engine's key, if `keyed`."""

    node: str
    url: str
    gpus: int | None = None
    keyed: bool = False
