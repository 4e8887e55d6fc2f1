"""What OpenAI clients send, and the answers in vLLM's form."""

from http import HTTPStatus
from typing import Final

import msgspec

from .settings import Settings

__all__ = ["ApiError", "Asked", "Usage", "error_body", "parse", "parse_tokenize", "understand", "usage"]

BYTES_PER_TOKEN: Final = 4
MAX_TEMPERATURE: Final = 2.0
COMPLETIONS_DEFAULT_MAX_TOKENS: Final = 16


class ApiError(Exception):
    """A request that gets an error object instead of an answer."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Common(msgspec.Struct, kw_only=True):
    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None


class Part(msgspec.Struct):
    text: str = ""


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None


class ChatRequest(_Common):
    messages: list[Message]
    max_completion_tokens: int | None = None


class CompletionRequest(_Common):
    prompt: str | list[str | int | list[int]]


class TokenizeRequest(msgspec.Struct):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was understood: what the simulator needs to answer it."""

    chat: bool
    model: str
    stream: bool
    include_usage: bool
    continuous_usage: bool
    prompt: bytes
    prompt_tokens: int
    max_tokens: int | None  # None: the model decides when to stop
    min_tokens: int
    ignore_eos: bool
    seed: int | None
    form: str = "chat"
    """The form of the answer: chat's and that of completions, or a dialect."""


class Usage(msgspec.Struct, omit_defaults=True):
    """How many tokens went in and came out."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: dict[str, int] | None = None


def usage(prompt_tokens: int, output_tokens: int, cached: int = 0) -> Usage:
    details = {"cached_tokens": cached} if cached else None
    return Usage(prompt_tokens, prompt_tokens + output_tokens, output_tokens, details)


_CHAT: Final = msgspec.json.Decoder(ChatRequest)
_COMPLETION: Final = msgspec.json.Decoder(CompletionRequest)
_TOKENIZE: Final = msgspec.json.Decoder(TokenizeRequest)


def parse(body: bytes, *, chat: bool, models: tuple[str, ...], settings: Settings) -> Asked:
    """Read and check a request; raises `ApiError` where vLLM would refuse it."""
    try:
        request = _CHAT.decode(body) if chat else _COMPLETION.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, str(error)) from error
    return understand(request, models, settings)


def understand(request: ChatRequest | CompletionRequest, models: tuple[str, ...], settings: Settings) -> Asked:
    """Check a request; raises `ApiError` where vLLM would refuse it."""
    chat = isinstance(request, ChatRequest)
    check_model(request.model, models)
    max_tokens = request.max_tokens
    if isinstance(request, ChatRequest):
        prompt_tokens = count_messages(request.messages) + settings.template_tokens
        prompt = bytes(BYTES_PER_TOKEN * settings.template_tokens) + _bytes_of_messages(request.messages)
        if request.max_completion_tokens is not None:
            max_tokens = request.max_completion_tokens
    else:
        prompt_tokens = _count_prompt(request.prompt)
        prompt = _bytes_of_prompt(request.prompt)
        max_tokens = COMPLETIONS_DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    _check_values(request, max_tokens)
    _check_length(prompt_tokens, max_tokens, settings.max_model_len)
    options = request.stream_options or StreamOptions()
    return Asked(
        chat=chat,
        model=request.model or models[0],
        stream=bool(request.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.include_usage and options.continuous_usage_stats),
        prompt=prompt,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        seed=request.seed,
    )


def parse_tokenize(body: bytes, models: tuple[str, ...], template_tokens: int) -> int:
    """The number of tokens of a `/tokenize` request."""
    try:
        request = _TOKENIZE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, str(error)) from error
    check_model(request.model, models)
    if request.messages is not None:
        return count_messages(request.messages) + template_tokens
    if request.prompt is None:
        raise ApiError(400, "give either a prompt or messages", "prompt")
    return count_text(request.prompt)


def count_text(text: str) -> int:
    """Four UTF-8 bytes are a token, a started one counts, and there is one at least."""
    return max(1, -(-len(text.encode()) // BYTES_PER_TOKEN))


def count_messages(messages: list[Message]) -> int:
    """The sum over the messages, each counted by its text alone."""
    if not messages:
        raise ApiError(400, "messages must hold at least one message", "messages")
    return sum(count_text(_text_of(message)) for message in messages)


def _text_of(message: Message) -> str:
    content = message.content
    return content if isinstance(content, str) else "".join(part.text for part in content or ())


def _bytes_of_messages(messages: list[Message]) -> bytes:
    """The tokens of a prompt as bytes: each message begins a token of its own."""
    texts = [_text_of(message).encode() for message in messages]
    return b"".join(text.ljust(-(-len(text) // BYTES_PER_TOKEN) * BYTES_PER_TOKEN) for text in texts)


def _bytes_of_prompt(prompt: str | list[str | int | list[int]]) -> bytes:
    only = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    if isinstance(only, str):
        return only.encode()
    ids = [one for one in (only if isinstance(only, list) else [only]) if isinstance(one, int)]
    return b"".join((one % 2**32).to_bytes(BYTES_PER_TOKEN, "little") for one in ids)


def _count_prompt(prompt: str | list[str | int | list[int]]) -> int:
    if isinstance(prompt, str):
        return count_text(prompt)
    if all(isinstance(item, int) for item in prompt):
        if not prompt:
            raise ApiError(400, "prompt must not be empty", "prompt")
        return len(prompt)
    if len(prompt) != 1:
        raise ApiError(400, "the simulator takes one prompt per request, not several", "prompt")
    only = prompt[0]
    if isinstance(only, str):
        return count_text(only)
    if isinstance(only, list) and only:
        return len(only)
    raise ApiError(400, "prompt must not be empty", "prompt")


def check_model(asked: str | None, served: tuple[str, ...]) -> None:
    """Refuse, as vLLM does, any model but those served; none at all means the first."""
    if asked and asked not in served:
        raise ApiError(404, f"The model `{asked}` does not exist.", "model")


def _check_values(request: _Common, max_tokens: int | None) -> None:
    temperature = request.temperature
    if temperature is not None and not 0 <= temperature <= MAX_TEMPERATURE:
        message = f"temperature must be between 0 and {MAX_TEMPERATURE:g}, got {temperature}."
        raise ApiError(400, message, "temperature")
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise ApiError(400, f"top_p must be in (0, 1], got {request.top_p}.", "top_p")
    if max_tokens is not None and max_tokens < 1:
        raise ApiError(400, f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens")
    if request.min_tokens is not None and request.min_tokens < 0:
        message = f"min_tokens must be greater than or equal to 0, got {request.min_tokens}."
        raise ApiError(400, message, "min_tokens")
    if max_tokens is not None and (request.min_tokens or 0) > max_tokens:
        message = f"min_tokens must be less than or equal to max_tokens={max_tokens}, got "
        raise ApiError(400, f"{message}{request.min_tokens}.", "min_tokens")
    if request.n not in (None, 1):
        raise ApiError(400, f"the simulator answers with one choice only, got n={request.n}.", "n")
    if request.stream_options and not request.stream:
        raise ApiError(400, "Stream options can only be defined when `stream=True`.", "stream_options")


def _check_length(prompt_tokens: int, max_tokens: int | None, limit: int) -> None:
    if prompt_tokens >= limit:
        message = (
            f"This model's maximum context length is {limit} tokens. However, your request has "
            f"{prompt_tokens} input tokens. Please reduce the length of the input messages."
        )
        raise ApiError(400, message, "input_tokens")
    if max_tokens is not None and prompt_tokens + max_tokens > limit:
        message = (
            f"'max_tokens' or 'max_completion_tokens' is too large: {max_tokens}. This model's "
            f"maximum context length is {limit} tokens and your request has {prompt_tokens} input "
            f"tokens ({max_tokens} > {limit} - {prompt_tokens})."
        )
        raise ApiError(400, message, "max_tokens")


_TYPES: Final = {400: "BadRequestError", 404: "NotFoundError", 429: "TooManyRequestsError"}


def error_body(status: int, message: str, param: str | None = None) -> bytes:
    """The error object of recent vLLM."""
    kind = _TYPES.get(status, HTTPStatus(status).phrase.replace(" ", "") + "Error")
    error = {"message": message, "type": kind, "param": param, "code": status}
    return msgspec.json.encode({"error": error})
