"""One login and several clusters, and a Slurm that leaves in doubt what came of a job: one job, on the cluster that it is on."""

import asyncio
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from grouplab import profile
from slurmjobs import NOT_HERE, job, named, output, until, use, wrapped
from tokenstorm.cluster import submission
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.errors import RefusedJob, Unconfirmed, Unreachable


def test_the_text_of_a_submission_is_a_file_that_bash_reads_and_sets_each_word_that_it_uses() -> None:
    text = submission.text()
    assert (
        subprocess.run(["bash", "-n"], input=text.encode(), check=True, capture_output=True, timeout=60).stderr == b""
    )
    words = dict(part.partition("=")[::2] for part in shlex.split(text.partition("\n")[0]))
    assert (words["note"], words["nobody"], words["options"]) == (submission.NOTE, "withdrawn", submission.OPTIONS)
    body = text.partition("\n")[2]
    assert not [name for name in words if not re.search(rf"\$\{{?{name}\b", body)]


ALL = ("sbatch", "squeue", "scontrol", "sacct", "scancel")
THERE = 'if [ "$1 $2" = "-M other" ]; then shift 2; real "$@"; else {else_}; fi'
NOTHING = {
    "squeue": ":",
    "scontrol": 'case $* in *config) real "$@" ;; *) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;; esac',
    "sacct": ":",
    "scancel": 'echo "scancel: error: Kill job error on job id $1: Invalid job id specified" >&2; exit 1',
    "sbatch": 'echo "sbatch: error: no partition here" >&2; exit 1',
}
LOST_AFTER = 'real "$@"; kill -9 $PPID'
LOST_BEFORE = "kill -9 $PPID"


def on_other(folder: Path, **commands: str) -> str:
    """A PATH of a site where all of the lab is the cluster `other`, and the login's own cluster is empty."""
    there = {name: THERE.format(else_=NOTHING[name]) for name in ALL}
    there["squeue"] = there["squeue"].replace("real", "echo 'CLUSTER: other'; real")
    there["sbatch"] = there["sbatch"].replace('real "$@"', 'real "$@" | sed "s/$/;other/"')
    return wrapped(folder, **{**there, **commands})


async def lives_and_is_cancelled(it: Slurm, one: Job) -> str:
    """The id of a job, which is seen to run and to be cancelled."""
    number = await it.submit(one)
    assert (await until(it, number, "running")).nodes
    assert await it.submit(one) == number
    await it.cancel(number)
    assert (await until(it, number, "ended")).outcome == "cancelled"
    return number


def test_all_of_slurms_commands_are_told_the_cluster_of_the_profile(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path / "job", "sleep 600")
    monkeypatch.setenv("PATH", on_other(tmp_path))
    number = use(tmp_path, lambda it: lives_and_is_cancelled(it, one), cluster="other")
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    assert named(one) == [number]


@pytest.mark.parametrize("says", ["123;other", "Submitted batch job 123 on cluster other"])
def test_a_job_that_the_site_sent_to_another_cluster_is_asked_about_and_cancelled_there(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    one = job(tmp_path / "job", "sleep 600")
    sbatch = f'n=$(real "$@") && echo "{says.replace("123", "$n")}"'
    monkeypatch.setenv("PATH", on_other(tmp_path, sbatch=sbatch))
    found = use(tmp_path, lambda it: lives_and_is_cancelled(it, one))
    monkeypatch.undo()
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    assert [f"{number};other" for number in named(one)] == [found]


def test_the_cluster_that_the_users_environment_names_is_regarded(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path / "job", "sleep 600")
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    monkeypatch.setenv("PATH", on_other(tmp_path))
    assert use(tmp_path, lambda it: lives_and_is_cancelled(it, one)).endswith(";other")


@pytest.mark.parametrize("clusters", ["all", "one,other"])
def test_an_environment_that_leaves_the_cluster_open_is_refused_in_words(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clusters: str
) -> None:
    one = job(tmp_path / "job", "true")
    with monkeypatch.context() as user:
        user.setenv("SLURM_CLUSTERS", clusters)
        with pytest.raises(
            RefusedJob, match=f"SLURM_CLUSTERS on the login node is '{clusters}'.*name it in the profile's `cluster`"
        ):
            use(tmp_path, lambda it: it.submit(one))
    assert named(one) == []


def test_a_profile_that_leaves_the_cluster_open_is_blamed_itself_and_once(tmp_path: Path) -> None:
    settings = profile(tmp_path).model_copy(update={"cluster": "all"})
    with pytest.raises(
        Unreachable, match=r"answer: the profile's `cluster` is 'all', and .* one cluster: name that one$"
    ):
        asyncio.run(Slurm(LocalShell(), settings).states(["7"]))


def test_an_sbatch_that_ended_well_is_never_followed_by_another(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words hold no id, and nobody lists the job for as long as it takes."""
    one = job(tmp_path / "job", "true", nodes=9)
    monkeypatch.setattr(submission, "DOUBT_SECONDS", (0.0,))
    words = 'real "$@" > number; echo "your job is on its way"'
    nothing = {name: NOTHING[name] for name in ("squeue", "scontrol", "sacct")}

    async def what(it: Slurm) -> None:
        with monkeypatch.context() as site:
            site.setenv("PATH", wrapped(tmp_path, sbatch=words, **nothing))
            for _ in range(3):
                with pytest.raises(Unconfirmed, match="it took it, and said no id: your job is on its way"):
                    await it.submit(one)
        assert [await it.submit(one)] == named(one) == [(tmp_path / "job" / "number").read_text().strip()]
        await it.cancel(named(one)[0])

    use(tmp_path, what)


def test_a_queue_that_is_told_late_is_asked_past_its_cache(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A squeue that answers, and lists nothing new yet."""
    one = job(tmp_path / "job", "true", nodes=9)
    monkeypatch.setattr(submission, "DOUBT_SECONDS", (0.0,))

    async def what(it: Slurm) -> None:
        with monkeypatch.context() as site:
            site.setenv("PATH", wrapped(tmp_path, sbatch=LOST_AFTER, squeue=":"))
            with pytest.raises(Unconfirmed):
                await it.submit(one)
            number = await it.submit(one)
        assert named(one) == [number]
        await it.cancel(number)

    use(tmp_path, what)


def test_in_doubt_each_further_job_waits_longer_and_of_two_the_older_stays(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command is a cache that lists nothing yet, and no answer of sbatch arrives."""
    one = job(tmp_path / "job", "true", nodes=9)
    monkeypatch.setattr(submission, "DOUBT_SECONDS", (0.0, 60.0, 300.0))
    late = {name: NOTHING[name] for name in ("squeue", "scontrol", "sacct")}

    async def what(it: Slurm) -> None:
        with monkeypatch.context() as site:
            site.setenv("PATH", wrapped(tmp_path, sbatch=LOST_AFTER, **late))
            for _ in range(2):
                with pytest.raises(Unconfirmed):
                    await it.submit(one)
            for _ in range(3):
                with pytest.raises(Unconfirmed, match=r"lists no such job; .* submitted again in \d+ s"):
                    await it.submit(one)
        both = named(one)
        assert len(both) == 2
        shutil.rmtree(tmp_path / "wrappers")
        number = await it.submit(one)
        assert number == min(both, key=int)
        states = await it.states(both)
        assert {state.phase for job_id, state in states.items() if job_id != number} == {"ended"}
        assert states[number].phase == "pending"
        await it.cancel(number)

    use(tmp_path, what)


def test_a_job_that_shows_up_after_another_took_its_place_does_nothing(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path / "job", f"echo ran >> {tmp_path}/ran; sleep 600")
    monkeypatch.setattr(submission, "DOUBT_SECONDS", (0.0,))
    late = {name: NOTHING[name] for name in ("squeue", "scontrol", "sacct")}

    async def what(it: Slurm) -> None:
        with monkeypatch.context() as site:
            site.setenv("PATH", wrapped(tmp_path, sbatch='real --hold "$@" > first; kill -9 $PPID', **late))
            with pytest.raises(Unconfirmed):
                await it.submit(one)
            (tmp_path / "wrappers" / "sbatch").unlink()
            number = await it.submit(one)
        first = (tmp_path / "job" / "first").read_text().strip()
        assert number != first
        while not (tmp_path / "ran").exists():  # noqa: ASYNC110 - a job sets no event
            await asyncio.sleep(0.05)
        await asyncio.to_thread(output, "scontrol", "release", first)
        assert (await until(it, first, "ended")).exit_code == 1
        await it.cancel(number)
        await until(it, number, "ended")

    use(tmp_path, what)
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_what_is_withdrawn_is_never_submitted_and_a_job_that_is_there_is_known(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, there, unseen = [job(tmp_path / name, f"touch {tmp_path}/ran") for name in ("never", "there", "unseen")]
    late = {name: NOTHING[name] for name in ("squeue", "scontrol", "sacct")}

    async def what(it: Slurm) -> None:
        assert await it.withdraw(never) is None, "there is not even a folder"
        (tmp_path / "never").mkdir()
        assert await it.withdraw(never) is None
        with pytest.raises(RefusedJob, match="withdrawn"):
            await it.submit(never)
        assert named(never) == []
        with monkeypatch.context() as cut:
            cut.setenv("PATH", wrapped(tmp_path, sbatch='real --hold "$@"; kill -9 $PPID'))
            for one in (there, unseen):
                with pytest.raises(Unconfirmed):
                    await it.submit(one)
            cut.setenv("PATH", wrapped(tmp_path, **late))
            with pytest.raises(Unconfirmed, match="not submitted any more"):
                await it.withdraw(unseen)
            cut.setattr(submission, "DOUBT_SECONDS", (0.0, 0.0))
            assert await it.withdraw(unseen) is None
        assert [await it.withdraw(there)] == named(there)
        for one in (there, unseen):
            await asyncio.to_thread(output, "scontrol", "release", named(one)[0])
            assert (await until(it, named(one)[0], "ended")).exit_code == 1

    use(tmp_path, what)
    assert not (tmp_path / "ran").exists(), "what is withdrawn does nothing, whenever it begins"


def test_of_what_is_withdrawn_while_its_folder_is_out_of_reach_slurm_tells(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    never, there = [job(tmp_path / "base" / name, "true") for name in ("never", "there")]

    async def what(it: Slurm) -> None:
        with monkeypatch.context() as cut:
            cut.setenv("PATH", wrapped(tmp_path, sbatch='real --hold "$@"; kill -9 $PPID'))
            with pytest.raises(Unconfirmed):
                await it.submit(there)
        (tmp_path / "base").rename(tmp_path / "elsewhere")
        (tmp_path / "base").write_bytes(b"")
        assert await it.withdraw(never) is None
        (number,) = named(there)
        assert await it.withdraw(there) == number
        await it.cancel(number)
        with monkeypatch.context() as silent:
            silent.setenv("PATH", wrapped(tmp_path, squeue="exit 1"))
            with pytest.raises(Unconfirmed, match="base/never: Not a directory; it is not submitted any more"):
                await it.withdraw(never)

    use(tmp_path, what)


def test_a_submission_that_goes_on_by_itself_makes_no_job_once_it_is_withdrawn(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits in doubt, and was about to submit once more."""
    one = job(tmp_path / "job", "true")

    async def what(it: Slurm) -> None:
        with monkeypatch.context() as cut:
            cut.setenv("PATH", wrapped(tmp_path, sbatch=LOST_BEFORE))
            with pytest.raises(Unconfirmed):
                await it.submit(one)
        shutil.rmtree(tmp_path / "wrappers")
        monkeypatch.setattr(submission, "DOUBT_SECONDS", (2.0, 0.0))
        goes_on = asyncio.create_task(it.submit(one))
        while not (tmp_path / "job" / ".missed").exists():  # noqa: ASYNC110 - a shell tells nobody
            await asyncio.sleep(0.01)
        assert await Slurm(LocalShell(), profile(tmp_path)).withdraw(one) is None
        with pytest.raises(RefusedJob, match="withdrawn"):
            await goes_on

    use(tmp_path, what)
    assert named(one) == []


def test_a_site_with_no_command_but_squeue_and_sbatch_finds_its_own_cluster(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path / "job", "sleep 600")
    monkeypatch.setenv("PATH", wrapped(tmp_path, scontrol=NOT_HERE, sacct=NOT_HERE))
    assert use(tmp_path, lambda it: lives_and_is_cancelled(it, one)).isdecimal()
