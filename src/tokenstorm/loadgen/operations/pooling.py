"""Embeddings, rerank and score: texts in, numbers out. Requests, and what their answers say."""

from typing import Any

from tokenstorm.loadgen.promptfile import Prompt
from tokenstorm.loadgen.said import Said, object_in, usage_of
from tokenstorm.plan import Plan


def embed(_plan: Plan, model: str, prompt: Prompt) -> dict[str, Any]:
    """The fields of a request for embeddings: of one text, several, or token ids."""
    asked = prompt.tokens if prompt.tokens is not None else prompt.said
    return {"model": model, "input": asked if prompt.texts is None else [asked, *prompt.texts]}


def rerank(_plan: Plan, model: str, prompt: Prompt) -> dict[str, Any]:
    """The fields of a rerank, as Jina, Cohere and vLLM have it."""
    return {"model": model, "query": prompt.said, "documents": _documents(prompt)}


def score(_plan: Plan, model: str, prompt: Prompt) -> dict[str, Any]:
    """The fields of a score, as vLLM has it."""
    documents = _documents(prompt)
    return {"model": model, "text_1": prompt.said, "text_2": documents[0] if len(documents) == 1 else documents}


def embedded(value: Any) -> Said | None:
    """The vectors of an answer, as numbers or in base64; an empty one is none."""
    found = object_in(value)
    data = found.get("data")
    if not isinstance(data, list) or not data:
        return None
    if any(not object_in(one).get("embedding") for one in data):
        message = "an embedding without numbers"
        raise ValueError(message)
    return _told(found)


def reranked(value: Any) -> Said | None:
    """The results of a rerank; some servers answer with the list alone."""
    found = {"results": value} if isinstance(value, list) else object_in(value)
    results = found.get("results") or found.get("data")
    if not isinstance(results, list) or not results:
        return None
    if any(_number(object_in(one), "relevance_score", "score") is None for one in results):
        message = "a result without a `relevance_score`"
        raise ValueError(message)
    return _told(found)


def scored(value: Any) -> Said | None:
    """The scores of an answer."""
    found = object_in(value)
    data = found.get("data")
    if not isinstance(data, list) or not data:
        return None
    if any(_number(object_in(one), "score") is None for one in data):
        message = "an entry without a `score`"
        raise ValueError(message)
    return _told(found)


def _documents(prompt: Prompt) -> list[Any]:
    """The texts beside the query; a query that is sent alone, to count its tokens, is held against itself."""
    return prompt.texts or [prompt.said]


def _told(found: dict[str, Any]) -> Said:
    """What an answer tells beside its numbers. Cohere has its counts below `meta`."""
    usage = object_in(found.get("usage"))
    tokens = usage.get("prompt_tokens", usage.get("total_tokens"))
    if tokens is None:
        tokens = object_in(object_in(found.get("meta")).get("tokens")).get("input_tokens")
    return Said(usage=None if tokens is None else usage_of(tokens), id=found.get("id"))


def _number(found: dict[str, Any], *names: str) -> float | None:
    values = (found.get(name) for name in names)
    return next((value for value in values if isinstance(value, int | float) and not isinstance(value, bool)), None)
