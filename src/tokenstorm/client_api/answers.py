"""A group as the Client API shows it."""

from typing import Any

from msgspec import convert
from msgspec.structs import asdict, replace

from tokenstorm.api.group_answers import GroupAnswer, Info, ProgressAnswer, ReplicaAnswer, VerdictAnswer
from tokenstorm.client_api.group import ClientGroup, Live, Progress


def answer_of(
    group: ClientGroup, request: dict[str, Any], live: Live | None, run_dir: str, *, listed: bool = False
) -> GroupAnswer[str]:
    """A group as the API shows it. A `listed` one comes without the fields that only its own page shows."""
    progress = group.progress if live is None else live.progress
    age = None if live is None or live.age_seconds < 1 else round(live.age_seconds, 1)
    shown = None if progress is None else progress_answer(progress, age)
    if shown and listed:
        shown = replace(shown, failures={}, replicas={})
    info = Info[str](
        num_clients=group.num_clients,
        status=group.status,
        outcome=group.outcome,
        reason=group.reason,
        engine=group.engine,
        job_id=group.job_id,
        job_state=group.job_state,
        client_address=group.client_address,
        created_at=group.created_at,
        started_at=group.started_at,
        ended_at=group.ended_at,
        verdict=group.verdict,
        progress=shown,
        load_config=request,
        run_id=group.run_id,
        run_dir=run_dir,
        observers=group.observers,
    )
    return GroupAnswer(group_id=group.group_id, info=info)


def progress_answer(progress: Progress, age_seconds: float | None = None) -> ProgressAnswer:
    """How far a run is, and how it stands."""
    fields = asdict(progress)
    standing = fields.pop("standing")
    return ProgressAnswer(
        **fields,
        verdict=standing.verdict and convert(standing.verdict, VerdictAnswer, from_attributes=True),
        failures=standing.failures,
        replicas={
            name: ReplicaAnswer(url=one.url, sent=one.counts.sent, failed=one.counts.failed, left_out=one.left_out)
            for name, one in standing.replicas.items()
        },
        age_seconds=age_seconds,
    )
