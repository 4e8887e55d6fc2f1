"""A job of a real Slurm is submitted once: whatever is cut, said besides, waited for or set in the user's environment."""

import asyncio
import os
import shutil
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import pytest

from grouplab import profile
from slurmjobs import job, named, only, output, until, use, wrapped
from tokenstorm.cluster import submission
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.cluster.shell import Output
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.errors import RefusedJob, Unconfirmed, Unreachable
from waiting import until as wait_until

T = TypeVar("T")


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


def test_a_submission_that_waits_for_another_finds_its_job(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock's file goes with the first; who waited for it and who comes later hold different ones, and see its note."""
    one, gate = job(tmp_path / "job", "sleep 600"), tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setenv("PATH", wrapped(tmp_path, sbatch=f'touch begun; cat {gate} > /dev/null; real "$@"'))

    def there() -> Slurm:
        return Slurm(LocalShell(), profile(tmp_path))

    async def what(it: Slurm) -> None:
        first = asyncio.create_task(it.submit(one))
        while not (tmp_path / "job" / "begun").exists():  # noqa: ASYNC110 - sbatch tells nobody
            await asyncio.sleep(0.01)
        with monkeypatch.context() as hasty:
            hasty.setattr(submission, "LOCK_SECONDS", 0.1)
            with pytest.raises(Unconfirmed, match="earlier submission of it has not ended"):
                await there().submit(one)
        second = asyncio.create_task(there().submit(one))
        waited_for = f":{(tmp_path / 'job' / '.submit').stat().st_ino} "
        while not any("->" in line and waited_for in line for line in Path("/proc/locks").read_text().splitlines()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        gate.write_text("go\n")
        number = await first
        assert [await second, await there().submit(one)] == [number, number]
        assert named(one) == [number]
        await it.cancel(number)

    use(tmp_path, what)
    assert not (tmp_path / "job" / ".submit").exists()


@pytest.mark.parametrize(
    "text",
    [
        "echo 'Welcome to our cluster'; real \"$@\"",
        'real "$@"; echo "Your project has 1200 hours left"',
        'real "$@" | sed "s/$/;lab/"',
        'echo 1200; real "$@"',
        'printf "hello "; real "$@"',
        'echo "Submitted batch job $(real "$@")"',
        'real "$@" > /dev/null',
        'echo "lua: account set" >&2; real "$@"',
    ],
    ids=["before", "after", "cluster", "a number", "no line", "words", "silent", "plugin"],
)
def test_the_id_is_found_whatever_else_a_site_says(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    one = job(tmp_path / "job", "sleep 600")
    monkeypatch.setenv("PATH", wrapped(tmp_path, sbatch=text))

    async def what(it: Slurm) -> None:
        number = await it.submit(one)
        assert named(one) == [number]
        await it.cancel(number)

    use(tmp_path, what)


def test_what_start_up_files_and_wrappers_say_is_read_over(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path / "job", "sleep 600")
    noise = tmp_path / "noise.sh"
    noise.write_text("echo 77; printf 'module load'\n")
    says = dict.fromkeys(("sbatch", "squeue", "scontrol", "scancel"), 'printf "77\\nhello "; echo; real "$@"; echo 77')
    monkeypatch.setenv("BASH_ENV", str(noise))
    monkeypatch.setenv("PATH", wrapped(tmp_path, **says))

    async def what(it: Slurm) -> tuple[JobState, JobState]:
        number = await it.submit(one)
        begun_again(tmp_path / "job")
        assert await it.submit(one) == number
        assert (await until(it, number, "running")).nodes == ("n1",)
        await it.cancel(number)
        failing = await it.submit(job(tmp_path / "failing", "exit 3"))
        return await until(it, number, "ended"), await until(it, failing, "ended")

    cancelled, failed = use(tmp_path, what)
    assert (cancelled.outcome, failed.outcome, failed.exit_code) == ("cancelled", "failed", 3)


def begun_again(folder: Path) -> None:
    """As a submission leaves it that was cut between sbatch and its note."""
    (folder / "job.id").unlink()
    (folder / ".submit").write_text(output("date", "+%s"))


def test_the_users_variables_change_no_answer(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = job(tmp_path / "job", "sleep 600"), job(tmp_path / "other", "true", nodes=9)
    for name, value in {
        "SQUEUE_FORMAT": "%j",
        "SQUEUE_FORMAT2": "name",
        "SQUEUE_STATES": "suspended",
        "SQUEUE_PARTITION": "gpu",
        "SQUEUE_NAMES": "nobodys",
        "SQUEUE_USERS": "nobody",
        "SCONTROL_FUTURE": "1",
        "SCANCEL_INTERACTIVE": "1",
        "SCANCEL_STATE": "SUSPENDED",
        "SCANCEL_NAME": "nobodys",
        "SACCT_FORMAT": "user",
        "SBATCH_HOLD": "1",
        "SBATCH_ARRAY_INX": "1-3",
    }.items():
        monkeypatch.setenv(name, value)

    async def what(it: Slurm) -> list[str | None]:
        numbers = [await it.submit(one), await it.submit(other)]
        for number, again in zip(numbers, (one, other), strict=True):
            begun_again(Path(again.folder))
            assert await it.submit(again) == number
        assert (await until(it, numbers[0], "running")).nodes == ("n1",)
        for number in numbers:
            await it.cancel(number)
        return [(await until(it, number, "ended")).outcome for number in numbers]

    assert use(tmp_path, what) == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    "text",
    [
        "kill -9 $PPID",
        "kill -9 $$",
        'SLURM_CONF=/nowhere/slurm.conf; echo "Unable to contact slurm controller" >&2; exit 1',
    ],
    ids=["caller", "sbatch", "unheard"],
)
def test_a_submission_that_never_reached_slurm_is_made_when_it_is_repeated(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    one = job(tmp_path / "job", "sleep 600")
    monkeypatch.setattr(submission, "DOUBT_SECONDS", (0.0,))

    async def what(it: Slurm) -> None:
        with monkeypatch.context() as cut:
            cut.setenv("PATH", wrapped(tmp_path, sbatch=text))
            with pytest.raises(Unconfirmed, match="not known"):
                await it.submit(one)
        assert named(one) == []
        number = await it.submit(one)
        assert named(one) == [number]
        await it.cancel(number)

    use(tmp_path, what)


def test_a_submission_that_slurm_has_not_read_yet_is_not_made_a_second_time(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurmctld hangs when sbatch asks, and both callers are gone when it goes on: it answers squeue first."""
    one = job(tmp_path / "job", "true", nodes=9)
    controller = int((slurm.parent / "run" / "slurmctld.pid").read_text())
    status = Path(f"/proc/{controller}/status")
    port = next(int(line[14:]) for line in slurm.read_text().splitlines() if line.startswith("SlurmctldPort="))
    monkeypatch.setattr(submission, "DOUBT_SECONDS", (2.0,))

    async def what(it: Slurm) -> None:
        first = LocalShell()
        await wait_until(lambda: not output("squeue", "--noheader"))  # nobody else has anything to tell slurmctld
        with monkeypatch.context() as site:
            site.setenv("PATH", wrapped(tmp_path, sbatch=f'kill -STOP {controller}; real "$@"'))
            cut = asyncio.create_task(Slurm(first, profile(tmp_path)).submit(one))
            try:
                await wait_until(lambda: "\nState:\tT" in status.read_text() and unread(port) >= 1)
                await first.close()
                with pytest.raises(Unconfirmed):
                    await cut
                site.undo()
                again = asyncio.create_task(it.submit(one))
                await wait_until(lambda: unread(port) >= 2)
            finally:
                os.kill(controller, signal.SIGCONT)
        number = await again
        assert named(one) == [number]
        await it.cancel(number)

    use(tmp_path, what)


def unread(port: int) -> int:
    """How many connections to a port of this machine were sent something that nobody has read."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        row[1].endswith(f":{port:04X}") and int(row[4].partition(":")[2], 16) > 0 for row in rows if row[3] != "0A"
    )


@pytest.mark.parametrize("command", ["squeue", "scontrol"])
@pytest.mark.parametrize("text", ['real "$@"; kill -9 $PPID', 'real "$@"; kill -9 $$'], ids=["caller", "sbatch"])
def test_a_submission_whose_answer_nobody_saw_is_found_by_its_name(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, command: str
) -> None:
    one = job(tmp_path / "job", "true", nodes=9)

    async def what(it: Slurm) -> None:
        with monkeypatch.context() as cut:
            cut.setenv("PATH", wrapped(tmp_path, sbatch=text))
            with pytest.raises(Unconfirmed):
                await it.submit(one)
        with monkeypatch.context() as site:
            shutil.rmtree(tmp_path / "wrappers")
            site.setenv("PATH", only(tmp_path, command))
            number = await it.submit(one)
        assert named(one) == [number]
        await it.cancel(number)

    use(tmp_path, what)


def test_a_refusal_leaves_nothing_behind_that_stands_in_the_way(slurm: Path, tmp_path: Path) -> None:
    one = job(tmp_path / "job", "sleep 600")
    with pytest.raises(RefusedJob, match="invalid partition"):
        use(tmp_path, lambda it: it.submit(one), partitions={"cpu": "none"})
    assert (tmp_path / "job" / ".submit").read_text() == ""

    async def what(it: Slurm) -> None:
        number = await it.submit(one)
        assert named(one) == [number]
        await it.cancel(number)

    use(tmp_path, what)


def test_a_folder_that_cannot_be_written_is_told_before_a_job_is_made(slurm: Path, tmp_path: Path) -> None:
    one = job(tmp_path / "job", "sleep 600")
    (tmp_path / "job" / ".submit").mkdir(parents=True)
    with pytest.raises(Unreachable, match=r"was not submitted: .*\.submit"):
        use(tmp_path, lambda it: it.submit(one))
    assert named(one) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("name", ["{ours}", "{ours} UserId=root(0) x", "x\nJobId={id} JobName={ours} UserId=root(0) x"])
def test_a_job_of_somebody_else_is_never_taken_for_ours(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where scontrol alone tells: it lists everybody's jobs, and their names as they are, with line breaks."""
    one = job(tmp_path / "job", "true", nodes=9)
    theirs = [
        "sbatch",
        "--parsable",
        "--uid=65534",
        "--gid=65534",
        "--hold",
        "--output=/dev/null",
        "--chdir=/",
        "--wrap=true",
    ]
    first = output(*theirs)
    second = output(*theirs, "--job-name", name.format(ours=one.name, id=first))
    monkeypatch.setenv("PATH", only(tmp_path, "scontrol"))

    async def what(it: Slurm) -> None:
        number = await it.submit(one)
        assert number not in {first, second}
        for mine in (number, first, second):
            await it.cancel(mine)

    use(tmp_path, what)
