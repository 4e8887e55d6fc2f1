"""Every call of both APIs, described once: what is sent, and how the answer is read. No I/O."""

import inspect
import re
import reprlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, get_type_hints
from urllib.parse import quote

import msgspec

from tokenstorm.api import dry_run, group_answers, groups, services
from tokenstorm.errors import NOT_JSON, ApiError, UsageError, fault
from tokenstorm.metrics.points import SeriesSummary
from tokenstorm.metrics.summary import Summary

P = ParamSpec("P")
T = TypeVar("T")
Api = Literal["server", "client"]
Rows = Literal["jsonl", "csv", "parquet"]

OK = 200
SECONDS = 30.0
"""What a call may take; none waits for a job."""
SUBMIT_SECONDS = 120.0
"""What a call may take that submits a job, or waits for an engine."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request to one of the APIs; `path` comes after `/api/v1`."""

    api: Api
    method: Literal["GET", "POST", "DELETE"]
    path: str
    read: Callable[[bytes], T]
    query: Mapping[str, str | int | None] = field(default_factory=dict)
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = SECONDS


GroupRequest: TypeAlias = dict[str, Any]
"""The arguments of `create_group`, to be handed on with `**`."""


class _NewGroup(groups.GroupRequest, frozen=True, kw_only=True):
    """What `create_group` takes."""

    idempotency_key: str | None = None


def _takes(fields: Callable[P, object]) -> Callable[[Callable[..., Call[T]]], Callable[P, Call[T]]]:
    """A call that takes the fields of a struct. They are sent as they are given: it is the API that checks them."""

    def described(call: Callable[..., Call[T]]) -> Callable[P, Call[T]]:
        plain, given = get_type_hints(fields), inspect.signature(fields)
        parameters = [one.replace(annotation=plain[one.name]) for one in given.parameters.values()]
        call.__signature__ = given.replace(parameters=parameters)  # type: ignore[attr-defined]
        return call

    return described


def create_service(
    recipe_name: str, config: Mapping[str, object] | None = None, *, idempotency_key: str | None = None
) -> Call[services.ServiceInfo]:
    """Start a service from a recipe; `config` sets its parameters, `environment` and `resources`.

    The same request with the same key makes one service; without one each call has its own.
    """
    body = {"recipe_name": recipe_name, "config": dict(config or {})}
    headers = _keyed(idempotency_key or secrets.token_hex(16))
    read, seconds = _as(services.ServiceInfo), SUBMIT_SECONDS
    return Call("server", "POST", "/services", read, body=body, headers=headers, seconds=seconds)


def dry_run_service(recipe_name: str, config: Mapping[str, object] | None = None) -> Call[dry_run.DryRun]:
    """What `create_service` would submit; nothing is."""
    body = {"recipe_name": recipe_name, "config": dict(config or {})}
    return Call("server", "POST", "/services/dry-run", _as(dry_run.DryRun), body=body)


def _keyed(key: str) -> dict[str, str]:
    """The header of a key. Raises UsageError for one that no header takes, or no API of ours."""
    if not re.fullmatch(r"[!-~]{1,200}", key):
        message = f"the idempotency key {reprlib.repr(key)} must be 1 to 200 letters, digits and signs of ASCII, without spaces"
        raise UsageError(message)
    return {"Idempotency-Key": key}


def list_services(status: services.Status | None = None) -> Call[services.ServiceList]:
    """All services and groups of replicas, the oldest first."""
    return Call("server", "GET", "/services", _as(services.ServiceList), {"status": status})


def get_service(service_id: str) -> Call[services.ServiceInfo]:
    """One service."""
    return Call("server", "GET", f"/services/{_id(service_id)}", _as(services.ServiceInfo))


def get_service_status(service_id: str) -> Call[services.StatusInfo]:
    """How a service stands."""
    return Call("server", "GET", f"/services/{_id(service_id)}/status", _as(services.StatusInfo))


def stop_service(service_id: str) -> Call[services.StatusInfo]:
    """Cancel a service; one that has ended stays as it is."""
    path, body = f"/services/{_id(service_id)}/status", {"status": "cancelled"}
    return Call("server", "POST", path, _as(services.StatusInfo), body=body, seconds=SUBMIT_SECONDS)


def get_service_logs(
    service_id: str, *, source: str | None = None, after: str | None = None, limit: int | None = None
) -> Call[services.LogPiece]:
    """The logs after the place `after`; `source` is a replica's id, or `job`; `limit` in bytes of each log."""
    query = {"source": source, "after": after, "limit": limit}
    return Call("server", "GET", f"/services/{_id(service_id)}/logs", _as(services.LogPiece), query)


def get_service_metrics(service_id: str) -> Call[str]:
    """The engine's own metrics, Prometheus text."""
    return Call("server", "GET", f"/services/{_id(service_id)}/metrics", _text)


def get_service_targets() -> Call[tuple[services.TargetGroup, ...]]:
    """Prometheus' service discovery of the running services."""
    return Call("server", "GET", "/services/targets", _as(tuple[services.TargetGroup, ...]))


def get_access(service_id: str) -> Call[services.AccessInfo]:
    """What a client on the cluster needs to talk to the engine itself, its key included."""
    return Call("server", "GET", f"/services/{_id(service_id)}/access", _as(services.AccessInfo))


def list_service_groups() -> Call[services.GroupList]:
    """All groups of replicas."""
    return Call("server", "GET", "/service-groups", _as(services.GroupList))


def get_service_group(group_id: str) -> Call[services.GroupInfo]:
    """One group of replicas, node by node."""
    return Call("server", "GET", f"/service-groups/{_id(group_id)}", _as(services.GroupInfo))


def list_recipes() -> Call[services.RecipeList]:
    """All recipes, with their parameters."""
    return Call("server", "GET", "/recipes", _as(services.RecipeList))


def get_recipe(name: str) -> Call[services.RecipeInfo]:
    """One recipe, by its category/name."""
    return Call("server", "GET", f"/recipes/{quote(name)}", _as(services.RecipeInfo))


def list_vllm_services() -> Call[services.EngineServices]:
    """The services that take prompts."""
    return Call("server", "GET", "/vllm/services", _as(services.EngineServices))


def get_models(service_id: str) -> Call[services.ModelsAnswer]:
    """The models of a service; `success` is false while it loads."""
    return Call("server", "GET", f"/vllm/{_id(service_id)}/models", _as(services.ModelsAnswer))


def prompt(
    service_id: str, text: str, *, max_tokens: int = 100, temperature: float = 0.7, model: str | None = None
) -> Call[services.PromptAnswer]:
    """Ask a service something, by way of the orchestrator."""
    body: dict[str, object] = {"prompt": text, "max_tokens": max_tokens, "temperature": temperature}
    if model is not None:
        body["model"] = model
    path = f"/vllm/{_id(service_id)}/prompt"
    return Call("server", "POST", path, _as(services.PromptAnswer), body=body, seconds=SUBMIT_SECONDS)


def get_orchestrator() -> Call[services.EndpointInfo]:
    """Where the orchestrator is."""
    return Call("server", "GET", "/orchestrator/endpoint", _as(services.EndpointInfo))


@_takes(_NewGroup)
def create_group(*, idempotency_key: str | None = None, **request: object) -> Call[group_answers.Created]:
    """Create a group of clients; the same request with the same key makes one group.

    `docs/groups.md` has the meanings of its fields, and what is taken when one is left out.
    """
    headers = _keyed(idempotency_key) if idempotency_key else {}
    read, seconds = _as(group_answers.Created), SUBMIT_SECONDS
    return Call("client", "POST", "/client-groups", read, body=request, headers=headers, seconds=seconds)


@_takes(groups.GroupRequest)
def dry_run_group(**request: object) -> Call[dry_run.DryRun]:
    """What `create_group` would submit; nothing is."""
    return Call("client", "POST", "/client-groups/dry-run", _as(dry_run.DryRun), body=request)


def list_groups(status: group_answers.GroupStatus | None = None) -> Call[group_answers.Groups]:
    """All groups of clients with their infos, the oldest first."""
    return Call("client", "GET", "/client-groups", _as(group_answers.Groups), {"status": status, "detail": "true"})


def get_group(group_id: int) -> Call[group_answers.Group]:
    """One group of clients."""
    return Call("client", "GET", f"/client-groups/{group_id:d}", _as(group_answers.Group))


def run_group(group_id: int, start_at: datetime | None = None) -> Call[group_answers.Done]:
    """Release a group that was created with `start: "manual"`."""
    body = {"start_at": start_at.isoformat()} if start_at else {}
    return Call("client", "POST", f"/client-groups/{group_id:d}/run", _as(group_answers.Done), body=body)


def run_groups(group_ids: Sequence[int], start_at: datetime | None = None) -> Call[group_answers.DoneToAll]:
    """Release several groups at one moment: all of them, or none."""
    body: dict[str, object] = {"group_ids": list(group_ids)}
    if start_at:
        body["start_at"] = start_at.isoformat()
    return Call("client", "POST", "/client-groups/run", _as(group_answers.DoneToAll), body=body)


def stop_group(group_id: int) -> Call[group_answers.Done]:
    """Send no more, wait for what was sent, and keep everything."""
    return Call("client", "POST", f"/client-groups/{group_id:d}/stop", _as(group_answers.Done))


def delete_group(group_id: int, *, purge: bool = False) -> Call[group_answers.Done]:
    """Stop a group and take it off the list; `purge` removes its files too."""
    query = {"purge": "true" if purge else None}
    return Call("client", "DELETE", f"/client-groups/{group_id:d}", _as(group_answers.Done), query)


def get_group_metrics(group_id: int) -> Call[str]:
    """The group's Prometheus text."""
    return Call("client", "GET", f"/client-groups/{group_id:d}/metrics", _text)


def get_group_targets() -> Call[tuple[group_answers.ScrapeTarget, ...]]:
    """Prometheus' service discovery of the groups."""
    return Call("client", "GET", "/client-groups/targets", _as(tuple[group_answers.ScrapeTarget, ...]))


def results(group_id: int) -> Call[Summary]:
    """The summary of a group that has stopped."""
    return Call("client", "GET", f"/client-groups/{group_id:d}/results", _as(Summary))


def get_series(group_id: int) -> Call[SeriesSummary]:
    """The runs of a series so far, and what they come to."""
    return Call("client", "GET", f"/client-groups/{group_id:d}/series", _as(SeriesSummary))


def get_report(group_id: int) -> Call[str]:
    """The report of a group that has stopped, as HTML."""
    return Call("client", "GET", f"/client-groups/{group_id:d}/report", _text)


def get_group_logs(group_id: int, *, after: str | None = None) -> Call[group_answers.Logs]:
    """The logs of the group's job after the place `after`."""
    return Call("client", "GET", f"/client-groups/{group_id:d}/logs", _as(group_answers.Logs), {"after": after})


def observe_group(group_id: int, url: str) -> Call[None]:
    """Have every change of status POSTed to an address."""
    return Call("client", "POST", f"/client-groups/{group_id:d}/observers", _nothing, body={"url": url})


def events(group_id: int) -> Call[bytes]:
    """The live updates, server-sent events; read as a stream."""
    return Call("client", "GET", f"/client-groups/{group_id:d}/events", bytes)


def request_rows(group_id: int, form: Rows = "jsonl") -> Call[bytes]:
    """Every request of a group that has stopped; read as a stream."""
    return Call("client", "GET", f"/client-groups/{group_id:d}/requests", bytes, {"format": form}, seconds=300.0)


def refusal(call: Call[Any], status: int, content: bytes) -> ApiError:
    """What an answer that is no success is raised as."""
    try:
        problem = msgspec.json.decode(content, type=dict[str, Any])
    except NOT_JSON:
        problem = {}
    said = problem.get("detail") or content[:500].decode(errors="replace").strip() or "nothing more was said"
    return ApiError(f"{said} ({call.method} {call.path}: {status})", status, problem)


def _id(text: str) -> str:
    """An id as one part of a path, whatever it holds."""
    return quote(str(text), safe="").replace(".", "%2E")


def _as(kind: type[T]) -> Callable[[bytes], T]:
    decoder = msgspec.json.Decoder(kind)

    def read(content: bytes) -> T:
        try:
            return decoder.decode(content)
        except NOT_JSON as error:
            message = f"an answer cannot be read ({fault(error)}): is it another version of tokenstorm that answers?"
            raise ApiError(message, OK) from None

    return read


def _text(content: bytes) -> str:
    return content.decode(errors="replace")


def _nothing(_content: bytes) -> None:
    return None
