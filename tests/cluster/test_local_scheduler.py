"""Jobs on this machine outlive whoever started them, are started once, end on time, and leave nothing behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from running import alive, wait_for
from tokenstorm.cluster.jobfolder import JobFolder, Order, State
from tokenstorm.cluster.local import LocalScheduler, LocalShell
from tokenstorm.cluster.processes import Process, job_processes, this_process
from tokenstorm.cluster.scheduler import Job, JobState
from tokenstorm.config.profile import Profile
from tokenstorm.errors import CommandFailed, RefusedJob, Unreachable

IGNORES_TERM = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"
SLEEPS = "import time; time.sleep(600)"
TWO_PROCESSES = (
    "import subprocess, sys, time\n"
    f"print(subprocess.Popen([sys.executable, '-c', '{SLEEPS}'], start_new_session={{own}}).pid, flush=True)\n"
    "time.sleep({seconds})"
)


class Place:
    """A base path with its scheduler; `again` is what a restarted API would make of it."""

    def __init__(self, root: Path, kill_after: float = 5.0) -> None:
        self.root = root
        base = PurePosixPath(root / "base")
        self.profile = Profile(name="local", scheduler="local", base_path=base, python=sys.executable)
        self.kill_after = kill_after

    def again(self) -> LocalScheduler:
        return LocalScheduler(LocalShell(), self.profile, kill_after_seconds=self.kill_after)

    def job(self, code: str, name: str = "job", **fields: Any) -> Job:
        folder = PurePosixPath(self.root / "folder of" / name)
        fields = {"signal_lead_seconds": 5, "time_limit_minutes": 10, **fields}
        return Job(name=name, command=(sys.executable, "-c", code), folder=folder, **fields)

    def submit(self, job: Job) -> str:
        return asyncio.run(self.again().submit(job))

    def state(self, job: str) -> JobState:
        return asyncio.run(self.again().states([job]))[job]

    def cancel(self, job: str) -> None:
        asyncio.run(self.again().cancel(job))

    def ended(self, job: str) -> JobState:
        def over() -> JobState | None:
            state = self.state(job)
            return state if state.phase == "ended" else None

        return wait_for(over, "the job never ended")

    def files(self, job: str) -> JobFolder:
        return JobFolder(self.root / "base" / "jobs" / job)

    def supervisor(self, job: str) -> Process:
        found = self.files(job).supervisor()
        assert found
        return found

    def said(self, job: Job) -> str:
        """What the job wrote, once it wrote a line."""

        def line() -> str | None:
            path = Path(job.folder) / "stdout.log"
            text = path.read_text() if path.exists() else ""
            return text if text.endswith("\n") else None

        return wait_for(line, "the job said nothing").strip()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    jobs = tmp_path / "base" / "jobs"
    for root in jobs.iterdir() if jobs.exists() else ():
        folder = JobFolder(root)
        supervisor = folder.supervisor()
        if supervisor and supervisor.pid != os.getpid():
            supervisor.send(signal.SIGKILL)
            for process in job_processes(supervisor, folder.mark):
                process.send(signal.SIGKILL)


def test_a_job_runs_in_its_folder_and_its_end_is_told(place: Place) -> None:
    job = place.job("import os, sys; print(os.getcwd(), os.environ['GREETING']); print('oh', file=sys.stderr)",
                    environment={"GREETING": "it's $HOME"})  # fmt: skip
    number = place.submit(job)
    state = place.ended(number)
    assert (state.outcome, state.exit_code, state.reason) == ("completed", 0, "")
    assert place.said(job) == f"{job.folder} it's $HOME"
    assert (Path(job.folder) / "stderr.log").read_text() == "oh\n"
    modes = {path.name: path.stat().st_mode & 0o077 for path in [Path(job.folder), *Path(job.folder).iterdir()]}
    assert set(modes.values()) == {0}, "others can read what is not theirs"


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("raise SystemExit(3)", 3, "ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", 137, "was killed by SIGKILL"),
    ],
)
def test_a_job_that_fails_says_how(place: Place, code: str, status: int, reason: str) -> None:
    state = place.ended(place.submit(place.job(code)))
    assert (state.outcome, state.exit_code, state.reason) == ("failed", status, f"its command {reason}")


def test_a_job_goes_on_when_the_process_that_submitted_it_is_killed(place: Place) -> None:
    job = place.job("import time; print('up', flush=True); time.sleep(600)")
    submit = (
        "import asyncio, os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from test_local_scheduler import Place\n"
        "place = Place(Path(sys.argv[2]))\n"
        "print(place.submit(place.job(sys.argv[3])), flush=True); os.kill(os.getpid(), 9)"
    )
    argv = [sys.executable, "-c", submit, str(Path(__file__).parent), str(place.root), job.command[2]]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done
    number = done.stdout.strip()
    assert place.said(job) == "up"
    state = place.state(number)
    assert (state.phase, state.nodes) == ("running", (os.uname().nodename,))
    assert place.submit(job) == number, "it is known by its name"
    place.cancel(number)
    assert place.ended(number).outcome == "cancelled"


def test_submitting_a_name_again_never_starts_it_again(place: Place) -> None:
    job = place.job("print('started')")
    number = place.submit(job)
    place.ended(number)
    assert place.submit(job) == number
    assert place.ended(number).outcome == "completed"
    assert place.said(job) == "started"
    assert place.submit(place.job("", name="another")) != number


def test_two_that_submit_the_same_job_at_once_start_it_once(place: Place) -> None:
    job = place.job("import time; print('started', flush=True); time.sleep(600)")

    async def race() -> list[str]:
        return list(await asyncio.gather(*(place.again().submit(job) for _ in range(5))))

    numbers = set(asyncio.run(race()))
    assert len(numbers) == 1
    assert place.said(job) == "started"
    supervisor = place.supervisor(*numbers)
    assert supervisor.alive()
    place.cancel(*numbers)
    assert place.ended(*numbers).outcome == "cancelled"
    assert place.said(job) == "started", "every line is a start"


def unstarted(place: Place, job: Job) -> str:
    """What is left when a submit dies between the folder and the start."""
    place.profile = place.profile.model_copy(update={"python": "no-such-python"})
    with pytest.raises(CommandFailed, match="no-such-python"):
        place.submit(job)
    place.profile = place.profile.model_copy(update={"python": sys.executable})
    (folder,) = (place.root / "base" / "jobs").iterdir()
    assert place.state(folder.name).phase == "pending"
    return folder.name


def test_a_submit_that_died_before_the_start_can_be_repeated(place: Place) -> None:
    job = place.job("print('started')")
    number = unstarted(place, job)
    assert place.submit(job) == number
    assert place.ended(number).outcome == "completed"


def test_a_job_cancelled_before_it_started_never_starts(place: Place) -> None:
    job = place.job("print('started')")
    number = unstarted(place, job)
    place.cancel(number)
    assert place.submit(job) == number
    state = place.state(number)
    assert (state.phase, state.outcome) == ("ended", "cancelled")
    assert not (Path(job.folder) / "stdout.log").exists()


def test_a_job_cancelled_at_any_moment_of_its_submit_is_cancelled(place: Place) -> None:
    jobs = [place.job(SLEEPS, name=f"job {n}") for n in range(6)]

    async def run() -> set[str]:
        scheduler = place.again()
        submits = [asyncio.create_task(scheduler.submit(job)) for job in jobs]
        while not all(submit.done() for submit in submits):
            for root in (place.root / "base" / "jobs").glob("*"):
                await scheduler.cancel(root.name)
            await asyncio.sleep(0)
        for submit in submits:
            await scheduler.cancel(submit.result())
        return {submit.result() for submit in submits}

    outcomes = {place.ended(number).outcome for number in asyncio.run(run())}
    assert outcomes == {"cancelled"}


def test_cancel_ends_all_processes_of_a_job_and_kills_what_ignores_term(tmp_path: Path, place: Place) -> None:
    place.kill_after = 0.3
    job = place.job(f"import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', {IGNORES_TERM!r}], "
                    "stdout=2).pid, flush=True)\nimport time; time.sleep(600)")  # fmt: skip
    number = place.submit(job)
    child = int(place.said(job))
    wait_for(lambda: "up" in (Path(job.folder) / "stderr.log").read_text(), "the child ignores TERM by now")
    place.cancel(number)
    state = place.ended(number)
    assert (state.outcome, state.exit_code) == ("cancelled", None)
    assert not alive(child)
    place.cancel(number)  # over: left alone
    assert place.state(number) == state


def test_what_a_command_leaves_running_ends_with_it(place: Place) -> None:
    job = place.job(TWO_PROCESSES.format(own=True, seconds=0))
    number = place.submit(job)
    assert place.ended(number).outcome == "completed"
    assert not alive(int(place.said(job)))


@pytest.mark.parametrize("own", [False, True], ids=["same session", "a session of its own"])
def test_a_job_whose_supervisor_was_killed_is_lost_and_cancel_cleans_up(place: Place, own: bool) -> None:
    job = place.job(TWO_PROCESSES.format(own=own, seconds=600))
    number = place.submit(job)
    child = int(place.said(job))
    supervisor = place.supervisor(number)
    processes = job_processes(supervisor, place.files(number).mark)
    assert child in [process.pid for process in processes]
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not supervisor.alive(), "the supervisor ends")
    state = place.state(number)
    assert (state.phase, state.outcome) == ("ended", "lost")
    assert alive(child)
    place.cancel(number)
    assert not any(process.alive() for process in processes)
    assert place.state(number).outcome == "lost"
    assert place.submit(job) == number, "and it is not started a second time"
    assert place.state(number).outcome == "lost"


def test_a_pid_that_is_used_again_is_not_taken_for_the_job(place: Place) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPS], start_new_session=True) as stranger:
        try:
            me = this_process()
            folder = place.files("0" * 16)
            folder.root.mkdir(parents=True)
            assert folder.claim(Process(stranger.pid, me.start - 1, me.boot))
            folder.write_state(State(phase="running"))
            assert place.state("0" * 16).outcome == "lost"
            place.cancel("0" * 16)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_job_of_the_last_boot_is_lost(place: Place) -> None:
    me = this_process()
    folder = place.files("0" * 16)
    folder.root.mkdir(parents=True)
    assert folder.claim(Process(me.pid, me.start, "another boot"))
    assert place.state("0" * 16).outcome == "lost"


def supervised(place: Place, code: str, **times: float) -> tuple[Job, str]:
    """A job with times finer than minutes, under a supervisor that is started as the scheduler starts it."""
    job = place.job(code)
    folder = place.files("1" * 16)
    folder.root.mkdir(parents=True)
    Path(job.folder).mkdir(parents=True)
    (Path(job.folder) / "script.sh").write_text(f"exec {sys.executable} program.py")
    (Path(job.folder) / "program.py").write_text(code)
    order = {"name": "job", "folder": str(job.folder), "kill_after": 5.0, **times}
    folder.order_file.write_bytes(json.dumps(order).encode())
    subprocess.run([sys.executable, "-P", "-m", "tokenstorm.cluster.supervise", folder.root], check=True, timeout=60)
    return job, folder.root.name


def test_before_its_time_limit_a_job_gets_term_and_can_end_well(place: Place) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(15, lambda *_: (print('drained', flush=True), sys.exit(0)))\n"
        "time.sleep(600)"
    )
    job, number = supervised(place, code, time_limit=60, signal_lead=58)
    assert place.ended(number).outcome == "completed"
    assert place.said(job) == "drained"


def test_at_its_time_limit_a_job_is_killed(place: Place) -> None:
    _, number = supervised(place, IGNORES_TERM, time_limit=1.5, signal_lead=0.5)
    state = place.ended(number)
    assert (state.outcome, state.exit_code) == ("timeout", 137)
    assert "1.5 s" in state.reason


def test_a_job_that_term_ended_at_its_limit_timed_out(place: Place) -> None:
    _, number = supervised(place, SLEEPS, time_limit=60, signal_lead=59)
    assert place.ended(number).outcome == "timeout"


def test_what_nobody_knows_is_lost(place: Place) -> None:
    for name in ("no-such-job", "../../etc"):
        state = place.state(name)
        assert (state.phase, state.outcome) == ("ended", "lost")
        place.cancel(name)


def test_what_this_machine_cannot_do_is_refused_and_leaves_nothing(place: Place) -> None:
    with pytest.raises(RefusedJob, match="2 nodes"):
        place.submit(place.job("", nodes=2))
    with pytest.raises(RefusedJob, match="time limit of 1 min"):
        place.submit(place.job("", time_limit_minutes=1, signal_lead_seconds=90))
    assert not (place.root / "base").exists()


def test_a_base_path_that_cannot_be_written_is_said(place: Place) -> None:
    (place.root / "base").write_text("a file")
    with pytest.raises(Unreachable, match=r"cannot read .*base.*Not a directory"):
        place.submit(place.job(""))


def test_the_order_reads_back_as_it_was_written(tmp_path: Path) -> None:
    order = Order(name="ünï\n", folder="/x", time_limit=60.0, signal_lead=1.0, kill_after=2.0)
    folder = JobFolder(tmp_path)
    folder.order_file.write_bytes(order.encode())
    assert folder.order() == order


@pytest.mark.parametrize("name", ["state.json", "supervisor.json"])
def test_a_file_that_was_cut_by_a_crash_costs_its_job_alone(tmp_path: Path, name: str) -> None:
    place = Place(tmp_path)
    one, other = place.submit(place.job("", "one")), place.submit(place.job("", "other"))
    place.ended(one)
    place.ended(other)
    (place.files(one).root / name).write_bytes(b"")
    states = asyncio.run(place.again().states([one, other]))
    assert (states[one].outcome, states[other].outcome) == ("lost", "completed")
    assert name in states[one].reason


def test_cancelling_what_was_not_started_never_ends_who_cancels(tmp_path: Path) -> None:
    place = Place(tmp_path)
    folder = place.files("ab")
    folder.root.mkdir(parents=True)
    assert folder.claim(this_process())  # and then the disk was full
    place.cancel("ab")
    assert place.state("ab").outcome == "cancelled"
