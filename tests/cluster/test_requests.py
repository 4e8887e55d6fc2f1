"""What a job asks for is the same in every form that sites want it in, and each kind of job has its own settings."""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from grouplab import profile
from slurmjobs import job, output, until, use
from tokenstorm.cluster.directives import directives
from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.script import render
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.config.profile import Profile
from tokenstorm.errors import UsageError
from tokenstorm.orchestrator.launch import at_home, prepare
from tokenstorm.orchestrator.recipes import load_recipes

GOLDEN = Path(__file__).parent / "golden" / "requests"
ENGINE = Job(
    name="engine",
    command=("true",),
    folder=PurePosixPath("/data/s1"),
    kind="gpu",
    nodes=2,
    cpus_per_task=30,
    memory_mb=100_000,
    gpus_per_node=4,
)
FORMS: dict[str, dict[str, Any]] = {
    "gres": {},
    "gres-of-a-type": {"gpu_type": "a100"},
    "gpus-per-node": {"gpu_request": "gpus-per-node", "gpu_type": "a100"},
    "gpus": {"gpu_request": "gpus"},
    "whole-nodes": {"gpu_request": "none", "memory_request": "none", "cpu_request": "none"},
    "mem-per-cpu": {"memory_request": "mem-per-cpu"},
    "mem-per-gpu": {"gpu": {"memory_request": "mem-per-gpu"}},
    "cpus-per-gpu": {"gpu": {"cpu_request": "cpus-per-gpu", "memory_request": "mem-per-cpu"}},
}
"""On each node 30 CPUs, 100,000 MB and 4 GPUs: 3,334 MB a CPU, 25,000 MB a GPU, 8 CPUs a GPU and 3,125 MB each of 32."""


def asked(job: Job, **fields: Any) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in directives(job, profile(Path("/data"), **fields))]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_the_text_that_was_agreed_on(form: str) -> None:
    text = "\n".join(directives(ENGINE, profile(Path("/data"), **FORMS[form]))) + "\n"
    assert text == (GOLDEN / f"{form}.txt").read_text()


def test_a_job_on_one_node_asks_for_all_its_gpus_and_no_more() -> None:
    assert "--gpus=h100:4" in asked(replace(ENGINE, nodes=1), gpu_request="gpus", gpu_type="h100")
    assert not any(
        "per-node=h100" in line for line in asked(replace(ENGINE, nodes=1), gpu_request="gpus", gpu_type="h100")
    )
    assert not any("gpu" in line for line in asked(Job(name="j", command=("true",), folder=ENGINE.folder)))


def test_a_share_of_gpus_that_a_job_does_not_have_is_refused_by_the_key() -> None:
    bare = replace(ENGINE, gpus_per_node=0)
    with pytest.raises(UsageError, match=r"profiles\.lab\.gpu\.memory_request: the job 'engine' has no GPU"):
        asked(bare, gpu={"memory_request": "mem-per-gpu"})


def test_each_kind_of_job_has_its_own_settings_over_the_profiles() -> None:
    site: Profile = profile(
        Path("/data"),
        account="both",
        qos="normal",
        prologue=["module load all"],
        partitions={"cpu": "old", "gpu": "boost"},
        gpu={
            "account": "gpus",
            "qos": "debug",
            "constraint": "a100",
            "prologue": ["module load cuda"],
            "sbatch": ["-L a"],
        },
        cpu={"reservation": "mine", "prologue": []},
    )
    engine, clients = ENGINE, replace(ENGINE, kind="cpu", gpus_per_node=0)
    both = [asked_of(site, one) for one in (engine, clients)]
    assert [lines.get("--account") for lines in both] == ["gpus", "both"]
    assert [lines.get("--partition") for lines in both] == ["boost", "old"]
    assert [lines.get("--qos") for lines in both] == ["debug", "normal"]
    assert [lines.get("--constraint") for lines in both] == ["a100", None]
    assert [lines.get("--reservation") for lines in both] == [None, "mine"]
    assert [lines.get("-L a") for lines in both] == ["", None]
    assert ["module load" in render(one, site) for one in (engine, clients)] == [True, False]
    assert "module load cuda" in render(engine, site)


def asked_of(site: Profile, job: Job) -> dict[str, str]:
    return dict(line.removeprefix("#SBATCH ").partition("=")[::2] for line in directives(job, site))


def test_nodes_that_the_profile_leaves_out_stay_out_beside_those_of_an_engine() -> None:
    job = replace(ENGINE, not_on=("n1", "n2"))
    lines = asked(job, sbatch=["--exclude=bad[1-2]", "--licenses=a"])
    assert [line for line in lines if "exclude" in line] == ['--exclude="n1,n2,bad[1-2]"']
    assert "--licenses=a" in lines
    together = asked(job, sbatch=["--exclude=bad[1-2] --licenses=a"])
    assert (
        next(line for line in reversed(together) if "exclude" in line) == '--exclude="n1,n2,bad[1-2]"'
    )  # the last one counts


def test_the_profile_says_what_nobody_else_does() -> None:
    """An hour and 20 CPUs for each GPU, unless a user asks for something else."""
    site: Profile = profile(Path("/data"), gpu={"time_limit": 60, "cpus_per_gpu": 20})
    recipe = at_home(load_recipes().get("inference/vllm-replicas"), site)
    usual = prepare(recipe, {}, site).resources
    assert (usual.time_limit, usual.cpu, usual.gpu) == (60, 80, 4)
    wanted = prepare(recipe, {"resources": {"gpu": 2, "time_limit": 240}}, site).resources
    assert (wanted.time_limit, wanted.cpu) == (240, 40)
    assert prepare(recipe, {"resources": {"cpu": 7}}, site).resources.cpu == 7
    plain = at_home(load_recipes().get("inference/vllm-cpu"), site)
    assert prepare(plain, {}, site).resources == load_recipes().get("inference/vllm-cpu").resources


@pytest.mark.integration
@pytest.mark.parametrize("form", [form for form in FORMS if form not in ("gres-of-a-type", "gpus-per-node")])
def test_slurm_gives_a_job_the_same_in_each_form_and_starts_its_steps(slurm: Path, tmp_path: Path, form: str) -> None:
    """Two nodes with two GPUs, two CPUs and 64 MB each; one task on each of them, which sees the node's GPUs."""
    told = "env | grep -c ^CUDA_VISIBLE_DEVICES=.; nproc"

    async def what(it: Slurm) -> dict[str, str]:
        wants = job(tmp_path, "", kind="gpu", nodes=2, cpus_per_task=2, memory_mb=64, gpus_per_node=2)
        wants = replace(wants, command=(*it.fan_out(wants), "bash", "-c", told))
        number = await it.submit(wants)
        state = await until(it, number, "ended")
        assert (state.outcome, len(state.nodes)) == ("completed", 2), (tmp_path / "stderr.log").read_text()
        return dict(word.split("=", 1) for word in output("scontrol", "show", "job", number).split() if "=" in word)

    partition = {"gpu": {"partition": "gpu", **FORMS[form].get("gpu", {})}}
    shown = use(tmp_path, what, **{**FORMS[form], **partition})
    assert shown["NumNodes"] == "2"
    if form != "whole-nodes":
        assert (tmp_path / "stdout.log").read_text().split().count("1") == 2
        assert shown["TRES"].split(",")[0] == "cpu=4"
