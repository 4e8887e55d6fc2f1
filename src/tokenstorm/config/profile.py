"""A profile: a place where jobs run, as data that is checked."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tokenstorm.config.kind import Kind
from tokenstorm.config.sbatch import FORMS, overridden, refused, values
from tokenstorm.timelimit import minutes_between


def _one_line(text: str) -> str:
    if text.splitlines() not in ([], [text]):
        message = f"must be one line of text, not {text!r}"
        raise ValueError(message)
    return text


Line = Annotated[str, AfterValidator(_one_line)]
"""What stands on a line of its own in a job's script."""


def in_home(path: str, home: str) -> str:
    """A path whose `~/`, if it begins with that, stands for a home."""
    return f"{home.rstrip('/')}/{path[2:]}" if path.startswith("~/") else path


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

    cpu: Line | None = None
    gpu: Line | None = None


class Container(Table):
    """What engines are started in, and where the images lie."""

    runtime: Literal["apptainer", "singularity", "podman", "enroot", "none"] = "none"
    images: PurePosixPath | None = None
    image_names: Mapping[str, str] = Field(default_factory=dict)
    gpus: Literal["nvidia", "amd", "intel", "none"] | None = None
    binds: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    @field_validator("binds")
    @classmethod
    def _absolute(cls, binds: tuple[str, ...]) -> tuple[str, ...]:
        for bind in binds:
            if not bind.startswith("/") or "," in bind:
                message = f"{bind!r} is no folder to be shown: write /folder, /folder:/inside or /folder:/inside:ro"
                raise ValueError(message)
        return binds


class Proxies(Table):
    """What jobs that load something from outside the cluster go through."""

    http: str | None = None
    https: str | None = None
    no: str | None = None


class Orchestrator(Table):
    """Where the orchestrator runs, and as a job, for how many minutes."""

    placement: Literal["local", "login", "job"] = "local"
    time_limit: Annotated[int, BeforeValidator(lambda value: minutes_between(value, 5, 1_000_000))] = 480


class JobKeys(Table):
    """What jobs ask of Slurm, and how they begin: a profile's own keys, and those of its tables `cpu` and `gpu`.

    `time_limit` (minutes) and `cpus_per_gpu` are for jobs that do not say otherwise. The three `…_request` say in which
    form what a job asks for is written; the total is the same in each.
    """

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    reservation: Line | None = None
    sbatch: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    python: str = "python3"
    time_limit: Annotated[int, BeforeValidator(lambda value: minutes_between(value, 1, 1_000_000))] | None = None
    cpus_per_gpu: int | None = Field(default=None, ge=1, le=10_000)
    cpu_request: Literal["cpus-per-task", "cpus-per-gpu", "none"] = "cpus-per-task"
    gpu_request: Literal["gres", "gpus-per-node", "gpus", "none"] = "gres"
    gpu_type: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    memory_request: Literal["mem", "mem-per-cpu", "mem-per-gpu", "none"] = "mem"

    @field_validator("sbatch")
    @classmethod
    def _options(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        if complaint := next(filter(None, map(refused, lines)), None):
            raise ValueError(complaint)
        return lines

    @field_validator("python")
    @classmethod
    def _of_nobody_else(cls, python: str) -> str:
        if python.startswith("~") and not python.startswith("~/"):
            message = f"{python!r} is in somebody else's home: write ~/… for your own, or the whole path"
            raise ValueError(message)
        return python

    @field_validator("prologue")
    @classmethod
    def _no_nul(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        if any("\0" in line for line in lines):
            message = "a line of a script cannot hold a NUL"
            raise ValueError(message)
        return lines


class Profile(JobKeys):
    """A place where jobs run. Paths are that machine's own."""

    name: str
    scheduler: Literal["local", "slurm"]
    base_path: PurePosixPath
    cluster: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    cpu: JobKeys = JobKeys()
    gpu: JobKeys = JobKeys()
    interface: str | None = None
    model_dir: PurePosixPath | None = None
    hf_home: PurePosixPath | None = None
    offline: bool = False
    gpu_vendor: Literal["nvidia", "amd", "intel"] | None = None
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
        slurms = sorted(set(JobKeys.model_fields) - {"prologue", "python", "time_limit"})
        given: dict[str, object] = {name: getattr(self, name) for name in slurms if name in self.model_fields_set}
        given |= {
            "cluster": self.cluster,
            "cpu": self.cpu.model_fields_set or None,
            "gpu": self.gpu.model_fields_set or None,
            "ssh.host": self.ssh.host,
            "partitions.cpu": self.partitions.cpu,
            "partitions.gpu": self.partitions.gpu,
            "orchestrator.placement": None if self.orchestrator.placement == "local" else self.orchestrator.placement,
        }
        if unused := [name for name, value in given.items() if value is not None]:
            message = f'{", ".join(unused)}: only used with scheduler = "slurm"; this profile runs jobs on this machine'
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _forms_that_go_together(self) -> Self:
        for kind in get_args(Kind):
            jobs = self.of(kind)
            if complaint := _contradiction(jobs, kind):
                key, words = complaint
                message = f"{self.key(kind, key)}: {words}"
                raise ValueError(message)
        for kind, old in (("cpu", self.partitions.cpu), ("gpu", self.partitions.gpu)):
            new = getattr(self, kind).partition
            if old is not None and new is not None and old != new:
                message = f"{kind}.partition and partitions.{kind} are the same key: leave out one of them"
                raise ValueError(message)
        return self

    def of(self, kind: Kind) -> "Profile":
        """The profile as jobs of one kind have it: what its table for them says in place of its own keys."""
        table: JobKeys = getattr(self, kind)
        given = {name: getattr(table, name) for name in table.model_fields_set}
        old = getattr(self.partitions, kind)
        return self.model_copy(update={"partition": self.partition if old is None else old, **given})

    def at_home(self, home: str) -> "Profile":
        """The profile where this folder is the user's home, which `~/` of `python` stands for."""
        changed: dict[str, object] = {"python": in_home(self.python, home)}
        for kind in get_args(Kind):
            table: JobKeys = getattr(self, kind)
            if "python" in table.model_fields_set:
                changed[kind] = table.model_copy(update={"python": in_home(table.python, home)})
        return self.model_copy(update=changed)

    def key(self, kind: Kind, name: str) -> str:
        """Where the value of a key for jobs of one kind stands: such as `qos`, `gpu.qos`, `partitions.gpu`."""
        if name in getattr(self, kind).model_fields_set:
            return f"{kind}.{name}"
        return f"partitions.{kind}" if name == "partition" and getattr(self.partitions, kind) is not None else name

    def given(self, kind: Kind) -> list[str]:
        """The keys that decide what nodes jobs of one kind get, where they stand; the partition's in any case."""
        jobs = self.of(kind)
        fields = JobKeys.model_fields
        return ["partition", *(name for name in _OF_NODES if getattr(jobs, name) != fields[name].default)]

    @property
    def offers_gpus(self) -> bool:
        """Whether it says anything of jobs that need a GPU."""
        return self.partitions.gpu is not None or bool(self.gpu.model_fields_set)

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


_OF_NODES = (
    *("account", "qos", "constraint", "reservation", "sbatch"),
    *("cpu_request", "gpu_request", "gpu_type", "memory_request"),
)


def _contradiction(jobs: Profile, kind: Kind) -> tuple[str, str] | None:
    """The key that does not go with another, and why, for one kind of job."""
    if kind == "cpu" or jobs.gpu_request == "none":
        why = "these jobs have no GPU" if kind == "cpu" else 'gpu_request = "none" asks for none'
        if jobs.cpu_request == "cpus-per-gpu":
            return "cpu_request", f'is by GPU, and {why}: use "cpus-per-task", or set the key in the table `gpu` alone'
        if jobs.memory_request == "mem-per-gpu":
            return "memory_request", f'is by GPU, and {why}: use "mem", or set the key in the table `gpu` alone'
    if jobs.gpu_request == "none" and jobs.gpu_type is not None:
        return "gpu_type", 'is not asked for with gpu_request = "none": leave out one of them'
    if jobs.cpu_request == "none" and jobs.memory_request == "mem-per-cpu":
        return "memory_request", 'is by CPU, and cpu_request = "none" asks for none: use "mem"'
    complaint = _overriding(jobs)
    return ("sbatch", complaint) if complaint else None


def _overriding(jobs: Profile) -> str | None:
    """What is wrong with options of sbatch that are a profile's to give only where jobs do not ask themselves."""
    asked = [key for key in FORMS if getattr(jobs, key) != "none"]
    if found := overridden(jobs.sbatch, asked):
        option, key = found
        return f'{option} would override what each job asks for: leave it out, or set {key} = "none"'
    if jobs.gpu_request == "gres" and values(jobs.sbatch, "gres"):
        return '--gres would take the GPUs away: ask for them with gpu_request = "gpus-per-node"'
    return None
