"""Where the Server API finds its orchestrator: at a fixed address, or at the place on the cluster where it runs."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Address:
    """A base URL, and the token that it demands."""

    url: str
    token: str | None = field(default=None, repr=False)


class Where(Protocol):
    """Asked before each call."""

    @property
    def hint(self) -> str:
        """What to do when nobody answers."""
        ...

    async def address(self) -> Address:
        """Its present address. Raises `ClusterError`, which says why there is none."""
        ...

    def forget(self) -> None:
        """Forget the address: nobody answered there."""
        ...


@dataclass(frozen=True)
class Fixed:
    """A fixed address, given by the user."""

    at: Address

    @property
    def hint(self) -> str:
        return f"start it at {self.at.url} with `tokenstorm orchestrator`, or all with `tokenstorm up`"

    async def address(self) -> Address:
        return self.at

    def forget(self) -> None:
        """Nothing to do: there is only one address."""
