"""How many ranks a plan needs, and how many open files a rank may have."""

import os
import resource

from tokenstorm.plan import Plan

REQUEST_SECONDS = 60e-6
CHUNK_SECONDS = 8e-6
"""What a request and a chunk cost a rank, in CPU seconds; `benchmarks/` measures about half of it."""
CLIENT_CHUNKS_PER_SECOND = 50
"""What one stream is taken to deliver, where the plan names no rate."""
SHARE_OF_CORE = 0.6
SPARE_FILES = 64


def fewest_ranks(plan: Plan, cores: int) -> int:
    """The fewest ranks that carry the load with cores to spare, at most one a core."""
    tokens = plan.max_tokens if plan.stream else 1
    rates = [plan.requests_per_second or 0.0]
    if plan.arrival.ramp:
        rates += [plan.arrival.ramp.from_rps, plan.arrival.ramp.to_rps]
    rates += [stage.rps for stage in plan.arrival.stages or ()]
    if plan.closed_loop:
        rates.append(plan.num_clients * CLIENT_CHUNKS_PER_SECOND / tokens)
    busy = max(rates) * (REQUEST_SECONDS + tokens * CHUNK_SECONDS)
    return max(1, min(cores, plan.num_clients, int(busy / SHARE_OF_CORE) + 1))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allow_files(clients: int, replicas: int) -> str | None:
    """Raise this process's limit of open files for so many clients; the reason why not, if they cannot all connect.

    To each replica there may be as many connections as there are clients: those that are idle stay open for a while.
    """
    needed, welcome = clients + SPARE_FILES, clients * replicas + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        return (
            f"{clients} clients in one process need {needed} open files and the limit is {hard}: "
            "use fewer clients or more ranks, or raise `ulimit -n`"
        )
    if soft != resource.RLIM_INFINITY and welcome > soft:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (welcome if hard == resource.RLIM_INFINITY else min(welcome, hard), hard)
        )
    return None
