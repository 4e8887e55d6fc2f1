"""The files of a service's folder that its nodes read and write."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tokenstorm.errors import NOT_JSON, UsageError
from tokenstorm.runs import write_atomically

LAST_PORT = 65535
_PLACEHOLDER = re.compile(r"\{(port|host|index|api_key_file)\}")


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """`service.json`: what to start on each node. `command` holds the placeholders that `words` fills in.

    `host` is where the engines listen: an address, or a network of which each node has one: an interface's name, a CIDR,
    or `auto`. The words at the positions `literal` hold such text because a user typed it, and stay as they are. `api_key_file` is
    where the key lies already, in the form that the engine wants; without it, it is written there for `{api_key_file}`.
    `host` is an address, or a network of which each node has one (see `interfaces.local_address`).
    """

    schema: Literal[1]
    service_id: str
    api_key: str
    replicas_per_node: Annotated[int, Meta(ge=1, le=64)]
    base_port: Annotated[int, Meta(ge=1, le=LAST_PORT)]
    host: str
    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    literal: tuple[int, ...] = ()
    environment: dict[str, str] = {}
    api_key_env: str | None = None
    api_key_file: str | None = None
    gpus_per_replica: Annotated[int, Meta(ge=0)] | None = None
    health_path: str = "/health"
    models_path: str = "/v1/models"
    ready_seconds: Annotated[float, Meta(gt=0)] = 600.0

    def __repr__(self) -> str:
        return f"Service({self.service_id!r})"  # it holds a key

    def words(self, index: int, port: int, api_key_file: Path) -> list[str]:
        """The argv of one replica. Other braces stay as they are."""
        values = {"port": str(port), "host": self.host, "index": str(index), "api_key_file": str(api_key_file)}
        return [
            word if number in self.literal else _PLACEHOLDER.sub(lambda found: values[found[1]], word)
            for number, word in enumerate(self.command)
        ]

    def wants_key_file(self) -> bool:
        """Whether its engines read their key from a file."""
        return any("{api_key_file}" in word for number, word in enumerate(self.command) if number not in self.literal)

    def engine_environment(self, index: int) -> dict[str, str]:
        """The environment of one replica, with its key and its GPUs. Raises `UsageError` when there are too few."""
        environment = {**os.environ, **self.environment}
        if self.api_key_env:
            environment[self.api_key_env] = self.api_key
        if self.gpus_per_replica:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus(index, environment.get("CUDA_VISIBLE_DEVICES")))
        return environment

    def _gpus(self, index: int, visible: str | None) -> list[str]:
        """The replica's share of those that the job may use; numbered from 0 where nobody said which."""
        count = self.gpus_per_replica or 0
        if visible is None:
            return [str(number) for number in range(index * count, (index + 1) * count)]
        names = [name.strip() for name in visible.split(",") if name.strip()]
        mine = names[index * count : (index + 1) * count]
        if len(mine) < count:
            message = (
                f"replica {index} needs {count} GPUs, and the job has {len(names)} for {self.replicas_per_node} replicas: "
                "ask for more in `resources`, or lower `gpu_per_replica`"
            )
            raise UsageError(message)
        return mine


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """`replica.<node>.<index>.json`: where a replica listens and how it does."""

    replica: str
    node: str
    host: str
    port: int
    pid: int | None
    status: Literal["starting", "running", "failed"]
    reason: str = ""
    schema: int = 1


def read_service(folder: Path) -> Service:
    """Read and check `service.json`. Raises `UsageError`."""
    path = folder / "service.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Service)
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise UsageError(message) from None
    except NOT_JSON as error:
        message = f"{path}: {error}"
        raise UsageError(message) from None


def publish(folder: Path, published: Published) -> None:
    """Make it known, at once and whole, to whoever can read the folder as this user."""
    path = folder / f"replica.{published.replica}.json"
    write_atomically(path, msgspec.json.encode(published), mode=0o600)
