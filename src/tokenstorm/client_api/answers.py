"""A group as the Client API shows it."""

from typing import Any

from msgspec.structs import asdict

from tokenstorm.api.group_answers import GroupAnswer, Info, ProgressAnswer
from tokenstorm.client_api.book import Live
from tokenstorm.client_api.group import ClientGroup


def answer_of(group: ClientGroup, request: dict[str, Any], live: Live | None, run_dir: str) -> GroupAnswer[str]:
    """A group as the API shows it."""
    progress = group.progress if live is None else live.progress
    age = None if live is None or live.age_seconds < 1 else round(live.age_seconds, 1)
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
        progress=None if progress is None else ProgressAnswer(**asdict(progress), age_seconds=age),
        load_config=request,
        run_id=group.run_id,
        run_dir=run_dir,
        observers=group.observers,
    )
    return GroupAnswer(group_id=group.group_id, info=info)
