"""The models of an engine: those that it lists, and the one that a service's clients ask for."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import msgspec

from tokenstorm.errors import NOT_JSON

NAMED = 8
"""Models that are named at most where another was asked for."""


class Models(msgspec.Struct, frozen=True):
    """What an engine lists. An adapter (a LoRA) is made of a base model, and is no model to load by default.

    `context` is how many tokens a prompt and its answer may have together, by model, as far as that is told; `owners` are
    whom the models are said to belong to, by which engines make themselves known.
    """

    bases: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    context: dict[str, int] = {}
    owners: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the base models first."""
        return (*self.bases, *self.adapters)


def read_models(body: bytes) -> Models:
    """The models of a list, as OpenAI and others write it; none where the body is no such list."""
    try:
        found = msgspec.json.decode(body)
    except NOT_JSON:
        return Models()
    if isinstance(found, dict):
        found = found.get("data") or found.get("models")
    bases: list[str] = []
    adapters: list[str] = []
    context: dict[str, int] = {}
    owners: set[str] = set()
    for entry in found if isinstance(found, list) else ():
        card = entry if isinstance(entry, dict) else {"id": entry}
        name, parent = card.get("id") or card.get("name"), card.get("parent")
        if isinstance(name, str) and name:
            (adapters if parent and parent != name else bases).append(name)
            if isinstance(tokens := card.get("max_model_len"), int) and tokens > 0:
                context[name] = tokens
            if isinstance(owner := card.get("owned_by"), str):
                owners.add(owner)
    return Models(tuple(bases), tuple(adapters), context, frozenset(owners))


def asked_for(wanted: str | None, models: Models) -> str | None:
    """The name that clients ask for: the one that is wanted, or what an engine made of it that serves it as a path.

    None when nothing is wanted and nothing is listed.
    """
    first = next(iter(models.names), None)
    if wanted is None:
        return first
    if wanted not in models.names and len(models.bases) == 1 and _same(wanted, models.bases[0]):
        return models.bases[0]
    return wanted


def not_among(model: str | None, names: Sequence[str]) -> str:
    """The names there are, in words, where the model is not one of them; empty where it is, or none is known."""
    if model is None or model in names or not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{model!r} is not among its models, which are {', '.join(names[:NAMED])}{more}"


def _same(wanted: str, listed: str) -> bool:
    """Whether two names are one model: one of them is its folder or file, or only the owner is left out."""
    paths = any(name.startswith(("/", "./", "../", "~")) or name.endswith(".gguf") for name in (wanted, listed))
    return paths or PurePosixPath(wanted).name == PurePosixPath(listed).name
