"""Recipes as files: YAML, checked as a whole when it is read, so that one that was taken can only fail for what a user gave it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from tokenstorm.config.reasons import reason
from tokenstorm.errors import Unknown
from tokenstorm.orchestrator.document import Document, RecipeError, Where, read_document
from tokenstorm.orchestrator.parameters import Parameter
from tokenstorm.orchestrator.recipe import (
    IS_WORKER,
    OF_SEVERAL_NODES,
    OF_THE_NODE,
    OF_THE_PROFILE,
    OF_THE_RESOURCES,
    PLACEHOLDER,
    KeyDelivery,
    Probe,
    Recipe,
    Words,
    unfit,
)

SHIPPED = Path(__file__).parents[1] / "recipes"
_RESOURCE_KEYS = ("nodes", "cpu", "memory", "gpu", "time_limit")
_OF_REPLICAS = ("gpu_per_replica", "replicas_per_node", "nodes_per_replica", "spans_nodes")
"""Keys of a recipe that are kept with its resources."""
_CHECK = TypeAdapter(Recipe)


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
    files: dict[str, Path] = {}
    for path in sorted((*folder.rglob("*.yaml"), *folder.rglob("*.yml"))):
        recipe = make_recipe(read_document(path))
        if recipe.name in found:
            message = f"{path}: {files[recipe.name]} has the name {recipe.name} already"
            raise RecipeError(message)
        found[recipe.name], files[recipe.name] = recipe, path
    return found


def make_recipe(document: Document) -> Recipe:
    """Check a whole recipe. Raises RecipeError, which names file and line."""
    try:
        recipe = _CHECK.validate_python(_as_recipe(document))
    except ValidationError as error:
        unknown_first = sorted(error.errors(), key=lambda one: one["type"] != "unexpected_keyword_argument")
        raise _explained(document, unknown_first[0]) from None
    recipe = replace(
        recipe, parameters={name: _settled(document, name, one) for name, one in recipe.parameters.items()}
    )
    _check_resources(document, recipe)
    _check_model(document, recipe)
    _check_command(document, recipe)
    _check_environment(document, recipe)
    _check_span(document, recipe)
    return recipe


def _as_recipe(document: Document) -> object:
    """The content, with each key where a `Recipe` has it."""
    if not isinstance(document.value, dict):
        return document.value
    given = dict(document.value)
    if ("ports" in given) == ("base_port" in given):
        raise document.wrong(("ports",), "is for one engine, `base_port` for replicas: give one of them")
    if "ports" in given:
        ports = given.pop("ports")
        given["base_port"] = ports[0] if isinstance(ports, list) and ports else ports
    resources = given.get("resources", {})
    if isinstance(resources, dict):
        for key in resources:
            if key not in _RESOURCE_KEYS:
                raise _unknown_key(document, ("resources", key))
        of_replicas = {key: given.pop(key) for key in _OF_REPLICAS if key in given}
        given["resources"] = {"spans_nodes": "nodes_per_replica" in of_replicas, **resources, **of_replicas}
    return given


def _explained(document: Document, error: ErrorDetails) -> RecipeError:
    """What pydantic found, at the place of the file."""
    where: Where = tuple(part for part in error["loc"] if part != "[key]")
    if where[:1] == ("base_port",) and isinstance(document.value, dict) and "ports" in document.value:
        return document.wrong(("ports",), f"begin with the port from which a free one is looked for: {reason(error)}")
    if where[:1] == ("resources",) and where[-1] in _OF_REPLICAS:
        where = where[1:]
    if where[:1] == ("command",) and where[:3] not in document.lines:  # a word alone
        where = where[:2]
    if error["type"] == "unexpected_keyword_argument":
        return _unknown_key(document, where)
    if error["type"] == "missing":
        return document.wrong(where[:-1], f"lacks the key `{where[-1]}`")
    return document.wrong(where, reason(error))


def _unknown_key(document: Document, where: Where) -> RecipeError:
    part = where[0] if len(where) > 1 else ""
    known = _KEYS[str(part)]
    above = ".".join(map(str, where[:-1])) or "a recipe"
    return document.wrong(where, f"is no key of `{above}`: there are {', '.join(sorted(known))}", str(where[-1]))


def _keys(kind: type) -> list[str]:
    """Of a part of a recipe, as they are written."""
    found = []
    for field in fields(kind):
        named = [meta for meta in getattr(field.type, "__metadata__", ()) if getattr(meta, "validation_alias", None)]
        found.append(named[0].validation_alias if named else field.name)
    return found


_KEYS = {
    "": [*_keys(Recipe), "ports", *_OF_REPLICAS],
    "resources": [*_RESOURCE_KEYS],
    "readiness": _keys(Probe),
    "api_key": _keys(KeyDelivery),
    "parameters": _keys(Parameter),
    "command": _keys(Words),
}


def _settled(document: Document, name: str, parameter: Parameter) -> Parameter:
    """A parameter whose choices and default are of its own kind."""
    where: Where = ("parameters", name)
    plain = replace(parameter, default="", choices=(), minimum=None, maximum=None)
    try:
        choices = tuple(map(plain.check, parameter.choices))
    except ValueError as error:
        raise document.wrong((*where, "choices"), str(error)) from None
    optional = replace(parameter, choices=choices, default=None)
    try:
        return replace(optional, default=optional.check(parameter.default))
    except ValueError as error:
        raise document.wrong((*where, "default"), str(error)) from None


def _check_resources(document: Document, recipe: Recipe) -> None:
    if recipe.resources.is_group == ("ports" in _keys_of(document)):
        kinds = "`gpu_per_replica`, `replicas_per_node` or `nodes_per_replica`"
        raise document.wrong(("base_port",), f"belongs to replicas, with {kinds}")
    if found := unfit(recipe.resources):
        raise document.wrong(("resources", found[0]), found[1])


def _keys_of(document: Document) -> Mapping[str, object]:
    assert isinstance(document.value, dict), "it was checked"
    return document.value


def _check_model(document: Document, recipe: Recipe) -> None:
    for name in PLACEHOLDER.findall(recipe.model):
        one = recipe.parameters.get(name)
        if one is None or one.kind != "string" or one.default is None:
            raise document.wrong(("model",), f"names `{{{name}}}`, which must be a parameter of text with a default")


def _names(recipe: Recipe) -> frozenset[str]:
    """What placeholders may name, beside what the node fills in."""
    return frozenset(recipe.parameters) | OF_THE_PROFILE | OF_THE_RESOURCES


def _check_command(document: Document, recipe: Recipe) -> None:
    names = _names(recipe) | {IS_WORKER}
    for number, entry in enumerate(recipe.command):
        where: Where = ("command", number)
        if entry.condition is not None and entry.condition not in names:
            raise document.wrong((*where, "if"), f"names {entry.condition!r}: there are {', '.join(sorted(names))}")
        if entry.condition is None and entry.otherwise:
            raise document.wrong((*where, "else"), "needs an `if`")
        for side, words in (("words", entry.words), ("else", entry.otherwise)):
            for word in words:
                given = entry.condition if side == "words" else None
                if complaint := _complaint(word, recipe.parameters, names, recipe.key, given):
                    raise document.wrong((*where, side), complaint)
    used = " ".join(word for entry in recipe.command for word in (*entry.words, *entry.otherwise))
    if "{port}" not in used or "{host}" not in used:
        raise document.wrong(("command",), "must hold `{host}` and `{port}`, where the engine has to listen")
    if recipe.key.file and "{api_key_file}" not in used:
        raise document.wrong(
            ("api_key",), "is given by a file that the command does not name: it needs `{api_key_file}`"
        )


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


def _check_environment(document: Document, recipe: Recipe) -> None:
    valid = _names(recipe) | (OF_THE_NODE if recipe.key.file else OF_THE_NODE - {"api_key_file"})
    for name, text in recipe.environment.items():
        where: Where = ("environment", name)
        if name == recipe.key.variable:
            raise document.wrong(where, "is no name for a variable here")
        used = frozenset(PLACEHOLDER.findall(text))
        if unknown := sorted(used - valid):
            raise document.wrong(where, f"names `{{{unknown[0]}}}`: there are {', '.join(sorted(valid))}")
        if used & OF_THE_NODE and used - OF_THE_NODE:
            raise document.wrong(
                where, f"mixes {', '.join(sorted(OF_THE_NODE))} with other placeholders: make two of it"
            )


def _check_span(document: Document, recipe: Recipe) -> None:
    """Whether a recipe says how the parts of an engine meet, and only one that spans nodes does."""
    texts = [word for words in recipe.command for word in (*words.words, *words.otherwise)]
    used = {name for text in (*texts, *recipe.environment.values()) for name in PLACEHOLDER.findall(text)}
    used |= {words.condition for words in recipe.command if words.condition}
    found = sorted(used & OF_SEVERAL_NODES)
    if found and not recipe.resources.spans_nodes:
        words = f"uses {', '.join(found)}, which engines over several nodes have: set `spans_nodes`"
        raise document.wrong(("command",), words)
    if recipe.resources.spans_nodes and not {"head", "node_rank"} & used:
        raise document.wrong(
            ("command",), "must tell each part of the engine its place: name `{head}` or `{node_rank}`"
        )
