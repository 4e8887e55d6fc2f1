"""This machine: its shell, and jobs as processes that outlive their starter."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from tokenstorm.cluster.jobfolder import BrokenJob, JobFolder, Order, State
from tokenstorm.cluster.processes import end, job_processes, this_process
from tokenstorm.cluster.scheduler import Job, JobId, JobState, Sent
from tokenstorm.cluster.script import render
from tokenstorm.cluster.shell import Output, Shell, Streams
from tokenstorm.config.profile import Profile
from tokenstorm.errors import CommandFailed, RefusedFile, RefusedJob, Unconfirmed, UsageError

KILL_AFTER_SECONDS = 10.0
"""How long a job has after TERM, before KILL."""
NOT_EXECUTABLE, NOT_FOUND = 126, 127


class LocalShell:
    """Commands, files and connections of this machine."""

    def __init__(self) -> None:
        self._running: set[asyncio.subprocess.Process] = set()

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Output:
        """A command that does not exist ends with status 127, as in a login shell."""
        with (
            tempfile.TemporaryFile() as given
        ):  # not a pipe: uvloop cannot write to one whose reader was quicker to end
            given.write(stdin)
            given.seek(0)
            return await self._run(argv, given, environment or {}, timeout)

    async def _run(
        self, argv: Sequence[str], stdin: IO[bytes], environment: Mapping[str, str], timeout: float
    ) -> Output:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        except OSError as error:
            status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
            return Output(status, b"", f"{argv[0]}: {error.strerror}".encode())
        except ValueError as error:
            message = f"{argv[0]!r} cannot be run with these arguments: {error}"
            raise UsageError(message) from None
        self._running.add(process)
        try:
            async with asyncio.timeout(timeout):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            message = f"{argv[0]} did not end in {timeout:g} s and was killed: whether it did its work is not known"
            raise Unconfirmed(message) from None
        finally:
            self._running.discard(process)
            if process.returncode is None:
                _kill(process)
                await process.wait()
        assert process.returncode is not None
        return Output(process.returncode, stdout, stderr)

    async def put(self, path: PurePosixPath, data: bytes, *, mode: int = 0o600) -> None:
        with _system_errors(f"cannot write {path}"):
            await asyncio.to_thread(_put, Path(path), data, mode)

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        with _system_errors(f"cannot read {path}"):
            return await asyncio.to_thread(_get, Path(path), offset, limit)

    async def list(self, path: PurePosixPath) -> list[str]:
        try:
            with _system_errors(f"cannot list {path}"):
                return sorted(await asyncio.to_thread(os.listdir, path))
        except FileNotFoundError:
            return []

    async def remove(self, path: PurePosixPath) -> None:
        with _system_errors(f"cannot remove {path}"), contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(_remove, Path(path))

    async def open_connection(self, host: str, port: int) -> Streams:
        return await asyncio.open_connection(host, port)

    async def open_unix_connection(self, path: PurePosixPath) -> Streams:
        return await asyncio.open_unix_connection(str(path))

    async def close(self) -> None:
        for process in tuple(self._running):
            _kill(process)


class LocalScheduler:
    """Each job is a script under a supervisor process, and a folder in `<base_path>/jobs` that tells how it stands.

    A job's id is made from its name: submitted twice, before or after a crash or by two at once, it is the same job.
    """

    def __init__(self, shell: Shell, profile: Profile, *, kill_after_seconds: float = KILL_AFTER_SECONDS) -> None:
        self._shell = shell
        self._profile = profile
        self._jobs = Path(profile.base_path) / "jobs"
        self._kill_after = kill_after_seconds

    def fan_out(self, job: Job) -> tuple[str, ...]:
        return ()

    async def submit(self, job: Job) -> JobId:
        if job.nodes != 1:
            message = f"the job {job.name!r} wants {job.nodes} nodes, and this machine is one: ask for 1"
            raise RefusedJob(message)
        if job.signal_lead_seconds >= job.time_limit_minutes * 60:
            message = (
                f"the job {job.name!r} would be told to end {job.signal_lead_seconds} s before its time limit of "
                f"{job.time_limit_minutes} min, which is before it starts: give it a longer time limit"
            )
            raise RefusedJob(message)
        script = render(job, self._profile).encode()
        job_id = _id(job)
        folder = self._folder(job_id)
        with _system_errors(f"cannot read {folder.root}"):
            if await asyncio.to_thread(folder.supervisor):
                return job_id
        order = Order(
            name=job.name,
            folder=str(job.folder),
            time_limit=job.time_limit_minutes * 60.0,
            signal_lead=float(job.signal_lead_seconds),
            kill_after=self._kill_after,
        )
        await self._shell.put(job.folder / "script.sh", script)
        await self._shell.put(PurePosixPath(folder.order_file), order.encode())
        argv = [self._profile.python, "-P", "-m", "tokenstorm.cluster.supervise", str(folder.root)]
        done = await self._shell.run(argv)
        if done.status:
            raise CommandFailed(argv, done.status, done.stdout, done.stderr)
        return job_id

    async def withdraw(self, job: Job) -> JobId | None:
        job_id = _id(job)
        with _system_errors(f"cannot withdraw the job {job.name!r}"):
            nobodys = await asyncio.to_thread(self._take_from_all, self._folder(job_id))
        return None if nobodys else job_id

    async def states(self, ids: Collection[JobId], sent: Mapping[JobId, Sent] | None = None) -> dict[JobId, JobState]:
        with _system_errors(f"cannot read {self._jobs}"):
            return await asyncio.to_thread(lambda: {job: _state(self._folder(job)) for job in ids})

    async def cancel(self, job: JobId, sent: Sent | None = None) -> None:
        """The supervisor ends the job. Where the supervisor is gone, this ends what it left, before it returns."""
        with _system_errors(f"cannot cancel the job {job}"):
            await asyncio.to_thread(self._cancel, self._folder(job))

    def _folder(self, job: JobId) -> JobFolder:
        return JobFolder(self._jobs / job.replace("/", "_"))

    def _take_from_all(self, folder: JobFolder) -> bool:
        """Claim a job so that nobody can start it. Returns whether nobody had."""
        _make(folder.root)
        if not folder.claim(this_process()):
            return False
        folder.write_state(State(phase="ended", outcome="cancelled", reason="cancelled before it started"))
        return True

    def _cancel(self, folder: JobFolder) -> None:
        if not folder.root.exists():
            return
        if self._take_from_all(folder):
            return
        supervisor = folder.supervisor()
        assert supervisor is not None, "a claim that failed means that somebody has it"
        if supervisor == this_process():  # the claim was ours, and what follows here did not come to be
            folder.write_state(State(phase="ended", outcome="cancelled", reason="cancelled before it started"))
        elif supervisor.alive():
            if not _over(folder):
                supervisor.send(signal.SIGTERM)
        elif not _over(folder):
            end(lambda: job_processes(supervisor, folder.mark), self._kill_after)
            folder.write_state(_lost_state())


def _id(job: Job) -> JobId:
    return hashlib.sha256(job.name.encode()).hexdigest()[:16]


def _state(folder: JobFolder) -> JobState:
    try:
        return _sound_state(folder)
    except BrokenJob as error:
        return JobState("ended", "lost", str(error))


def _sound_state(folder: JobFolder) -> JobState:
    supervisor = folder.supervisor()
    if supervisor is None:
        known = folder.order() is not None
        return JobState("pending", reason="not started yet") if known else JobState("ended", "lost", "it left no trace")
    alive = supervisor.alive()  # before the state is read: it may end in between
    state = folder.state()
    if not alive and (state is None or state.phase != "ended"):
        state = _lost_state()
    if state is None:
        return JobState("pending", reason="starting")
    nodes = (state.node,) if state.node else ()
    return JobState(state.phase, state.outcome, state.reason, state.exit_code, nodes)


def _over(folder: JobFolder) -> bool:
    state = folder.state()
    return state is not None and state.phase == "ended"


def _lost_state() -> State:
    return State(phase="ended", outcome="lost", reason="the process that looked after it was killed")


@contextlib.contextmanager
def _system_errors(what: str) -> Iterator[None]:
    """Raise the system's errors as ours, except FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        message = f"{what}: {error.strerror}"
        raise RefusedFile(message) from error


def _make(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _put(path: Path, data: bytes, mode: int) -> None:
    _make(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a file that is open already
            os.fchmod(handle, mode)
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _get(path: Path, offset: int, limit: int | None) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read() if limit is None else file.read(limit)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a command and all processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
