"""`deploy`: this version's code, put where jobs run."""

import argparse
import asyncio
import sys
from collections.abc import Callable

from tokenstorm.cli.terminal import show_facts, show_json, tell
from tokenstorm.cluster.deploy import deploy as put_there
from tokenstorm.cluster.site import open_site
from tokenstorm.cluster.step import Kind
from tokenstorm.config import Profile, load_config


def deploy(args: argparse.Namespace) -> int:
    """For the partitions of clients and of engines: what is there already is left alone."""
    profile = load_config().profile(args.profile)
    say = tell if sys.stderr.isatty() else _nothing
    pythons = asyncio.run(_deploy(profile, say))
    if args.json:
        show_json({"profile": profile.name, "python": pythons})
    else:
        show_facts([(kind, python) for kind, python in pythons.items()])
    return 0


async def _deploy(profile: Profile, say: Callable[[str], None]) -> dict[Kind, str]:
    """The Python for each kind of job."""
    site = await open_site(profile)
    kinds: list[Kind] = ["cpu", "gpu"] if profile.partitions.gpu else ["cpu"]
    try:
        return {kind: str(await put_there(site, say, kind)) for kind in kinds}
    finally:
        await site.close()


def _nothing(line: str) -> None:
    """Nobody watches."""
