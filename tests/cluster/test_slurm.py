"""Jobs of a real Slurm: submitted once, told apart by how they stand and ended, and cancelled by id."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from grouplab import Counting, profile
from slurmjobs import NO_ACCOUNTING, NO_DATABASE, TELLING, accounting, job, only, output, until, use, wrapped
from slurmlab import configured
from tokenstorm.cluster.directives import directives
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import Job, JobState
from tokenstorm.cluster.shell import Output
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.cluster.states import OUTCOMES, PENDING
from tokenstorm.config.profile import Profile
from tokenstorm.errors import RefusedJob, Unreachable, UsageError

GOLDEN = Path(__file__).parent / "golden"


def test_a_job_that_ends_well(slurm: Path, tmp_path: Path) -> None:
    async def what(it: Slurm) -> JobState:
        number = await it.submit(job(tmp_path, "srun --export=ALL hostname", nodes=3))
        return await until(it, number, "ended")

    state = use(tmp_path, what)
    assert (state.outcome, state.exit_code, len(state.nodes)) == ("completed", 0, 3)
    assert set(state.nodes) < {"n1", "n2", "n3", "n4"}
    assert len((tmp_path / "stdout.log").read_text().split()) == 3


@pytest.mark.parametrize(
    ("text", "code", "reason"), [("exit 3", 3, "NonZeroExitCode"), ("kill -9 $$", 137, "JobLaunchFailure")]
)
def test_a_job_that_fails_tells_how(slurm: Path, tmp_path: Path, text: str, code: int, reason: str) -> None:
    async def what(it: Slurm) -> JobState:
        return await until(it, await it.submit(job(tmp_path, text)), "ended")

    assert use(tmp_path, what) == JobState("ended", "failed", reason, code, nodes=("n1",))


@pytest.mark.parametrize("text", ["sleep 600", "trap '' TERM; while :; do sleep 1; done"])
def test_a_job_that_is_cancelled_even_when_it_ignores_that(slurm: Path, tmp_path: Path, text: str) -> None:
    async def what(it: Slurm) -> JobState:
        number = await it.submit(job(tmp_path, text))
        running = await until(it, number, "running")
        assert running.nodes == ("n1",)
        await it.cancel(number)
        await it.cancel(number)
        return await until(it, number, "ended")

    assert use(tmp_path, what).outcome == "cancelled"


def test_a_job_whose_node_is_lost(slurm: Path, tmp_path: Path) -> None:
    async def what(it: Slurm) -> JobState:
        number = await it.submit(job(tmp_path, "sleep 600"))
        (node,) = (await until(it, number, "running")).nodes
        shell = LocalShell()
        down = await shell.run(["scontrol", "update", f"nodename={node}", "state=down", "reason=test"])
        assert down.status == 0
        try:
            return await until(it, number, "ended")
        finally:  # it may be back by itself
            await shell.run(["scontrol", "update", f"nodename={node}", "state=resume"])

    assert use(tmp_path, what).outcome == "node_fail"


def test_a_job_that_waits_says_why(slurm: Path, tmp_path: Path) -> None:
    async def what(it: Slurm) -> JobState:
        number = await it.submit(job(tmp_path, "true", nodes=9))
        state = await until(it, number, "pending")
        await it.cancel(number)
        return state

    assert use(tmp_path, what).reason in {"PartitionConfig", "PartitionNodeLimit"}  # as it is looked at first, or again


def test_a_job_that_slurm_does_not_take_is_refused_in_its_words(slurm: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedJob, match=r"invalid partition.*no such; partition"):
        use(tmp_path, lambda it: it.submit(job(tmp_path, "true")), partitions={"cpu": "no such; partition"})


def test_a_job_that_was_never_there_is_left_out_and_later_lost(slurm: Path, tmp_path: Path) -> None:
    async def what(it: Slurm) -> None:
        assert await it.states(["99999"]) == {}
        it._unlisted["99999"] -= 61
        assert (await it.states(["99999"]))["99999"].outcome == "lost"

    use(tmp_path, what)


def test_all_jobs_are_asked_about_with_one_command(slurm: Path, tmp_path: Path) -> None:
    shell = Counting()

    async def what(it: Slurm) -> None:
        folders = [tmp_path / str(number) for number in range(5)]
        ids = [await it.submit(job(folder, "sleep 600")) for folder in folders]
        shell.commands.clear()
        assert set(await it.states(ids)) == set(ids)
        assert len(shell.commands) == 1
        for number in ids:
            await it.cancel(number)

    use(tmp_path, what, shell)


def test_the_directives_are_the_text_that_was_agreed_on() -> None:
    everything = Job(
        name="g1.launcher",
        command=("true",),
        folder=PurePosixPath('/data/it\'s 100% "sure"; $(id) #ü/g1'),
        kind="gpu",
        nodes=4,
        tasks_per_node=2,
        cpus_per_task=8,
        memory_mb=64000,
        gpus_per_node=4,
        time_limit_minutes=30,
        exclusive=True,
        not_on=("n1", "n2"),
    )
    site: Profile = profile(
        Path("/data"),
        account="p 200000",
        qos="short",
        constraint="a100&ib|[rack1*2]",
        reservation="it's ours",
        sbatch=["--licenses=scratch:1", '--comment="as it stands"'],
        partitions={"gpu": "gpu"},
    )
    text = "\n".join(directives(everything, site)) + "\n"
    assert text == (GOLDEN / "directives.txt").read_text()


@pytest.mark.parametrize(
    "what", ["plain", "it's", 'say "hi"', "a b  c", "$(id) `id` $HOME; #", "100% %j", "\\ \\n", "ü☃"]
)
def test_a_value_of_a_profile_reaches_slurm_as_it_is(slurm: Path, tmp_path: Path, what: str) -> None:
    """By the account, which a site without accounting takes as it comes, in lower case."""
    if accounting(slurm):
        pytest.skip("this lab has accounting, which knows no such account")

    async def told(it: Slurm) -> str:
        number = await it.submit(job(tmp_path / "job", "true", nodes=9))
        shown = output("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%a")
        await it.cancel(number)
        return shown

    assert use(tmp_path, told, account=what).lower() == what.lower()


@pytest.mark.parametrize("command", TELLING)
def test_one_command_that_tells_of_jobs_is_enough(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    if command == "sacct" and not accounting(slurm):
        pytest.skip("this lab has no accounting: LAB_OPTIONS=--slurmdbd gives it some")
    monkeypatch.setenv("PATH", only(tmp_path, command))

    async def what(it: Slurm) -> JobState:
        one = job(tmp_path / "job", "sleep 600", nodes=2)
        number = await it.submit(one)
        assert await it.submit(one) == number
        assert len((await until(it, number, "running")).nodes) == 2
        await it.cancel(number)
        return await until(it, number, "ended")

    assert use(tmp_path, what).outcome == "cancelled"


class Saying(LocalShell):
    """A site where the commands say this, and those that are not named are not there."""

    def __init__(self, **said: str) -> None:
        super().__init__()
        self._said = said

    async def run(self, argv: Sequence[str], **options: Any) -> Output:
        for name, text in self._said.items():
            if f" {name} " in argv[2]:
                return Output(0, text.encode(), b"")
        return Output(127, b"", b"not here")


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("5|CANCELLED by 1000|n1|0:15|None", JobState("ended", "cancelled", "", 143, ("n1",))),
        ("5|CANCELLED+|None assigned|0:0|None", JobState("ended", "cancelled", "", 0)),
        ("5|REVOKED||0:0|None", JobState("ended", "cancelled", "", 0)),
        ("5|TIMEOUT|n[1-2]|0:0|TimeLimit", JobState("ended", "timeout", "TimeLimit", 0, ("n1", "n2"))),
        ("5|DEADLINE|(null)|0:0|DeadLine", JobState("ended", "timeout", "DeadLine", 0)),
        ("5|OUT_OF_MEMORY|n1|0:125|OutOfMemory", JobState("ended", "out_of_memory", "OutOfMemory", 253, ("n1",))),
        ("5|PREEMPTED|n1|0:0|None", JobState("ended", "preempted", "", 0, ("n1",))),
        ("5|NODE_FAIL|n1|1:0|NodeDown", JobState("ended", "node_fail", "NodeDown", 1, ("n1",))),
        ("5|BOOT_FAIL|n1|0:0|None", JobState("ended", "node_fail", "", 0, ("n1",))),
        ("5|COMPLETED|n[1-2]|0:0|(null)", JobState("ended", "completed", "", 0, ("n1", "n2"))),
        ("5|PENDING|None assigned|0:0|BeginTime", JobState("pending", reason="BeginTime")),
        ("5|PENDING|||a | b", JobState("pending", reason="a | b")),
        ("5|CONFIGURING|n1|0:0|None", JobState("pending")),
        ("5|REQUEUED||0:0|None", JobState("pending")),
        ("5|REQUEUE_HOLD||0:0|job requeued in held state", JobState("pending", reason="job requeued in held state")),
        ("5|SPECIAL_EXIT||0:0|None", JobState("pending", reason="SPECIAL_EXIT")),
        *(
            (f"5|{word}|n1|0:0|None", JobState("running", nodes=("n1",), suspended=word in {"SUSPENDED", "STOPPED"}))
            for word in ["RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "RESIZING", "SIGNALING", "STOPPED"]
        ),
        ("module load|5|RUNNING|n1|0:0|None", None),
        ("5||n1|0:0|None", None),
        ("5_1|RUNNING|n1|0:0|None", None),
        ("5_[1-3]|PENDING||0:0|None", None),
        ("5+0|RUNNING|n1|0:0|None", None),
        ("cut off|in the mid", None),
    ],
)
@pytest.mark.parametrize("command", ["squeue", "sacct"])
def test_a_row_of_squeue_or_sacct_is_a_state_of_a_job(
    tmp_path: Path, line: str, state: JobState | None, command: str
) -> None:
    """As where there is no other command. Elements of arrays and of het jobs are nobody's here."""
    line = line.replace("5|", "5|ts-x|2026-01-01T00:00:00|", 1)
    shell = Saying(**{command: line})
    assert use(tmp_path, lambda it: it.states(["5"]), shell) == ({"5": state} if state else {})


def test_every_state_that_scontrol_tells_is_the_same_as_squeues(tmp_path: Path) -> None:
    for word in [*OUTCOMES, *PENDING, "RUNNING", "COMPLETING", "SUSPENDED", "STAGE_OUT", "STOPPED"]:
        rest = "ExitCode=1:0 NodeList=gpu-a[01-02]n[1-2] BatchHost=gpu-a01n1"
        shell = Saying(scontrol=f"scontrol: JobId=5 JobName=x JobState={word} Reason=None {rest}")
        told = use(tmp_path, lambda it: it.states(["5"]), shell)
        listed = use(
            tmp_path, lambda it: it.states(["5"]), Saying(squeue=f"5|x|Unknown|{word}|gpu-a[01-02]n[1-2]|1:0|None")
        )
        assert told == listed


@pytest.mark.parametrize(
    ("sacct", "outcome"),
    [(NO_ACCOUNTING, "lost"), ("exit 127", "lost"), ("exit 0", "lost"), (NO_DATABASE, None), ("sleep 600", None)],
    ids=["disabled", "not there", "knows none", "down", "hangs"],
)
def test_a_job_is_lost_only_where_all_answer_that_could_know_it(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sacct: str, outcome: str | None
) -> None:
    monkeypatch.setattr("tokenstorm.cluster.slurm.LISTED_AFTER_SECONDS", -1.0)
    monkeypatch.setattr("tokenstorm.cluster.slurm.ACCOUNTING_SECONDS", 0.5)
    monkeypatch.setenv("PATH", wrapped(tmp_path, sacct=sacct))

    async def what(it: Slurm) -> tuple[str | None, str | None]:
        number = await it.submit(job(tmp_path / "job", "sleep 600"))
        found = await it.states([number, "99999"])
        await it.cancel(number)
        gone = found.get("99999", JobState("running"))
        return found[number].outcome, gone.outcome

    assert use(tmp_path, what) == (None, outcome)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("command", ["squeue", "scontrol"])
def test_the_name_of_somebody_elses_job_is_no_state_of_ours(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    name = "x\n99999|y|2026-01-01T00:00:00|RUNNING|n1||None\nJobId=99999 JobName=y JobState=COMPLETED ExitCode=0:0"
    theirs = ["sbatch", "--parsable", "--uid=65534", "--gid=65534", "--hold", "--output=/dev/null", "--chdir=/"]
    other = output(*theirs, f"--job-name={name}", f"--comment={name}", "--wrap=true")
    assert "JobId=99999 JobName=y" in output("scontrol", "--oneliner", "show", "job")
    monkeypatch.setenv("PATH", only(tmp_path, command))

    async def what(it: Slurm) -> dict[str, JobState]:
        found = await it.states(["99999"])
        await it.cancel(other)
        return found

    assert use(tmp_path, what) == {}


def test_a_site_where_nothing_answers_changes_no_state(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", only(tmp_path, "none of them"))
    with pytest.raises(Unreachable, match="not on this site"):
        use(tmp_path, lambda it: it.states(["1"]))
    with pytest.raises(Unreachable, match="was not submitted"):
        use(tmp_path, lambda it: it.submit(job(tmp_path / "job", "true")))
    assert shutil.which("squeue") == str(tmp_path / "wrappers" / "squeue")


def test_what_is_no_id_is_never_cancelled(tmp_path: Path) -> None:
    async def what(it: Slurm) -> None:
        for wrong in ("--user=root", "", "1 2", "wrap"):
            with pytest.raises(UsageError, match="no id"):
                await it.cancel(wrong)

    use(tmp_path, what)


def test_names_and_folders_reach_slurm_as_they_are(slurm: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s 100% "sure"; $(id) #ü'

    async def what(it: Slurm) -> JobState:
        one = job(folder, "echo here", name="a 'name' with $(everything)\n")
        return await until(it, await it.submit(one), "ended")

    assert use(tmp_path, what).outcome == "completed"
    assert (folder / "stdout.log").read_text() == "here\n"


def test_a_line_break_in_what_sbatch_reads_line_by_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line break"):
        directives(job(tmp_path / "a\nb", "true"), profile(tmp_path))
    with pytest.raises(UsageError, match="backslash"):
        directives(job(tmp_path / "a\\b", "true"), profile(tmp_path))


def test_a_job_is_preempted_once_where_sites_queue_such_jobs_again(slurm: Path, tmp_path: Path) -> None:
    urgent = (
        "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\n"
        "PartitionName=urgent Nodes=n[1-4] PriorityTier=10 MaxTime=INFINITE State=UP\n"
    )

    async def what(it: Slurm) -> JobState:
        number = await it.submit(job(tmp_path / "job", "echo here; sleep 600", nodes=4, exclusive=True))
        await until(it, number, "running")
        output("sbatch", "-p", "urgent", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "true")
        return await until(it, number, "ended")

    with configured(
        slurm, lambda text: text.replace("PartitionName=cpu ", "PartitionName=cpu PriorityTier=1 ") + urgent
    ):
        assert use(tmp_path, what).outcome == "preempted"
        while output("squeue", "--noheader", "--format=%i"):
            pass
