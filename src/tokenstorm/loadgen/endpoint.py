"""Where a replica listens, read from the address that a user gives."""

import re
from collections.abc import Iterable
from typing import Final, Self
from urllib.parse import parse_qsl, urlsplit

import msgspec

from tokenstorm.errors import PlanError, UsageError
from tokenstorm.load_parts import Operation

_OPERATIONS: Final[dict[Operation, str]] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "responses": "/responses",
    "messages": "/messages",
    "embeddings": "/embeddings",
    "rerank": "/rerank",
    "score": "/score",
}
_OTHERS = re.compile(r"/(models|health|metrics|tokenize|generate)$")
_VERSION = re.compile(r"/v\d+[a-z]*\d*$")


class Endpoint(msgspec.Struct, frozen=True):
    """Where a replica listens. A unix socket has no host.

    `path` is what precedes the API's own `api`, which is `/v1` unless the URL says otherwise; `query` follows every
    path, and starts with `?` if there is one. `operation` is what the URL names, if it names one.
    """

    host: str
    port: int
    path: str
    authority: str
    tls: bool = False
    unix: str | None = None
    api: str = "/v1"
    query: str = ""
    operation: Operation | None = None

    def target(self, path: str) -> str:
        """What a request line says for `path` below the API, as in `/models`."""
        return f"{self.path}{self.api}{path}{self.query}"

    def target_of(self, operation: Operation) -> str:
        """The same for an operation; none for a custom one, whose path stands in the load."""
        return self.target(_OPERATIONS[operation])

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `http://host:port[/prefix][/v1]`, the same with `/chat/completions` behind it, `https://…` or `unix:/path`.

        An address of an operation is taken as it is, be there a `/v1` in it or not.
        """
        if url.startswith("unix:"):
            path = url.removeprefix("unix:").removeprefix("//")
            if not path.startswith("/"):
                message = f"{url!r}: a unix socket needs an absolute path, as in unix:/run/engine.sock"
                raise UsageError(message)
            return cls(host="", port=0, path="", authority="localhost", unix=path)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")
        except ValueError as error:
            message = f"{url!r} is no URL: {error}"
            raise UsageError(message) from None
        if parts.scheme not in {"http", "https"} or not host:
            message = f"{url!r} needs a scheme and a host, as in http://127.0.0.1:8000"
            raise UsageError(message)
        keys = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
        if "@" in parts.netloc or parts.fragment or (parts.query and keys != ["api-version"]):
            message = (
                f"{url!r}: leave out user names, fragments and queries other than api-version "
                "(an API key goes into --api-key-env)"
            )
            raise UsageError(message)
        if port == 0:
            message = f"{url!r}: port 0 is none that a service can listen on"
            raise UsageError(message)
        authority = parts.netloc
        if any(not character.isprintable() or character == " " for character in authority + parts.path + parts.query):
            message = f"{url!r} has characters that no URL may hold"
            raise UsageError(message)
        path, operation = _without_operation(re.sub(r"/+", "/", parts.path).rstrip("/"))
        if other := _OTHERS.search(path):
            message = (
                f"{url!r}: {other[1]} is no operation to load: give the service's address, or that of chat/completions"
            )
            raise UsageError(message)
        version = _VERSION.search(path)
        api = version[0] if version else "" if operation else "/v1"
        tls = parts.scheme == "https"
        return cls(
            host=host,
            port=port or (443 if tls else 80),
            path=path[: version.start()] if version else path,
            authority=authority,
            tls=tls,
            api=api,
            query=f"?{parts.query}" if parts.query else "",
            operation=operation,
        )


def _without_operation(path: str) -> tuple[str, Operation | None]:
    """The path before an operation's own, and the operation; the path as it is where it names none."""
    for operation, end in _OPERATIONS.items():
        if path.endswith(end):
            return path.removesuffix(end), operation
    return path, None


def endpoints_of(urls: Iterable[str], operation: Operation) -> list[Endpoint]:
    """Where replicas listen. Raises `PlanError` for an address of another operation than the load's."""
    return [endpoint_for(url, operation) for url in urls]


def endpoint_for(url: str, operation: Operation) -> Endpoint:
    """Where the replica at that address listens. Raises `PlanError` where it is the address of another operation."""
    endpoint = Endpoint.parse(url)
    if endpoint.operation not in {None, operation}:
        message = (
            f"{url} is the address of {endpoint.operation}, and the load is for {operation}: "
            f"say {endpoint.operation} here, or give the address without it"
        )
        raise PlanError(message, "endpoint")
    return endpoint
