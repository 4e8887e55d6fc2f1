"""Where the Server API finds its orchestrator: at an address that it was given, or wherever on the cluster it runs."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Address:
    """A base URL, and the token that is wanted there."""

    url: str
    token: str | None = field(default=None, repr=False)


class Where(Protocol):
    """Asked before each call."""

    @property
    def hint(self) -> str:
        """What to do when nobody answers."""
        ...

    async def address(self) -> Address:
        """Where it is now. Raises `ClusterError` that says why it is nowhere."""
        ...

    def forget(self) -> None:
        """Be told that nobody answered there."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Where somebody said that it is."""

    at: Address

    @property
    def hint(self) -> str:
        return f"start it at {self.at.url} with `tokenstorm orchestrator`, or all with `tokenstorm up`"

    async def address(self) -> Address:
        return self.at

    def forget(self) -> None:
        """There is nowhere else to look."""
