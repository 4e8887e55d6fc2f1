"""Where a replica listens, from what a user calls its address."""

from typing import Self
from urllib.parse import urlsplit

import msgspec

from tokenstorm.errors import UsageError


class Endpoint(msgspec.Struct, frozen=True):
    """Where a replica listens. `path` is what precedes `/v1`; a unix socket has no host."""

    host: str
    port: int
    path: str
    authority: str
    tls: bool = False
    unix: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `http://host:port[/prefix][/v1]`, `https://…` or `unix:/path/to/socket`."""
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
        if "@" in parts.netloc or parts.query or parts.fragment:
            message = f"{url!r}: leave out user names, queries and fragments (an API key goes into --api-key-env)"
            raise UsageError(message)
        if port == 0:
            message = f"{url!r}: port 0 is none that a service can listen on"
            raise UsageError(message)
        authority = parts.netloc
        if any(not character.isprintable() or character == " " for character in authority + parts.path):
            message = f"{url!r} has characters that no URL may hold"
            raise UsageError(message)
        path = parts.path.rstrip("/").removesuffix("/v1")
        tls = parts.scheme == "https"
        return cls(host=host, port=port or (443 if tls else 80), path=path, authority=authority, tls=tls)
