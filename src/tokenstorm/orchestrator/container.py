"""An engine's command inside the profile's container runtime: pure.

Variables, the API key among them, reach the engine through the environment, which both runtimes hand on; none stands on
the command line. What the recipe sets is said in the runtime's own way too, so that it wins over what the image sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from tokenstorm.config import Container, Profile
from tokenstorm.errors import UsageError

from .launch import Launch

_PREFIX = {"apptainer": "APPTAINERENV_", "singularity": "SINGULARITYENV_"}
_OWN_PYTHON = {"PYTHONHOME": "", "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
"""A Python in an image must not see the packages of modules and home folders outside."""


def contained(launch: Launch, profile: Profile, folder: PurePosixPath) -> Launch:
    """The same service in its image; as it is where the profile has no runtime or the recipe no image.

    The service's folder, model_dir and hf_home are there under the same paths. Raises UsageError.
    """
    runtime = profile.container.runtime
    if runtime == "none" or launch.image is None:
        return launch
    image = image_path(launch.image, profile.container, profile.name)
    there = [path for path in (folder, profile.model_dir, profile.hf_home) if path is not None]
    gpu = ["--nv"] if launch.resources.gpu else []
    prefix = [runtime, "exec", *gpu, *_binds(there), str(image)]
    environment = {**_OWN_PYTHON, **launch.environment}
    later = launch.node_environment
    return replace(
        launch,
        command=(*prefix, *launch.command),
        literal=_behind(prefix, launch.literal),
        worker_command=(*prefix, *launch.worker_command) if launch.worker_command else (),
        worker_literal=_behind(prefix, launch.worker_literal) if launch.worker_command else (),
        environment={**environment, **_said(environment, runtime)},
        node_environment={**later, **_said(later, runtime)},
    )


def _behind(prefix: Sequence[str], literal: Sequence[int]) -> tuple[int, ...]:
    """The positions of literal words behind a prefix, whose own words are literal, too."""
    return (*range(len(prefix)), *(number + len(prefix) for number in literal))


def _said(environment: Mapping[str, str], runtime: str) -> dict[str, str]:
    return {f"{_PREFIX[runtime]}{name}": value for name, value in environment.items()}


def image_path(image: str, container: Container, profile: str) -> PurePosixPath:
    """Where an image lies. Raises UsageError when the profile does not say."""
    path = PurePosixPath(image)
    if path.is_absolute():
        return path
    if container.images is None:
        message = (
            f"the image {image} is looked for in no folder: set profiles.{profile}.container.images to where it lies"
        )
        raise UsageError(message)
    return container.images / path


def _binds(paths: Sequence[PurePosixPath]) -> list[str]:
    for path in paths:
        if "," in str(path) or ":" in str(path):
            message = (
                f"{path} cannot be shown to a container: its name has a comma or a colon, which separate paths there"
            )
            raise UsageError(message)
    return [word for path in paths for word in ("--bind", str(path))]
