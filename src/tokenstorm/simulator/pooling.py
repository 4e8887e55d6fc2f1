"""Embeddings, rerank and score: what clients send, and the answers in vLLM's form. The numbers say nothing."""

import base64
from array import array
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from .openai import ApiError, check_model, count_text

__all__ = ["POOLING", "Pooled"]

DIMENSIONS: Final = 64
Json = dict[str, Any]


class Pooled(msgspec.Struct, frozen=True):
    """A request that was understood: its tokens, and the answer to it, made from its name and its time."""

    prompt_tokens: int
    answer: Callable[[str, int], Json]


class _EmbeddingRequest(msgspec.Struct):
    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: str = "float"
    dimensions: int | None = None


class _RerankRequest(msgspec.Struct):
    query: str
    documents: list[str]
    model: str | None = None
    top_n: int = 0


class _ScoreRequest(msgspec.Struct):
    text_1: str | list[str]
    text_2: str | list[str]
    model: str | None = None


T = TypeVar("T", _EmbeddingRequest, _RerankRequest, _ScoreRequest)


def _embed(body: bytes, models: tuple[str, ...]) -> Pooled:
    request = _decoded(body, _EmbeddingRequest, models)
    inputs: list[str | int | list[int]] = request.input if isinstance(request.input, list) else [request.input]
    if not inputs:
        raise ApiError(400, "input must not be empty", "input")
    if all(isinstance(one, int) for one in inputs):
        counts = [len(inputs)]
    else:
        counts = [
            count_text(one) if isinstance(one, str) else len(one) if isinstance(one, list) else 1 for one in inputs
        ]

    def answer(name: str, created: int) -> Json:
        data = [
            {"index": index, "object": "embedding", "embedding": _vector(index, request)}
            for index in range(len(counts))
        ]
        return _listed(f"embd-{name}", created, request.model or models[0], data, sum(counts))

    return Pooled(sum(counts), answer)


def _rerank(body: bytes, models: tuple[str, ...]) -> Pooled:
    request = _decoded(body, _RerankRequest, models)
    if not request.documents:
        raise ApiError(400, "documents must not be empty", "documents")
    query = count_text(request.query)
    tokens = sum(query + count_text(document) for document in request.documents)

    def answer(name: str, _created: int) -> Json:
        results = [
            {"index": index, "document": {"text": text}, "relevance_score": 1 / (index + 2)}
            for index, text in enumerate(request.documents)
        ]
        usage = {"total_tokens": tokens, "prompt_tokens": tokens}
        shown = results[: request.top_n or None]
        return {"id": f"rerank-{name}", "model": request.model or models[0], "usage": usage, "results": shown}

    return Pooled(tokens, answer)


def _score(body: bytes, models: tuple[str, ...]) -> Pooled:
    request = _decoded(body, _ScoreRequest, models)
    first, second = (text if isinstance(text, list) else [text] for text in (request.text_1, request.text_2))
    if not first or not second or len(first) not in {1, len(second)}:
        raise ApiError(400, "text_1 must be one text, or as many as text_2", "text_1")
    pairs = list(zip(first * (len(second) if len(first) == 1 else 1), second, strict=True))
    tokens = sum(count_text(one) + count_text(other) for one, other in pairs)

    def answer(name: str, created: int) -> Json:
        data = [{"index": index, "object": "score", "score": 1 / (index + 2)} for index in range(len(pairs))]
        return _listed(f"score-{name}", created, request.model or models[0], data, tokens)

    return Pooled(tokens, answer)


def _decoded(body: bytes, kind: type[T], models: tuple[str, ...]) -> T:
    try:
        request = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, str(error)) from error
    check_model(request.model, models)
    return request


def _vector(index: int, request: _EmbeddingRequest) -> list[float] | str:
    size = request.dimensions or DIMENSIONS
    numbers = array("f", [((index + place) % 7 - 3) / size for place in range(size)])
    return base64.b64encode(numbers.tobytes()).decode() if request.encoding_format == "base64" else numbers.tolist()


def _listed(name: str, created: int, model: str, data: list[Json], tokens: int) -> Json:
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    return {"id": name, "object": "list", "created": created, "model": model, "data": data, "usage": usage}


POOLING: Final[dict[str, Callable[[bytes, tuple[str, ...]], Pooled]]] = {
    "/v1/embeddings": _embed,
    "/v1/rerank": _rerank,
    "/rerank": _rerank,
    "/v2/rerank": _rerank,
    "/v1/score": _score,
    "/score": _score,
}
"""What reads a request, by its path."""
