"""What goes wrong, with real processes: services that fail, signals, killed processes, full disks. Nothing is lost."""

import asyncio
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest

import plans
from held import Service
from running import TIMEOUT, Run, Stage, Truth, alive, fetch, free_port, rank_pids, running_second, wait_for
from tokenstorm.loadgen import launcher
from tokenstorm.runs import RunPaths

BENCH = (sys.executable, "-m", "tokenstorm", "bench")
STEADY = ("--requests-per-second", "20", "--max-tokens", "4", "--drain", "10")


def in_order(run: Run) -> None:
    """The sums that hold for every run."""
    counts = run.summary["counts"]
    assert counts["scheduled"] == counts["sent"] + counts["unsent"]
    assert counts["sent"] == counts["succeeded"] + counts["failed"] + counts["censored"]
    assert sum(counts["failed_by_kind"].values()) == counts["failed"]


def rebuilt_counts(stage: Stage, run: Run) -> dict[str, object]:
    ended = stage.command("report", str(run.root), "--rebuild", "--json")
    assert ended.err == ""
    counts: dict[str, object] = json.loads(ended.out)["counts"]
    return counts


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("--error-500", "http_500"),
        ("--error-429", "http_429"),
        ("--reset", "reset"),
        ("--malformed", "malformed"),
    ],
)
def test_failures_are_counted_by_kind_and_held_against_the_run(stage: Stage, fault: str, kind: str) -> None:
    run = stage.bench(stage.simulate(fault, "0.3", "--seed", "3").url, *STEADY, "--duration", "1.5")
    counts = run.summary["counts"]
    assert counts["failed_by_kind"] == {kind: counts["failed"]}
    assert 0 < counts["failed"] < counts["sent"] == 30
    assert run.summary["verdict"]["state"] == "invalid"
    assert "failures" in run.reasons
    assert run.summary["metrics"]["latency_seconds"]["count"] == counts["succeeded"]
    assert run.summary["metrics"]["send_lag_seconds"]["count"] == counts["sent"]
    failed = [line for line in run.lines() if line["error"]]
    assert all(line["error"]["detail"] for line in failed)
    in_order(run)


def test_the_engines_own_words_stand_in_the_result_line(stage: Stage) -> None:
    run = stage.bench(stage.truth(err500=0.4).url, *STEADY, "--duration", "1")
    failed = [line for line in run.lines() if line["error"]]
    assert {(line["http_status"], line["error"]["kind"], line["error"]["detail"]) for line in failed} == {
        (500, "http_500", "injected")
    }


def test_a_request_that_takes_too_long_is_a_timeout_and_frees_its_client(stage: Stage) -> None:
    truth = stage.truth(ttft=1, stall=0.4)
    run = stage.bench(
        truth.url,
        *("--requests-per-second", "10", "--num-clients", "50", "--duration", "1.5", "--max-tokens", "4"),
        *("--timeout", "0.5"),
    )
    counts = run.summary["counts"]
    assert counts["failed_by_kind"] == {"timeout": counts["failed"]}
    assert counts["failed"] > 0
    assert counts["censored"] == 0
    for line in run.lines():
        if line["error"]:
            assert line["done"] - line["sent"] >= 500_000_000
    in_order(run)


def test_no_stalled_stream_holds_a_run_beyond_its_drain(stage: Stage) -> None:
    url = stage.simulate("--stall", "0.5").url
    run = stage.bench(url, "--requests-per-second", "20", "--max-tokens", "4", "--duration", "1", "--drain", "0.5")
    counts = run.summary["counts"]
    assert counts["censored"] > 0
    assert counts["failed"] == 0
    assert run.summary["outcome"] == "completed"
    assert counts["censored"] == sum(x["error"] is not None and x["error"]["kind"] == "censored" for x in run.lines())
    assert run.summary["metrics"]["latency_seconds"]["lower_bound"]["p99"] is True
    in_order(run)
    assert rebuilt_counts(stage, run) == counts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_the_run_and_keeps_everything(stage: Stage, number: signal.Signals) -> None:
    process, run = stage.starting(stage.truth(ttft=100).url, *STEADY, "--duration", "60", "--ranks", "2")
    running_second(run, process)
    process.send_signal(number)
    ended = stage.ended(process)
    assert (ended.code, ended.err) == (0 if run.summary["verdict"]["state"] != "invalid" else 3, "")
    assert "cancelled before its planned end" in ended.out
    summary = run.summary
    assert summary["outcome"] == "cancelled"
    counts = summary["counts"]
    assert counts["succeeded"] == counts["scheduled"] == len(run.lines()) > 0
    end = summary["windows"]["measured_end"]
    assert 1 <= end < 30
    assert [(line["phase"], line["target_rps"]) for line in run.timeline()] == [
        ("measured", 20) if line["t"] < end else ("draining", 0) for line in run.timeline()
    ]
    assert summary["rates"]["achieved_rps"] == pytest.approx(20, rel=0.3)
    assert set(run.reasons) <= {"send_lag", "read_lag", "rank_cpu", "coalesced", "disk", "stalled"}
    in_order(run)
    assert rebuilt_counts(stage, run) == counts


def test_a_signal_to_every_process_in_the_drain_takes_nothing_from_a_run_that_is_whole(stage: Stage) -> None:
    """As Slurm does at the end of a job's time."""
    truth = stage.truth(ttft=3000)
    process, run = stage.starting(truth.url, *STEADY, "--duration", "1", "--ranks", "2", "--num-clients", "40")
    wait_for(lambda: run.timeline() and run.timeline()[-1]["phase"] == "draining", "the run never drained")
    os.killpg(process.pid, signal.SIGTERM)
    ended = stage.ended(process)
    assert (ended.code, ended.err) == (0, "")
    assert run.summary["outcome"] == "completed"
    assert run.summary["counts"]["succeeded"] == 20
    assert not set(run.reasons) & {"ranks_lost", "not_sent", "censored"}


def test_a_signal_in_the_warm_up_leaves_an_empty_measured_window(stage: Stage) -> None:
    process, run = stage.starting(stage.truth().url, *STEADY, "--warmup", "30", "--duration", "1")
    running_second(run, process)
    process.send_signal(signal.SIGINT)
    assert stage.ended(process).code == 3
    assert run.summary["counts"]["scheduled"] == 0
    assert run.summary["windows"]["warmup"]["succeeded"] == len(run.lines()) > 0
    assert run.summary["windows"]["measured_end"] == run.summary["windows"]["measured_start"] == 30.0
    assert run.summary["rates"]["achieved_rps"] == 0


def test_a_second_signal_ends_the_run_at_once_and_finished_requests_are_kept(stage: Stage) -> None:
    truth = stage.truth(stall=0.3)
    options = ("--requests-per-second", "20", "--max-tokens", "4", "--num-clients", "500", "--timeout", "600")
    process, run = stage.starting(truth.url, *options, "--duration", "600", "--drain", "600")
    running_second(run, process)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: run.timeline()[-1]["phase"] == "draining", "the run never drained")
    process.send_signal(signal.SIGINT)
    assert stage.ended(process).err == ""
    counts = run.summary["counts"]
    assert run.summary["outcome"] == "cancelled"
    assert counts["succeeded"] > 0
    assert counts["censored"] > 0
    assert counts["scheduled"] == len(run.lines())
    assert {line["error"]["detail"] for line in run.lines() if line["error"]} == {"aborted"}
    in_order(run)
    assert rebuilt_counts(stage, run) == counts


def test_a_signal_before_the_start_ends_the_command_at_once(stage: Stage) -> None:
    """The engine takes the first request and never answers it."""
    process, run = stage.starting(stage.truth(stall=1).url, *STEADY, "--timeout", "600")
    wait_for((run.root / "address.json").exists, "the launcher never came up")
    pids = wait_for(lambda: rank_pids(process.pid), "no rank was started")
    process.send_signal(signal.SIGTERM)
    ended = stage.ended(process)
    assert (ended.code, ended.err) == (1, "tokenstorm: stopped before the start\n")
    assert not any(alive(pid) for pid in pids)
    status = run.json("status.json")
    assert (status["phase"], status["reason"]) == ("failed", "stopped before the start")
    assert "Traceback" not in run.stderr


def test_a_killed_rank_is_named_and_what_it_had_finished_is_counted(stage: Stage) -> None:
    process, run = stage.starting(stage.truth().url, *STEADY, "--duration", "3", "--ranks", "2", "--num-clients", "40")
    running_second(run, process)
    victim = rank_pids(process.pid)[1]
    os.kill(victim, signal.SIGKILL)
    ended = stage.ended(process)
    assert (ended.code, ended.err) == (3, "")
    summary, counts = run.summary, run.summary["counts"]
    (lost,) = (rank for rank in summary["ranks"] if rank["lost"])
    assert lost["pid"] == victim
    assert "ranks_lost" in run.reasons
    assert "not_sent" in run.reasons
    assert counts["scheduled"] == 60
    assert counts["succeeded"] == len(run.lines()) < 60
    assert sum(line["rank"] == lost["rank"] for line in run.lines()) >= 10
    assert counts["unsent"] + counts["censored"] == 60 - len(run.lines())
    assert counts["unsent"] > counts["censored"]  # what it had said it sent was in flight; the rest never left
    in_order(run)
    assert rebuilt_counts(stage, run) == counts


def test_a_rank_that_somebody_else_terminates_is_lost_too(stage: Stage) -> None:
    """It drains and keeps its lines, but the load that it should have sent is missing, and the verdict says so."""
    process, run = stage.starting(stage.truth().url, *STEADY, "--duration", "4", "--ranks", "2")
    running_second(run, process)
    os.kill(rank_pids(process.pid)[0], signal.SIGTERM)
    assert stage.ended(process).code == 3
    counts = run.summary["counts"]
    assert "ranks_lost" in run.reasons
    assert counts["scheduled"] == 80
    assert counts["unsent"] > 0
    assert run.stderr == ""
    in_order(run)


FAR_TOO_MUCH = (
    "--num-clients",
    "2",
    "--requests-per-second",
    "3000000",
    "--arrival",
    "poisson",
    "--duration",
    "1",
    "--drain",
    "0",
    "--ranks",
    "1",
)


def test_a_rank_that_records_far_more_than_it_could_send_is_waited_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        launcher, "END_SLACK_SECONDS", 1.0
    )  # less than so many draws take, so that they need not be more
    run = Run(stage.folder / "run")
    load = plans.plan(
        targets=[{"replica": "0", "url": stage.truth().url}],
        num_clients=2,
        requests_per_second=3_000_000.0,
        arrival={"kind": "poisson"},
        duration_seconds=1.0,
        drain_seconds=0.0,
    )
    summary = asyncio.run(launcher.Launcher(load, RunPaths(run.root)).run())
    assert run.stderr == ""
    assert [rank.lost for rank in summary.ranks] == [None]
    assert summary.counts.scheduled == summary.counts.sent + summary.counts.unsent
    assert summary.counts.scheduled == pytest.approx(3_000_000, rel=0.01)


def test_a_rank_whose_launcher_is_killed_while_it_records_ends_without_a_traceback(stage: Stage) -> None:
    process, run = stage.starting(stage.truth().url, *FAR_TOO_MUCH)
    wait_for(lambda: any(second["unsent"] for second in run.timeline()), "nothing was unsent")
    (pid,) = rank_pids(process.pid)
    process.kill()
    stage.ended(process)
    wait_for(lambda: not alive(pid), "a rank outlived its launcher")
    assert run.stderr == ""


def test_a_killed_launcher_leaves_no_rank_behind_and_a_run_that_can_be_reported(stage: Stage) -> None:
    truth = stage.truth()
    process, run = stage.starting(truth.url, *STEADY, "--duration", "60", "--ranks", "2")
    running_second(run, process, 2)
    pids = rank_pids(process.pid)
    assert len(pids) == 2
    process.kill()
    stage.ended(process)
    wait_for(lambda: not any(alive(pid) for pid in pids), "a rank outlived its launcher")
    assert "Traceback" not in run.stderr
    ended = stage.command("report", str(run.root), "--json")
    assert ended.err == ""
    summary = json.loads(ended.out)
    counts = summary["counts"]
    assert summary["outcome"] == "cut off"
    assert counts["scheduled"] == len(run.lines()) > 20
    assert summary["rates"]["achieved_rps"] == pytest.approx(20, rel=0.3)
    assert summary["metrics"]["inter_chunk_seconds"]["count"] > 0
    text = stage.command("report", str(run.root)).out
    assert "the run was cut off before its planned end" in text
    # and a second start of the same job replaces it
    fresh = stage.truth()
    plan = json.loads((run.root / "plan.json").read_bytes())
    targets = [{"replica": "0", "url": fresh.url}]
    (run.root / "plan.json").write_text(json.dumps({**plan, "targets": targets, "duration_seconds": 1}))
    assert stage.ended(stage.loadgen(run.root / "plan.json")).code in {0, 3}
    assert run.summary["counts"]["scheduled"] == 20
    assert [line["t"] for line in run.timeline()] == list(range(len(run.timeline())))
    assert rebuilt_counts(stage, run) == run.summary["counts"]


def test_a_run_that_was_killed_as_a_whole_owns_up_to_what_was_in_flight(stage: Stage) -> None:
    truth = stage.truth(ttft=1000)
    process, run = stage.starting(
        truth.url, *STEADY, "--duration", "60", "--ranks", "2", "--num-clients", "60", "--drain", "60"
    )
    running_second(run, process, 3)
    os.killpg(process.pid, signal.SIGKILL)
    stage.ended(process)
    summary = json.loads(stage.command("report", str(run.root), "--json").out)
    counts = summary["counts"]
    seconds = summary["windows"]["measured_end"]
    assert seconds >= 3
    assert counts["scheduled"] == math.ceil(seconds * 20) > len(run.lines())
    assert counts["censored"] == counts["scheduled"] - len(run.lines())
    assert summary["metrics"]["latency_seconds"]["lower_bound"]["p99"] is True
    assert summary["verdict"]["state"] != "valid"
    assert {"cut_off", "censored"} <= {reason["code"] for reason in summary["verdict"]["reasons"]}
    # a rank without a file was there too
    next(run.root.glob("results.1.*")).unlink()
    without = json.loads(stage.command("report", str(run.root), "--json").out)
    end = without["windows"]["measured_end"]  # told by what is left, which may have ended a moment earlier
    assert 3 <= end <= seconds
    assert without["counts"]["scheduled"] == math.ceil(end * 20)
    assert "ranks_lost" in {reason["code"] for reason in without["verdict"]["reasons"]}


def test_a_run_that_was_stopped_and_then_killed_ends_where_it_was_stopped(stage: Stage) -> None:
    truth = stage.truth(itl=20_000)  # not the first token, which is waited for before the start
    process, run = stage.starting(truth.url, *STEADY, "--duration", "60", "--num-clients", "200", "--drain", "60")
    running_second(run, process, 2)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: run.json("status.json")["phase"] == "draining", "status.json never said that the run drains")
    os.killpg(process.pid, signal.SIGKILL)
    stage.ended(process)
    summary = json.loads(stage.command("report", str(run.root), "--json").out)
    end = run.json("status.json")["window_end_seconds"]
    assert summary["windows"]["measured_end"] == pytest.approx(end)
    assert summary["counts"]["scheduled"] == math.ceil(end * 20)


def test_a_rank_that_was_gone_before_the_run_was_cut_off_is_lost(stage: Stage) -> None:
    process, run = stage.starting(stage.truth().url, *STEADY, "--duration", "60", "--ranks", "2")
    running_second(run, process, 2)
    os.kill(rank_pids(process.pid)[1], signal.SIGKILL)
    gone = len(run.timeline())
    running_second(run, process, gone + 5)
    os.killpg(process.pid, signal.SIGKILL)
    stage.ended(process)
    summary = json.loads(stage.command("report", str(run.root), "--json").out)
    codes = {reason["code"] for reason in summary["verdict"]["reasons"]}
    assert {"ranks_lost", "not_sent", "cut_off"} <= codes
    assert summary["counts"]["unsent"] >= 30
    assert summary["counts"]["censored"] <= 20


def test_no_second_is_written_twice_when_another_file_cannot_be_written(stage: Stage) -> None:
    process, run = stage.starting(stage.truth().url, *STEADY, "--duration", "4")
    running_second(run, process)
    (run.root / "status.json").unlink()
    (run.root / "status.json").mkdir()
    running_second(run, process, 3)
    (run.root / "status.json").rmdir()
    assert stage.ended(process).err == ""
    seconds = [line["t"] for line in run.timeline()]
    assert seconds == list(range(len(seconds)))


def test_a_run_directory_that_misbehaves_for_a_while_costs_no_summary(stage: Stage) -> None:
    """A folder stands where the control file is looked for: reading it fails each second."""
    process, run = stage.starting(stage.truth().url, *STEADY, "--duration", "2")
    wait_for((run.root / "address.json").exists, "the launcher never came up")
    (run.root / "control").mkdir()
    ended = stage.ended(process)
    assert (ended.code, ended.err) == (0, "")
    assert any("could not be written" in note for note in run.summary["environment"]["notes"])
    assert run.summary["counts"]["succeeded"] == 40


def test_an_endpoint_that_dies_midway_fails_requests_and_not_the_run(stage: Stage) -> None:
    engine = stage.simulate()
    process, run = stage.starting(engine.url, *STEADY, "--duration", "3")
    running_second(run, process)
    engine.process.kill()
    ended = stage.ended(process)
    assert (ended.code, ended.err) == (3, "")
    counts = run.summary["counts"]
    assert counts["scheduled"] == 60
    assert counts["succeeded"] > 0
    assert counts["failed_by_kind"]["refused"] > 10
    assert counts["failed"] + counts["succeeded"] == 60
    assert "failures" in run.reasons
    in_order(run)
    assert rebuilt_counts(stage, run) == counts


def test_a_generator_that_was_stopped_for_a_second_accuses_itself(stage: Stage) -> None:
    process, run = stage.starting(stage.truth().url, *STEADY, "--duration", "4", "--num-clients", "60")
    running_second(run, process)
    (rank,) = rank_pids(process.pid)
    os.kill(rank, signal.SIGSTOP)
    behind = len(run.timeline()) + 1
    wait_for(lambda: len(run.timeline()) > behind, "the launcher stopped as well")
    os.kill(rank, signal.SIGCONT)
    assert stage.ended(process).code == 3
    assert "send_lag" in run.reasons
    assert "client_cap" not in run.reasons
    assert run.summary["verdict"]["state"] == "invalid"
    assert run.summary["metrics"]["send_lag_seconds"]["max"] > 0.5
    assert run.summary["client"]["loop_lag_max_seconds"] > 0.5
    assert run.summary["counts"]["succeeded"] == 80
    seconds = run.timeline()
    assert [line["t"] for line in seconds] == list(range(len(seconds)))
    assert sum(line["sent"] for line in seconds) == 80


@pytest.mark.parametrize("load", [(), ("--requests-per-second", "60")], ids=["closed loop", "few clients"])
def test_a_generator_that_stands_still_accuses_itself_where_no_request_could_leave(
    stage: Stage, load: tuple[str, ...]
) -> None:
    """Answers that it reads late free its clients late: the send lag cannot tell."""
    process, run = stage.starting(
        stage.truth(ttft=20, itl=5).url, *load, "--num-clients", "4", "--max-tokens", "4", "--duration", "4"
    )
    running_second(run, process)
    (rank,) = rank_pids(process.pid)
    os.kill(rank, signal.SIGSTOP)
    time.sleep(1)
    os.kill(rank, signal.SIGCONT)
    assert stage.ended(process).code == 3
    assert run.summary["verdict"]["state"] == "invalid"
    assert "stalled" in run.reasons
    assert rebuilt_counts(stage, run) == run.summary["counts"]


def test_ranks_that_have_nothing_to_send_are_no_fault(stage: Stage) -> None:
    run = stage.bench(
        stage.truth().url, "--ranks", "4", "--num-clients", "4", "--requests-per-second", "10", "--request-count", "2"
    )
    assert run.summary["counts"]["succeeded"] == 2
    assert "rank_cpu" not in run.reasons


def test_one_rank_of_eight_that_dies_before_the_start_does_not_end_the_group(stage: Stage) -> None:
    options = ("--ranks", "8", "--num-clients", "16", "--duration", "2")
    process, run = stage.starting(stage.truth().url, *STEADY, *options)
    wait_for(lambda: len(rank_pids(process.pid)) == 8, "eight ranks were never started")
    os.kill(rank_pids(process.pid)[3], signal.SIGKILL)
    assert stage.ended(process).err == ""
    assert "1 of 8 ranks were lost" in run.reasons["ranks_lost"]
    assert run.summary["counts"]["succeeded"] >= 30


def test_a_rank_that_is_starved_of_its_core_accuses_itself(stage: Stage) -> None:
    """It runs 5 of every 25 ms, as under a quota of a container."""
    load = ("--requests-per-second", "100", "--num-clients", "200", "--max-tokens", "4", "--ranks", "1")
    process, run = stage.starting(stage.truth().url, *load, "--duration", "4", "--drain", "10")
    running_second(run, process)
    (rank,) = rank_pids(process.pid)
    for _ in range(40):
        os.kill(rank, signal.SIGSTOP)
        time.sleep(0.02)
        os.kill(rank, signal.SIGCONT)
        time.sleep(0.005)
    assert stage.ended(process).err == ""
    assert run.summary["verdict"]["state"] != "valid"
    assert "send_lag" in run.reasons
    assert "client_cap" not in run.reasons
    assert run.summary["counts"]["failed"] == 0


@pytest.mark.parametrize("word", ["stop", "abort"])
def test_a_control_file_ends_the_run(stage: Stage, word: str) -> None:
    process, run = stage.starting(stage.truth().url, *STEADY, "--duration", "60")
    running_second(run, process)
    (run.root / "control").write_text(f"{word}\n")
    assert stage.ended(process).err == ""
    assert run.summary["outcome"] == "cancelled"
    assert run.summary["windows"]["measured_end"] < 30
    assert run.summary["rates"]["achieved_rps"] == pytest.approx(20, rel=0.3)
    assert not (run.root / "control").exists()


def manual(stage: Stage, hold: float, truth: Truth | None = None) -> tuple[Run, str]:
    run = Run(stage.folder / "held")
    targets = [{"replica": "0", "url": (truth or stage.truth()).url}]
    stage.plan_file(run, targets=targets, start="manual", hold_seconds=hold)
    (run.root / "secrets.json").write_text('{"launcher": "the-launchers-secret"}')
    return run, "the-launchers-secret"


def phase_is(run: Run, process: subprocess.Popen[str], phase: str) -> bool:
    assert process.poll() is None, process.communicate()
    path = run.root / "status.json"
    return path.exists() and bool(run.json("status.json")["phase"] == phase)


@pytest.mark.parametrize("way", ["port", "file"])
def test_a_group_that_starts_by_hand_waits_to_be_released(stage: Stage, way: str) -> None:
    run, secret = manual(stage, 600)
    process = stage.loadgen(run.root / "plan.json")
    wait_for(lambda: phase_is(run, process, "holding"), "status.json never said that the group holds")
    if way == "port":
        url = run.json("address.json")["url"]
        assert fetch(f"{url}/control", secret=secret, body=b"run")[0] == 202
    else:
        (run.root / "control").write_text("run")
    ended = stage.ended(process)
    assert (ended.code, ended.err) == (0, "")
    assert run.summary["counts"]["succeeded"] == 20


def test_a_group_starts_at_the_time_it_is_told_and_not_before(stage: Stage) -> None:
    truth = stage.truth()
    run, secret = manual(stage, 600, truth)
    process = stage.loadgen(run.root / "plan.json")
    wait_for(lambda: phase_is(run, process, "holding"), "status.json never said that the group holds")
    url = run.json("address.json")["url"]
    assert fetch(f"{url}/control", secret=secret, body=f"run {time.time() + 1e6}".encode())[0] == 422
    clock = time.time_ns() - time.monotonic_ns()
    at = time.time() + 2.5
    assert fetch(f"{url}/control", secret=secret, body=f"run {at}".encode())[0] == 202
    assert stage.ended(process).code in {0, 3}
    first = min(request["received"] for asked in truth.requests().values() for request in asked)
    assert (first + clock) / 1e9 >= at - 0.001
    assert run.summary["counts"]["scheduled"] == run.summary["counts"]["succeeded"]


def test_a_stop_that_is_said_twice_drains_as_well(stage: Stage) -> None:
    """Whoever did not get the answer, since the way was cut, says it again."""
    run, secret = manual(stage, 600, stage.truth(ttft=1500))
    process = stage.loadgen(run.root / "plan.json")
    wait_for(lambda: phase_is(run, process, "holding"), "status.json never said that the group holds")
    url = run.json("address.json")["url"]
    assert fetch(f"{url}/control", secret=secret, body=b"run")[0] == 202
    wait_for(lambda: json.loads(fetch(f"{url}/status", secret=secret)[1])["in_flight"], "nothing was ever sent")
    for _ in range(2):
        assert fetch(f"{url}/control", secret=secret, body=b"stop")[0] == 202
    assert stage.ended(process).err == ""
    counts = run.summary["counts"]
    assert counts["succeeded"] == counts["sent"] > 0


def test_a_rank_that_never_comes_does_not_end_a_group_that_one_command_starts(stage: Stage) -> None:
    """As srun does: it lives as long as any of the ranks, so that nobody sees one of them die."""
    run = Run(stage.folder / "run")
    launch = ["sh", "-c", 'for _ in 1 2 3 4 5 6 7; do "$@" & done; wait', "sh"]
    targets = [{"replica": "0", "url": stage.truth().url}]
    plan = stage.plan_file(
        run, targets=targets, launch=launch, ranks=8, num_clients=16, barrier_seconds=5, duration_seconds=2
    )
    ended = stage.ended(stage.loadgen(plan))
    assert ended.err == ""
    assert "1 of 8 ranks were lost" in run.reasons["ranks_lost"]
    assert run.summary["counts"]["succeeded"] >= 30


def test_a_rank_that_dies_while_the_group_is_held_ends_it_at_once(stage: Stage) -> None:
    run, _ = manual(stage, 600)
    process = stage.loadgen(run.root / "plan.json")
    wait_for(lambda: phase_is(run, process, "holding"), "status.json never said that the group holds")
    os.kill(rank_pids(process.pid)[0], signal.SIGKILL)
    ended = stage.ended(process)
    assert ended.code == 1
    assert "was lost before the start" in ended.err


def test_a_group_that_nobody_releases_gives_up(stage: Stage) -> None:
    run, _ = manual(stage, 0.2)
    ended = stage.ended(stage.loadgen(run.root / "plan.json"))
    assert ended.code == 1
    assert ended.err == "tokenstorm: nobody released the group in the 0.2 s of hold_seconds\n"
    assert run.json("status.json")["phase"] == "failed"


def test_a_full_disk_is_one_clear_message(stage: Stage) -> None:
    """A limit on the size of files stands for the disk that is full: the summary does not fit any more."""
    run = Run(stage.folder / "run")
    process = stage.popen(
        [
            sys.executable,
            "-m",
            "tokenstorm",
            "bench",
            stage.truth().url,
            *STEADY,
            "--duration",
            "2",
            "--run-dir",
            "run",
        ],
        cwd=stage.folder,
        stdout=-1,
        stderr=-1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)),
    )
    ended = stage.ended(process)
    assert ended.code == 1
    assert ended.err.startswith("tokenstorm: cannot write to ")
    assert "tokenstorm report" in ended.err
    assert ended.err.count("\n") == 1
    assert "requests   40 scheduled" in ended.out  # nobody has to wait for room to see the numbers
    assert run.stderr == ""
    report = stage.command("report", str(run.root), "--json")
    assert report.err == ""
    assert 0 < json.loads(report.out)["counts"]["succeeded"] == len(run.lines())


def test_a_service_that_refuses_connections_ends_the_command_soon_and_leaves_no_process(stage: Stage) -> None:
    process, run = stage.starting(f"http://127.0.0.1:{free_port()}", *STEADY)
    ended = stage.ended(process)
    assert ended.code == 1
    assert "refused" in ended.err
    assert ended.err.count("\n") == 1
    assert "Traceback" not in run.stderr
    assert run.json("status.json")["phase"] == "failed"
    assert process.wait(TIMEOUT) == 1


def test_a_plan_whose_lines_cannot_fit_on_the_disk_is_refused_before_anything_starts(stage: Stage) -> None:
    """20,000 a second for 30 years are 19 million million lines."""
    run = Run(stage.folder / "run")
    options = ("--requests-per-second", "20000", "--duration", "946000000", "--ranks", "1", "--run-dir", str(run.root))
    ended = stage.command("bench", f"http://127.0.0.1:{free_port()}", *options)
    assert ended.code == 1
    assert re.fullmatch(
        rf"tokenstorm: the result lines of this plan take about [\d.]+e?\+?\d* TB and {run.root} has [\d.]+ .?B of room: .*\n",
        ended.err,
    )
    assert not (run.root / "plan.json").exists()


def test_clients_are_shared_out_over_more_ranks_where_one_may_not_open_so_many_files(stage: Stage) -> None:
    """Of 100 open files 36 are left for clients."""
    run = Run(stage.folder / "run")
    process = stage.popen(
        [*BENCH, stage.truth().url, *STEADY, "--num-clients", "80", "--duration", "1", "--run-dir", str(run.root)],
        stdout=-1,
        stderr=-1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)),
    )
    ended = stage.ended(process)
    assert ended.err == ""
    assert len(run.summary["ranks"]) == 3
    assert run.summary["counts"]["succeeded"] == 20


def test_a_rank_closes_idle_connections_of_one_replica_before_it_has_too_many_for_another(stage: Stage) -> None:
    """Two replicas pause in turn, so that every client comes to need a connection to each; 96 of 160 open files are for that."""
    one, other = Service(answers=True), Service(answers=True)
    run = Run(stage.folder / "run")
    load = ("--model", "m", "--no-stream", "--num-clients", "95", "--think-time", "0.02", "--duration", "60")
    process = stage.popen(
        [*BENCH, one.url, other.url, *load, "--run-dir", str(run.root)],
        stdout=-1,
        stderr=-1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160)),
    )
    try:
        running_second(run, process)
        for paused in (one, other, one, other):
            paused.answers = False
            wait_for(lambda: paused.asked == 95 or None, "every client waits for one replica", 20)  # noqa: B023 - called at once
            paused.answers = True
            paused.release()
        process.terminate()
        ended = stage.ended(process)
    finally:
        one.close()
        other.close()
    assert ended.err == ""
    assert len(run.summary["ranks"]) == 1
    assert run.summary["counts"]["failed_by_kind"] == {}


def test_a_limit_of_open_files_that_no_number_of_ranks_can_keep_is_told_before_the_run(stage: Stage) -> None:
    process = stage.popen(
        [*BENCH, f"http://127.0.0.1:{free_port()}", "--num-clients", "800"],
        stdout=-1,
        stderr=-1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80)),
    )
    ended = stage.ended(process)
    assert ended.code == 2
    assert "800 clients are too many for any number of ranks" in ended.err
    assert "`ulimit -n`" in ended.err


def test_a_rate_that_cannot_be_sent_takes_little_of_the_disk_and_every_arrival_is_accounted_for(stage: Stage) -> None:
    load = ("--requests-per-second", "1000000", "--duration", "1.5", "--num-clients", "10", "--ranks", "2")
    run = stage.bench(stage.truth(ttft=50).url, *load, "--max-tokens", "4", "--drain", "5")
    counts = run.summary["counts"]
    assert counts["scheduled"] == 1_500_000
    in_order(run)
    assert sum(path.stat().st_size for path in run.root.glob("results.*")) < 3_000_000
    stretches = [line["stretch"] for line in run.lines() if line["stretch"]]
    assert len(run.lines()) - len(stretches) + sum(one["count"] for one in stretches) == 1_500_000
    assert sum(line["scheduled"] for line in run.timeline()) == 1_500_000
    assert sum(line["unsent"] for line in run.timeline()) == counts["unsent"]
    if (
        run.summary["client"]["loop_lag_max_seconds"] < 0.03
    ):  # else a rank may have stood still for 50 ms, its own fault
        assert "not_sent" not in run.reasons  # every client was busy to the end
    assert rebuilt_counts(stage, run) == counts
