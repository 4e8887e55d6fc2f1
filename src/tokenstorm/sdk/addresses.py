"""The addresses of the two APIs."""

import ipaddress
from urllib.parse import urlsplit

from tokenstorm.errors import UsageError

SERVER_URL = "http://127.0.0.1:8001"
CLIENT_URL = "http://127.0.0.1:8003"


def base_of(url: str) -> str:
    """An address as calls are added to it; one with `/api/v1` is the same."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        message = f"{url!r} is no address of an API: it looks like {SERVER_URL}"
        raise UsageError(message)
    return url.rstrip("/").removesuffix("/api/v1") + "/api/v1"


def trusts_proxies(url: str) -> bool:
    """Whether the environment's proxy is for that address: never for this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
