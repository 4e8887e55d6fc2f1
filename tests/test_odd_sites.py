"""Sites whose commands answer as no manual says. The next site's oddity is one more line of a table here.

`SITES` are on the lab, with something in a command's way; `ROWS` need no Slurm: what a command says of job 7, and how
that job stands then. docs/sites.md tells how to report one.
"""

import asyncio
from pathlib import Path, PurePosixPath

import pytest

import sshd
from oddsite import SFTP_SERVER, Command, Odd, OddSite, prove, scripted
from slurmjobs import named, until
from tokenstorm.cluster.scheduler import JobState, Outcome

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
        found = await site.slurm.states([number])
        assert found.get(number, JobState("running")).phase != "ended"
    await site.plain.cancel(number)


async def a_job_that_is_cancelled_ends(site: OddSite) -> None:
    number = await site.slurm.submit(site.job("sleep 600"))
    await site.slurm.cancel(number)
    assert (await until(site.plain, number, "ended")).outcome == "cancelled"


async def files_come_and_go(site: OddSite) -> None:
    path = PurePosixPath(site.folder / "file")
    await site.shell.put(path, b"what was put")
    assert await site.shell.get(path) == b"what was put"
    assert "file" in await site.shell.list(path.parent)


SITES = [
    Odd("a message of the day", "sbatch", 'echo "Maintenance on 2026-12-01"; real "$@"', a_job_runs_to_its_end),
    Odd("a plugin's word", "sbatch", 'echo "sbatch: lua: account set" >&2; real "$@"', a_job_runs_to_its_end),
    Odd("sbatch's sentence", "sbatch", 'echo "Submitted batch job $(real "$@")"', a_job_runs_to_its_end),
    Odd("a heading in squeue", "squeue", 'echo "JOBID STATE"; real "$@"', a_job_runs_to_its_end),
    Odd("squeue is not allowed", "squeue", "echo 'ask the help desk' >&2; exit 1", a_job_that_runs_is_not_called_over),
    Odd("a controller that is busy", "scontrol", "exit 1", a_job_that_runs_is_not_called_over),
    Odd("scancel talks", "scancel", 'echo "scancel: Terminating job" >&2; real "$@"', a_job_that_is_cancelled_ends),
    Odd("an sftp-server that logs", "sftp", "echo 'sftp-server starts' >&2; real", files_come_and_go),
]


@pytest.mark.parametrize("odd", SITES, ids=lambda odd: odd.name)
def test_what_a_command_of_the_site_answers_changes_nothing_that_holds(slurm: Path, tmp_path: Path, odd: Odd) -> None:
    if odd.command == "sftp" and not (sshd.SSHD and SFTP_SERVER.exists()):
        pytest.skip(sshd.MISSING)
    prove(odd, tmp_path)


PENDS, RUNS = JobState("pending"), JobState("running", nodes=("n1",))


def ended(outcome: Outcome, code: int | None = None) -> JobState:
    return JobState("ended", outcome, "", code, ("n1",))


ROWS: list[tuple[Command, str, JobState | None]] = [
    ("squeue", "7|PENDING|||", PENDS),
    ("squeue", "7|RUNNING|n1||None", RUNS),
    ("squeue", "7|COMPLETING|n1||None", RUNS),
    ("sacct", "7|CANCELLED by 1000|n1|0:0|", ended("cancelled", 0)),
    ("sacct", "7|NODE_FAIL|n1|1:0|None", ended("node_fail", 1)),
    ("squeue", "", None),
]


@pytest.mark.parametrize(("command", "says", "stands"), ROWS)
def test_what_a_command_says_of_a_job_is_how_it_stands(
    tmp_path: Path, command: Command, says: str, stands: JobState | None
) -> None:
    slurm = scripted(tmp_path, {command: f"echo '{says}'"})
    assert asyncio.run(slurm.states(["7"])) == ({"7": stands} if stands else {})
