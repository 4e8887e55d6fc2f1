"""How many ranks a load needs, how many open files a rank may have, and how much room the lines take."""

import math
import os
import resource
from pathlib import Path

from tokenstorm.errors import RunError, UsageError
from tokenstorm.load import Load
from tokenstorm.load_parts import Arrival
from tokenstorm.loadgen.arrivals import count_end_ns, rate_in
from tokenstorm.plan import Plan

FILES = resource.RLIMIT_NOFILE
REQUEST_SECONDS = 60e-6
CHUNK_SECONDS = 8e-6
"""The CPU seconds that a request and a chunk cost a rank; `benchmarks/` measures about half of it."""
CLIENT_CHUNKS_PER_SECOND = 50
"""The assumed rate of one stream, if the plan names no rate."""
SHARE_OF_CORE = 0.6
SPARE_FILES = 64
LINE_BYTES = 400
"""The least bytes of a request's line."""
CHUNK_BYTES = 10
"""The least bytes that the time of a chunk adds to it."""


def fewest_ranks(load: Load, cores: int, files: int | None = None, arrival: Arrival | None = None) -> int:
    """The fewest ranks that carry the load with cores to spare, at most one a core.

    There are more where the `files` that each process may open are too few for its clients. Raises `UsageError` where no
    number of ranks would do. `arrival` is that of a trace, once it is known.
    """
    spread = arrival or load.spread
    tokens = load.max_tokens if load.stream else 1
    rates = [load.requests_per_second or 0.0]
    if spread.ramp:
        rates += [spread.ramp.from_rps, spread.ramp.to_rps]
    rates += [stage.rps for stage in spread.stages or ()]
    if not load.has_request_rate:
        rates.append(load.num_clients * CLIENT_CHUNKS_PER_SECOND / tokens)
    busy = max(rates) * (REQUEST_SECONDS + tokens * CHUNK_SECONDS)
    ranks = max(1, min(cores, load.num_clients, int(busy / SHARE_OF_CORE) + 1))
    if files is None:
        return ranks
    room = files - SPARE_FILES  # of a rank for clients, and of the launcher for ranks
    if room < 1 or load.num_clients > room**2:
        message = (
            f"{load.num_clients} clients are too many for any number of ranks, since a process may have {files} open files "
            "here: use fewer clients, or raise `ulimit -n`"
        )
        raise UsageError(message)
    return max(ranks, -(-load.num_clients // room))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_files() -> int | None:
    """How many files a process may have open if it asks for as many as it can; None without a limit."""
    hard = resource.getrlimit(FILES)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def bytes_of_lines(plan: Plan) -> int:
    """The least that the result lines take, where the service keeps up: what cannot be sent takes next to nothing.

    0 for a closed loop without a count, and for conversations, of which nobody knows.
    """
    requests = float(plan.request_count or 0)
    if plan.has_request_rate:
        end = min(end for end in (plan.window_end_ns, count_end_ns(plan)) if end is not None)
        asked = rate_in(plan, 0, end) or 0.0
        requests = min(asked, plan.ranks * 2 / REQUEST_SECONDS) * end / 1e9
    chunks = plan.max_tokens if plan.record_chunks and plan.ignore_eos and plan.streams else 0
    return round(requests * (LINE_BYTES + chunks * CHUNK_BYTES))


def too_little_room(folder: Path, plan: Plan) -> str | None:
    """Why a folder has no room for the lines of a plan; None if it has, or if nobody knows. Raises OSError."""
    needed, there = bytes_of_lines(plan), os.statvfs(folder)
    free = there.f_bavail * there.f_frsize
    if needed <= free or not there.f_blocks:  # some file systems tell nothing
        return None
    return (
        f"the result lines of this plan take about {_size(needed)} and {folder} has {_size(free)} of room: "
        "make room there, name another folder with --run-dir, or ask for a lower rate or a shorter run"
    )


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:  # noqa: PLR2004 - the next unit
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def allow_connections(clients: int, replicas: int) -> float:
    """Raise this process's limit of open files for so many clients; how many connections it may then have open.

    To each replica there may be as many connections as there are clients: those that are idle stay open for a while, as far
    as the limit goes. Raises `RunError` where it is too low for the clients alone.
    """
    needed, welcome = clients + SPARE_FILES, clients * replicas + SPARE_FILES
    soft, hard = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(FILES))
    if needed > hard:
        message = (
            f"{clients} clients in one process need {needed} open files and the limit is {hard}: "
            "use fewer clients or more ranks, or raise `ulimit -n`"
        )
        raise RunError(message)
    if welcome > soft:
        soft = min(welcome, hard)
        resource.setrlimit(FILES, (int(soft), resource.getrlimit(FILES)[1]))
    return soft - SPARE_FILES
