"""What the doctor's checks are made of."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from tokenstorm.cluster.scheduler import Job, Kind
from tokenstorm.cluster.setup.bundle import Target
from tokenstorm.cluster.setup.hold import Node, Say, hold
from tokenstorm.cluster.site import Site
from tokenstorm.errors import TokenstormError

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """What was looked at, how it stands, and in one line what was found and what to do."""

    name: str
    state: State
    text: str


@dataclass(frozen=True)
class Needs:
    """What a recipe needs: a job that Slurm takes, and on its nodes files, a program on the path, an image."""

    recipe: str
    job: Job
    files: tuple[PurePosixPath, ...] = ()
    program: str | None = None
    image: PurePosixPath | None = None

    @property
    def kind(self) -> Kind:
        """Which nodes it needs."""
        return self.job.kind


@dataclass
class Visit:
    """One round of checks: what the later ones need from the earlier."""

    site: Site
    needs: Needs | None
    folder: PurePosixPath
    """Of its own, below the base path; removed at the end."""
    greeting: bytes
    """What tells our program on a node from others."""
    say: Say
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    """What has to be ended when the visit is over."""
    target: Target | None = None
    python: PurePosixPath | None = None
    address: dict[str, str] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    nodes: dict[Kind, Node | TokenstormError] = field(default_factory=dict)

    async def node(self, kind: Kind) -> Node:
        """A node of that kind, held until the visit is over. It is asked for once, and so is what comes of it raised."""
        if kind not in self.nodes:
            try:
                self.nodes[kind] = await self.stack.enter_async_context(hold(self.site, kind, say=self.say))
            except TokenstormError as error:
                self.nodes[kind] = error
        found = self.nodes[kind]
        if isinstance(found, TokenstormError):
            raise found
        return found


Finding = tuple[State, str]
"""How a check came out, and its text."""


@dataclass(frozen=True)
class Step:
    """One check: what it looks at, and the checks that it depends on."""

    name: str
    look: Callable[[Visit], Awaitable[Finding]]
    after: tuple[str, ...] = ()
    only: Literal["slurm"] | None = None
