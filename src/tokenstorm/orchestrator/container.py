"""An engine's command inside the profile's container runtime: pure.

Variables, the API key among them, reach the engine through the environment; none stands with its value on the command
line. Apptainer hands on all there is, and what the recipe sets is said in its own way too, so that it wins over what the
image sets; podman and enroot are told the names. With pyxis it is enroot that runs below.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

from tokenstorm.config.profile import Container, Profile
from tokenstorm.errors import UsageError
from tokenstorm.node.devices import VISIBLE
from tokenstorm.node.service import MARK
from tokenstorm.unproxied import NO_PROXY

from .caches import cache_folders
from .launch import Launch

_PREFIX = {"apptainer": "APPTAINERENV_", "singularity": "SINGULARITYENV_"}
_OWN_PYTHON = {"PYTHONHOME": "", "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
"""A Python in an image must not see the packages of modules and home folders outside."""
ENTRY = "enter.sh"
"""What enroot runs instead of the image's own entry, which would take the command for its arguments."""
ENTRY_TEXT = '#!/bin/sh\nexec "$@"\n'
_ANY_GPU = {"nvidia": {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "all"}}

Gpus = Literal["nvidia", "amd", "intel", "none"]


def contained(launch: Launch, profile: Profile, folder: PurePosixPath) -> Launch:
    """The same service in its image; as it is where the profile has no runtime or the recipe no image.

    The service's folder, model_dir, hf_home and the caches are there under the same paths. Raises UsageError.
    """
    container = profile.container
    if container.runtime == "none" or launch.image is None:
        return launch
    image = image_path(launch.image, container, profile.name)
    gpus: Gpus = (container.gpus or profile.gpu_vendor or "nvidia") if launch.resources.gpu else "none"
    paths = [path for path in (folder, profile.model_dir, profile.hf_home, *cache_folders(launch, profile)) if path]
    binds = [_same(path) for path in dict.fromkeys(paths)]
    environment = {**_OWN_PYTHON, **(_ANY_GPU.get(gpus, {}) if container.runtime == "enroot" else {})}
    environment |= launch.environment
    names = [*profile.variables, *environment, *launch.node_environment, *launch.caches, launch.key.variable]
    names += [*VISIBLE.values(), MARK, *NO_PROXY]
    entered = _ENTERED[container.runtime](
        container=container, image=image, gpus=gpus, binds=[*binds, *container.binds], names=_once(names), folder=folder
    )
    prefix = _PREFIX.get(container.runtime, "")
    return replace(
        launch,
        command=(*entered, *launch.command),
        literal=_behind(entered, launch.literal),
        worker_command=(*entered, *launch.worker_command) if launch.worker_command else (),
        worker_literal=_behind(entered, launch.worker_literal) if launch.worker_command else (),
        environment={**environment, **_prefixed(environment, prefix)},
        node_environment={**launch.node_environment, **_prefixed(launch.node_environment, prefix)},
        container_prefix=prefix,
    )


def image_path(image: str, container: Container, profile: str) -> str:
    """Where an image lies, or what the runtime calls it. Raises UsageError when the profile does not say."""
    if image in container.image_names:
        return container.image_names[image]
    path = PurePosixPath(image)
    if container.runtime == "podman":
        message = (
            f'podman knows no {image}: say under profiles.{profile}.container.image_names what it does, "{image}" = …'
        )
        raise UsageError(message)
    if container.runtime == "enroot" and path.suffix == ".sif":
        path = path.with_suffix(".sqsh")
    if path.is_absolute():
        return str(path)
    if container.images is None:
        message = (
            f"the image {path} is looked for in no folder: set profiles.{profile}.container.images to where it lies"
        )
        raise UsageError(message)
    return str(container.images / path)


def _apptainer(
    *, container: Container, image: str, gpus: Gpus, binds: Sequence[str], names: Sequence[str], folder: PurePosixPath
) -> list[str]:
    del names, folder  # it hands on all variables, and runs the command itself
    option = {"nvidia": ["--nv"], "amd": ["--rocm"], "intel": [], "none": []}[gpus]
    return [container.runtime, "exec", *option, *_each("--bind", binds), *container.arguments, image]


def _podman(
    *, container: Container, image: str, gpus: Gpus, binds: Sequence[str], names: Sequence[str], folder: PurePosixPath
) -> list[str]:
    """In the job's own cgroup, which ends it with the job, and on the node's network."""
    own = ["--rm", "--network=host", "--ipc=host", "--cgroups=disabled", "--security-opt=label=disable"]
    own += [f"--workdir={folder}", "--entrypoint=/usr/bin/env"]
    devices = {
        "nvidia": ["--device=nvidia.com/gpu=all"],
        "amd": ["--device=/dev/kfd", "--device=/dev/dri", "--group-add=keep-groups"],
        "intel": ["--device=/dev/dri", "--group-add=keep-groups"],
        "none": [],
    }[gpus]
    mounts = [bind if ":" in bind else f"{bind}:{bind}" for bind in binds]
    return [
        *("podman", "run", *own, *devices),
        *(*_each("--volume", mounts), *_each("--env", names), *container.arguments, image),
    ]


def _enroot(
    *, container: Container, image: str, gpus: Gpus, binds: Sequence[str], names: Sequence[str], folder: PurePosixPath
) -> list[str]:
    del gpus  # by variables for its hooks; the devices of others are there anyway
    entry = ["--rc", str(folder / ENTRY)]
    return [
        "enroot",
        "start",
        *entry,
        *_each("--mount", map(_mount, binds)),
        *_each("--env", names),
        *container.arguments,
        image,
    ]


_ENTERED: Mapping[str, Callable[..., list[str]]] = {
    "apptainer": _apptainer,
    "singularity": _apptainer,
    "podman": _podman,
    "enroot": _enroot,
}


def _mount(bind: str) -> str:
    """As a line of fstab with colons, which enroot wants whole where there are flags."""
    outside, _, rest = bind.partition(":")
    inside, _, flags = rest.partition(":")
    return f"{outside}:{inside or outside}" + (f":none:x-create=auto,rbind,{flags}" if flags else "")


def _behind(prefix: Sequence[str], literal: Sequence[int]) -> tuple[int, ...]:
    """The positions of literal words behind a prefix, whose own words are literal, too."""
    return (*range(len(prefix)), *(number + len(prefix) for number in literal))


def _prefixed(environment: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {f"{prefix}{name}": value for name, value in environment.items()} if prefix else {}


def _once(names: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(filter(None, names)))


def _each(option: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _same(path: PurePosixPath) -> str:
    """A path that is the same inside. Raises UsageError for one that cannot be said."""
    if "," in str(path) or ":" in str(path):
        message = f"{path} cannot be shown to a container: its name has a comma or a colon, which separate paths there"
        raise UsageError(message)
    return str(path)
