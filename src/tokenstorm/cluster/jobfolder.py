"""The files by which the local scheduler and a job's supervisor know of each other: `<base_path>/jobs/<id>/`.

job.json          what to do, written before anything is started
supervisor.json   who does it; made by linking, so that exactly one process can be it, once
state.json        how far it got, replaced by rename
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

from tokenstorm.cluster.processes import Process
from tokenstorm.errors import RunError
from tokenstorm.runs import write_atomically

MARK = "TOKENSTORM_JOB"
"""In the environment of each process of a job: the job's folder on this machine."""


T = TypeVar("T")


class BrokenJob(RunError):
    """A file of a job that makes no sense."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a supervisor needs to know: where `script.sh` lies, and when it has to end. Times in seconds."""

    name: str
    folder: str
    time_limit: float
    signal_lead: float
    kill_after: float

    def encode(self) -> bytes:
        """As it is written into `job.json`."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, kw_only=True)
class State:
    """How a job stands, as its supervisor last saw it."""

    phase: Literal["running", "ended"]
    outcome: Literal["completed", "failed", "cancelled", "timeout", "lost"] | None = None
    reason: str = ""
    exit_code: int | None = None
    node: str = ""


@dataclass(frozen=True)
class JobFolder:
    """One job's files. Reading gives None for a file that is not there.

    Reading raises BrokenJob for a file that makes no sense: the machine went down as it was written.
    """

    root: Path

    @property
    def mark(self) -> str:
        """The entry in the environment of every process of the job."""
        return f"{MARK}={self.root}"

    @property
    def order_file(self) -> Path:
        """What `order` reads."""
        return self.root / "job.json"

    def order(self) -> Order | None:
        """What is to be done."""
        return self._read("job.json", Order)

    def supervisor(self) -> Process | None:
        """Who does it, or did."""
        return self._read("supervisor.json", Process)

    def state(self) -> State | None:
        """How far it got."""
        return self._read("state.json", State)

    def write_state(self, state: State) -> None:
        """Write the job's state; only the process that made the claim may."""
        write_atomically(self.root / "state.json", json.dumps(asdict(state)).encode(), mode=0o600)

    def claim(self, process: Process) -> bool:
        """Become the supervisor. False when another process is or was: a job is never started twice."""
        mine = self.root / f".supervisor.{process.pid}.{process.start}"
        write_atomically(mine, json.dumps(asdict(process)).encode(), mode=0o600)
        try:
            os.link(mine, self.root / "supervisor.json")
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                mine.unlink()
        return True

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return kind(**json.loads((self.root / name).read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            message = f"{self.root / name} cannot be read ({error}): it was cut, or another version wrote it"
            raise BrokenJob(message) from None
