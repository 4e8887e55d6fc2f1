"""temporary"""

import random


def offsets(plan, rank, ranks):
    r = plan.requests_per_second
    i = 0
    n = 0
    rng = random.Random(plan.seed)
    t = 0.0
    while True:
        if plan.arrival.kind == "constant":
            at = round(i * 1e9 / r)
        else:
            t += rng.expovariate(r)
            at = round(t * 1e9)
        if plan.window_end_ns is not None and at >= plan.window_end_ns:
            return
        if plan.request_count is not None and at >= plan.window_start_ns:
            n += 1
            if n > plan.request_count:
                return
        if i % ranks == rank:
            yield i, at
        i += 1


def rate_at(plan, off):
    return plan.requests_per_second


def clients_of(plan, rank, ranks):
    return plan.num_clients // ranks + (rank < plan.num_clients % ranks)


def first_sends(plan, rank, ranks):
    return [round(j * plan.ramp_seconds * 1e9 / plan.num_clients) for j in range(rank, plan.num_clients, ranks)]


def scheduled_count(plan, rank, ranks, until):
    a = [o for _, o in offsets(plan, rank, ranks) if o < until]
    w = sum(o < plan.window_start_ns for o in a)
    return w, len(a) - w
