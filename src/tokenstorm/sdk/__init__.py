"""tokenstorm from Python: `Client`, and `AsyncClient` with the same methods. Needs the extra `services`."""

from tokenstorm.api.group_answers import Change, Group, Second
from tokenstorm.api.groups import Synthetic
from tokenstorm.api.services import GroupInfo as ServiceGroup
from tokenstorm.api.services import ServiceInfo as Service
from tokenstorm.errors import ApiError
from tokenstorm.lengths import Length
from tokenstorm.load_parts import Arrival, Ramp, Stage
from tokenstorm.metrics.summary import Summary
from tokenstorm.result import Result
from tokenstorm.sdk.addresses import CLIENT_URL, SERVER_URL
from tokenstorm.sdk.calls import GroupRequest
from tokenstorm.sdk.client import AsyncClient, Client

__all__ = [
    "CLIENT_URL",
    "SERVER_URL",
    "ApiError",
    "Arrival",
    "AsyncClient",
    "Change",
    "Client",
    "Group",
    "GroupRequest",
    "Length",
    "Ramp",
    "Result",
    "Second",
    "Service",
    "ServiceGroup",
    "Stage",
    "Summary",
    "Synthetic",
]
