"""What a recipe needs of Slurm and on its nodes, as its defaults and a profile have it."""

from pathlib import PurePosixPath

from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.setup.checks import Needs
from tokenstorm.config.profile import Profile

from .container import image_path
from .launch import Launch, at_home, prepare, simulated
from .recipe import Recipe


def needs_of(recipe: Recipe, profile: Profile) -> Needs:
    """Its files below the profile's model_dir, and its image or the program that it starts. Raises UsageError."""
    launch = prepare(at_home(recipe, profile), {}, profile)
    if profile.simulate and launch.resources.gpu:
        return Needs(recipe=recipe.name, job=_job(simulated(launch, profile.python, "")))
    models = profile.model_dir
    files = [PurePosixPath(word) for word in launch.command if models and word.startswith(f"{models}/")]
    if profile.offline and not models and profile.hf_home:
        files.append(profile.hf_home / "hub" / f"models--{launch.model.replace('/', '--')}")
    runtime = profile.container.runtime
    image = image_path(recipe.image, profile.container, profile.name) if recipe.image and runtime != "none" else None
    return Needs(
        recipe=recipe.name,
        job=_job(launch),
        files=tuple(files),
        program=None if image else launch.command[0],
        image=PurePosixPath(image) if image and image.startswith("/") else None,
    )


def _job(launch: Launch) -> Job:
    """A job as large as the service's, which does nothing."""
    wants = launch.resources
    return Job(
        name=launch.recipe_name,
        command=("true",),
        folder=PurePosixPath("/"),
        kind="gpu" if wants.gpu else "cpu",
        nodes=wants.nodes,
        cpus_per_task=wants.cpu,
        memory_mb=wants.memory_mb,
        gpus_per_node=wants.gpu,
        time_limit_minutes=wants.time_limit,
    )
