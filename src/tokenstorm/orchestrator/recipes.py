"""Recipes: YAML files that say how an engine is started, and what a user may change about it.

A recipe is checked as a whole when it is read, so that one that was taken can only fail for what a user gave it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenstorm.errors import Unknown

from .document import Document, RecipeError, Section, read_document, section, wrong
from .parameters import KINDS, Parameter, memory_mb

SIMULATED = "simulated"
"""The engine that stands in for any other."""
SHIPPED = Path(__file__).parents[1] / "recipes"
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


@dataclass(frozen=True, kw_only=True)
class Words:
    """Words of a command: always there, or only while the parameter `condition` is given and not false."""

    words: tuple[str, ...]
    condition: str | None = None
    otherwise: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a service needs, on each of its nodes. The time limit is in minutes.

    An engine takes a node or less, or where it `spans_nodes` all of them, or in a group `nodes_per_replica`.
    `cpus_per_gpu` is the profile's, and decides how many CPUs there are where the user does not.
    """

    nodes: int = 1
    cpu: int = 1
    memory_mb: int | None = None
    gpu: int = 0
    time_limit: int = 60
    gpu_per_replica: int | None = None
    replicas_per_node: int | None = None
    cpus_per_gpu: int | None = None
    nodes_per_replica: int | None = None
    spans_nodes: bool = False

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

    path: str = "/health"
    models_path: str = "/v1/models"
    generates: bool = True
    timeout_seconds: float = 600.0


@dataclass(frozen=True, kw_only=True)
class KeyDelivery:
    """How an engine learns its API key: by a variable, or by a file in the service's folder. Never by its arguments."""

    variable: str | None = None
    file: str | None = None
    content: str = "{api_key}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe, checked. Texts may hold placeholders such as `{model}`."""

    name: str
    description: str
    engine: str
    model: str
    command: tuple[Words, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    base_port: int = 8001
    resources: Resources = field(default_factory=Resources)
    probe: Probe = field(default_factory=Probe)
    key: KeyDelivery = field(default_factory=KeyDelivery)
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    image: str | None = None
    file: str = ""


@dataclass(frozen=True)
class Recipes:
    """All recipes, by name."""

    by_name: Mapping[str, Recipe]

    def get(self, name: str) -> Recipe:
        """Raises Unknown, which lists the recipes there are."""
        if name not in self.by_name:
            message = f"there is no recipe {name!r}: there are {', '.join(sorted(self.by_name))}"
            raise Unknown(message)
        return self.by_name[name]


def load_recipes(folders: Sequence[Path] = ()) -> Recipes:
    """The shipped recipes and those of further folders, of which the later win. Raises RecipeError."""
    found: dict[str, Recipe] = {}
    for folder in (SHIPPED, *folders):
        found.update(_of_folder(folder))
    return Recipes(dict(sorted(found.items())))


def _of_folder(folder: Path) -> dict[str, Recipe]:
    if not folder.is_dir():
        message = f"there is no folder {folder} with recipes"
        raise RecipeError(message)
    found: dict[str, Recipe] = {}
    for path in sorted((*folder.rglob("*.yaml"), *folder.rglob("*.yml"))):
        recipe = make_recipe(read_document(path))
        if recipe.name in found:
            message = f"{path}: {found[recipe.name].file} has the name {recipe.name} already"
            raise RecipeError(message)
        found[recipe.name] = recipe
    return found


def make_recipe(document: Document) -> Recipe:
    """Check a whole recipe. Raises RecipeError, which names file and line."""
    top = section(document, (), document.value, _KEYS, ("name", "engine", "model", "command"))
    parameters = _parameters(top)
    names = frozenset(parameters) | OF_THE_PROFILE | OF_THE_RESOURCES
    key = _key(top)
    if ("ports" in top.values) == ("base_port" in top.values):
        raise wrong(top, "ports", "is for one engine, `base_port` for replicas: give one of them")
    recipe = Recipe(
        name=top.matching("name", r"[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*", "category/name, in small letters"),
        description=top.text("description"),
        engine=top.matching("engine", r"[A-Za-z0-9][A-Za-z0-9._-]*", "vllm"),
        model=_model(top, parameters),
        command=tuple(_words(top, number, parameters, names, key) for number in range(len(top.sequence("command")))),
        environment=_environment(top, names, key),
        base_port=_port(top),
        resources=_resources(top),
        probe=_probe(top),
        key=key,
        parameters=parameters,
        image=top.matching("image", r"/?[A-Za-z0-9][A-Za-z0-9._/-]*", "vllm.sif") if "image" in top.values else None,
        file=document.file,
    )
    _check_span(top, recipe)
    used = " ".join(word for words in recipe.command for word in (*words.words, *words.otherwise))
    if "{port}" not in used or "{host}" not in used:
        raise wrong(top, "command", "must hold `{host}` and `{port}`, where the engine has to listen")
    if key.file and "{api_key_file}" not in used:
        raise wrong(top, "api_key", "is given by a file that the command does not name: it needs `{api_key_file}`")
    return recipe


_KEYS = (
    *("name", "description", "engine", "model", "command", "environment", "ports", "base_port", "gpu_per_replica"),
    *("replicas_per_node", "nodes_per_replica", "spans_nodes", "resources", "readiness", "api_key"),
    *("parameters", "image"),
)
_RESOURCE_KEYS = ("nodes", "cpu", "memory", "gpu", "time_limit")


def _model(top: Section, parameters: Mapping[str, Parameter]) -> str:
    model = top.text("model")
    for name in PLACEHOLDER.findall(model):
        if name not in parameters or parameters[name].kind != "string" or parameters[name].default is None:
            raise wrong(top, "model", f"names `{{{name}}}`, which must be a parameter of text with a default")
    return model


def _parameters(top: Section) -> dict[str, Parameter]:
    found = {}
    part = top.section("parameters")
    for name in part.values:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED:
            raise wrong(part, name, "is no name for a parameter: use small letters, digits and _")
        found[name] = _parameter(part.section(name, _PARAMETER_KEYS, ("type", "default")), name)
    return found


_PARAMETER_KEYS = ("type", "default", "choices", "minimum", "maximum", "description")


def _parameter(part: Section, name: str) -> Parameter:
    kind = next((kind for kind in KINDS if kind == part.text("type")), None)
    if kind is None:
        raise wrong(part, "type", f"must be one of {', '.join(KINDS)}, not {part.text('type')!r}")
    plain = Parameter(name=name, kind=kind)
    try:
        choices = tuple(plain.check(choice) for choice in part.sequence("choices")) if "choices" in part.values else ()
    except ValueError as error:
        raise wrong(part, "choices", str(error)) from None
    bounds = {"minimum": part.bound("minimum"), "maximum": part.bound("maximum")}
    parameter = Parameter(name=name, kind=kind, choices=choices, description=part.text("description"), **bounds)
    try:
        default = parameter.check(part.values["default"])
    except ValueError as error:
        raise wrong(part, "default", str(error)) from None
    return Parameter(
        name=name, kind=kind, default=default, choices=choices, description=parameter.description, **bounds
    )


def _words(
    top: Section, number: int, parameters: Mapping[str, Parameter], names: frozenset[str], key: KeyDelivery
) -> Words:
    entry = top.sequence("command")[number]
    if not isinstance(entry, dict):
        entry = {"words": [entry]}
    part = section(top.document, ("command", number), entry, ("if", "words", "else"), ("words",))
    condition = part.text("if") if "if" in part.values else None
    names = names | {IS_WORKER}
    if condition is not None and condition not in names:
        raise wrong(part, "if", f"names {condition!r}: there are {', '.join(sorted(names))}")
    if condition is None and "else" in part.values:
        raise wrong(part, "else", "needs an `if`")
    sides: dict[str, tuple[str, ...]] = {"words": (), "else": ()}
    for side in part.values.keys() & sides.keys():
        words = part.sequence(side)
        for word in words:
            if not isinstance(word, str) or "\0" in word:
                raise wrong(part, side, f"must be words of text, not {word!r}: put it in quotes")
            given = condition if side == "words" else None
            if complaint := _complaint(word, parameters, names, key, given):
                raise wrong(part, side, complaint)
        sides[side] = tuple(word for word in words if isinstance(word, str))
    return Words(words=sides["words"], condition=condition, otherwise=sides["else"])


def _complaint(
    word: str, parameters: Mapping[str, Parameter], names: frozenset[str], key: KeyDelivery, given: str | None
) -> str | None:
    """What is wrong with the placeholders of one word, where the parameter `given` is known to be there."""
    used = PLACEHOLDER.findall(word)
    valid = (names | OF_THE_NODE) - {IS_WORKER}
    for name in used:
        if name not in valid:
            return f"{word!r} names `{{{name}}}`: there are {', '.join(sorted(valid))}"
        if name == "api_key_file" and not key.file:
            return f"{word!r} needs an `api_key` with a `file`"
        parameter = parameters.get(name)
        if parameter and parameter.kind == "strings" and word != f"{{{name}}}":
            return f"{word!r}: the list `{{{name}}}` must be a word of its own"
        optional = name in OF_THE_PROFILE - {"profile.offline", "profile.python"}
        if (optional or (parameter and parameter.default is None)) and name != given:
            return f"{word!r}: `{{{name}}}` may be missing: write it as {{if: {name}, words: [{word!r}]}}"
    if OF_THE_NODE & set(used) and set(used) - OF_THE_NODE:
        return f"{word!r} mixes {', '.join(sorted(OF_THE_NODE))} with other placeholders: make two words of it"
    return None


def _environment(top: Section, names: frozenset[str], key: KeyDelivery) -> dict[str, str]:
    part = top.section("environment")
    for name in part.values:
        if not re.fullmatch(VARIABLE, name) or name == key.variable:
            raise wrong(part, name, "is no name for a variable here")
        used = frozenset(PLACEHOLDER.findall(part.text(name)))
        valid = names | OF_THE_NODE - ({"api_key_file"} if not key.file else set())
        if unknown := sorted(used - valid):
            raise wrong(part, name, f"names `{{{unknown[0]}}}`: there are {', '.join(sorted(valid))}")
        if used & OF_THE_NODE and used - OF_THE_NODE:
            raise wrong(part, name, f"mixes {', '.join(sorted(OF_THE_NODE))} with other placeholders: make two of it")
    return {name: part.text(name) for name in part.values}


def _port(top: Section) -> int:
    if "base_port" in top.values:
        return top.integer("base_port", 0, least=1, most=65_000)
    port = top.sequence("ports")[0]
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65_000:  # noqa: PLR2004
        raise wrong(top, "ports", "must begin with the port from which a free one is looked for, 1 to 65000")
    return port


def _resources(top: Section) -> Resources:
    part = top.section("resources", _RESOURCE_KEYS)
    try:
        memory = memory_mb(part.values.get("memory"))
    except ValueError as error:
        raise wrong(part, "memory", str(error)) from None
    given = {
        name: top.integer(name, 1, least=1, most=most)
        for name, most in (("gpu_per_replica", 64), ("replicas_per_node", 64), ("nodes_per_replica", 10_000))
        if name in top.values
    }
    resources = Resources(
        nodes=part.integer("nodes", 1, least=1, most=10_000),
        cpu=part.integer("cpu", 1, least=1, most=10_000),
        memory_mb=memory,
        gpu=part.integer("gpu", 0, least=0, most=64),
        time_limit=part.minutes("time_limit", 60, least=1, most=1_000_000),
        spans_nodes=top.boolean("spans_nodes", default="nodes_per_replica" in given),
        **given,
    )
    if resources.is_group != ("base_port" in top.values):
        kinds = "`gpu_per_replica`, `replicas_per_node` or `nodes_per_replica`"
        raise wrong(top, "base_port", f"belongs to replicas, with {kinds}")
    if found := unfit(resources):
        raise wrong(part, *found)
    return resources


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


def _check_span(top: Section, recipe: Recipe) -> None:
    """Whether a recipe says how the parts of an engine meet, and only one that spans nodes does."""
    texts = [word for words in recipe.command for word in (*words.words, *words.otherwise)]
    used = {name for text in (*texts, *recipe.environment.values()) for name in PLACEHOLDER.findall(text)}
    used |= {words.condition for words in recipe.command if words.condition}
    found = sorted(used & OF_SEVERAL_NODES)
    if found and not recipe.resources.spans_nodes:
        raise wrong(
            top, "command", f"uses {', '.join(found)}, which engines over several nodes have: set `spans_nodes`"
        )
    if recipe.resources.spans_nodes and not {"head", "node_rank"} & used:
        raise wrong(top, "command", "must tell each part of the engine its place: name `{head}` or `{node_rank}`")


def _probe(top: Section) -> Probe:
    part = top.section("readiness", ("path", "models_path", "generates", "timeout_seconds"))
    for name in ("path", "models_path"):
        if not re.fullmatch(r"/[!-~]*", part.text(name, "/")):
            raise wrong(part, name, "must be a path that begins with /")
    return Probe(
        path=part.text("path", Probe.path),
        models_path=part.text("models_path", Probe.models_path),
        generates=part.boolean("generates", default=Probe.generates),
        timeout_seconds=part.number("timeout_seconds", Probe.timeout_seconds, least=1, most=86_400),
    )


def _key(top: Section) -> KeyDelivery:
    part = top.section("api_key", ("variable", "file", "content"))
    if "variable" in part.values:
        if len(part.values) > 1:
            raise wrong(part, "variable", "and `file` are two ways of giving a key: take one")
        return KeyDelivery(variable=part.matching("variable", VARIABLE, "VLLM_API_KEY"))
    if "file" not in part.values:
        raise wrong(top, "api_key", "must say by which `variable` or `file` the engine learns its key")
    content = part.text("content", KeyDelivery.content)
    if "{api_key}" not in content:
        raise wrong(part, "content", "must hold `{api_key}`")
    file = part.matching("file", r"(?!replica\.|service\.|script\.)[a-z0-9][a-z0-9_.-]*", "api_key.yaml")
    return KeyDelivery(file=file, content=content)
