"""A profile: a place where jobs run, as data that is checked."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tokenstorm.config.sbatch import refused


class Table(BaseModel):
    """A part of the file: nothing it does not know, and nothing that changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Ssh(Table):
    """How the cluster is logged into."""

    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    user: str | None = None
    identity_file: str | None = None
    known_hosts: str | None = None
    shell: Literal["asyncssh", "openssh"] = "asyncssh"


class Partitions(Table):
    """The partitions of clients and engines."""

    cpu: str | None = None
    gpu: str | None = None


class Container(Table):
    """What engines are started in, and where the images lie."""

    runtime: Literal["apptainer", "singularity", "none"] = "none"
    images: PurePosixPath | None = None


class Proxies(Table):
    """What jobs that load something from outside the cluster go through."""

    http: str | None = None
    https: str | None = None
    no: str | None = None


class Orchestrator(Table):
    """Where the orchestrator runs, and as a job, for how many minutes."""

    placement: Literal["local", "login", "job"] = "local"
    time_limit: int = Field(default=480, ge=5)


class Profile(Table):
    """A place where jobs run. Paths are that machine's own."""

    name: str
    scheduler: Literal["local", "slurm"]
    base_path: PurePosixPath
    python: str
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    sbatch: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    interface: str | None = None
    model_dir: PurePosixPath | None = None
    hf_home: PurePosixPath | None = None
    offline: bool = False
    simulate: bool = False
    ssh: Ssh = Ssh()
    partitions: Partitions = Partitions()
    container: Container = Container()
    environment: Mapping[str, str] = Field(default_factory=dict, repr=False)
    proxies: Proxies = Field(default=Proxies(), repr=False)
    orchestrator: Orchestrator = Orchestrator()

    @model_validator(mode="after")
    def _for_its_scheduler(self) -> Self:
        """What a scheduler has no use for is refused, rather than left unheeded."""
        if self.scheduler == "slurm":
            return self
        given = {
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "reservation": self.reservation,
            "sbatch": self.sbatch or None,
            "ssh.host": self.ssh.host,
            "partitions.cpu": self.partitions.cpu,
            "partitions.gpu": self.partitions.gpu,
            "orchestrator.placement": None if self.orchestrator.placement == "local" else self.orchestrator.placement,
        }
        if unused := [name for name, value in given.items() if value is not None]:
            message = (
                f'{", ".join(unused)}: of use with scheduler = "slurm" alone; this profile runs jobs on this machine'
            )
            raise ValueError(message)
        return self

    @property
    def variables(self) -> dict[str, str]:
        """The variables of every job: those of `environment`, and the proxies under both of their usual names."""
        given = {"http_proxy": self.proxies.http, "https_proxy": self.proxies.https, "no_proxy": self.proxies.no}
        proxies = {name: value for name, value in given.items() if value is not None}
        return {**proxies, **{name.upper(): value for name, value in proxies.items()}, **self.environment}

    @field_validator("environment")
    @classmethod
    def _names(cls, environment: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in environment.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                message = f"{name!r} is no name for a variable: use letters, digits and underscores"
                raise ValueError(message)
            if "\0" in value:
                message = f"the value of {name} holds a NUL"
                raise ValueError(message)
        return environment

    @field_validator("base_path", "model_dir", "hf_home")
    @classmethod
    def _absolute(cls, path: PurePosixPath | None) -> PurePosixPath | None:
        if path is not None and not path.is_absolute():
            message = f"must be an absolute path, not {str(path)!r}"
            raise ValueError(message)
        return path

    @field_validator("sbatch")
    @classmethod
    def _options(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        if complaint := next(filter(None, map(refused, lines)), None):
            raise ValueError(complaint)
        return lines

    @field_validator("prologue")
    @classmethod
    def _no_nul(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        if any("\0" in line for line in lines):
            message = "a line of a script cannot hold a NUL"
            raise ValueError(message)
        return lines
