"""What a list of groups or services shows."""

from datetime import UTC, datetime, timedelta

from tokenstorm.api.group_answers import Group, Info, ProgressAnswer
from tokenstorm.api.services import ServiceInfo
from tokenstorm.cli.listing import age, group_row, service_row, shown_of

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def group(number: int, hours: float, *, ended: float | None = None, **info: object) -> Group:
    """One that was created, and ended, so many hours ago."""
    fields = {
        "num_clients": 1,
        "status": "running" if ended is None else "stopped",
        "created_at": NOW - timedelta(hours=hours),
        "ended_at": None if ended is None else NOW - timedelta(hours=ended),
        "load_config": {"name": "nightly"},
        **info,
    }
    return Group(group_id=number, info=Info(**fields))  # type: ignore[arg-type]


def test_the_newest_is_first_and_what_ended_a_day_ago_has_left() -> None:
    found = [group(1, 90), group(2, 30, ended=25), group(3, 30, ended=23), group(4, 1)]
    infos = [one.info for one in found]
    assert shown_of(infos, NOW, everything=False) == [infos[3], infos[2], infos[0]]
    assert shown_of(infos, NOW, everything=True) == [infos[3], infos[1], infos[2], infos[0]]


def test_a_group_is_told_with_name_verdict_and_key_numbers() -> None:
    progress = ProgressAnswer(sent=10, failed=2, achieved_rps=9.876, ttft_p99_seconds=0.25, phase="finished")
    ended = group(1, 2, ended=1, verdict="suspect", outcome="completed", progress=progress)
    assert group_row(ended, NOW) == (1, "nightly", "completed", "suspect", "9.876", "250 ms", 2, "2 h", "")


def test_a_held_group_says_so_and_how_to_release_it() -> None:
    reason = "it holds until `tokenstorm group run 7` releases it"
    held = group(7, 0.01, reason=reason, progress=ProgressAnswer(phase="holding"))
    assert group_row(held, NOW)[2:] == ("running (holding)", None, None, None, None, "36 s", reason)


def test_a_service_is_told_with_its_age() -> None:
    service = ServiceInfo(id="s1", recipe_name="r", status="running", model="m", created_at=NOW - timedelta(minutes=5))
    assert service_row(service, NOW) == ("s1", "running", "0/1", "r", "m", "5 min", "")


def test_ages_have_their_largest_unit() -> None:
    assert [age(NOW - timedelta(seconds=s), NOW) for s in (0, 59, 60, 7300, 200_000)] == [
        "0 s",
        "59 s",
        "1 min",
        "2 h",
        "2 d",
    ]
    assert age(None, NOW) is None
