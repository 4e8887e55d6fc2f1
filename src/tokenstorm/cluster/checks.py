"""What the doctor's checks are made of."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from tokenstorm.cluster.bundle import Target
from tokenstorm.cluster.site import Site
from tokenstorm.cluster.step import Kind

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """What was looked at, how it stands, and in one line what was found and what to do."""

    name: str
    state: State
    text: str


@dataclass(frozen=True)
class Needs:
    """What a recipe needs on its nodes: files, a program on the path, an image, a GPU."""

    recipe: str
    files: tuple[PurePosixPath, ...] = ()
    program: str | None = None
    image: PurePosixPath | None = None
    kind: Kind = "cpu"


@dataclass
class Visit:
    """One round of checks: what the later ones need from the earlier."""

    site: Site
    needs: Needs | None
    folder: PurePosixPath
    """Of its own, below the base path; removed at the end."""
    greeting: bytes
    """What tells our program on a node from others."""
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    """What has to be ended when the visit is over."""
    target: Target | None = None
    python: PurePosixPath | None = None
    address: dict[str, str] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)


Finding = tuple[State, str]
"""How a check came out, and its text."""


@dataclass(frozen=True)
class Step:
    """One check: what it looks at, and the checks that it depends on."""

    name: str
    look: Callable[[Visit], Awaitable[Finding]]
    after: tuple[str, ...] = ()
    only: Literal["slurm"] | None = None
