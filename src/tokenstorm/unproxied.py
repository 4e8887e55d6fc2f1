"""What never goes through a proxy, in each form that programs understand: this node and its networks.

Python's clients and older curls compare addresses and ends of names, Go and newer curls know networks. IPv6 networks are
left out: httpx takes them for a broken URL.
"""

import socket
from collections.abc import Iterable, Mapping

from tokenstorm.interfaces import Address, addresses, networks

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
NO_PROXY = ("no_proxy", "NO_PROXY")
_LOOPBACK = ("localhost", "127.0.0.1", "127.0.0.0/8", "::1")
EVERYTHING = "*"


def unproxied(
    environment: Mapping[str, str],
    *,
    more: Iterable[str] = (),
    own: Iterable[Address] | None = None,
    around: Iterable[str] | None = None,
) -> dict[str, str]:
    """`no_proxy`, in capitals too, for an environment that has a proxy; empty for one that has none.

    What stood there stays. `more` are further names and addresses; `own` are this node's addresses and `around` its
    networks, as the kernel tells them.
    """
    proxied = [name for name, value in environment.items() if name.lower() in _PROXIES and value]
    said = [word.strip() for name in NO_PROXY for word in environment.get(name, "").split(",")]
    if not proxied or EVERYTHING in said:
        return {}
    name = socket.gethostname()
    mine = [address for _, address in (addresses() if own is None else own)]
    near = [network for network in (networks() if around is None else around) if ":" not in network]
    words = [*said, *_LOOPBACK, name, name.partition(".")[0], *_suffix(name), *mine, *near, *more]
    text = ",".join(dict.fromkeys(filter(None, words)))
    return dict.fromkeys(NO_PROXY, text)


def _suffix(name: str) -> list[str]:
    """The domain of this node, whose other names are its neighbours'."""
    _, dot, domain = name.partition(".")
    return [f".{domain}"] if dot else []
