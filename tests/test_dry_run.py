"""`--dry-run` shows what would be submitted, where no Slurm answers, and leaves nothing behind."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from running import Stage
from serving import Up, end_all, start_up

PROFILE = """
[profiles.far]
scheduler = "slurm"
base_path = "{base}"
account = "p200000"
proxies.https = "http://me:hunter2@proxy.example:3128"
environment.HF_TOKEN = "hf_of_the_profile"

[profiles.far.gpu]
partition = "boost"
qos = "debug"
gpu_request = "gpus-per-node"
time_limit = 30

[profiles.far.container]
runtime = "apptainer"
images = "/images"
"""
SECRETS = ("hunter2", "hf_of_the_profile", "hf_of_the_service")


@pytest.fixture
def far(stage: Stage) -> Iterator[Up]:
    """`up` over a profile whose Slurm has no controller."""
    config = stage.folder / "config.toml"
    config.write_text(PROFILE.format(base=stage.folder / "base"))
    nowhere = str(stage.folder / "no-slurm.conf")
    yield start_up(stage, "--profile", "far", TOKENSTORM_CONFIG=str(config), SLURM_CONF=nowhere)
    end_all(stage)


def left(stage: Stage) -> list[Path]:
    return [path for path in (stage.folder / "base").rglob("*") if path.is_file()]


def test_a_service_is_shown_with_its_script_commands_and_files_and_no_secret(far: Up) -> None:
    words = ("service", "create", "inference/vllm-single-node", "--set", "environment.HF_TOKEN=hf_of_the_service")
    shown = far.command(*words, "--dry-run")
    assert shown.code == 0, shown.err
    for said in (
        "#SBATCH --account=p200000",
        "#SBATCH --partition=boost",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --time=30",
        "sbatch --no-requeue --no-kill --export=NONE --parsable",
        "apptainer exec --nv",
        "export HF_TOKEN=…",
        "http://…@proxy.example:3128",
        '"HF_TOKEN": "…"',
        '"api_key": "…"',
        "service.json",
    ):
        assert said in shown.out
    found = far.command(*words, "--dry-run", "--json")
    answer = json.loads(found.out)
    assert answer["script"].startswith("#!/usr/bin/env bash\n#SBATCH")
    assert answer["submit"][0] == "sbatch"
    assert answer["command"][:2] == ["apptainer", "exec"]
    assert not [secret for secret in SECRETS if secret in shown.out + found.out]
    assert json.loads(far.command("service", "list", "--json").out)["count"] == 0
    assert left(far.stage) == []


def test_what_would_be_refused_is_refused(far: Up) -> None:
    wrong = far.command("service", "create", "inference/vllm-single-node", "--dry-run", "--set", "colour=red")
    assert wrong.code != 0
    assert "colour" in wrong.err


def test_a_group_is_shown_with_its_plan(far: Up) -> None:
    words = (
        "group",
        "create",
        "--target-url",
        "http://10.0.0.7:8000",
        "--num-clients",
        "4",
        "--requests-per-second",
        "2",
        "--duration",
        "30",
    )
    shown = far.command(*words, "--prompt", "Hello", "--dry-run")
    assert shown.code == 0, shown.err
    assert "#SBATCH --ntasks-per-node=2" in shown.out
    assert "tokenstorm.loadgen run" in shown.out
    assert '"http://10.0.0.7:8000"' in shown.out
    assert "#SBATCH --partition" not in shown.out
    assert not [secret for secret in SECRETS if secret in shown.out]
    assert json.loads(far.command("group", "list", "--json").out)["count"] == 0
    assert left(far.stage) == []
