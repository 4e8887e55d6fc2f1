"""tokenstorm from Python: `Client`, and `AsyncClient` with the same methods. Needs the extra `services`."""

from tokenstorm.errors import ApiError
from tokenstorm.metrics.summary import Summary
from tokenstorm.result import Result
from tokenstorm.sdk.answers import Change, Group, Second, Service, ServiceGroup
from tokenstorm.sdk.calls import GroupRequest
from tokenstorm.sdk.client import CLIENT_URL, SERVER_URL, AsyncClient, Client

__all__ = [
    "CLIENT_URL",
    "SERVER_URL",
    "ApiError",
    "AsyncClient",
    "Change",
    "Client",
    "Group",
    "GroupRequest",
    "Result",
    "Second",
    "Service",
    "ServiceGroup",
    "Summary",
]
