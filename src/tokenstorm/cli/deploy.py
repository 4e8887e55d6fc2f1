"""`deploy`: this version's code, put where jobs run."""

import argparse
import asyncio

from tokenstorm.cli.terminal import asking, show_facts, show_json, tell_progress
from tokenstorm.cluster.deploy import deploy as put_there
from tokenstorm.cluster.site import open_site
from tokenstorm.cluster.step import Kind
from tokenstorm.config import Profile, load_config


def deploy(args: argparse.Namespace) -> int:
    """For the partitions of clients and of engines: what is there already is left alone."""
    profile = load_config().profile(args.profile)
    pythons = asyncio.run(_deploy(profile))
    if args.json:
        show_json({"profile": profile.name, "python": pythons})
    else:
        show_facts([(kind, python) for kind, python in pythons.items()])
    return 0


async def _deploy(profile: Profile) -> dict[Kind, str]:
    """The Python for each kind of job."""
    site = await open_site(profile, asking())
    kinds: list[Kind] = ["cpu", "gpu"] if profile.partitions.gpu else ["cpu"]
    try:
        return {kind: str(await put_there(site, tell_progress, kind)) for kind in kinds}
    finally:
        await site.close()
