"""Ranks on nodes whose clocks have nothing in common start together, as the endpoint sees it."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grouplab import cancel_everything, groups
from running import Stage, Truth
from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.slurm import Slurm
from waiting import finish

SLOW = Path(__file__).parents[1] / "slowlink.py"
NAMESPACES = subprocess.run(["unshare", "-T", "--fork", "true"], check=False, capture_output=True).returncode == 0
TOGETHER_NS = 5_000_000
RANK = """\
#!/usr/bin/env bash
# A node of its own: its monotonic clock is days off the others', and the launcher is some milliseconds away.
days=(0 3 17 400)
far=({far})
exec {python} {slow} "$TOKENSTORM_LAUNCHER" ${{far[$SLURM_PROCID]}} \\
    unshare -T --fork --kill-child --monotonic $((days[SLURM_PROCID] * 86400 + SLURM_PROCID)) "$@"
"""


@pytest.fixture
def calm(slurm: Path) -> Iterator[None]:
    yield
    cancel_everything(slurm)


@pytest.mark.usefixtures("calm")
@pytest.mark.skipif(not NAMESPACES, reason="time namespaces want root (or a kernel that has them)")
@pytest.mark.parametrize("far", ['"0 0" "0 1" "0 2" "0 3"', '"0 1" "20 22" "40 45" "100 110"'], ids=["near", "far"])
def test_ranks_whose_clocks_differ_start_together(tmp_path: Path, stage: Stage, far: str) -> None:
    truth = stage.truth()
    script = tmp_path / "rank.sh"
    script.write_text(RANK.format(python=shlex.quote(sys.executable), slow=shlex.quote(str(SLOW)), far=far))
    script.chmod(0o755)

    class Nodes(Slurm):
        def fan_out(self, job: Job) -> tuple[str, ...]:
            return (*super().fan_out(job), str(script))

    async def work() -> None:
        async with groups(tmp_path, truth.url, jobs=Nodes) as api:
            group = await api.create(requests_per_second=80.0, duration_seconds=4.0)
            info = await api.stopped(group)
            assert info["outcome"] == "completed"
            clocks = (await api.summary(group))["clock"]
            apart = sorted(round(-clock["offset"] / 86400e9) for clock in clocks.values())
            assert apart == [0, 3, 17, 400]
            spread = starts_apart(truth, info["run_id"], await api.rows(group))
            print(f"at the endpoint the ranks are {spread / TOGETHER_NS:.2f} of the bar apart")
            assert spread < TOGETHER_NS

    finish(work(), 180)


def starts_apart(truth: Truth, run_id: str, rows: list[dict[str, Any]]) -> int:
    """By how many nanoseconds the ranks' common starts differ at most, on the endpoint's own clock."""
    received = {name: times[0]["received"] for name, times in truth.requests().items()}
    starts: dict[int, int] = {}
    for row in rows:
        start = received[f"{run_id}-{row['seq']}"] - row["scheduled"]
        starts[row["rank"]] = min(start, starts.get(row["rank"], start))
    assert len(starts) == 4
    return max(starts.values()) - min(starts.values())
