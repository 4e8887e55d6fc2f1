"""The second seam: jobs. A `Job` is data; a `Scheduler` submits it, tells its state, and cancels it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, Protocol

from tokenstorm.api.answer import Outcome
from tokenstorm.config.kind import Kind

__all__ = ["Job", "JobId", "JobState", "Kind", "Outcome", "Scheduler"]

JobId = str


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run, where, and how long.

    `name` is unique: a job is looked for by it before it is submitted a second time. `command` is an argv, run once, on
    the first node, in `folder`, where `script.sh`, `stdout.log` and `stderr.log` lie too. Secrets are not in
    `environment` but in files of the folder. `kind` picks what the profile says of such jobs: their partition, account and so on. `tasks` is how many there are on all nodes
    together, where that is not `tasks_per_node` on each of them. `signal_to` is who is told TERM ahead of the time limit:
    what the script became, or what `fan_out` started, which ends what it started when it is told itself.
    """

    name: str
    command: tuple[str, ...]
    folder: PurePosixPath
    environment: Mapping[str, str] = field(default_factory=dict)
    kind: Kind = "cpu"
    nodes: int = 1
    tasks_per_node: int = 1
    tasks: int | None = None
    cpus_per_task: int = 1
    memory_mb: int | None = None
    gpus_per_node: int = 0
    time_limit_minutes: int = 60
    signal_lead_seconds: int = 90
    signal_to: Literal["script", "tasks"] = "script"
    exclusive: bool = False
    not_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobState:
    """How a job stands. `outcome` is None until it ended; `nodes` is empty until it runs. One that is `suspended` has its nodes,
    and none of its processes does anything.
    """

    phase: Literal["pending", "running", "ended"]
    outcome: Outcome | None = None
    reason: str = ""
    exit_code: int | None = None
    nodes: tuple[str, ...] = ()
    suspended: bool = False


@dataclass(frozen=True)
class Sent:
    """What is known of a job beside its id, which a Slurm that was set up anew gives out again: its name, and when it was
    submitted at the earliest, in Unix time by the clock of the machine that submitted it.
    """

    name: str
    since: float = 0.0


class Scheduler(Protocol):
    """Raises what the `Shell` below it raises; `RefusedJob` when the scheduler refuses a job."""

    def fan_out(self, job: Job) -> tuple[str, ...]:
        """The argv prefix that starts a command once per task of the job, on all its nodes; empty where that is one process."""
        ...

    async def submit(self, job: Job) -> JobId:
        """Submit a job whose folder exists. Safe to repeat: a job whose name the scheduler knows is not submitted again."""
        ...

    async def withdraw(self, job: Job) -> JobId | None:
        """Never submit that job from now on, though a submission of it may be under way. Safe to repeat.

        Returns the job that exists all the same, which runs on unless it is cancelled; None where there is none. A job that
        appears later does nothing. Raises `Unconfirmed` while that is not known.
        """
        ...

    async def states(self, ids: Collection[JobId], sent: Mapping[JobId, Sent] | None = None) -> dict[JobId, JobState]:
        """The states of all those jobs, in one question. A job that ended and left no trace is `lost`.

        A job that the scheduler does not know at the moment is left out. For a job in `sent`, only a report with that name
        and since that moment counts; before it is called lost, it is cancelled by its name.
        """
        ...

    async def cancel(self, job: JobId, sent: Sent | None = None) -> None:
        """Send TERM to all its processes, and KILL to those left after a while. A job that is over is left alone.

        With `sent`, every job of that name is cancelled too. Raises `Unreachable` when it still runs and cannot be reached.
        """
        ...


async def state_of(scheduler: Scheduler, job: JobId, sent: Sent) -> JobState | None:
    """The state of one job; None while the scheduler does not know it. Raises as the scheduler does."""
    return (await scheduler.states([job], {job: sent})).get(job)
