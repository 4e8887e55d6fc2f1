"""`deploy`: this version's code, put where jobs run."""

import argparse
import asyncio

from tokenstorm.cli.terminal import asking, show_facts, show_json, tell_progress
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.scheduler import Kind
from tokenstorm.cluster.setup.deploy import deploy as put_there
from tokenstorm.cluster.setup.prune import prune
from tokenstorm.config.file import load_config
from tokenstorm.config.profile import Profile


def deploy(args: argparse.Namespace) -> int:
    """For the partitions of clients and of engines: what is there already is left alone."""
    profile = load_config().profile(args.profile)
    pythons, removed = asyncio.run(_deploy(profile, tidy=args.prune))
    if args.json:
        show_json({"profile": profile.name, "python": pythons, "removed": removed})
    else:
        show_facts([*pythons.items(), *(("removed", name) for name in removed)])
    return 0


async def _deploy(profile: Profile, *, tidy: bool) -> tuple[dict[Kind, str], list[str]]:
    """The Python for each kind of job, and the old environments that were removed."""
    site = await open_site(profile, asking())
    kinds: list[Kind] = ["cpu", "gpu"] if profile.offers_gpus else ["cpu"]
    try:
        pythons = {kind: await put_there(site, tell_progress, kind) for kind in kinds}
        removed = await prune(site, pythons.values()) if tidy else []
        return {kind: str(python) for kind, python in pythons.items()}, removed
    finally:
        await site.close()
