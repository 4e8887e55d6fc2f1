"""Jobs of a real Slurm: submitted once, told apart by how they stand and ended, and cancelled by id."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pytest

from grouplab import profile
from tokenstorm.cluster.hostlist import expand
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import Job, JobState
from tokenstorm.cluster.shell import Output
from tokenstorm.cluster.slurm import Slurm, directives, slurm_name
from tokenstorm.config import Profile
from tokenstorm.errors import RefusedJob, Unconfirmed, Unreachable, UsageError

T = TypeVar("T")
SECONDS = 60.0
GOLDEN = Path(__file__).parent / "golden"
COMMANDS = ("squeue", "scontrol", "sacct", "sbatch", "scancel")


class Watched(LocalShell):
    """Counts its commands; loses the answer of one of them, before or after it ran."""

    def __init__(self, lose: int | None = None, *, after: bool = False) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []
        self._lose, self._after = lose, after

    async def run(self, argv: Sequence[str], **options: Any) -> Output:
        self.calls.append(tuple(argv))
        lost = len(self.calls) - 1 == self._lose
        if lost and not self._after:
            message = "the connection was lost before"
            raise Unreachable(message)
        output = await super().run(argv, **options)
        if lost:
            message = "the connection was lost after"
            raise Unconfirmed(message)
        return output


def use(folder: Path, what: Callable[[Slurm], Awaitable[T]], shell: LocalShell | None = None, **fields: Any) -> T:
    async def run() -> T:
        async with asyncio.timeout(SECONDS):
            return await what(Slurm(shell or LocalShell(), profile(folder, **fields)))

    return asyncio.run(run())


def job(folder: Path, text: str, **fields: Any) -> Job:
    """A job of a folder of its own that runs a line of shell."""
    fields = {
        "name": f"{folder.parent.name}.{folder.name}",
        "time_limit_minutes": 5,
        "signal_lead_seconds": 60,
        **fields,
    }
    return Job(command=("bash", "-c", text), folder=PurePosixPath(folder), **fields)


async def until(slurm: Slurm, number: str, phase: str) -> JobState:
    """Its state, once it is in that phase."""
    while True:
        state = (await slurm.states([number])).get(number)
        if state and state.phase == phase:
            return state
        await asyncio.sleep(0.05)


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
    shell = Watched()

    async def what(it: Slurm) -> None:
        folders = [tmp_path / str(number) for number in range(5)]
        ids = [await it.submit(job(folder, "sleep 600")) for folder in folders]
        shell.calls.clear()
        assert set(await it.states(ids)) == set(ids)
        assert len(shell.calls) == 1
        for number in ids:
            await it.cancel(number)

    use(tmp_path, what, shell)


class Cut(LocalShell):
    """Loses the answer of one of its calls, put or run, before or after it was carried out."""

    def __init__(self, lose: int, *, after: bool) -> None:
        super().__init__()
        self.calls = 0
        self._lose, self._after = lose, after

    async def put(self, path: PurePosixPath, data: bytes, **options: Any) -> None:
        await self._cut(super().put(path, data, **options))

    async def run(self, argv: Sequence[str], **options: Any) -> Output:
        return await self._cut(super().run(argv, **options))

    async def _cut(self, call: Coroutine[Any, Any, T]) -> T:
        self.calls += 1
        lost = self.calls - 1 == self._lose
        if lost and not self._after:
            call.close()
            message = "the connection was lost before"
            raise Unreachable(message)
        result = await call
        if lost:
            message = "the connection was lost after"
            raise Unconfirmed(message)
        return result


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("lose", [0, 1])
def test_a_cut_at_any_call_of_a_submission_leaves_one_job(slurm: Path, tmp_path: Path, lose: int, after: bool) -> None:
    shell = Cut(lose, after=after)
    one = job(tmp_path / "job", "sleep 600")

    async def what(it: Slurm) -> None:
        with pytest.raises((Unreachable, Unconfirmed)):
            await it.submit(one)
        number = await it.submit(one)
        assert shell.calls == lose + 3  # there is no call that was not cut
        assert named(one) == [number]
        await it.cancel(number)

    use(tmp_path, what, shell)


def test_a_job_that_slurm_forgot_is_known_by_the_note_of_its_script(slurm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"

    async def what(it: Slurm) -> None:
        one = job(folder, "true")
        number = await it.submit(one)
        await until(it, number, "ended")
        (folder / "job.id").unlink()
        same_folder = job(folder, "true", name="a name that Slurm does not know")
        assert await it.submit(same_folder) == number
        assert named(same_folder) == []

    use(tmp_path, what)


def test_a_second_job_of_a_folder_ends_at_once_and_does_nothing(slurm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"

    async def what(it: Slurm) -> None:
        number = await it.submit(job(folder, "echo once"))
        assert (await until(it, number, "ended")).exit_code == 0
        argv = ["sbatch", "--parsable", "--export=NONE", str(folder / "script.sh")]
        second = output(*argv)
        assert (await until(it, second, "ended")).exit_code == 1
        assert (folder / "stdout.log").read_text() == "once\n"
        assert f"job {number} has this folder" in (folder / "stderr.log").read_text()

    use(tmp_path, what)


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


@pytest.mark.parametrize("after", [False, True])
def test_a_submission_whose_answer_is_lost_is_one_job_when_it_is_repeated(
    slurm: Path, tmp_path: Path, after: bool
) -> None:
    shell = Watched(0, after=after)
    one = job(tmp_path, "sleep 600")

    async def what(it: Slurm) -> None:
        with pytest.raises((Unreachable, Unconfirmed)):
            await it.submit(one)
        number = await it.submit(one)
        assert named(one) == [number]
        (tmp_path / "job.id").unlink()  # cut between sbatch and the note
        assert await Slurm(shell, profile(tmp_path)).submit(one) == number
        await it.cancel(number)
        await until(it, number, "ended")
        assert await it.submit(one) == number

    use(tmp_path, what, shell)


def test_submissions_at_the_same_time_are_one_job(slurm: Path, tmp_path: Path) -> None:
    one = job(tmp_path, "sleep 600")

    async def what(it: Slurm) -> None:
        ids = await asyncio.gather(*(Slurm(LocalShell(), profile(tmp_path)).submit(one) for _ in range(6)))
        assert named(one) == [ids[0]]
        assert set(ids) == {ids[0]}
        await it.cancel(ids[0])

    use(tmp_path, what)


def accounting(conf: Path) -> bool:
    return "accounting_storage/slurmdbd" in conf.read_text()


def output(*argv: str) -> str:
    return subprocess.check_output(argv, text=True).strip()


def named(one: Job) -> list[str]:
    """The ids of all jobs of that name."""
    return output("squeue", "--noheader", "--states=all", f"--name={slurm_name(one.name)}", "--format=%i").split()


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Leaves this site one of the commands that tell of jobs; the others are there and fail."""

    def leave(name: str) -> None:
        broken = tmp_path / "bin"
        broken.mkdir()
        for other in {"squeue", "scontrol", "sacct"} - {name}:
            (broken / other).write_text("#!/bin/sh\necho 'not on this site' >&2\nexit 1\n")
            (broken / other).chmod(0o755)
        monkeypatch.setenv("PATH", f"{broken}:{os.environ['PATH']}")

    return leave


@pytest.mark.parametrize("command", ["squeue", "scontrol", "sacct"])
def test_one_command_that_tells_of_jobs_is_enough(
    slurm: Path, tmp_path: Path, only: Callable[[str], None], command: str
) -> None:
    if command == "sacct" and not accounting(slurm):
        pytest.skip("this lab has no accounting: LAB_OPTIONS=--slurmdbd gives it some")
    only(command)

    async def what(it: Slurm) -> JobState:
        one = job(tmp_path / "job", "sleep 600", nodes=2)
        number = await it.submit(one)
        assert await it.submit(one) == number
        assert len((await until(it, number, "running")).nodes) == 2
        await it.cancel(number)
        return await until(it, number, "ended")

    assert use(tmp_path, what).outcome == "cancelled"


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("5|CANCELLED by 1000|None|n1|0:15", JobState("ended", "cancelled", "", 143, ("n1",))),
        ("5|TIMEOUT|TimeLimit|n[1-2]|0:0", JobState("ended", "timeout", "TimeLimit", 0, ("n1", "n2"))),
        ("5|OUT_OF_MEMORY|OutOfMemory|n1|0:125", JobState("ended", "out_of_memory", "OutOfMemory", 253, ("n1",))),
        ("5|PREEMPTED|None|n1|0:0", JobState("ended", "preempted", "", 0, ("n1",))),
        ("5|NODE_FAIL|NodeDown|n1|1:0", JobState("ended", "node_fail", "NodeDown", 1, ("n1",))),
        ("5|BOOT_FAIL|None|n1|0:0", JobState("ended", "node_fail", "", 0, ("n1",))),
        ("5|PENDING|BeginTime|None assigned|0:0", JobState("pending", reason="BeginTime")),
        ("5|COMPLETING|None|n1|0:0", JobState("running", nodes=("n1",))),
        ("5|SUSPENDED|None|n1|0:0", JobState("running", nodes=("n1",))),
        ("5_1|RUNNING|None|n1|0:0", None),
        ("5+0|RUNNING|None|n1|0:0", None),
        ("cut off|in the mid", None),
    ],
)
def test_what_sacct_tells_is_a_state_of_a_job(tmp_path: Path, line: str, state: JobState | None) -> None:
    """As where there are neither squeue nor scontrol. Elements of arrays and of het jobs are nobody's here."""

    class Sacct(LocalShell):
        async def run(self, argv: Sequence[str], **options: Any) -> Output:
            return Output(0, line.encode(), b"") if "sacct" in argv[2] else Output(127, b"", b"not here")

    assert use(tmp_path, lambda it: it.states(["5"]), Sacct()) == ({"5": state} if state else {})


def test_a_site_where_nothing_answers_changes_no_state(
    slurm: Path, tmp_path: Path, only: Callable[[str], None]
) -> None:
    only("none of them")
    with pytest.raises(Unreachable, match="not on this site"):
        use(tmp_path, lambda it: it.states(["1"]))
    with pytest.raises(Unreachable, match="was not submitted"):
        use(tmp_path, lambda it: it.submit(job(tmp_path / "job", "true")))
    assert shutil.which("squeue") == str(tmp_path / "bin" / "squeue")


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


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ""),
        ("(null)", ""),
        ("n1", "n1"),
        ("n[1-3,7]", "n1 n2 n3 n7"),
        ("a[08-10],b", "a08 a09 a10 b"),
        ("r[1-2]n[1-2],login", "r1n1 r1n2 r2n1 r2n2 login"),
    ],
)
def test_lists_of_nodes_are_names(text: str, names: str) -> None:
    assert expand(text) == tuple(names.split())
