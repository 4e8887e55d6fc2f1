"""Groups and services as lists: newest first, without what ended more than a day ago."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from tokenstorm.api.group_answers import Group
from tokenstorm.api.services import ServiceInfo
from tokenstorm.report.figures import duration, figure

KEPT = timedelta(days=1)
GROUP_HEADS = ("GROUP", "NAME", "STATUS", "VERDICT", "REQ/S", "TTFT P99", "FAILED", "AGE", "")
SERVICE_HEADS = ("ID", "STATUS", "REPLICAS", "RECIPE", "MODEL", "AGE", "")


class Dated(Protocol):
    """What was created, and may have ended."""

    @property
    def created_at(self) -> datetime | None:
        """When it was created."""
        ...

    @property
    def ended_at(self) -> datetime | None:
        """When it ended; None while it has not."""
        ...


One = TypeVar("One", bound=Dated)


def is_recent(one: Dated, now: datetime) -> bool:
    """Whether it goes on, or ended in the last day."""
    return one.ended_at is None or now - one.ended_at <= KEPT


def shown_of(found: Iterable[One], now: datetime, *, everything: bool) -> list[One]:
    """Those that a list shows, newest first."""
    kept = [one for one in found if everything or is_recent(one, now)]
    return sorted(kept, key=lambda one: one.created_at or datetime.min.replace(tzinfo=UTC), reverse=True)


def age(since: datetime | None, now: datetime) -> str | None:
    """How long ago, in its largest unit."""
    if since is None:
        return None
    seconds = max(0, int((now - since).total_seconds()))
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {name}"
    return f"{seconds} s"


def group_row(group: Group, now: datetime) -> tuple[object, ...]:
    """One group; `reason` also says how to release one that holds."""
    info, progress = group.info, group.info.progress
    holds = info.status == "running" and progress is not None and progress.phase == "holding"
    status = info.outcome or ("running (holding)" if holds else info.status)
    rate = failed = ttft = None
    if progress and progress.sent:
        rate = None if progress.achieved_rps is None else figure(progress.achieved_rps)
        ttft, failed = duration(progress.ttft_p99_seconds), progress.failed
    name = info.load_config.get("name") or info.load_config.get("service_id") or info.load_config.get("target_url")
    return group.group_id, name, status, info.verdict, rate, ttft, failed, age(info.created_at, now), info.reason or ""


def service_row(service: ServiceInfo, now: datetime) -> tuple[object, ...]:
    """One service."""
    replicas = f"{service.healthy_replicas}/{service.total_replicas}"
    said = service.reason or service.note
    return (
        service.id,
        service.status,
        replicas,
        service.recipe_name,
        service.model,
        age(service.created_at, now),
        said,
    )
