"""Sites whose commands answer as no manual says. The next site's oddity is one more line of a table here.

`SITES` are on the lab, with something in a command's way; `ROWS` need no Slurm: what a command says of job 7, and how
that job stands then. docs/sites.md tells how to report one.
"""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

import sshd
from oddsite import SFTP_SERVER, Command, Odd, OddSite, prove, scripted
from slurmjobs import named, until
from tokenstorm.cluster.scheduler import JobState, Outcome, Sent, state_of
from tokenstorm.errors import Unreachable

LOOKS = 3


async def a_job_runs_to_its_end(site: OddSite) -> None:
    one = site.job("true")
    number = await site.slurm.submit(one)
    assert (await until(site.slurm, number, "ended")).outcome == "completed"
    assert named(one) == [number]


async def a_job_that_runs_is_not_called_over(site: OddSite) -> None:
    one = site.job("sleep 600")
    number = await site.slurm.submit(one)
    await until(site.plain, number, "running")
    for _ in range(LOOKS):
        state = await state_of(site.slurm, number, Sent(one.name, time.time()))
        assert state is None or state.phase != "ended", state
    await site.plain.cancel(number)


async def a_job_that_is_cancelled_ends(site: OddSite) -> None:
    one = site.job("sleep 600")
    number = await site.slurm.submit(one)
    await site.slurm.cancel(number, Sent(one.name))
    assert (await until(site.plain, number, "ended")).outcome == "cancelled"


async def a_job_that_is_lost_is_cancelled_by_its_name(site: OddSite) -> None:
    one = site.job("sleep 600")
    number = await site.slurm.submit(one)
    await until(site.plain, number, "running")
    state = await state_of(site.slurm, number, Sent(one.name, time.time()))
    assert state is not None
    assert state.outcome == "lost"
    assert (await until(site.plain, number, "ended")).outcome == "cancelled"


async def a_cancel_that_cancels_nothing_says_so(site: OddSite) -> None:
    one = site.job("sleep 600")
    number = await site.slurm.submit(one)
    with pytest.raises(Unreachable, match=f"scancel {number}: .*Invalid job id"):
        await site.slurm.cancel(number, Sent(one.name))
    await site.plain.cancel(number)


async def files_come_and_go(site: OddSite) -> None:
    path = PurePosixPath(site.folder / "file")
    await site.shell.put(path, b"what was put")
    assert await site.shell.get(path) == b"what was put"
    assert "file" in await site.shell.list(path.parent)


ALREADY = "echo 'scancel: error: Kill job error on job id 7: Job/step already completing or completed'"
NO_SUCH_JOB = "echo 'slurm_load_jobs error: Invalid job id specified'"
UNKNOWN: dict[Command, str] = {"squeue": "exit 0", "scontrol": f"{NO_SUCH_JOB} >&2; exit 1"}
SILENT: dict[Command, str] = {"scontrol": "echo 'slurm_load_jobs error: Connection timed out' >&2; exit 1"}
NO_END = '[[ $* =~ --jobs=([0-9]+) ]]; echo "${BASH_REMATCH[1]}|ts-7|2026-11-27T09:00:00|RUNNING|n1|0:0|None"'
OLD_RECORD = '[[ $* =~ --jobs=([0-9]+) ]]; echo "${BASH_REMATCH[1]}|theirs|2024-01-01T00:00:00|COMPLETED|n1|0:0|None"'

SITES = [
    Odd("a message of the day", "sbatch", 'echo "Maintenance on 2026-12-01"; real "$@"', a_job_runs_to_its_end),
    Odd("a plugin's word", "sbatch", 'echo "sbatch: lua: account set" >&2; real "$@"', a_job_runs_to_its_end),
    Odd("sbatch's sentence", "sbatch", 'echo "Submitted batch job $(real "$@")"', a_job_runs_to_its_end),
    Odd("a number in a banner", "sbatch", 'echo 2026; echo "Submitted batch job $(real "$@")"', a_job_runs_to_its_end),
    Odd("a number at the end", "sbatch", 'real "$@"; echo "1200 hours left"', a_job_runs_to_its_end),
    Odd("two numbers", "sbatch", 'echo 1200; real "$@"; echo 12', a_job_runs_to_its_end),
    Odd("the number and its own cluster", "sbatch", 'real "$@" | sed "s/$/;lab/"', a_job_runs_to_its_end),
    Odd(
        "the sentence and its cluster",
        "sbatch",
        'echo "Submitted batch job $(real "$@") on cluster lab"',
        a_job_runs_to_its_end,
    ),
    Odd("an sbatch that fails once it submitted", "sbatch", 'real "$@"; exit 1', a_job_runs_to_its_end),
    Odd("no number at all", "sbatch", 'real "$@" > /dev/null; echo "It is on its way"', a_job_runs_to_its_end),
    Odd("the cluster above the list", "squeue", 'echo "CLUSTER: lab"; real "$@"', a_job_runs_to_its_end),
    Odd("a heading in squeue", "squeue", 'echo "JOBID STATE"; real "$@"', a_job_runs_to_its_end),
    Odd("squeue is not allowed", "squeue", "echo 'ask the help desk' >&2; exit 1", a_job_that_runs_is_not_called_over),
    Odd("a controller that is busy", "scontrol", "exit 1", a_job_that_runs_is_not_called_over),
    Odd("an old record of the id", "sacct", OLD_RECORD, a_job_that_is_lost_is_cancelled_by_its_name, UNKNOWN),
    Odd("an unknown id that lives", "scancel", f"{NO_SUCH_JOB} >&2; exit 1", a_cancel_that_cancels_nothing_says_so),
    Odd("an unknown id without a word", "scancel", '[[ $* != *--user* ]] || real "$@"', a_job_that_is_cancelled_ends),
    Odd("only an empty squeue answers", "squeue", "exit 0", a_job_that_runs_is_not_called_over, SILENT),
    Odd("a squeue that hears of a job late", "squeue", "exit 0", a_job_that_runs_is_not_called_over),
    Odd("what is over already", "scancel", f'real "$@"; {ALREADY} >&2; exit 1', a_job_that_is_cancelled_ends),
    Odd("scancel talks", "scancel", 'echo "scancel: Terminating job" >&2; real "$@"', a_job_that_is_cancelled_ends),
    Odd("an sftp-server that logs", "sftp", "echo 'sftp-server starts' >&2; real", files_come_and_go),
    Odd("a start-up file that prints", "sftp", "echo Welcome; real", files_come_and_go),
    Odd("an sftp-server that ends", "sftp", "exit 1", files_come_and_go),
]


@pytest.mark.parametrize("odd", SITES, ids=lambda odd: odd.name)
def test_what_a_command_of_the_site_answers_changes_nothing_that_holds(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: Odd
) -> None:
    if odd.command == "sftp" and not (sshd.SSHD and SFTP_SERVER.exists()):
        pytest.skip(sshd.MISSING)
    monkeypatch.setattr("tokenstorm.cluster.slurm.LISTED_AFTER_SECONDS", -1.0)
    prove(odd, tmp_path)


PENDS, RUNS = JobState("pending"), JobState("running", nodes=("n1",))


def ended(outcome: Outcome, code: int | None = None) -> JobState:
    return JobState("ended", outcome, "", code, ("n1",))


def held(reason: str) -> JobState:
    return JobState("pending", reason=reason)


ROWS: list[tuple[Command, str, JobState | None]] = [
    ("squeue", "PENDING|||", PENDS),
    ("squeue", "RUNNING|n1||None", RUNS),
    ("squeue", "COMPLETING|n1||None", RUNS),
    ("squeue", "COMPLETIN|n1||None", RUNS),  # cut off
    ("squeue", "RESV_DEL_HOLD|||(null)", held("RESV_DEL_HOLD")),
    ("squeue", "RESV_DEL_HOLD|||ReservationDeleted", held("RESV_DEL_HOLD, ReservationDeleted")),
    ("squeue", "SPECIAL_EXIT|||launch failed requeued held", held("launch failed requeued held")),
    ("squeue", "REQUEUE_HOLD|||BeginTime", held("REQUEUE_HOLD, BeginTime")),
    ("squeue", "PENDING|||job requeued in held state", held("job requeued in held state")),
    ("squeue", "EXPEDITING|||None", PENDS),
    ("squeue", "POWER_UP_NODE|n1||None", PENDS),
    ("squeue", "UNKNOWN|||None", held("UNKNOWN")),
    ("squeue", "A_WORD_OF_TOMORROW|||", held("A_WORD_OF_TOMORROW")),
    ("squeue", "A_WORD_OF_TOMORROW|n1||", RUNS),
    ("sacct", "CANCELLED by 1000|n1|0:0|", ended("cancelled", 0)),
    ("sacct", "NODE_FAIL|n1|1:0|None", ended("node_fail", 1)),
    ("sacct", "PREEMPTED|n1|0:0|None", ended("preempted", 0)),
    ("sacct", "RESV_DEL_HOLD|None assigned|0:0|None", held("RESV_DEL_HOLD")),
    ("squeue", "", None),
]


@pytest.mark.parametrize(("command", "says", "stands"), ROWS)
def test_what_a_command_says_of_a_job_is_how_it_stands(
    tmp_path: Path, command: Command, says: str, stands: JobState | None
) -> None:
    slurm = scripted(tmp_path, {command: f"echo '7|ts-7|2026-11-27T09:00:00|{says}'"})
    assert asyncio.run(slurm.states(["7"])) == ({"7": stands} if stands else {})


@pytest.mark.parametrize(
    "row",
    [
        "7|another|2026-11-27T09:00:00|COMPLETED|n1|0:0|None",
        "7|ts-7|2025-11-27T09:00:00|COMPLETED|n1|0:0|None",
        "7.batch|ts-7|2026-11-27T09:00:00|COMPLETED|n1|0:0|None",
        "7_1|ts-7|2026-11-27T09:00:00|COMPLETED|n1|0:0|None",
        "7+0|ts-7|2026-11-27T09:00:00|COMPLETED|n1|0:0|None",
    ],
)
def test_a_record_of_another_job_says_nothing_of_ours(tmp_path: Path, row: str) -> None:
    slurm, since = scripted(tmp_path, {"sacct": f"echo '{row}'"}), datetime(2026, 11, 27, 8, tzinfo=UTC).timestamp()
    assert asyncio.run(state_of(slurm, "7", Sent("ts-7", since))) is None


def test_a_job_whose_end_was_never_recorded_does_not_run_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstorm.cluster.slurm.LISTED_AFTER_SECONDS", -1.0)
    runaway = scripted(tmp_path, {**UNKNOWN, "sacct": NO_END, "scancel": "exit 0"})
    state = asyncio.run(state_of(runaway, "7", Sent("ts-7")))
    assert state is not None
    assert state.outcome == "lost"
    late = scripted(tmp_path, {"squeue": "exit 0", **SILENT, "sacct": NO_END})
    assert asyncio.run(state_of(late, "7", Sent("ts-7"))) == RUNS
