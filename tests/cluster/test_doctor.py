"""The doctor finds what would stop a run, before it does, and says what to do about it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from running import wait_for
from sshd import MISSING, SSHD, sshd
from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.setup import hold
from tokenstorm.cluster.setup.checks import Check, Needs
from tokenstorm.cluster.setup.doctor import examine, stops_a_run
from tokenstorm.config.profile import Partitions, Profile, Ssh
from waiting import finish, until

pytestmark = [pytest.mark.integration]
has_sshd = pytest.mark.skipif(SSHD is None, reason=MISSING)


def profile(base: Path, **more: object) -> Profile:
    fields = {"scheduler": "slurm", "python": sys.executable, "partitions": Partitions(cpu="cpu", gpu="gpu"), **more}
    return Profile(name="lab", base_path=PurePosixPath(base), **fields)  # type: ignore[arg-type]


def examined(
    profile: Profile, needs: Needs | None = None, *, last: str = "", said: list[str] | None = None
) -> dict[str, Check]:
    """The checks by name, up to the last that matters."""
    found: dict[str, Check] = {}

    async def scenario() -> None:
        async with contextlib.aclosing(examine(profile, needs, say=([] if said is None else said).append)) as checks:
            async for check in checks:
                found[check.name] = check
                if check.name == last:
                    break

    finish(scenario(), 120)
    return found


def states(found: dict[str, Check], *names: str) -> list[str]:
    return [found[name].state for name in names]


@has_sshd
def test_over_ssh_to_a_real_slurm_every_check_is_green(slurm: Path, tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd", f"SetEnv SLURM_CONF={slurm}\n") as login:
        found = examined(profile(tmp_path / "base", ssh=login.ssh))
    assert {name for name, check in found.items() if check.state != "ok"} == {"container", "recipe job", "recipe"}
    assert not stops_a_run(list(found.values()))
    assert os.listdir(tmp_path / "base") == []  # noqa: PTH208 - nothing is left behind, hidden or not


@has_sshd
def test_where_the_login_node_forwards_nothing_the_ways_that_do_work_are_told(slurm: Path, tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd", f"SetEnv SLURM_CONF={slurm}\nAllowTcpForwarding no\n") as login:
        found = examined(profile(tmp_path / "base", ssh=login.ssh))
    assert states(found, "reach by relay", "reach inside job") == ["ok", "ok"]
    assert found["reach"].state == "ok"
    assert "by a relay on the login node" in found["reach"].text


def test_a_host_that_does_not_answer_fails_the_login_and_skips_the_rest(tmp_path: Path) -> None:
    found = examined(profile(tmp_path / "base", ssh=Ssh(host="127.0.0.1", port=1)))
    assert found.pop("login").state == "failed"
    assert {check.state for check in found.values()} == {"skipped"}
    assert found["slurm"].text == "needs `login`"
    assert not (tmp_path / "base").exists()


def test_a_partition_that_slurm_does_not_know_is_named_with_the_keys_to_look_at(slurm: Path, tmp_path: Path) -> None:
    found = examined(profile(tmp_path / "base", partitions=Partitions(cpu="cpu", gpu="nowhere")))
    assert states(found, "cpu partition", "gpu partition", "reach") == ["ok", "failed", "ok"]
    assert "nowhere" in found["gpu partition"].text
    assert "see partitions.gpu in profiles.lab" in found["gpu partition"].text
    assert stops_a_run(list(found.values()))


@contextlib.contextmanager
def partition(name: str, *options: str) -> Iterator[str]:
    """One more, of the shared Slurm."""
    subprocess.run(["scontrol", "create", f"PartitionName={name}", *options], check=True)
    try:
        yield name
    finally:
        subprocess.run(["scontrol", "delete", f"PartitionName={name}"], check=True)


def test_a_gpu_partition_whose_jobs_would_wait_for_ever_fails_though_sbatch_accepts_them(
    slurm: Path, tmp_path: Path
) -> None:
    with partition("brief", "Nodes=n3", "MaxTime=5") as name:
        found = examined(profile(tmp_path / "base", partitions=Partitions(cpu="cpu", gpu=name)), last="gpu partition")
    assert found["gpu partition"].state == "failed"
    assert "would wait for ever: PartitionTimeLimit; see partitions.gpu in profiles.lab" in found["gpu partition"].text


@pytest.mark.parametrize(
    ("wants", "said"),
    [
        ({"gpus_per_node": 9}, "sbatch does not accept a job of a node with 9 GPUs"),
        (
            {"gpus_per_node": 1, "nodes": 3},
            "a job of 3 nodes with 1 GPU for 60 minutes would wait for ever: PartitionNode",
        ),
        (
            {"gpus_per_node": 1, "time_limit_minutes": 99},
            "with 1 GPU for 99 minutes would wait for ever: PartitionTime",
        ),
    ],
)
def test_a_recipes_own_job_is_held_to_the_partition(
    slurm: Path, tmp_path: Path, wants: dict[str, int], said: str
) -> None:
    job = Job(name="x", command=("true",), folder=PurePosixPath("/"), kind="gpu", **wants)  # type: ignore[arg-type]
    with partition("hour", "Nodes=n[3-4]", "MaxTime=60") as name:
        there = profile(tmp_path / "base", partitions=Partitions(cpu="cpu", gpu=name))
        found = examined(there, Needs("inference/x", job), last="recipe job")
    assert states(found, "gpu partition", "recipe job") == ["ok", "failed"]
    assert said in found["recipe job"].text


def test_where_all_nodes_are_busy_nothing_is_called_wrong_and_it_is_told_what_is_waited_for(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "START_SECONDS", 1.0)
    said: list[str] = []
    busy = ["sbatch", "--parsable", "--partition=full", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"]
    with partition("full", "Nodes=n4") as name:
        job = subprocess.run(busy, check=True, capture_output=True, text=True).stdout.strip()
        try:
            found = examined(profile(tmp_path / "base", partitions=Partitions(cpu=name)), said=said)
        finally:
            subprocess.run(["scancel", job], check=True)
            finish(until(lambda: not subprocess.check_output(["squeue", "--noheader", "--partition=full"])))
    assert states(found, "cpu partition", "compute node", "python", "interface") == ["ok", *["skipped"] * 3]
    assert found["compute node"].text.startswith("no node of partition full was free in")
    assert "nothing is known to be wrong" in found["compute node"].text
    assert [line for line in said if line.startswith("waiting for a node of partition full: job ")]
    assert not stops_a_run(list(found.values()))


def test_a_partition_whose_nodes_are_all_drained_is_no_mistake_of_the_profile(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "START_SECONDS", 1.0)
    with partition("kept", "Nodes=n4") as name:
        subprocess.run(["scontrol", "update", "NodeName=n4", "State=DRAIN", "Reason=test"], check=True)
        try:
            found = examined(profile(tmp_path / "base", partitions=Partitions(cpu=name, gpu=name)), last="compute node")
        finally:
            subprocess.run(["scontrol", "update", "NodeName=n4", "State=RESUME"], check=True)
    assert states(found, "cpu partition", "gpu partition", "compute node") == ["warning", "warning", "skipped"]
    assert "ask the site when its nodes are back" in found["gpu partition"].text


@pytest.mark.parametrize("end", ["exit 1", "kill -9 $$", "exec no-such-program"])
def test_an_sbatch_that_ended_badly_has_accepted_nothing_whatever_it_said(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho sbatch: Job 1 to start at noon >&2\n{end}\n")
    (tmp_path / "sbatch").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = examined(profile(tmp_path / "base"))
    assert states(found, "cpu partition", "gpu partition", "compute node") == ["failed", "failed", "skipped"]


def test_a_login_node_without_srun_is_enough(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {path.name: path for folder in os.environ["PATH"].split(":") for path in Path(folder).glob("*")}
    (tmp_path / "bin").mkdir()
    for name in there.keys() - {"srun"}:
        (tmp_path / "bin" / name).symlink_to(there[name])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = examined(profile(tmp_path / "base"))
    assert states(found, "slurm", "compute node", "code", "reach", "reach inside job") == [*["ok"] * 4, "skipped"]


def test_what_start_up_files_print_is_no_version_of_slurm_and_no_word_of_sacct(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sinfo", "sacct"):
        noise = "echo WELCOME 12345; echo noise >&2; printf 'no newline'"
        (tmp_path / name).write_text(f'#!/bin/sh\n{noise}\nexec {shutil.which(name)} "$@"\n')
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = examined(profile(tmp_path / "base"), last="slurm")["slurm"]
    assert (found.state, found.text.startswith("slurm")) == ("ok", True)
    assert "noise" not in found.text


def test_a_login_that_slurm_knows_by_a_token_keeps_it_for_every_question(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sinfo", "squeue", "sacct", "scontrol"):
        text = f'[ "$SLURM_JWT" = token ] || {{ echo no token >&2; exit 1; }}\nunset SLURM_JWT\nexec {shutil.which(name)} "$@"'
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JWT", "token")
    found = examined(profile(tmp_path / "base"), last="slurm")["slurm"]
    assert (found.state, found.text.startswith("slurm"), "no token" in found.text) == ("ok", True, False)


def test_a_base_path_that_cannot_be_made_fails(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = examined(profile(tmp_path / "file" / "base"))
    assert states(found, "login", "slurm", "base path", "compute node") == ["ok", "ok", "failed", "skipped"]
    assert "choose another base_path" in found["base path"].text


def test_a_base_path_that_others_can_look_into_is_a_warning(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir(mode=0o755)
    found = examined(profile(tmp_path / "base"))
    assert found["base path"].state == "warning"
    assert f"chmod 700 {tmp_path / 'base'}" in found["base path"].text
    assert found["reach"].state == "ok"


def test_without_slurms_commands_on_the_path_it_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sh", "id", "uname", "bash", "mkdir", "stat"):
        there = next(Path(folder) / name for folder in ("/bin", "/usr/bin") if (Path(folder) / name).exists())
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to(there)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = examined(profile(tmp_path / "base"))
    assert states(found, "login", "slurm", "cpu partition") == ["ok", "failed", "skipped"]
    assert found["slurm"].text.startswith("no sbatch, scancel, squeue or scontrol or sacct on the path")


def test_a_python_without_tokenstorm_is_fine_and_says_how_to_deploy(slurm: Path, tmp_path: Path) -> None:
    found = examined(profile(tmp_path / "base", python="/usr/bin/python3"))
    if found["python"].state == "failed":
        pytest.skip(found["python"].text)
    assert states(found, "python", "code", "interface") == ["ok", "warning", "skipped"]
    assert "tokenstorm deploy --profile lab" in found["code"].text


def test_an_interface_that_the_nodes_do_not_have_fails_with_those_they_have(slurm: Path, tmp_path: Path) -> None:
    found = examined(profile(tmp_path / "base", interface="ib7"))
    assert states(found, "interface", "reach") == ["failed", "skipped"]
    assert "no address in the network 'ib7'" in found["interface"].text
    assert "lo 127.0.0.1" in found["interface"].text
    assert examined(profile(tmp_path / "base", interface="127.0.0.0/8"), last="interface")["interface"].state == "ok"


def test_a_recipes_missing_model_and_program_are_found_on_the_nodes(slurm: Path, tmp_path: Path) -> None:
    model = tmp_path / "models" / "tiny"
    job = Job(name="x", command=("true",), folder=PurePosixPath("/"), kind="gpu", gpus_per_node=2)
    needs = Needs("inference/x", job, files=(PurePosixPath(model),), program="no-such-engine")
    found = examined(profile(tmp_path / "base"), needs, last="recipe")["recipe"]
    assert (found.state, str(model) in found.text) == ("failed", True)
    model.mkdir(parents=True)
    on_cpu = replace(needs, job=replace(job, kind="cpu", gpus_per_node=0))
    found = examined(profile(tmp_path / "base"), on_cpu, last="recipe")["recipe"]
    assert found.state == "failed"
    assert "no-such-engine, which is not on the path" in found.text


def test_on_the_command_line_this_machine_is_checked_too_and_json_is_json_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "TOKENSTORM_HOME": str(tmp_path / "home"), "TOKENSTORM_CONFIG": os.devnull}
    command = [sys.executable, "-m", "tokenstorm", "doctor", "--profile", "local"]
    done = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["profile"], answer["ok"]) == ("local", True)
    assert {"name": "reach", "state": "ok", "text": "127.0.0.1 is reached from here"} in answer["checks"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines()[-1] == "local: nothing found that would stop a run"


def test_on_the_command_line_a_failure_ends_with_1(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[profiles.there]\nscheduler = "slurm"\nbase_path = "{tmp_path}/base"\n[profiles.there.ssh]\nhost = "127.0.0.1"\nport = 1\n'
    )
    environment = {**os.environ, "TOKENSTORM_HOME": str(tmp_path / "home"), "TOKENSTORM_CONFIG": str(config)}
    command = [sys.executable, "-m", "tokenstorm", "doctor", "--profile", "there"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("failed   login")


@pytest.mark.parametrize("lines", [1, 7])
def test_a_reader_that_goes_away_leaves_no_job_no_folder_and_no_traceback(
    slurm: Path, tmp_path: Path, lines: int
) -> None:
    """As `tokenstorm doctor | head -7` does, while a node is held."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[profiles.there]\nscheduler = "slurm"\nbase_path = "{tmp_path}/base"\npython = "{sys.executable}"\n'
        '[profiles.there.partitions]\ncpu = "cpu"\ngpu = "gpu"\n'
    )
    environment = {**os.environ, "TOKENSTORM_HOME": str(tmp_path / "home"), "TOKENSTORM_CONFIG": str(config)}
    command = [sys.executable, "-m", "tokenstorm", "doctor", "--profile", "there"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout
        assert process.stderr
        read = [process.stdout.readline() for _ in range(lines)]
        assert any("compute node" in line for line in read) == (lines > 1), read
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
    queue = ["squeue", "--me", "--noheader", "--format=%j", "--states=PENDING,RUNNING"]
    wait_for(lambda: not subprocess.run(queue, capture_output=True, check=True).stdout, "a job is left", 30)
    assert not list(tmp_path.glob("base/*"))  # hidden ones are among them
