"""From a recipe and what a user gave it to what is run: pure, and nothing a user typed is ever read as a placeholder."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from tokenstorm.config.profile import Profile
from tokenstorm.config.reasons import reason
from tokenstorm.errors import UsageError

from .parameters import Parameter, Value, shown
from .recipe import (
    IS_WORKER,
    OF_THE_NODE,
    PLACEHOLDER,
    SIMULATED,
    VARIABLE,
    KeyDelivery,
    Probe,
    Recipe,
    Resources,
    Words,
    unfit,
)

_SIMULATOR_KEY = "TOKENSTORM_API_KEY"


class ConfigError(UsageError):
    """What a user gave a recipe does not fit it; `field` says which part of the request."""

    def __init__(self, *, field: str, message: str) -> None:
        super().__init__(message, field.encode(errors="backslashreplace").decode())  # a key may be no UTF-8 text

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Settings(Protocol):
    """What a profile tells recipes."""

    @property
    def python(self) -> str: ...
    @property
    def model_dir(self) -> object: ...
    @property
    def hf_home(self) -> object: ...
    @property
    def offline(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What runs as one service: on each of `resources.nodes` nodes, `resources.replicas` engines or parts of them.

    `command` is an argv in which `{host}`, `{port}`, `{index}` and `{api_key_file}` are filled in where it starts, except
    in the words at the positions `literal`: those hold such text because a user typed it. An engine over several nodes has `parts`, on a node each or `together` on one machine, of
    which all but the head run `worker_command`. `node_environment` is filled in as the commands are.
    """

    recipe_name: str
    engine: str
    model: str
    command: tuple[str, ...]
    literal: tuple[int, ...] = ()
    worker_command: tuple[str, ...] = ()
    worker_literal: tuple[int, ...] = ()
    parts: int | None = None
    together: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    node_environment: Mapping[str, str] = field(default_factory=dict)
    base_port: int
    resources: Resources
    probe: Probe
    key: KeyDelivery
    image: str | None = None
    gpu_vendor: str | None = None
    caches: Mapping[str, str] = field(default_factory=dict)
    container_prefix: str = ""
    note: str = ""

    @property
    def processes_per_node(self) -> int:
        """Engines on one node, or parts of them."""
        return self.resources.replicas * (self.parts or 1 if self.together else 1)


def prepare(recipe: Recipe, config: Mapping[str, object], settings: Settings) -> Launch:
    """Raises ConfigError for what the recipe does not know or cannot use."""
    valid = ("environment", "resources", *recipe.parameters)
    for name in config:
        if name not in valid:
            message = f"{recipe.name} knows no such key: there are {', '.join(sorted(valid))}"
            raise ConfigError(field=f"config.{name}", message=message)
    resources = _resources(recipe.resources, _mapping(config, "resources"))
    given = {name: _parameter(name, parameter, config) for name, parameter in recipe.parameters.items()}
    values: dict[str, Value] = {**given, **_of_profile(settings), **_of_resources(resources)}
    command, literal = _command(recipe.command, {**values, IS_WORKER: False})
    parts = resources.nodes_per_engine
    worker_command, worker_literal = _command(recipe.command, {**values, IS_WORKER: True}) if parts else ((), ())
    environment, node_environment = _environment(recipe, _mapping(config, "environment"), values)
    return Launch(
        recipe_name=recipe.name,
        engine=recipe.engine,
        model=_served_as(command) or _filled(recipe.model, values),
        command=command,
        literal=literal,
        worker_command=worker_command,
        worker_literal=worker_literal,
        parts=parts,
        environment=environment,
        node_environment=node_environment,
        base_port=recipe.base_port,
        resources=resources,
        probe=recipe.probe,
        key=recipe.key,
        image=recipe.image,
    )


def at_home(recipe: Recipe, profile: Profile) -> Recipe:
    """The recipe with what the profile says of resources of which the user says nothing."""
    wants = recipe.resources
    jobs = profile.of("gpu" if wants.gpu else "cpu")
    resources = replace(wants, time_limit=jobs.time_limit or wants.time_limit, cpus_per_gpu=jobs.cpus_per_gpu)
    return replace(recipe, resources=resources)


def simulated(launch: Launch, python: str, why: str) -> Launch:
    """The same service by the simulator, where there is no GPU for the engine, which is `why`. It says so."""
    words = ["--host", "{host}", "--port", "{port}", "--model", launch.model, "--api-key-env", _SIMULATOR_KEY]
    command = (python, "-m", "tokenstorm.simulator", *words)
    resources = with_one_node_each(launch.resources)
    replicas = resources.replicas
    return replace(
        launch,
        engine=SIMULATED,
        command=command,
        literal=(command.index("--model") + 1,) if _looks_filled(launch.model) else (),
        worker_command=(),
        worker_literal=(),
        parts=None,
        together=False,
        node_environment={},
        resources=replace(
            resources,
            cpu=replicas,
            memory_mb=None,
            gpu=0,
            gpu_per_replica=None,
            replicas_per_node=replicas if resources.is_group else None,
        ),
        probe=Probe(),
        image=None,
        key=KeyDelivery(variable=_SIMULATOR_KEY),
        note=f"{why} for {launch.engine}: a simulated engine answers for {launch.model}, "
        "and its numbers speak of no real engine",
    )


def with_one_node_each(resources: Resources) -> Resources:
    """The same engines, where none spans nodes: one on each of as many nodes as there are engines."""
    if not resources.spans_nodes:
        return resources
    engines = resources.total_replicas
    each = 1 if resources.is_group else None
    return replace(resources, nodes=engines, spans_nodes=False, nodes_per_replica=None, replicas_per_node=each)


def on_one_machine(launch: Launch) -> Launch:
    """The same service where there is one machine: parts of an engine that spans nodes are processes beside each other.

    Raises ConfigError for other services that want several nodes.
    """
    resources = launch.resources
    if launch.parts is None:
        if resources.nodes > 1:
            raise ConfigError(field="config.resources.nodes", message="must be 1: this profile has one machine")
        return launch
    here = replace(
        with_one_node_each(resources),
        nodes=1,
        cpu=resources.cpu * resources.nodes,
        memory_mb=resources.memory_mb and resources.memory_mb * resources.nodes,
        gpu=resources.gpu * resources.nodes,
        replicas_per_node=resources.total_replicas if resources.is_group else None,
    )
    return replace(launch, resources=here, together=True)


def service_file(launch: Launch, service_id: str, api_key: str, host: str, folder: PurePosixPath) -> dict[str, object]:
    """`service.json`, which tells the node what to start. It holds secrets: 0600."""
    return {
        "schema": 1,
        "service_id": service_id,
        "api_key": api_key,
        "replicas_per_node": launch.resources.replicas,
        "base_port": launch.base_port,
        "host": host,
        "networks": [host] if "/" in host else [],
        "command": list(launch.command),
        "literal": list(launch.literal),
        "worker_command": list(launch.worker_command),
        "worker_literal": list(launch.worker_literal),
        "parts": launch.parts,
        "together": launch.together,
        "environment": dict(launch.environment),
        "node_environment": dict(launch.node_environment),
        "api_key_env": launch.key.variable,
        "api_key_file": str(folder / launch.key.file) if launch.key.file else None,
        "gpus_per_replica": launch.resources.gpu // launch.processes_per_node,
        "gpu_vendor": launch.gpu_vendor,
        "caches": dict(launch.caches),
        "container_prefix": launch.container_prefix,
        "health_path": launch.probe.path,
        "models_path": launch.probe.models_path,
        "model": launch.model,
        "generates": launch.probe.generates,
        "ready_seconds": launch.probe.timeout_seconds,
    }


def _mapping(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = config.get(name, {})
    if not isinstance(value, Mapping):
        raise ConfigError(field=f"config.{name}", message=f"must be an object, not {shown(value)}")
    return value


def _parameter(name: str, parameter: Parameter, config: Mapping[str, object]) -> Value:
    try:
        return parameter.check(config.get(name, parameter.default))
    except ValueError as error:
        raise ConfigError(field=f"config.{name}", message=str(error)) from None


def _resources(defaults: Resources, given: Mapping[str, object]) -> Resources:
    """Those of the recipe with what the user wants different, held to the same bounds."""
    own = {name: getattr(defaults, name) for name in Resources.__dataclass_fields__}
    own["memory"] = own.pop("memory_mb")
    per_replica = ("gpu_per_replica", "replicas_per_node", "nodes_per_replica")
    valid = sorted(("nodes", "cpu", "memory", "gpu", "time_limit", *(name for name in per_replica if own[name])))
    if unknown := next((name for name in given if name not in valid), None):
        message = f"is not among the resources: there are {', '.join(valid)}"
        raise ConfigError(field=f"config.resources.{unknown}", message=message)
    if left_out := next((name for name in per_replica if name in given and given[name] is None), None):
        raise ConfigError(field=f"config.resources.{left_out}", message="must be a whole number, not null")
    try:
        resources = _RESOURCES.validate_python({**own, **given})
    except ValidationError as error:
        found = error.errors()[0]
        raise ConfigError(field=f"config.resources.{found['loc'][0]}", message=reason(found)) from None
    if defaults.cpus_per_gpu and resources.gpu and "cpu" not in given:
        resources = replace(resources, cpu=defaults.cpus_per_gpu * resources.gpu)
    if complaint := unfit(resources):
        raise ConfigError(field=f"config.resources.{complaint[0]}", message=complaint[1])
    return resources


_RESOURCES = TypeAdapter(Resources)


def _of_profile(settings: Settings) -> dict[str, Value]:
    return {
        "profile.python": settings.python,
        "profile.model_dir": None if settings.model_dir is None else str(settings.model_dir),
        "profile.hf_home": None if settings.hf_home is None else str(settings.hf_home),
        "profile.offline": settings.offline,
    }


def _of_resources(resources: Resources) -> dict[str, Value]:
    return {
        "resources.nodes": resources.nodes,
        "resources.cpu": resources.cpu,
        "resources.gpu": max(resources.gpu, 1),
        "resources.gpu_per_replica": resources.gpu_per_replica or 1,
        "resources.gpu_total": max(resources.gpu, 1) * (resources.nodes_per_engine or 1),
        "nnodes": resources.nodes_per_engine or 1,
    }


def _command(entries: tuple[Words, ...], values: Mapping[str, Value]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    command: list[str] = []
    literal: list[int] = []
    for entry in entries:
        given = entry.condition is None or values[entry.condition] not in (None, False)
        for word in entry.words if given else entry.otherwise:
            ours = [name for name in PLACEHOLDER.findall(word) if name not in OF_THE_NODE]
            value = values[ours[0]] if ours else None
            made = list(value) if isinstance(value, tuple) else [_filled(word, values)]
            if ours:
                literal += [len(command) + number for number, text in enumerate(made) if _looks_filled(text)]
            command += made
    return tuple(command), tuple(literal)


def _served_as(command: tuple[str, ...]) -> str | None:
    """The name that the command itself gives the model, the last one where it gives several; None where it gives none."""
    name = None
    for number, word in enumerate(command):
        option, equals, value = word.partition("=")
        if option in _NAMES:
            name = value if equals else next(iter(command[number + 1 :]), None)
    return name


_NAMES = frozenset(("--served-model-name", "--served_model_name", "--alias", "--model-name"))
"""Options of vLLM and SGLang, llama.cpp, LMDeploy."""


def _environment(
    recipe: Recipe, given: Mapping[str, object], values: Mapping[str, Value]
) -> tuple[dict[str, str], dict[str, str]]:
    """The recipe's variables, less those that name what is not set, and the user's, of which null takes one away.

    Those that are filled in where the engine starts come apart, as the second.
    """
    later = {name: text for name, text in recipe.environment.items() if _looks_filled(text)}
    found = {
        name: _filled(text, values)
        for name, text in recipe.environment.items()
        if name not in later and not any(values[used] is None for used in PLACEHOLDER.findall(text))
    }
    for name, value in given.items():
        where = f"config.environment.{name}"
        if not re.fullmatch(VARIABLE, name):
            raise ConfigError(field=where, message="is no name for a variable: use letters, digits and _")
        if name in (recipe.key.variable, _SIMULATOR_KEY):
            raise ConfigError(field=where, message="is the API key, which tokenstorm makes itself: leave it out")
        found.pop(name, None)
        later.pop(name, None)
        if value is not None:
            found[name] = _variable(where, value)
    return found, later


def _variable(where: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError(field=where, message=f"must be text, not {shown(value)}")
    check: Callable[[object], Value] = Parameter(kind="string", default="").check
    try:
        return str(check(str(value)))
    except ValueError as error:
        raise ConfigError(field=where, message=str(error)) from None


def _filled(text: str, values: Mapping[str, Value]) -> str:
    """One pass, so that what is put in is not looked at again."""
    return PLACEHOLDER.sub(lambda match: _word(values[match[1]]) if match[1] in values else match[0], text)


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _looks_filled(text: str) -> bool:
    return not OF_THE_NODE.isdisjoint(PLACEHOLDER.findall(text))
