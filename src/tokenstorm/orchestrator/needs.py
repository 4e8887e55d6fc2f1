"""What a recipe needs to find on its nodes, as its defaults and a profile have it."""

from pathlib import PurePosixPath

from tokenstorm.cluster.checks import Needs
from tokenstorm.config import Profile

from .container import image_path
from .launch import prepare
from .recipes import Recipe


def needs_of(recipe: Recipe, profile: Profile) -> Needs:
    """Its files below the profile's model_dir, and its image or the program that it starts. Raises UsageError."""
    launch = prepare(recipe, {}, profile)
    models = profile.model_dir
    files = [PurePosixPath(word) for word in launch.command if models and word.startswith(f"{models}/")]
    if profile.offline and not models and profile.hf_home:
        files.append(profile.hf_home / "hub" / f"models--{launch.model.replace('/', '--')}")
    runtime = profile.container.runtime
    image = image_path(recipe.image, profile.container, profile.name) if recipe.image and runtime != "none" else None
    return Needs(
        recipe=recipe.name,
        files=tuple(files),
        program=None if image else launch.command[0],
        image=image,
        kind="gpu" if launch.resources.gpu else "cpu",
    )
