"""A dry run shows no secret, in whatever form somebody gave one."""

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from tokenstorm.cluster.preview import preview
from tokenstorm.cluster.setup.hold import probe_job
from tokenstorm.config.profile import Profile

GIVEN = ("hunter2", "zz", "ss@ss", "it's")
"""Passwords that are hard to cut out: short, and with signs of URLs and of shells."""


def shown(*, environment: dict[str, str] | None = None, words: tuple[str, ...] = (), **profile: object) -> str:
    """All that is shown of a job."""
    site = Profile.model_validate({"name": "far", "scheduler": "slurm", "base_path": "/base", **profile})
    job = replace(probe_job("cpu", site.base_path), environment=environment or {})
    files = {"service.json": {"environment": environment or {}, "command": list(words)}}
    answer = preview(job, site, command=words, files=files)
    return "\n".join((answer.script, *answer.command, *(file.content for file in answer.files)))


@pytest.mark.parametrize("secret", GIVEN)
def test_no_secret_of_a_variable_a_proxy_or_an_option_is_shown(secret: str) -> None:
    for text in (
        shown(environment={"DEPLOY_KEY_PASSPHRASE": f"one\n{secret}\nthree"}),
        shown(environment={"DATABASE": f"postgres://me:{secret}@db/loads"}),
        shown(environment={"AWS_ACCESS_KEY": secret, "MYSQL_PWD": secret}),
        shown(environment={"LICENCE_KEY": secret}),
        shown(proxies={"https": f"http://me:{secret}@proxy:3128"}),
        shown(words=("vllm", "serve", "--hf-token", secret, f"--api-key={secret}")),
    ):
        assert secret not in text
        assert "…" in text


def test_no_secret_that_the_prologue_sets_is_shown() -> None:
    lines = ("HF_TOKEN=hunter2; export HF_TOKEN", "  export A=1 WANDB_API_KEY='hunter2 3'", "module load cuda")
    text = shown(prologue=lines)
    assert "hunter2" not in text
    assert "HF_TOKEN=…; export HF_TOKEN\n  export A=1 WANDB_API_KEY=…\nmodule load cuda\n" in text


def test_what_is_no_secret_is_shown_as_it_is() -> None:
    words = ("vllm", "--max-num-batched-tokens=8192", "--tokenizer", "auto", "--api-key-file", "/run/key", "a@b")
    assert "\n".join(words) in shown(words=words)
    harmless = {"TOKENSTORM_LOG": "loud", "TOKENIZERS_PARALLELISM": "false", "KEYS": "3"}
    text = shown(environment=harmless)
    for name, value in harmless.items():
        assert f"export {name}={value}\n" in text
        assert f'"{name}": "{value}"' in text


def test_only_a_job_of_slurm_may_get_another_python() -> None:
    site = Profile(name="here", scheduler="local", base_path=PurePosixPath("/base"))
    job = probe_job("cpu", site.base_path)
    assert preview(job, site, command=(), files={}).notes == ()
    (note,) = preview(job, Profile(name="far", scheduler="slurm", base_path=site.base_path), command=(), files={}).notes
    assert "tokenstorm deploy" in note
