"""Environments of other versions go, once nothing runs from them."""

from collections.abc import Collection
from pathlib import PurePosixPath

import msgspec

from tokenstorm.cluster.clusters import prelude
from tokenstorm.cluster.setup import bare
from tokenstorm.cluster.site import Site
from tokenstorm.errors import NOT_JSON, Unreachable

UNUSED_DAYS = 1
"""An environment that was used within this time may be about to run a job."""
_PRUNE = r"""
folder=$1 minutes=$2 whole=$3 queue=$4; shift 4
cd -- "$folder" || exit
jobs=
[ -z "$queue" ] || jobs=$(squeue ${M:+-M "$M"} --noheader --me --format=%Z) || exit
text=$(cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\0' '\n'
    while read -r job; do [ ! -r "$job/script.sh" ] || cat -- "$job/script.sh"; done <<< "$jobs")
for name; do
    case $text in *"$folder/$name/"*) continue ;; esac
    [ -z "$(find "$name" "$name/$whole" -maxdepth 0 -mmin "-$minutes" 2> /dev/null)" ] || continue
    mv -- "$name" ".new-pruned-$name" && printf '%s\n' "$name" && rm -rf -- ".new-pruned-$name"
done
"""


async def prune(site: Site, pythons: Collection[PurePosixPath]) -> list[str]:
    """Remove the environments that none of these Pythons is in, no job and no process there runs from, and nobody used lately.

    The names of those. Raises Unreachable when it is not known what runs.
    """
    folder = site.profile.base_path / "deploy"
    names = await site.shell.list(folder)
    kept = {python.parent.parent.name for python in pythons}
    others = [name for name in names if not name.startswith((".", "python-")) and name not in kept]
    queue = "squeue" if site.profile.scheduler == "slurm" else ""
    if not others:
        return []
    arguments = [str(folder), str(UNUSED_DAYS * 24 * 60), bare.WHOLE, queue, *others]
    done = await site.shell.run(["bash", "-c", prelude(site.profile.cluster) + _PRUNE, "bash", *arguments], timeout=600)
    if done.status:
        said = done.stderr.decode(errors="replace").strip()
        message = f"nothing was removed from {folder}, since it is not known what runs from there: {said}"
        raise Unreachable(message)
    removed = done.stdout.decode(errors="replace").split()
    for name in names:
        if name.startswith("python-") and await _named(site, folder / name) in removed:
            await site.shell.remove(folder / name)
    return removed


async def _named(site: Site, answer: PurePosixPath) -> str | None:
    """The environment that an answer of `deploy` names."""
    try:
        told = msgspec.json.decode(await site.shell.get(answer), type=dict[str, str])
    except (FileNotFoundError, *NOT_JSON):
        return None
    return PurePosixPath(told.get("environment", "")).name
