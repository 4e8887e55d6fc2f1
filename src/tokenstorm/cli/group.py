"""`tokenstorm group …`. Each function is a command."""

import argparse
import secrets
import sys
import time
from datetime import UTC, datetime
from typing import Any

from tokenstorm.cli.api import client_of, say_again
from tokenstorm.cli.listing import GROUP_HEADS, group_row, shown_of
from tokenstorm.cli.panel import screen
from tokenstorm.cli.preview import show_dry_run
from tokenstorm.cli.terminal import (
    hand_on,
    hand_on_bytes,
    series_exit_code,
    show_facts,
    show_json,
    show_line,
    show_summary,
    show_table,
    show_text,
    tell,
)
from tokenstorm.cli.watching import Watching
from tokenstorm.errors import ApiError, UsageError
from tokenstorm.report.conditions import refuse_for_series
from tokenstorm.report.series_text import series_text
from tokenstorm.sdk import Client, Group
from tokenstorm.sdk.calls import create_group, get_group
from tokenstorm.sdk.waits import made, patiently

AGAIN_SECONDS = 0.5
BACK_SECONDS = 30.0
"""How long an API that went away in the middle of a watch is waited for."""
ID_SHOWN = 8
"""So much of a run id tells it from others."""
_NO_RESULTS = frozenset((404, 409))


def create(args: argparse.Namespace) -> int:
    """Create a group; with --watch see it to its end."""
    from tokenstorm.cli.request import request_of  # noqa: PLC0415 - it takes long: the other actions start without it

    request = request_of(args)
    with client_of(args) as client:
        if args.dry_run:
            show_dry_run(client.dry_run_group(**request), as_json=args.json)
            return 0
        key = args.idempotency_key or secrets.token_hex(16)
        created = client.follow(made(create_group(idempotency_key=key, **request), BACK_SECONDS, say_again))
        if args.watch:
            if not args.json:
                show_line(created.message)
            return _watch(client, created.group_id, args)
    if args.json:
        show_json(created)
    else:
        show_line(created.message)
        if args.start == "manual":
            show_line(f"it holds once it is ready; release it: tokenstorm group run {created.group_id}")
        show_line(f"watch it: tokenstorm group watch {created.group_id}")
    return 0


def watch(args: argparse.Namespace) -> int:
    """Live progress, then the results; the exit code is that of the run."""
    with client_of(args) as client:
        return _watch(client, args.group_id, args)


def list(args: argparse.Namespace) -> int:  # noqa: A001 - named as the action is
    """All groups."""
    with client_of(args) as client:
        found = client.list_groups(args.status)
    if args.json:
        show_json(found)
        return 0
    now = datetime.now(UTC)
    by_info = {id(one.info): one for one in found.groups}
    shown = shown_of((one.info for one in found.groups), now, everything=args.all or args.status is not None)
    show_table(GROUP_HEADS, [group_row(by_info[id(info)], now) for info in shown])
    if older := found.count - len(shown):
        tell(f"{older} that ended more than a day ago: `tokenstorm group list --all` shows them")
    return 0


def show(args: argparse.Namespace) -> int:
    """One group."""
    with client_of(args) as client:
        group = client.get_group(args.group_id)
    if args.json:
        show_json(group)
    else:
        _show(group)
    return 0


def stop(args: argparse.Namespace) -> int:
    """Drain a group."""
    with client_of(args) as client:
        done = client.stop_group(args.group_id)
    _show_answer(args, done, f"group {done.group_id} is {done.status}")
    return 0


def run(args: argparse.Namespace) -> int:
    """Release held groups."""
    start_at = _moment(args.start_at) if args.start_at else None
    with client_of(args) as client:
        if len(args.group_ids) == 1:
            done = client.run_group(args.group_ids[0], start_at)
            _show_answer(args, done, f"group {done.group_id} is {done.status}")
        else:
            released = client.run_groups(args.group_ids, start_at)
            _show_answer(
                args, released, f"groups {', '.join(map(str, released.group_ids))} start at {released.start_at}"
            )
    return 0


def delete(args: argparse.Namespace) -> int:
    """Take a group off the list."""
    with client_of(args) as client:
        done = client.delete_group(args.group_id, purge=args.purge)
    _show_answer(args, done, f"group {done.group_id} is {done.status}" + (", with its files" if args.purge else ""))
    return 0


def observe(args: argparse.Namespace) -> int:
    """Have an address told of every change."""
    with client_of(args) as client:
        client.observe_group(args.group_id, args.url)
    _show_answer(args, {"group_id": args.group_id, "url": args.url}, f"{args.url} is told of group {args.group_id}")
    return 0


def results(args: argparse.Namespace) -> int:
    """The summary of a group that has stopped."""
    with client_of(args) as client:
        return _results(client, client.get_group(args.group_id), args)


def series(args: argparse.Namespace) -> int:
    """The runs of a series so far, and what they come to."""
    with client_of(args) as client:
        summary = client.get_series(args.group_id)
    if args.json:
        show_json(summary)
    else:
        show_text(series_text(summary))
    return 0 if summary.outcome == "running" else series_exit_code(summary)


def metrics(args: argparse.Namespace) -> int:
    """Prometheus text."""
    with client_of(args) as client:
        hand_on(client.get_group_metrics(args.group_id))
    return 0


def report(args: argparse.Namespace) -> int:
    """HTML; with --json the numbers that it shows, as `results` gives them."""
    with client_of(args) as client:
        if args.json:
            show_json(client.results(args.group_id))
        else:
            hand_on(client.get_report(args.group_id))
    return 0


def requests(args: argparse.Namespace) -> int:
    """Every request, as the file comes."""
    if args.format == "parquet" and sys.stdout.isatty():
        message = f"Parquet is nothing to read: add `> requests.{args.group_id}.parquet`, or choose another --format"
        raise UsageError(message)
    with client_of(args) as client:
        hand_on_bytes(client.request_rows(args.group_id, args.format), as_json=args.format == "jsonl")
    return 0


def logs(args: argparse.Namespace) -> int:
    """The logs of the group's job, all there is by now."""
    with client_of(args) as client:
        after: str | None = None
        whole = ""
        while (piece := client.get_group_logs(args.group_id, after=after)).logs:
            if not args.json:
                hand_on(piece.logs)
            whole += piece.logs
            after = piece.next
        if args.json:
            show_json({"logs": whole, "next": piece.next})
        return 0


def targets(args: argparse.Namespace) -> int:
    """Prometheus' service discovery, which is JSON anyway."""
    with client_of(args) as client:
        show_json(client.get_group_targets())
    return 0


def _watch(client: Client, group_id: int, args: argparse.Namespace) -> int:
    try:
        with screen() as shown:
            group = _follow(client, group_id, Watching(shown))
    except KeyboardInterrupt:
        tell(f"group {group_id} goes on: `tokenstorm group stop {group_id}` ends it")
        raise
    return _results(client, group, args)


def _follow(client: Client, group_id: int, watching: Watching) -> Group:
    """See a group to its end; a stream that breaks is taken up again, when the API is soon back."""
    while True:
        try:
            for event in client.events(group_id):
                watching.see(event)
        except ApiError as error:
            if error.status is not None:
                raise
            time.sleep(AGAIN_SECONDS)
        group = client.follow(patiently(get_group(group_id), time.monotonic() + BACK_SECONDS))
        if group.info.status == "stopped":
            return group


def _results(client: Client, group: Group, args: argparse.Namespace) -> int:
    """The summary, with the exit code of the run; a run that failed before there were results says why."""
    try:
        summary = client.results(group.group_id)
    except ApiError as error:
        if error.status not in _NO_RESULTS or group.info.status != "stopped":
            raise
        why = group.info.reason or "it left no results"
        message = f"group {group.group_id} {group.info.outcome}: {why}"
        raise ApiError(message) from None
    if group.info.load_config.get("series"):
        code = _show_series(client, group, args)
        refuse_for_series(args.fail_on)
    else:
        code = show_summary(summary, _reported(group), as_json=args.json, fail_on=args.fail_on, wide=args.wide)
    if group.info.outcome not in {"completed", "cancelled"}:
        tell(f"group {group.group_id} {group.info.outcome}: {group.info.reason}")
        return 1
    return code


def _show_series(client: Client, group: Group, args: argparse.Namespace) -> int:
    found = client.get_series(group.group_id)
    if args.json:
        show_json(found)
    else:
        show_text(f"{series_text(found)}\nseries: {_reported(group)}")
    return series_exit_code(found)


def _show(group: Group) -> None:
    info = group.info
    progress = info.progress
    done = None
    if progress:
        share = "" if progress.fraction is None else f" ({progress.fraction:.0%})"
        done = f"{progress.elapsed_seconds:.0f} s{share}, {progress.sent} sent, {progress.succeeded} succeeded, "
        done += f"{progress.failed} failed, {progress.in_flight} in flight"
    show_facts(
        [
            ("group", group.group_id),
            ("name", info.load_config.get("name")),
            ("status", _status(group)),
            ("outcome", info.outcome),
            ("reason", info.reason),
            ("service", _target(group)),
            ("engine", info.engine),
            ("clients", info.num_clients),
            ("requests per second", info.load_config.get("requests_per_second")),
            ("progress", done),
            ("job", info.job_id),
            ("created", info.created_at),
            ("started", info.started_at),
            ("ended", info.ended_at),
            ("run", _reported(group) if info.status == "stopped" and info.started_at else info.run_id),
        ]
    )


def _status(group: Group) -> str:
    """A held group is told from one that sends."""
    progress = group.info.progress
    holds = group.info.status == "running" and progress is not None and progress.phase == "holding"
    return f"{group.info.status} (holding)" if holds else group.info.status


def _reported(group: Group) -> str:
    """Its run, and how to see that again: it came home, by its id; the folder on the cluster is not ours to read."""
    run_id = group.info.run_id
    return f"{run_id}  (tokenstorm report {run_id[:ID_SHOWN]})"


def _show_answer(args: argparse.Namespace, answer: object, text: str) -> None:
    if args.json:
        show_json(answer)
    else:
        show_text(text)


def _target(group: Group) -> Any:
    return group.info.load_config.get("service_id") or group.info.load_config.get("target_url")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"--start-at {text!r} must look like 2026-01-31T12:00:00Z"
        raise UsageError(message) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
