"""A recipe: how an engine is started, and what a user may change about it, with the bounds of each value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from tokenstorm.orchestrator.parameters import KNOWN, Parameter, Real, megabytes
from tokenstorm.timelimit import minutes_between

SIMULATED = "simulated"
"""The engine that stands in for any other."""
PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?)\}")
OF_THE_NODE = frozenset(("host", "port", "index", "api_key_file", "interface", "head", "head_port", "node_rank"))
"""Placeholders that get their value where the replica is started."""
IS_WORKER = "is_worker"
"""The condition of words for the parts of an engine that are not its head."""
OF_SEVERAL_NODES = frozenset(("head", "head_port", "node_rank", "nnodes", IS_WORKER))
"""What only an engine over several nodes has."""
OF_THE_PROFILE = frozenset(("profile.model_dir", "profile.hf_home", "profile.offline", "profile.python"))
OF_THE_RESOURCES = frozenset(
    ("resources.nodes", "resources.cpu", "resources.gpu", "resources.gpu_per_replica", "resources.gpu_total", "nnodes")
)
RESERVED = frozenset(("environment", "resources", "api_key", *OF_THE_NODE, *OF_SEVERAL_NODES))
"""What no parameter may be called."""
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


def like(pattern: str, example: str) -> AfterValidator:
    """Text of a certain form."""

    def checked(text: str | None) -> str | None:
        if text is not None and not re.fullmatch(pattern, text):
            message = f"must look like {example}, not {text!r}"
            raise ValueError(message)
        return text

    return AfterValidator(checked)


def refusing(pattern: str, message: str) -> AfterValidator:
    """Text that is not of a form is refused with these words."""

    def checked(text: str) -> str:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise ValueError(message)
        return text

    return AfterValidator(checked)


def _holding_a_key(text: str) -> str:
    if "{api_key}" not in text:
        message = "must hold `{api_key}`"
        raise ValueError(message)
    return text


def _free_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED:
        message = "is no name for a parameter: use small letters, digits and _"
        raise ValueError(message)
    return name


Plain = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[Plain, refusing(r"[^\0]*", "holds a NUL character, which no program can be given")]
Texts: TypeAlias = Annotated[tuple[Text, ...], Field(min_length=1)]
UrlPath = Annotated[Plain, refusing(r"/[!-~]*", "must be a path that begins with /")]
Variable = Annotated[Plain, refusing(VARIABLE, "is no name for a variable here")]
ParameterName = Annotated[Plain, AfterValidator(_free_name)]


@dataclass(frozen=True, kw_only=True)
class Words:
    """Words of a command: always there, or only while the parameter `condition` is given and not false."""

    __pydantic_config__ = KNOWN

    words: Texts
    condition: Annotated[Plain | None, Field(validation_alias="if")] = None
    otherwise: Annotated[Texts, Field(validation_alias="else")] = ()


Entry: TypeAlias = Annotated[
    Words, BeforeValidator(lambda entry: entry if isinstance(entry, Mapping) else {"words": [entry]})
]
"""Of the list of a command: words with a condition, or one word."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a service needs, on each of its nodes. The time limit is in minutes.

    An engine takes a node or less, or where it `spans_nodes` all of them, or in a group `nodes_per_replica`.
    `cpus_per_gpu` is the profile's, and decides how many CPUs there are where the user does not.
    """

    __pydantic_config__ = KNOWN

    nodes: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 1
    cpu: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 1
    memory_mb: Annotated[int | None, BeforeValidator(megabytes), Field(validation_alias="memory")] = None
    gpu: Annotated[int, Field(strict=True, ge=0, le=64)] = 0
    time_limit: Annotated[int, BeforeValidator(partial(minutes_between, least=1, most=1_000_000))] = 60
    gpu_per_replica: Annotated[int, Field(strict=True, ge=1, le=64)] | None = None
    replicas_per_node: Annotated[int, Field(strict=True, ge=1, le=64)] | None = None
    cpus_per_gpu: int | None = None
    nodes_per_replica: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    spans_nodes: Flag = False

    @property
    def nodes_per_engine(self) -> int | None:
        """On how many nodes one engine runs; None for engines that need no other node than their own."""
        return self.nodes_per_replica or (self.nodes if self.spans_nodes else None)

    @property
    def total_replicas(self) -> int:
        """Engines on all nodes."""
        return self.nodes // self.nodes_per_engine if self.nodes_per_engine else self.nodes * self.replicas

    @property
    def replicas(self) -> int:
        """Engines on one node, or parts of them."""
        if self.gpu_per_replica:
            return self.gpu // self.gpu_per_replica
        return self.replicas_per_node or 1

    @property
    def is_group(self) -> bool:
        """Whether the recipe is one for replicas."""
        return any(each is not None for each in (self.gpu_per_replica, self.replicas_per_node, self.nodes_per_replica))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How an engine is asked whether it is ready, and how long it may take from when its job runs.

    `generates` is false for one that is not asked for a token.
    """

    __pydantic_config__ = KNOWN

    path: UrlPath = "/health"
    models_path: UrlPath = "/v1/models"
    generates: Flag = True
    timeout_seconds: Annotated[Real, Field(ge=1, le=86_400)] = 600.0


@dataclass(frozen=True, kw_only=True)
class KeyDelivery:
    """How an engine learns its API key: by a variable, or by a file in the service's folder. Never by its arguments."""

    __pydantic_config__ = KNOWN

    variable: Annotated[Plain | None, like(VARIABLE, "VLLM_API_KEY")] = None
    file: Annotated[Plain | None, like(r"(?!replica\.|service\.|script\.)[a-z0-9][a-z0-9_.-]*", "api_key.yaml")] = None
    content: Annotated[Text, AfterValidator(_holding_a_key)] = "{api_key}"


def _by_one_way(key: KeyDelivery) -> KeyDelivery:
    if key.variable is None and key.file is None:
        message = "must say by which `variable` or `file` the engine learns its key"
        raise ValueError(message)
    if key.variable is not None and key.file is not None:
        message = "has `variable` and `file`, two ways of giving a key: take one"
        raise ValueError(message)
    return key


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe, checked. Texts may hold placeholders such as `{model}`."""

    __pydantic_config__ = KNOWN

    name: Annotated[Plain, like(r"[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*", "category/name, in small letters")]
    description: Text = ""
    engine: Annotated[Plain, like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "vllm")]
    model: Text
    command: Annotated[tuple[Entry, ...], Field(min_length=1)]
    environment: Mapping[Variable, Text] = field(default_factory=dict)
    base_port: Annotated[int, Field(strict=True, ge=1, le=65_000)]
    resources: Resources = Resources()
    probe: Annotated[Probe, Field(validation_alias="readiness")] = Probe()
    key: Annotated[KeyDelivery, AfterValidator(_by_one_way), Field(validation_alias="api_key")]
    parameters: Mapping[ParameterName, Parameter] = field(default_factory=dict)
    image: Annotated[Plain | None, like(r"/?[A-Za-z0-9][A-Za-z0-9._/-]*", "vllm.sif")] = None


def unfit(resources: Resources) -> tuple[str, str] | None:
    """The key and the complaint where replicas, nodes and GPUs do not go together."""
    each, nodes = resources.gpu_per_replica, resources.nodes_per_replica
    if nodes and not resources.spans_nodes:
        return "nodes", "are shared out by nodes_per_replica, which an engine that does not span nodes cannot have"
    if resources.spans_nodes and (each or resources.replicas_per_node):
        return "nodes", "are taken whole by engines that span them: leave out gpu_per_replica and replicas_per_node"
    if nodes and resources.nodes % nodes:
        return "nodes", f"must be a multiple of nodes_per_replica ({nodes}), not {resources.nodes}"
    if each and (resources.gpu < each or resources.gpu % each):
        return "gpu", f"must be a multiple of gpu_per_replica ({each}), not {resources.gpu}"
    if each and resources.replicas_per_node:
        return "gpu", "decides with gpu_per_replica how many replicas there are: leave out replicas_per_node"
    return None
