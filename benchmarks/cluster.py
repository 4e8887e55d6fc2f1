"""Groups on a real Slurm against their bars, on a lab of four nodes that this brings up and ends.

    PYTHONPATH=tests python benchmarks/cluster.py [--rows merge,running,load,queue] [--groups 200] [--seconds 30]
        [--shell here|asyncssh|openssh]

Each row prints what was measured as a share of its bar: at most 1 is within it. `load` is checked, not timed: 1 is that
every scheduled request was sent once, by its request id at the endpoint, and that the summary follows from the lines.
With `--shell` the lab is reached over its sshd.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath
from unittest.mock import Mock

import msgspec

from grouplab import Counting, groups, same
from running import Stage, compile_truthd
from slurmlab import slurm_lab
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.site import Site
from tokenstorm.config.file import load_config
from tokenstorm.loadgen.group import Group
from tokenstorm.loadgen.merge import merge_ranks
from tokenstorm.loadgen.messages import Done, Hello
from tokenstorm.loadgen.ranks import Member, Ranks
from tokenstorm.metrics.counts import Counts
from tokenstorm.metrics.reports import Environment, RankReport
from tokenstorm.metrics.summarize import Run, summarize
from tokenstorm.metrics.tally import METRICS, Tally
from tokenstorm.plan import make_plan
from tokenstorm.runs import RunPaths

RANKS, MERGE_BAR_SECONDS, MERGE_BAR_BYTES = 1000, 1.0, 300e6
RUNNING_BAR_SECONDS = 5.0
CLIENTS, RATE = 1000, 400.0
EACH = 1000
"""Requests of one rank, of which its histograms tell."""


async def merge(_: argparse.Namespace) -> None:
    """In a process of its own, which holds nothing else."""
    process = await asyncio.create_subprocess_exec(sys.executable, __file__, "--merge", stdout=asyncio.subprocess.PIPE)
    out, _stderr = await process.communicate()
    seconds, size = json.loads(out)
    say("merge", f"{seconds / MERGE_BAR_SECONDS:.2f} of the time, {size / MERGE_BAR_BYTES:.2f} of the memory")


def merge_alone() -> None:
    """What a launcher does with the last words of its ranks: decode, merge, sum up, and encode the summary."""
    random.seed(1)
    words = [msgspec.msgpack.encode(_last_words()) for _ in range(RANKS)]
    target = {"replica": "0", "url": "http://127.0.0.1"}
    fields = {"run_id": "0" * 32, "targets": [target], "prompts": {"kind": "list", "prompts": ["-"]}, "seed": 1}
    plan = make_plan({**fields, "num_clients": 10 * RANKS, "requests_per_second": EACH * RANKS / 60, "ranks": RANKS})
    with tempfile.TemporaryDirectory() as folder:
        group = Group(plan)
        ranks = Ranks(plan, RunPaths(Path(folder)), "-", group.add)
        link = Mock(spec=asyncio.StreamWriter)
        began = time.perf_counter()
        for rank, message in enumerate(words):
            hello = Hello(host=f"n{rank}", pid=1, version="-", clock="-")
            member = ranks.members[rank] = Member(rank, hello, link)
            ranks.handle(member, msgspec.msgpack.decode(message, type=Done))
        merged = merge_ranks(plan, ranks, group, plan.window_end_ns)
        run = Run(
            plan=plan,
            outcome="completed",
            window_end=merged.window_end,
            requested_rps=plan.requests_per_second,
            started_at=None,
            ended_at=None,
            ranks=merged.reports,
            waited_below_cap=0,
            unsent_by_lost_ranks=0,
            left_out=[],
            environment=Environment(tokenstorm="-", model=None),
        )
        msgspec.json.encode(summarize(run, merged.tally))
        took = time.perf_counter() - began
    sys.stdout.write(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))


def _last_words() -> Done:
    """A rank with a wide spread of times in every metric."""
    tally = Tally(counts=Counts(scheduled=EACH, sent=EACH, succeeded=EACH))
    for name in METRICS:
        tally.histograms[name].record_many([int(random.lognormvariate(17, 1.5)) for _ in range(EACH)])
    report = RankReport(
        rank=0,
        cpu=0.1,
        cpu_seconds=6.0,
        wall_seconds=60.0,
        gc_pauses=1,
        gc_seconds=0.01,
        peak_memory_bytes=50_000_000,
        start_monotonic_ns=10**15,
        clock_offset_ns=12345,
        clock_round_trip_ns=100_000,
    )
    return Done(tally=tally, window_end=60 * 10**9, report=report)


async def running(options: argparse.Namespace) -> None:
    """From POST to a group that runs, on a lab where nothing else does."""
    stage, folder = options.stage, options.folder / "running"
    engine = stage.simulate()
    folder.mkdir()
    took = []
    async with groups(folder, engine.url, site=await _site(options, folder)) as api:
        for _ in range(5):
            began = time.perf_counter()
            group = await api.create(duration_seconds=1.0)
            await api.until(group, lambda info: info["status"] == "running")
            took.append(time.perf_counter() - began)
            await api.stopped(group)
    say("running", f"{max(took) / RUNNING_BAR_SECONDS:.2f} at worst of {len(took)}")


async def load(options: argparse.Namespace) -> None:
    """One schedule over four nodes: what the endpoint saw, and what the lines say."""
    stage, folder = options.stage, options.folder / "load"
    truth = stage.truth(ttft=20, itl=5)
    folder.mkdir()
    async with groups(folder, truth.url, site=await _site(options, folder)) as api:
        group = await api.create(
            num_clients=CLIENTS, requests_per_second=RATE, duration_seconds=options.seconds, max_tokens=8
        )
        info = await api.until(group, lambda info: info["status"] == "stopped")
        summary, rows = await api.summary(group), await api.rows(group)
        scheduled = int(RATE * options.seconds)
        received = {name: len(times) for name, times in truth.requests().items() if name.startswith(info["run_id"])}
        once = sum(received.get(f"{info['run_id']}-{seq}") == 1 for seq in range(scheduled))
        again = json.loads(stage.command("report", info["run_dir"], "--rebuild", "--json").out)
        other = [part for part in ("counts", "rates", "tokens", "metrics") if not same(again[part], summary[part])]
    for part in other:
        for name in again[part]:
            if not same(again[part][name], summary[part][name]):
                say("load", f"{name}: {again[part][name]} from the lines, {summary[part][name]} told")
    hosts = Counter(report["host"] for report in summary["ranks"])
    say("load", f"{once / scheduled:.4f} of the schedule sent once, {len(received) - once} ids too many")
    say(
        "load",
        f"{len(rows) / scheduled:.4f} of it in the lines; the summary {'DIFFERS in ' + ', '.join(other) if other else 'follows'}",
    )
    say("load", f"{info['outcome']}, {summary['verdict']['state']}; ranks on {dict(hosts)}")
    for reason in summary["verdict"]["reasons"]:
        say("load", f"{reason['code']}: {reason['text']}")


async def queue(options: argparse.Namespace) -> None:
    """Many groups at once, four nodes' worth of them at a time."""
    stage, folder, many = options.stage, options.folder / "queue", options.groups
    engine, shell = stage.simulate(), Counting()
    folder.mkdir()
    site = await _site(options, folder)
    small = {"nodes": 1, "ranks": 1, "num_clients": 1, "requests_per_second": None, "exclusive": True}
    async with groups(folder, engine.url, shell=shell, site=site) as api:
        began = time.perf_counter()
        ids = await asyncio.gather(
            *(api.create(**small, duration_seconds=None, request_count=2, time_limit=30) for _ in range(many))
        )
        submitted = time.perf_counter() - began
        count = dict(Counter(_command(command) for command in shell.commands))
        say("queue", f"{many} groups submitted, {submitted / many:.3f} s each; commands: {count or 'not counted'}")
        outcomes: Counter[str] = Counter()
        for group in ids:
            info = await api.until(group, lambda info: info["status"] == "stopped", seconds=1500)
            outcomes[info["outcome"]] += 1
        took = time.perf_counter() - began
    count = dict(Counter(_command(command) for command in shell.commands))
    polls = sum(number for name, number in count.items() if name in {"scontrol", "squeue --me"})
    say(
        "queue",
        f"{outcomes['completed'] / many:.3f} of them completed in {took:.0f} s; commands: {count or 'not counted'}",
    )
    if count:
        say("queue", f"{polls / took:.2f} questions for states a second, {polls / many:.2f} for each group")


async def _site(options: argparse.Namespace, folder: Path) -> Site | None:
    """The lab over SSH; None for the commands of this machine."""
    if options.shell == "here":
        return None
    known = load_config({"TOKENSTORM_CONFIG": str(options.conf.parent / "config.toml")}).profile("lab")
    ssh = known.ssh.model_copy(update={"shell": options.shell})
    return await open_site(known.model_copy(update={"ssh": ssh, "base_path": PurePosixPath(folder / "cluster")}))


def _command(command: str) -> str:
    """Which of Slurm's commands it is."""
    words = command.split()
    name = next((word for word in words if word in {"sbatch", "squeue", "scontrol", "sacct", "scancel"}), words[0])
    return f"{name} --name" if any(word.startswith("--name") for word in words) else name


def say(row: str, text: str) -> None:
    """One line of the answer."""
    sys.stdout.write(f"{row:8} {text}\n")
    sys.stdout.flush()


ROWS: dict[str, Callable[[argparse.Namespace], Awaitable[None]]] = {
    "merge": merge,
    "running": running,
    "load": load,
    "queue": queue,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--groups", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--shell", choices=["here", "asyncssh", "openssh"], default="here")
    parser.add_argument("--merge", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.merge:
        merge_alone()
        return
    with tempfile.TemporaryDirectory(prefix="tokenstorm-bench.") as scratch, slurm_lab(Path(scratch) / "lab") as conf:
        os.environ["SLURM_CONF"] = str(conf)
        options.folder, options.conf = Path(scratch), conf
        options.stage = Stage(options.folder, lambda: compile_truthd(options.folder))
        try:
            for row in options.rows.split(","):
                asyncio.run(_bounded(ROWS[row](options)))
        finally:
            options.stage.close()


async def _bounded(work: Awaitable[None]) -> None:
    async with asyncio.timeout(1800):
        await work


if __name__ == "__main__":
    main()
