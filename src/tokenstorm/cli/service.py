"""`tokenstorm service …`. Each function is a command."""

import argparse
import secrets
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from tokenstorm.api.services import ENDED, GroupInfo, LogPiece, ServiceInfo
from tokenstorm.cli.api import client_of, say_again
from tokenstorm.cli.listing import SERVICE_HEADS, service_row, shown_of
from tokenstorm.cli.preview import show_dry_run
from tokenstorm.cli.terminal import hand_on, live, show_facts, show_json, show_table, show_text, tell, tell_progress
from tokenstorm.errors import NOT_JSON, ApiError, UsageError
from tokenstorm.sdk import Client
from tokenstorm.sdk.calls import create_service
from tokenstorm.sdk.waits import made, may_have_been_made

AGAIN_SECONDS = 60.0
"""How long an API that does not answer is asked again to create a service that nobody waits for."""
_FOLLOW_SECONDS = 0.5


def create(args: argparse.Namespace) -> int:
    """Start a service."""
    config = _config(args.config, args.set)
    with client_of(args) as client:
        if args.dry_run:
            show_dry_run(client.dry_run_service(args.recipe, config), as_json=args.json)
            return 0
        service = _created(client, args, config)
        if args.wait:
            first = f"service {service.id} is {_status(service)}; it is waited for until it is ready"
            service = _wait(client, service.id, args.timeout, first)
    _show(service, as_json=args.json)
    return 0


def wait(args: argparse.Namespace) -> int:
    """Until a service is ready."""
    with client_of(args) as client:
        service = _wait(client, args.service_id, args.timeout)
    _show(service, as_json=args.json)
    return 0


def list(args: argparse.Namespace) -> int:  # noqa: A001 - named as the action is
    """All services."""
    with client_of(args) as client:
        found = client.list_services(args.status)
    if args.json:
        show_json(found)
        return 0
    now = datetime.now(UTC)
    shown = shown_of(found.services, now, everything=args.all or args.status is not None)
    show_table(SERVICE_HEADS, [service_row(one, now) for one in shown])
    if older := found.count - len(shown):
        tell(f"{older} that ended more than a day ago: `tokenstorm service list --all` shows them")
    return 0


def show(args: argparse.Namespace) -> int:
    """One service; a group with its replicas."""
    with client_of(args) as client:
        service = client.get_service(args.service_id)
        if service.group_id is not None:
            service = client.get_service_group(service.group_id)
    _show(service, as_json=args.json)
    return 0


def stop(args: argparse.Namespace) -> int:
    """Cancel a service."""
    with client_of(args) as client:
        state = client.stop_service(args.service_id)
    if args.json:
        show_json(state)
    else:
        show_text(f"service {args.service_id} is {state.status}" + (f": {state.reason}" if state.reason else ""))
    return 0


def models(args: argparse.Namespace) -> int:
    """The models of a service; exit code 1 while it has none."""
    with client_of(args) as client:
        found = client.get_models(args.service_id)
    if args.json:
        show_json(found)
    else:
        show_text("\n".join(found.models or ()) if found.success else f"no models yet: {found.error}")
    return 0 if found.success else 1


def metrics(args: argparse.Namespace) -> int:
    """The engine's own metrics."""
    with client_of(args) as client:
        hand_on(client.get_service_metrics(args.service_id))
    return 0


def access(args: argparse.Namespace) -> int:
    """What a client needs to talk to the engine itself."""
    with client_of(args) as client:
        found = client.get_access(args.service_id)
    if args.json:
        show_json(found)
    else:
        show_facts([*((one.replica, one.url) for one in found.endpoints), ("API key", found.api_key)])
    return 0


def targets(args: argparse.Namespace) -> int:
    """Prometheus' service discovery, which is JSON anyway."""
    with client_of(args) as client:
        show_json(client.get_service_targets())
    return 0


def logs(args: argparse.Namespace) -> int:
    """The logs; with --follow until the service has ended and all is shown. As JSON they come whole, at the end."""
    whole, after = "", ""
    try:
        with client_of(args) as client:
            for piece in _pieces(client, args):
                after = piece.next
                if args.json:
                    whole += piece.logs
                else:
                    hand_on(piece.logs)
    finally:  # Ctrl-C ends --follow
        if args.json and after:
            show_json({"logs": whole, "next": after})
    return 0


def _pieces(client: Client, args: argparse.Namespace) -> Iterator[LogPiece]:
    """The logs as they come; the last piece is empty."""
    after: str | None = None
    while True:
        over = not args.follow or client.get_service_status(args.service_id).status in ENDED
        piece = client.get_service_logs(args.service_id, source=args.source, after=after)
        yield piece
        if not piece.logs:
            if over:
                return
            time.sleep(_FOLLOW_SECONDS)
        after = piece.next


def prompt(args: argparse.Namespace) -> int:
    """Ask a service something."""
    with client_of(args) as client:
        said = client.prompt(
            args.service_id, args.text, max_tokens=args.max_tokens, temperature=args.temperature, model=args.model
        )
    if args.json:
        show_json(said)
    else:
        hand_on(f"{said.response}\n")
        if said.simulated:
            tell_progress("a SIMULATED engine answered")
    return 0


def _created(client: Client, args: argparse.Namespace, config: dict[str, Any]) -> ServiceInfo:
    """A new service, however often it has to be asked for: one key makes one."""
    key = args.idempotency_key or secrets.token_hex(16)
    call = create_service(args.recipe, config, idempotency_key=key)
    try:
        return client.follow(made(call, args.timeout if args.wait else AGAIN_SECONDS, say_again))
    except ApiError as error:
        if may_have_been_made(error):
            error.args = (f"{error}; it may be there all the same: with --idempotency-key {key} it is made once",)
        raise
    except KeyboardInterrupt:
        tell(
            "whether the service was created is not known: see `tokenstorm service list`; `tokenstorm service stop` ends it"
        )
        raise


def _wait(client: Client, service_id: str, seconds: float, first: str | None = None) -> ServiceInfo:
    """Wait until it is ready; what is to be said `first` is said when Ctrl-C is answered already."""

    def changed(service: ServiceInfo) -> None:
        if line:
            line(f"service {service_id} is {_status(service)}")

    try:
        if first:
            tell(first)
        with live() as line:
            return client.wait_until_ready(service_id, seconds=seconds, on_change=changed)
    except KeyboardInterrupt:
        tell(
            f"service {service_id} goes on: `tokenstorm service stop {service_id}` ends it, "
            f"`tokenstorm service wait {service_id}` waits for it again"
        )
        raise


def _status(service: ServiceInfo) -> str:
    return service.status + (f": {service.reason}" if service.reason else "")


def _show(service: ServiceInfo, *, as_json: bool) -> None:
    if as_json:
        show_json(service)
        return
    show_facts(
        [
            ("service", service.id),
            ("status", _status(service)),
            ("recipe", service.recipe_name),
            ("engine", service.engine),
            ("model", service.model),
            ("note", service.note),
            ("replicas", f"{service.healthy_replicas} of {service.total_replicas} answer"),
            ("endpoint", service.endpoint),
            ("job", service.job_id),
            ("nodes", service.nodes),
            ("created", service.created_at),
            ("ready", service.ready_at),
            ("ended", service.ended_at),
        ]
    )
    if isinstance(service, GroupInfo) and service.node_jobs:
        replicas = [one for job in service.node_jobs for one in job.replicas]
        show_text("")
        show_table(
            ("REPLICA", "STATUS", "NODES", "ENDPOINT", ""),
            [(one.id, one.status, one.nodes, one.endpoint, one.reason) for one in replicas],
        )


def _config(text: str | None, settings: Sequence[str]) -> dict[str, Any]:
    """The config of a request: a JSON object, and KEY=VALUE pairs whose keys may have a table's name before a dot."""
    try:
        config = msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except NOT_JSON as error:
        message = f"--config must be a JSON object: {error}"
        raise UsageError(message) from None
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            message = f"--set {setting!r} must look like KEY=VALUE"
            raise UsageError(message)
        table, dot, name = key.partition(".")
        place = config.setdefault(table, {}) if dot else config
        if not isinstance(place, dict):
            message = f"--set {setting!r}: {table} is no table"
            raise UsageError(message)
        place[name if dot else key] = value if table == "environment" else _value(value)
    return config


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except NOT_JSON:
        return text
