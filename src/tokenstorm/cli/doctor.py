"""`doctor`: does a profile work? Each check on a line as it is done; ends with 1 if anything would stop a run."""

import argparse
import asyncio
from contextlib import aclosing

from tokenstorm.cli.recipes import all_recipes
from tokenstorm.cli.terminal import asking, show_json, show_line, tell_progress
from tokenstorm.cluster.setup.checks import Check, Needs
from tokenstorm.cluster.setup.doctor import examine, stops_a_run
from tokenstorm.config.file import Config, load_config
from tokenstorm.config.profile import Profile
from tokenstorm.orchestrator.needs import needs_of


def doctor(args: argparse.Namespace) -> int:
    """All checks of a profile, and of a recipe on it."""
    config = load_config()
    profile = config.profile(args.profile)
    needs = _needs(config, profile, args)
    checks = asyncio.run(_examine(profile, needs, live=not args.json))
    stops = stops_a_run(checks)
    if args.json:
        show_json({"profile": profile.name, "ok": not stops, "checks": checks})
    else:
        show_line(f"{profile.name}: {_verdict(checks)}")
    return 1 if stops else 0


def _verdict(checks: list[Check]) -> str:
    if stops_a_run(checks):
        return "something would stop a run: see `failed` above"
    seen = all(check.state != "skipped" for check in checks if check.name == "compute node")
    return "nothing found that would stop a run" + (
        "" if seen else ", but no node was free to look at: try again later"
    )


def _needs(config: Config, profile: Profile, args: argparse.Namespace) -> Needs | None:
    return needs_of(all_recipes(config, args.recipes).get(args.recipe), profile) if args.recipe else None


async def _examine(profile: Profile, needs: Needs | None, *, live: bool) -> list[Check]:
    checks = []
    async with aclosing(examine(profile, needs, asking(), tell_progress)) as found:  # also when the reader went away
        async for check in found:
            checks.append(check)
            if live:
                show_line(f"{check.state:<8} {check.name:<17} {check.text}")
    return checks
