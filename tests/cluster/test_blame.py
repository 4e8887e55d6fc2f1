"""Where a site refuses a job, the doctor names the key of the profile, in the table where it stands."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from grouplab import profile
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.setup.blame import accepted, keys, refused
from tokenstorm.cluster.setup.hold import probe_job


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("Invalid account or account/partition combination specified", "gpu.partition, account"),
        ("Invalid qos specification", "gpu.qos"),
        ("QOSNotAllowed", "gpu.qos"),
        ("Invalid feature specification", "gpu.constraint"),
        ("BadConstraints", "gpu.constraint"),
        ("Invalid generic resource (gres) specification", "gpu.gpu_type"),
        ("Memory specification can not be satisfied", "memory_request"),
        ("sbatch: unrecognized option '--frobnicate'", "gpu.sbatch"),
    ],
)
def test_what_slurm_says_names_the_key_where_it_stands(said: str, named: str) -> None:
    gpu = {"partition": "p", "qos": "q", "constraint": "c", "gpu_type": "t", "sbatch": ["--frobnicate"]}
    site = profile(Path("/data"), account="a", memory_request="mem-per-cpu", gpu=gpu)
    assert keys(site, "gpu", said) == f"see {named} in profiles.lab"


def test_what_says_nothing_of_a_key_names_all_that_are_given() -> None:
    site = profile(Path("/data"), account="a", partitions={"cpu": "p"})
    assert keys(site, "cpu", "no") == "see partitions.cpu, account in profiles.lab"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"gpu": {"partition": "gpu", "constraint": "nosuch"}}, "see gpu.constraint in profiles.lab"),
        ({"gpu": {"partition": "nosuch"}}, "see gpu.partition in profiles.lab"),
        (
            {"gpu": {"partition": "gpu", "sbatch": ["--nodelist=n1"]}},
            "without gpu.partition, gpu.sbatch of profiles.lab it would",
        ),
        ({"gpu": {"partition": "gpu"}, "gpu_type": "nosuch"}, "without gpu_type of profiles.lab it would"),
    ],
)
def test_a_real_slurm_shows_which_key_it_refuses(slurm: Path, tmp_path: Path, fields: Any, advice: str) -> None:
    site, job = profile(tmp_path, **fields), probe_job("gpu", profile(tmp_path).base_path)

    async def scenario() -> str:
        taken, said = await accepted(LocalShell(), job, site)
        assert not taken
        return await refused(LocalShell(), job, site, said)

    assert asyncio.run(scenario()) == advice
