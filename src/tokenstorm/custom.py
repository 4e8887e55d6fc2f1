"""Requests of no known operation: how one is written, and where in its answer stands what. Headers of any request."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from tokenstorm.strict import Misfit, Strict, Text, doc

Pointer = Annotated[str, Meta(pattern="^(/.*)?$", max_length=512)]
"""A place in JSON, after RFC 6901: `/choices/0/text`; empty is the whole."""
PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{(\w+)\}")
"""`{name}` in a text; a brace that is meant as such is written twice."""

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_SECRET: Final = re.compile(r"auth|cookie|token|secret|password|passwd|credential|(^|[-_])key$", re.IGNORECASE)
_OURS: Final = frozenset(
    ("host", "connection", "content-length", "content-type", "transfer-encoding", "accept-encoding", "x-request-id")
)


class Reading(Strict, frozen=True, kw_only=True):
    """Where in an answer stands what, by JSON pointers: of each event of a stream, or of the whole."""

    form: Annotated[
        Literal["json", "sse", "ndjson"], doc("One JSON value, server-sent events, or a JSON value on each line")
    ] = "json"
    text: Annotated[Pointer | None, doc("What was generated: an event that has some is a token's")] = None
    thought: Annotated[Pointer | None, doc("The same, where it is reasoning")] = None
    finish: Annotated[Pointer | None, doc("Why the answer ended; a stream that never tells is cut off")] = None
    done: Annotated[Pointer | None, doc("True, or anything but nothing, in the last event of a stream")] = None
    prompt_tokens: Pointer | None = None
    output_tokens: Pointer | None = None
    id: Pointer | None = None
    error: Annotated[Pointer, doc("The server's words where the request failed with a status of success")] = "/error"
    required: Annotated[tuple[Pointer, ...], Meta(max_length=16), doc("Without these a whole answer is none")] = ()


class Custom(Strict, frozen=True, kw_only=True):
    """A request of your own: what is sent, with `{prompt}` and other fields of a prompt in it, and how its answer is read."""

    method: Literal["POST", "PUT", "GET"] = "POST"
    path: Annotated[
        str, Meta(pattern=r"^/[\x21-\x7e]*$", max_length=2048), doc("Below the service's address; may hold {model}")
    ]
    headers: dict[Text, Text] = {}  # noqa: RUF012 - msgspec gives each its own
    body: Annotated[Any, doc("JSON; a text that is `{name}` alone becomes the field itself, a list for example")] = None
    answer: Reading

    def __post_init__(self) -> None:
        super().__post_init__()
        check_headers(self.headers)
        if unknown := [name for name in placeholders_in(self.path) if name != "model"]:
            message = f"{{{unknown[0]}}} cannot stand here, only {{model}}: a path is the same for all requests"
            raise Misfit(message, "path")
        if self.method == "GET" and self.body is not None:
            message = "a GET has no body"
            raise Misfit(message, "body", ["method"])

    @property
    def needs_model(self) -> bool:
        """Whether a model is named anywhere."""
        return "model" in {*placeholders_in(self.path), *placeholders_in(self.body)}


def placeholders_in(value: object) -> Iterator[str]:
    """The names that stand in braces, in a text or in JSON."""
    if isinstance(value, str):
        yield from (match[1] for match in PLACEHOLDER.finditer(value) if match[1])
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from placeholders_in(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from placeholders_in(member)


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises `Misfit` for headers that no request may have, that tokenstorm sets, or that look like secrets."""
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            message = f"{name!r:.80} and its value must be printable ASCII, the name without spaces or colons"
            raise Misfit(message, "headers")
        if name.lower() in _OURS:
            message = f"{name} is set by tokenstorm itself: leave it out"
            raise Misfit(message, "headers")
        if _SECRET.search(name):
            message = (
                f"{name} looks like a secret, and headers are written into the plan and the report: give the key as "
                "`api_key` (--api-key-env NAME), and its header as `api_key_header` if that is not Authorization"
            )
            raise Misfit(message, "headers", ["api_key_header"])


def check_key_header(name: str, headers: Mapping[str, str]) -> None:
    """Raises `Misfit` for a header that cannot hold the API key, as it holds something else."""
    if name.lower() in _OURS | {one.lower() for one in headers}:
        message = f"{name} has another content already: name the header in which the service takes the key"
        raise Misfit(message, "api_key_header")
