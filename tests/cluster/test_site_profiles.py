"""The profiles of sites in the manual are read as they stand, and the jobs they make are those that were agreed on."""

import re
from pathlib import Path, PurePosixPath

import pytest

from tokenstorm.cluster.directives import directives
from tokenstorm.cluster.scheduler import Job
from tokenstorm.config.file import Config, load_config
from tokenstorm.orchestrator.caches import at_site
from tokenstorm.orchestrator.container import contained
from tokenstorm.orchestrator.launch import at_home, prepare
from tokenstorm.orchestrator.recipes import load_recipes

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "sites"
MANUAL = (ROOT / "docs" / "sites.md").read_text()
SITES = sorted(set(re.findall(r"^    \[profiles\.(\w+)\]$", MANUAL, re.MULTILINE)))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    lines = MANUAL[MANUAL.index("## Profiles of sites") :].splitlines()
    file = tmp_path / "config.toml"
    file.write_text("\n".join(line.removeprefix("    ") for line in lines if line.startswith("    ")))
    return load_config({"TOKENSTORM_CONFIG": str(file), "TOKENSTORM_HOME": str(tmp_path)})


def test_there_is_one_for_each_kind_of_site() -> None:
    assert SITES == ["juwels", "leonardo", "lumi", "marenostrum5", "meluxina", "perlmutter"]


@pytest.mark.parametrize("site", SITES)
def test_the_jobs_of_a_site_are_the_text_that_was_agreed_on(config: Config, site: str) -> None:
    profile = config.profile(site)
    folder = PurePosixPath("/job")
    launch = prepare(at_home(load_recipes().get("inference/vllm-single-node"), profile), {}, profile)
    wants = launch.resources
    engine = Job(
        name="engine",
        command=("true",),
        folder=folder,
        kind="gpu",
        cpus_per_task=wants.cpu,
        memory_mb=wants.memory_mb,
        gpus_per_node=wants.gpu,
        time_limit_minutes=wants.time_limit,
    )
    clients = Job(name="clients", command=("true",), folder=folder, tasks_per_node=3, time_limit_minutes=10)
    command = contained(at_site(launch, profile), profile, folder).command
    entered = " ".join(command[: command.index("vllm")]) or "as it is installed"
    text = "\n".join([*directives(engine, profile), f"# engine: {entered}", "", *directives(clients, profile), ""])
    assert text == (GOLDEN / f"{site}.txt").read_text()
