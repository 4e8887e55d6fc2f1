"""What the Client API takes, with how it is checked and documented. Answers are in `answers`."""

from datetime import datetime
from typing import Annotated, Any, TypeAlias

from fastapi import Body
from pydantic import Field

from tokenstorm.api.groups import GroupRequest
from tokenstorm.models import Strict, Taken

EXAMPLE: dict[str, Any] = {
    "service_id": "a1b2c3",
    "num_clients": 10,
    "requests_per_second": 2.0,
    "duration_seconds": 60,
    "prompts": ["Write a poem about AI.", "Explain machine learning.", "What is deep learning?"],
    "max_tokens": 100,
    "time_limit": 10,
}


TakenGroup: TypeAlias = Annotated[
    GroupRequest, Taken(GroupRequest, ("service_id", "target_url", "num_clients"), EXAMPLE), Body()
]


class RunRequest(Strict):
    """When to release groups: all at one moment."""

    start_at: Annotated[datetime, Field(strict=False)] | None = Field(
        None,
        description="The common start, UTC (5 seconds from now)",
        examples=["2026-01-01T12:00:00Z"],
    )


class RunGroupsRequest(RunRequest):
    """Which groups to release, and when."""

    group_ids: list[Annotated[int, Field(ge=1, le=2**62)]] = Field(min_length=1, max_length=1000, examples=[[1, 2]])


_PORT = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"


class ObserverRequest(Strict):
    """Who wants to know."""

    url: str = Field(
        max_length=2048,
        pattern=r"^https?://([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(:"
        + _PORT
        + r")?([/?][!-~]*)?$",
        description="Gets a POST with the group's status at every change of it",
        examples=["http://127.0.0.1:9000/hook"],
    )
