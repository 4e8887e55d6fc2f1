"""Waiting, written once for both clients: a generator that yields calls and pauses, and is given the answers."""

import time
from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

from tokenstorm.api.group_answers import Group
from tokenstorm.api.services import ENDED, ServiceInfo
from tokenstorm.errors import ApiError
from tokenstorm.sdk.calls import Call, get_group, get_service

T = TypeVar("T")
Steps: TypeAlias = Generator[Call[Any] | float, Any, T]
"""Yields a call, which is answered or fails with `ApiError`, or seconds to pause."""

PAUSE_SECONDS = 0.5
_PASSING = frozenset((None, 502, 503, 504))
"""Failures that may be over soon: no answer, or one that speaks of what is behind the API."""


def until_ready(
    service_id: str, *, seconds: float = 900.0, on_change: Callable[[ServiceInfo], None] | None = None
) -> Steps[ServiceInfo]:
    """Wait until a service answers prompts. Raises `ApiError` when it ends before, or the time is over.

    `on_change` hears of each status, and of the first at once.
    """
    deadline = time.monotonic() + seconds
    last: tuple[str, str] | None = None
    while True:
        service: ServiceInfo = yield from patiently(get_service(service_id), deadline)
        if on_change and (service.status, service.reason) != last:
            on_change(service)
        last = service.status, service.reason
        why = f": {service.reason}" if service.reason else ""
        if service.status == "running":
            return service
        if service.status in ENDED:
            message = f"service {service_id} will not be ready: it is {service.status}{why}"
            raise ApiError(message)
        if time.monotonic() >= deadline:
            message = f"service {service_id} is not ready after {seconds:g} s: it is {service.status}{why}"
            raise ApiError(message)
        yield PAUSE_SECONDS


def until_stopped(
    group_id: int, *, seconds: float = 86400.0, on_change: Callable[[Group], None] | None = None
) -> Steps[Group]:
    """Wait until a group of clients has stopped, however it went. Raises `ApiError` when the time is over.

    `on_change` hears of each status and of all progress.
    """
    deadline = time.monotonic() + seconds
    last: Group | None = None
    while True:
        group: Group = yield from patiently(get_group(group_id), deadline)
        if on_change and group != last:
            on_change(group)
        last = group
        if group.info.status == "stopped":
            return group
        if time.monotonic() >= deadline:
            message = f"group {group_id} has not stopped after {seconds:g} s: it is {group.info.status}"
            raise ApiError(message)
        yield PAUSE_SECONDS


def made(call: Call[T], seconds: float, on_failure: Callable[[ApiError], None] | None = None) -> Steps[T]:
    """Make a call that has an idempotency key: a failure that may pass is tried again for so long, which does nothing twice.

    Where nobody takes the call the first time, that is raised at once. `on_failure` hears of the first failure.
    """
    try:
        answer: T = yield call
    except ApiError as error:
        if not may_have_been_made(error):
            raise
        if on_failure:
            on_failure(error)
    else:
        return answer
    yield PAUSE_SECONDS
    return (yield from patiently(call, time.monotonic() + seconds))


def may_have_been_made(error: ApiError) -> bool:
    """Whether a call that failed so may have done what was asked."""
    return error.sent and error.status in _PASSING


def patiently(call: Call[T], deadline: float) -> Steps[T]:
    """Make a call; a failure that may pass is tried again until the deadline (`time.monotonic()`)."""
    while True:
        try:
            answer: T = yield call
        except ApiError as error:
            if error.status not in _PASSING or time.monotonic() >= deadline:
                raise
        else:
            return answer
        yield PAUSE_SECONDS
