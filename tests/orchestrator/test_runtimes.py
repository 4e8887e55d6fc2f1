"""An engine is started in whichever container runtime a site has, with its GPUs and folders, and no value of a variable
on the command line."""

from pathlib import PurePosixPath
from typing import Any

import pytest

from tokenstorm.config.profile import Profile
from tokenstorm.errors import UsageError
from tokenstorm.orchestrator.caches import at_site
from tokenstorm.orchestrator.container import contained
from tokenstorm.orchestrator.launch import Launch, prepare, service_file
from tokenstorm.orchestrator.recipes import load_recipes

RECIPES = load_recipes()
FOLDER = PurePosixPath("/scratch/me/services/s1")


def profile(**fields: Any) -> Profile:
    base = {"name": "there", "scheduler": "slurm", "base_path": "/scratch/me"}
    return Profile.model_validate({**base, **fields})


def launch(there: Profile, name: str = "vllm-single-node", **config: object) -> Launch:
    made = prepare(RECIPES.get(f"inference/{name}"), config, there)
    return contained(at_site(made, there), there, FOLDER)


def before(made: Launch) -> list[str]:
    """What stands ahead of the engine's own command."""
    return list(made.command[: made.command.index("vllm")])


def inside(**container: Any) -> dict[str, Any]:
    return {"container": {"images": "/images", **container}}


def test_apptainer_gets_the_vendors_option_the_folders_and_what_the_profile_adds() -> None:
    amd = profile(
        **inside(runtime="apptainer", binds=["/opt/rocm:/opt/rocm:ro"], arguments=["--cleanenv"]), gpu_vendor="amd"
    )
    binds = ["--bind", str(FOLDER), "--bind", "/scratch/me/cache", "--bind", "/opt/rocm:/opt/rocm:ro"]
    assert before(launch(amd)) == ["apptainer", "exec", "--rocm", *binds, "--cleanenv", "/images/vllm.sif"]
    none = profile(**inside(runtime="apptainer", gpus="none"))
    assert not {"--nv", "--rocm"} & set(before(launch(none)))
    assert "--nv" in before(launch(profile(**inside(runtime="apptainer"))))
    assert service_file(launch(amd), "s1", "ts-key", "auto", FOLDER)["gpu_vendor"] == "amd"


def test_podman_is_told_names_and_no_values() -> None:
    names = {"vllm.sif": "registry.example/vllm:v1"}
    there = profile(**inside(runtime="podman", image_names=names), environment={"HF_TOKEN": "hf_secret"})
    words = before(launch(there, environment={"MINE": "a secret"}))
    assert words[:3] == ["podman", "run", "--rm"]
    assert words[-1] == "registry.example/vllm:v1"
    assert {"--network=host", "--cgroups=disabled", "--device=nvidia.com/gpu=all", "--entrypoint=/usr/bin/env"} <= set(
        words
    )
    assert f"{FOLDER}:{FOLDER}" in words
    given = [words[place + 1] for place, word in enumerate(words) if word == "--env"]
    wanted = {"HF_TOKEN", "MINE", "VLLM_API_KEY", "VLLM_CACHE_ROOT", "ROCR_VISIBLE_DEVICES", "TOKENSTORM_REPLICA"}
    assert wanted <= set(given)
    assert not any("secret" in word or "=" in name for word in words for name in given)
    amd = before(launch(profile(**inside(runtime="podman", image_names=names, gpus="amd"))))
    assert {"--device=/dev/kfd", "--device=/dev/dri", "--group-add=keep-groups"} <= set(amd)
    with pytest.raises(
        UsageError, match=r"podman knows no vllm\.sif: say under profiles\.there\.container\.image_names"
    ):
        launch(profile(**inside(runtime="podman")))


def test_enroot_runs_a_squashed_image_past_its_own_entry() -> None:
    there = profile(**inside(runtime="enroot", binds=["/data:/data:ro"]))
    words = before(launch(there))
    assert words[:4] == ["enroot", "start", "--rc", f"{FOLDER}/enter.sh"]
    assert words[-1] == "/images/vllm.sqsh"
    assert {f"{FOLDER}:{FOLDER}", "/data:/data:none:x-create=auto,rbind,ro"} <= set(words)
    assert launch(there).environment["NVIDIA_VISIBLE_DEVICES"] == "all"


@pytest.mark.parametrize("runtime", ["apptainer", "enroot", "none"])
def test_caches_lie_in_the_base_path_and_what_somebody_set_stays(runtime: str) -> None:
    there = profile(**inside(runtime=runtime), environment={"TRITON_CACHE_DIR": "/fast/triton"})
    made = launch(there, environment={"VLLM_CACHE_ROOT": "/fast/vllm"})
    assert made.caches["HF_HOME"] == "/scratch/me/cache/huggingface"
    assert made.caches["TORCHINDUCTOR_CACHE_DIR"] == "/scratch/me/cache/torchinductor"
    assert not {"TRITON_CACHE_DIR", "VLLM_CACHE_ROOT"} & set(made.caches)
    shown = " ".join(made.command)
    assert [path in shown for path in ("/scratch/me/cache", "/fast/triton", "/fast/vllm")] == [runtime != "none"] * 3


def test_the_hubs_folder_of_the_profile_wins_and_nothing_changes_where_nothing_can_be_loaded_or_at_home() -> None:
    assert "HF_HOME" not in launch(profile(hf_home="/hub")).caches
    assert "HF_HOME" not in launch(profile(offline=True)).caches
    here = Profile(name="local", scheduler="local", base_path=PurePosixPath("/data"))
    assert launch(here).caches == {}
