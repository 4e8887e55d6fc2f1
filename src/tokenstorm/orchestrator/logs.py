"""The logs of a service in pieces: the job's own output and that of each replica, from where the last piece ended."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from tokenstorm.cluster.shell import Shell
from tokenstorm.errors import Unknown, UsageError
from tokenstorm.jobs.logs import read_on

_LOG = re.compile(r"(?:stdout|stderr|replica\.(?P<replica>[^,:]+))\.log")
_PLACE = r"(stdout|stderr|replica\.[^,:]+)\.log:[0-9]{1,15}"
LEAST_BYTES = 256
"""Of a piece: more than any character and any secret has, so that the next one lies behind it."""
PLACES = f"^({_PLACE}(,{_PLACE})*)?$"
"""What a place in the logs looks like: an offset in each file."""


class UnknownSource(Unknown):
    """A service has no log of that name; the message lists those it has."""


async def read_logs(
    shell: Shell,
    folder: PurePosixPath,
    secret: str,
    *,
    replicas: Iterable[str],
    source: str | None,
    after: str | None,
    limit: int,
) -> tuple[str, str]:
    """The text after the place `after`, and the place where it ends. Raises UsageError for a place that is none, UnknownSource.

    `source` is one of the `replicas`' ids, or `job`, None for all; `limit` is in bytes for each file. The API key is masked.
    """
    places = _places(after)
    names = await shell.list(folder)
    _check_source(source, names, replicas)
    chosen = [name for name in names if (match := _LOG.fullmatch(name)) and source in (None, match["replica"] or "job")]
    parts = await read_on(shell, folder, chosen, places, limit=limit, secret=secret)
    whole = (
        parts[0][1]
        if source and len(parts) == 1
        else "".join(f"==> {name} <==\n{_with_newline(text)}" for name, text in parts)
    )
    return whole, ",".join(f"{name}:{place}" for name, place in sorted(places.items()))


def _check_source(source: str | None, names: Iterable[str], replicas: Iterable[str]) -> None:
    """A replica that has written nothing yet is a source too."""
    found = (match["replica"] for name in names if (match := _LOG.fullmatch(name)))
    there = {replica for replica in found if replica} | {*replicas}
    if source is not None and source not in {"job", *there}:
        message = f"there is no source {source[:100]!r} of its logs: there is {', '.join(['job', *sorted(there)])}"
        raise UnknownSource(message)


def _places(after: str | None) -> dict[str, int]:
    if not after:
        return {}
    if not re.fullmatch(PLACES, after, re.ASCII):
        message = f"{after[:100]!r} is no place in the logs: give the `next` of the last answer"
        raise UsageError(message, "after")
    parts = (part.rpartition(":") for part in after.split(","))
    return {name: int(place) for name, _, place in parts}


def _with_newline(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"
