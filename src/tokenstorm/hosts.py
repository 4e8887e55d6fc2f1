"""A host as URLs and addresses write it."""


def in_url(host: str) -> str:
    """A host name or address as a URL has it: an IPv6 address stands in brackets."""
    return f"[{host}]" if ":" in host else host


def split_address(address: str) -> tuple[str, int]:
    """The host, without brackets, and the port of `host:port`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
