"""A recipe runs in the profile's container runtime without change, and no secret is on its command line.

There is no apptainer to be had here: a program of that name records how it was called and runs the command itself.
"""

import sys
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from orchestrating import submitted
from tokenstorm.cluster.opening import open_site
from tokenstorm.config.profile import Container, Partitions, Profile
from tokenstorm.errors import UsageError
from tokenstorm.node.service import read_service
from tokenstorm.orchestrator.container import contained
from tokenstorm.orchestrator.launch import Launch, prepare, service_file
from tokenstorm.orchestrator.needs import needs_of
from tokenstorm.orchestrator.recipes import load_recipes
from tokenstorm.orchestrator.services import ServiceOrchestrator
from waiting import finish, until

FOLDER = PurePosixPath("/scratch/me/services/s1")
RECIPES = load_recipes()
RECIPE = """
name: test/contained
engine: simulated
image: sim.sif
model: "{model}"
command: ["{profile.python}", -m, tokenstorm.simulator, --host, "{host}", --port, "{port}", --model, "{model}",
          --api-key-env, THE_KEY]
environment: {PLACE: "in the image"}
ports: [8400]
api_key: {variable: THE_KEY}
parameters:
  model: {type: string, default: tiny}
"""
FAKE = """#!/bin/bash
echo "$0 $*" >>RECORD
env >>RECORD.env
[ "$1" = exec ] || exit 2
shift
while [ "${1#--}" != "$1" ]; do [ "$1" = --bind ] && shift; shift; done
shift # the image
exec "$@"
"""


def profile(**more: object) -> Profile:
    fields = {"scheduler": "slurm", "python": sys.executable, "base_path": PurePosixPath("/scratch/me"), **more}
    return Profile(name="there", **fields)  # type: ignore[arg-type]


IN = Container(runtime="apptainer", images=PurePosixPath("/images"))


def launch(name: str, profile: Profile) -> Launch:
    return contained(prepare(RECIPES.get(f"inference/{name}"), {}, profile), profile, FOLDER)


def test_vllm_runs_in_its_image_with_gpus_and_its_folders() -> None:
    there = profile(container=IN, model_dir=PurePosixPath("/models"), hf_home=PurePosixPath("/hub"))
    made = launch("vllm-single-node", there)
    binds = ("--bind", str(FOLDER), "--bind", "/models", "--bind", "/hub")
    assert made.command[:11] == ("apptainer", "exec", "--nv", *binds, "/images/vllm.sif", "vllm")
    assert made.environment["HF_HOME"] == made.environment["APPTAINERENV_HF_HOME"] == "/hub"
    assert made.environment["APPTAINERENV_PYTHONNOUSERSITE"] == "1"


def test_without_gpus_nv_is_left_out_and_singularity_has_its_own_prefix() -> None:
    made = launch("vllm-cpu", profile(container=replace_runtime("singularity")))
    assert made.command[:6] == ("singularity", "exec", "--bind", str(FOLDER), "/images/vllm-cpu.sif", "vllm")
    assert "SINGULARITYENV_PYTHONPATH" in made.environment


def replace_runtime(runtime: str) -> Container:
    return Container.model_validate({**IN.model_dump(), "runtime": runtime})


def test_without_a_runtime_or_an_image_the_command_stays_as_it_is() -> None:
    plain = profile()
    assert launch("vllm-cpu", plain) == prepare(RECIPES.get("inference/vllm-cpu"), {}, plain)
    assert launch("sim-single-node", profile(container=IN)).command[0] == sys.executable


def test_braces_in_a_path_of_the_profile_are_no_placeholders(tmp_path: Path) -> None:
    """`{port}` in the folder of images is that folder's name; in the engine's own words it is the port."""
    there = profile(container=Container(runtime="apptainer", images=PurePosixPath("/{port}")))
    made = launch("vllm-cpu", there)
    (tmp_path / "service.json").write_bytes(service_json(made))
    service = read_service(tmp_path)
    words = service.words(service.values(0, 8123, tmp_path / "key"))
    assert "/{port}/vllm-cpu.sif" in words
    assert words[words.index("--port") + 1] == "8123"


def service_json(made: Launch) -> bytes:
    return msgspec.json.encode(service_file(made, "s1", "ts-key", "127.0.0.1", FOLDER))


def test_an_image_without_a_folder_of_images_and_a_path_that_cannot_be_bound_are_refused() -> None:
    with pytest.raises(UsageError, match=r"set profiles\.there\.container\.images"):
        launch("vllm-cpu", profile(container=Container(runtime="apptainer")))
    with pytest.raises(UsageError, match="comma or a colon"):
        launch("vllm-cpu", profile(container=IN, model_dir=PurePosixPath("/a:b")))


def test_the_doctor_looks_for_the_image_instead_of_the_program() -> None:
    needs = needs_of(RECIPES.get("inference/vllm-single-node"), profile(container=IN))
    assert (needs.image, needs.program, needs.kind) == (PurePosixPath("/images/vllm.sif"), None, "gpu")
    needs = needs_of(RECIPES.get("inference/vllm-single-node"), profile(model_dir=PurePosixPath("/models")))
    assert (needs.image, needs.program) == (None, "vllm")
    assert needs.files == (PurePosixPath("/models/Qwen/Qwen2.5-0.5B-Instruct"),)


def test_the_doctor_tries_a_job_as_large_as_the_services_or_that_of_the_simulator_in_its_place() -> None:
    recipe = RECIPES.get("inference/vllm-replicas")
    job, wants = needs_of(recipe, profile()).job, recipe.resources
    assert (job.kind, job.nodes, job.gpus_per_node, job.cpus_per_task) == ("gpu", wants.nodes, wants.gpu, wants.cpu)
    assert (job.memory_mb, job.time_limit_minutes) == (wants.memory_mb, wants.time_limit)
    needs = needs_of(recipe, profile(simulate=True))
    assert (needs.kind, needs.job.gpus_per_node, needs.program) == ("cpu", 0, None)


@pytest.mark.integration
def test_a_service_on_slurm_runs_through_the_runtime_with_its_key_in_the_environment_alone(
    slurm: Path, tmp_path: Path
) -> None:
    for folder in ("bin", "images", "recipes"):
        (tmp_path / folder).mkdir()
    record = tmp_path / "record"
    fake = tmp_path / "bin" / "apptainer"
    fake.write_text(FAKE.replace("RECORD", str(record)))
    fake.chmod(0o755)
    (tmp_path / "recipes" / "contained.yaml").write_text(RECIPE)
    there = profile(
        base_path=PurePosixPath(tmp_path / "base"),
        prologue=(f"export PATH={tmp_path}/bin:$PATH",),
        container=Container(runtime="apptainer", images=PurePosixPath(tmp_path / "images")),
        environment={"OF_THE_PROFILE": "as it is"},
        partitions=Partitions(cpu="cpu"),
        interface="127.0.0.1",
    )

    async def scenario() -> None:
        site = await open_site(there)
        orchestrator = ServiceOrchestrator(site, load_recipes([tmp_path / "recipes"]), tmp_path / "store.sqlite")
        try:
            await orchestrator.start()
            service = await submitted(orchestrator, "test/contained", {})
            await until(lambda: orchestrator.get(service.id).status in {"running", "failed"}, 60)
            found = orchestrator.get(service.id)
            assert (found.status, found.reason) == ("running", "")
            called = record.read_text().splitlines()[-1]
            assert called.startswith(
                f"{fake} exec --bind {found.folder} --bind {tmp_path}/base/cache {tmp_path}/images/sim.sif "
            )
            assert found.api_key not in called
            given = record.with_name("record.env").read_text().splitlines()
            assert {f"THE_KEY={found.api_key}", "APPTAINERENV_PLACE=in the image", "OF_THE_PROFILE=as it is"} <= set(
                given
            )
            await orchestrator.cancel(service.id)
        finally:
            await orchestrator.close()
            await site.close()

    finish(scenario(), 120)
