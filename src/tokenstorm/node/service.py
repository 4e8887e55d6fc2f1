"""The files of a service's folder that its nodes read and write."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tokenstorm.errors import NOT_JSON, UsageError
from tokenstorm.interfaces import interface_of, node_name
from tokenstorm.node.devices import VISIBLE, Vendor, shared_out
from tokenstorm.runs import write_atomically
from tokenstorm.unproxied import NO_PROXY, unproxied

LAST_PORT = 65535
MARK = "TOKENSTORM_REPLICA"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of an engine. `generates` is false for one that is not asked for a token."""

    health_path: str = "/health"
    models_path: str = "/v1/models"
    model: str | None = None
    generates: bool = True


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """`service.json`: what to start on each node. `command` holds the placeholders that `words` fills in.

    `host` is where the engines listen: an address, or a network of which each node has one: an interface's name, a CIDR,
    or `auto`. The words at the positions `literal` hold such text because a user typed it, and stay as they are. `api_key_file` is
    where the key lies already, in the form that the engine wants; without it, it is written there for `{api_key_file}`.
    `model` is the name that clients ask for, the first that is listed when it is None; `generates` is false for engines that
    are not asked for a token before they count as ready.
    `host` is an address, or a network of which each node has one (see `interfaces.local_address`).

    An engine that spans nodes has `parts`: one on each of so many nodes, or all of them `together` on one machine. Those
    that are not its head run `worker_command`. `node_environment` holds placeholders as the commands do.

    `caches` are the variables of cache folders that nobody set. `container_prefix` makes of a variable's name that by
    which a container's runtime hands it on. `networks` are the cluster's, in which no proxy has a say.
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
    node_environment: dict[str, str] = {}
    parts: Annotated[int, Meta(ge=1)] | None = None
    together: bool = False
    worker_command: tuple[str, ...] = ()
    worker_literal: tuple[int, ...] = ()
    api_key_env: str | None = None
    api_key_file: str | None = None
    gpus_per_replica: Annotated[int, Meta(ge=0)] | None = None
    gpu_vendor: Vendor | None = None
    caches: dict[str, str] = {}
    container_prefix: str = ""
    networks: tuple[str, ...] = ()
    health_path: str = "/health"
    models_path: str = "/v1/models"
    model: str | None = None
    generates: bool = True
    ready_seconds: Annotated[float, Meta(gt=0)] = 600.0

    def __repr__(self) -> str:
        return f"Service({self.service_id!r})"  # it holds a key

    def values(self, index: int, port: int, api_key_file: Path) -> dict[str, str]:
        """What the placeholders of each replica stand for."""
        known = {"port": str(port), "host": self.host, "index": str(index), "api_key_file": str(api_key_file)}
        return {**known, "interface": interface_of(self.host)}

    def words(self, values: Mapping[str, str], *, worker: bool = False) -> list[str]:
        """The argv of one replica, or of a part of one that is not its head. Other braces stay as they are."""
        command, literal = (self.worker_command, self.worker_literal) if worker else (self.command, self.literal)
        return [word if number in literal else _filled(word, values) for number, word in enumerate(command)]

    @property
    def wanted(self) -> Wanted:
        """What its engines are asked before they are ready."""
        return Wanted(
            health_path=self.health_path,
            models_path=self.models_path,
            model=self.model,
            generates=self.generates,
        )

    def wants_key_file(self) -> bool:
        """Whether its engines read their key from a file."""
        return any("{api_key_file}" in word for number, word in enumerate(self.command) if number not in self.literal)

    def engine_environment(self, index: int, values: Mapping[str, str]) -> dict[str, str]:
        """The environment of one replica, with its key and its GPUs. Raises `UsageError` when there are too few."""
        environment = {**self.caches, **os.environ, **self.environment}
        environment |= {name: _filled(text, values) for name, text in self.node_environment.items()}
        if self.api_key_env:
            environment[self.api_key_env] = self.api_key
        if count := self.gpus_per_replica:
            environment = shared_out(
                environment,
                self.gpu_vendor,
                index=index,
                count=count,
                replicas=self.replicas_per_node,
                dev=Path("/dev"),
            )
        head = (
            [values["head"]] if "head" in values else []
        )  # of an engine that spans nodes: it may be in another network
        environment |= unproxied(environment, more=(self.host, *head, *self.networks))
        return {**environment, **self._said_again(environment), MARK: self._marked(index)}

    def mark(self, index: int) -> bytes:
        """What tells the processes of one replica from all others of its node, wherever a container's runtime put them.

        It holds the wrapper's process id, so that it is also another one for each run of a job.
        """
        return f"{MARK}={self._marked(index)}".encode()

    def _marked(self, index: int) -> str:
        return f"{self.service_id}.{node_name()}.{index}.{os.getpid()}"

    def make_caches(self) -> None:
        """Make the folders of the caches: a container's runtime wants them to be there. Raises `UsageError`."""
        for path in self.caches.values():
            try:
                Path(path).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = f"cannot make {path}, where engines keep their caches: {error.strerror}"
                raise UsageError(message) from None

    def _said_again(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What is only known here, in the container runtime's own way, so that it wins over what the image sets."""
        names = (*self.caches, *VISIBLE.values(), *NO_PROXY, self.api_key_env) if self.container_prefix else ()
        said = {f"{self.container_prefix}{name}": environment[name] for name in names if name and name in environment}
        return {name: value for name, value in said.items() if name not in environment}


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """`replica.<node>.<index>.json`: where a replica listens and how it does. `nodes` are those of its parts, its head's first.

    `stopped` is the end of one that was told to end; `ran_seconds` is how long its wrapper had run then. `run` names the run
    of the job that this belongs to: one that is queued again has files of the run before in its folder.
    """

    replica: str
    node: str
    host: str
    port: int | None
    pid: int | None
    status: Literal["starting", "running", "failed", "stopped"]
    reason: str = ""
    nodes: tuple[str, ...] = ()
    run: str = ""
    ran_seconds: float | None = None
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


def run_of(environment: Mapping[str, str]) -> str:
    """The run of a job: its id, and how often Slurm has queued it again."""
    return f"{environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_RESTART_COUNT', '0')}"


def publish(folder: Path, published: Published) -> None:
    """Publish it, whole and at once, for processes of this user that read the folder."""
    path = folder / f"replica.{published.replica}.json"
    write_atomically(path, msgspec.json.encode(published), mode=0o600)


def unpublish(folder: Path, replica: str) -> None:
    """Take back what was published: somebody else tells it now."""
    (folder / f"replica.{replica}.json").unlink(missing_ok=True)
