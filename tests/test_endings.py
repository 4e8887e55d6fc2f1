"""How commands end: by signals at any moment, on a terminal or without one, and with streams that are closed or full."""

import json
import os
import resource
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from running import TIMEOUT, Ended, Run, Stage, alive, fetch, rank_pids, running_second, wait_for

STEADY = ("--requests-per-second", "20", "--max-tokens", "4", "--drain", "10")
TOKENSTORM = (sys.executable, "-m", "tokenstorm")
SECRET = "the-launchers-secret"
MANY_CLIENTS = 3000
"""So many that the ranks get seconds to open connections, between the barrier and the start."""


def hear_interrupts() -> None:
    """A shell that starts the tests in the background has Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def shell(stage: Stage, command: str) -> Ended:
    """A command line of a shell, where `tokenstorm` stands for the command."""
    words = command.replace("tokenstorm", shlex.join(TOKENSTORM), 1)
    process = stage.popen(["sh", "-c", words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return stage.ended(process)


def nothing_lost(run: Run) -> None:
    """All ranks reported, and every request has its line."""
    assert [rank["lost"] for rank in run.summary["ranks"]] == [None] * len(run.summary["ranks"])
    counts, warmup = run.summary["counts"], run.summary["windows"]["warmup"]
    assert counts["scheduled"] + warmup["scheduled"] == len(run.lines()) > 0
    assert run.stderr == ""


# Streams


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_whose_streams_are_closed_is_a_run_like_any_other(stage: Stage, closed: str) -> None:
    run = Run(stage.folder / "run")
    url = stage.truth().url
    ended = shell(stage, f"tokenstorm bench {url} {' '.join(STEADY)} --duration 0.5 --run-dir {run.root} {closed}")
    assert (ended.code, ended.err) == (0, "")
    assert run.summary["counts"]["succeeded"] == 10
    assert run.stderr == ""


def test_closed_streams_change_no_exit_code(stage: Stage) -> None:
    assert shell(stage, "tokenstorm recipes >&-").code == 0
    for closed in ("2>&-", "<&- >&- 2>&-"):
        assert shell(stage, f"tokenstorm report nothing {closed}").code == 1
        assert shell(stage, f"tokenstorm bench {closed}").code == 2


@pytest.mark.parametrize("command", ["--help", "--version", "recipes", "recipes --json", "sim --port 0", "report"])
def test_a_full_standard_output_is_one_line(stage: Stage, command: str) -> None:
    if command == "report":
        command += f" {stage.bench(stage.truth().url, *STEADY, '--duration', '0.5').root}"
    ended = shell(stage, f"tokenstorm {command} >/dev/full")
    assert (ended.code, ended.err) == (1, "tokenstorm: cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize("output", [">/dev/full", "| true"])
def test_a_run_whose_results_cannot_be_printed_says_how_to_see_them(stage: Stage, output: str) -> None:
    run = Run(stage.folder / "run")
    bench = f"tokenstorm bench {stage.truth().url} {' '.join(STEADY)} --duration 0.5 --run-dir {run.root}"
    ended = shell(stage, f"{bench} {output}")
    assert ended.code == (1 if "full" in output else 0)  # of a pipe, a shell has the last command's
    assert ended.err.startswith("tokenstorm: cannot write to standard output: ")
    assert f"`tokenstorm report {run.root}`" in ended.err
    assert ended.err.count("\n") == 1
    assert run.summary["counts"]["succeeded"] == 10


def test_a_full_standard_error_changes_no_exit_code(stage: Stage) -> None:
    assert shell(stage, "tokenstorm report nothing 2>/dev/full").code == 1
    assert shell(stage, "tokenstorm bench 2>/dev/full").code == 2


@pytest.mark.parametrize("command", ["--help", "recipes", "sim --port 0", "demo"])
def test_a_reader_that_is_gone_is_no_traceback(stage: Stage, command: str) -> None:
    ours, its = os.pipe()
    os.close(ours)
    process = stage.popen([*TOKENSTORM, *command.split()], stdout=its, stderr=subprocess.PIPE)
    os.close(its)
    ended = stage.ended(process)
    assert (ended.code, ended.err) == (1, "")


# Ctrl-C before anything is done


@pytest.mark.parametrize(
    ("command", "imported"),
    [
        ("tokenstorm report nothing", "tokenstorm.errors"),
        ("tokenstorm recipes", "tokenstorm.cli.terminal"),
        ("tokenstorm recipes", "pydantic_core"),
        ("tokenstorm.loadgen run nothing", "tokenstorm.errors"),
        ("tokenstorm.simulator --port 0", "tokenstorm.httpd"),
    ],
)
def test_ctrl_c_while_a_command_is_imported_ends_it_without_a_word(stage: Stage, command: str, imported: str) -> None:
    process = stage.popen(
        [sys.executable, "-X", "importtime", "-m", *command.split()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=hear_interrupts,
    )
    assert process.stderr
    for line in process.stderr:
        if line.rpartition("|")[2].strip() == imported:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(TIMEOUT) == 130
    assert [line for line in rest.splitlines() if not line.startswith("import time:")] == []


# Before the common start


@pytest.fixture
def counting_down(stage: Stage) -> Callable[..., tuple[subprocess.Popen[str], Run, Any]]:
    """A run whose ranks know the start, which is seconds ahead; and its endpoint."""

    def start() -> tuple[subprocess.Popen[str], Run, Any]:
        truth, run = stage.truth(), Run(stage.folder / "run")
        plan = stage.plan_file(
            run,
            targets=[{"replica": "0", "url": truth.url}],
            num_clients=MANY_CLIENTS,
            requests_per_second=MANY_CLIENTS,
            duration_seconds=60,
        )
        (run.root / "secrets.json").write_text(json.dumps({"launcher": SECRET}))
        (run.root / "summary.json").write_text("{}")  # of an earlier attempt
        process = stage.loadgen(plan)
        address = run.root / "address.json"
        wait_for(address.exists, "the launcher never came up")
        url = json.loads(address.read_text())["url"]

        def phase() -> str:
            assert process.poll() is None, process.communicate()
            status: dict[str, Any] = json.loads(fetch(f"{url}/status", secret=SECRET)[1])
            assert status["elapsed_seconds"] == 0
            return str(status["phase"])

        wait_for(lambda: phase() == "measured", "the start was never named")
        return process, run, truth

    return start


@pytest.mark.parametrize("whom", ["launcher", "everybody"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_barrier_and_start_ends_the_run_before_a_request_is_sent(
    stage: Stage,
    counting_down: Callable[..., tuple[subprocess.Popen[str], Run, Any]],
    number: signal.Signals,
    whom: str,
) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < MANY_CLIENTS + 100:
        pytest.skip("this machine allows too few open files")
    process, run, truth = counting_down()
    (rank,) = rank_pids(process.pid)
    if whom == "launcher":
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)
    ended = stage.ended(process)
    assert (ended.code, ended.out, ended.err) == (1, "", "tokenstorm: stopped before the start\n")
    assert not alive(rank)
    assert run.stderr == ""
    status = run.json("status.json")
    assert (status["phase"], status["reason"]) == ("failed", "stopped before the start")
    assert run.timeline() == run.lines() == []
    assert truth.requests() == {}
    assert (run.root / "summary.json").read_text() == "{}"


def test_a_rank_that_is_told_to_end_before_the_start_ends_the_group_in_words(stage: Stage) -> None:
    run = Run(stage.folder / "run")
    targets = [{"replica": "0", "url": stage.truth().url}]
    process = stage.loadgen(stage.plan_file(run, targets=targets, start="manual"))
    wait_for(
        lambda: (run.root / "status.json").exists() and run.json("status.json")["phase"] == "holding", "it never held"
    )
    os.kill(rank_pids(process.pid)[0], signal.SIGTERM)
    ended = stage.ended(process)
    assert ended.code == 1
    assert "rank 0 was lost before the start" in ended.err
    assert run.stderr == ""


# While it runs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_every_process_drains_the_run_and_loses_no_rank(stage: Stage, number: signal.Signals) -> None:
    process, run = stage.starting(stage.truth(ttft=100).url, *STEADY, "--duration", "60", "--ranks", "2")
    running_second(run, process)
    os.killpg(process.pid, number)
    ended = stage.ended(process)
    assert (ended.code, ended.err) == (0 if run.summary["verdict"]["state"] != "invalid" else 3, "")
    assert run.summary["outcome"] == "cancelled"
    assert run.summary["counts"]["censored"] == 0
    nothing_lost(run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_two_signals_in_a_row_leave_a_summary_of_every_line(stage: Stage, number: signal.Signals) -> None:
    truth = stage.truth(stall=0.3)
    options = ("--requests-per-second", "20", "--num-clients", "500", "--timeout", "600")
    process, run = stage.starting(truth.url, *options, "--duration", "600", "--drain", "600", "--ranks", "2")
    running_second(run, process)
    process.send_signal(number)
    wait_for(lambda: number_pending(process.pid) == 0, "the first signal was never taken")
    process.send_signal(number)
    assert stage.ended(process).err == ""
    assert run.summary["outcome"] == "cancelled"
    assert run.summary["counts"]["censored"] > 0
    nothing_lost(run)


def number_pending(pid: int) -> int:
    """The signals that a process has not taken yet, as bits."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("ShdPnd:")[1].split()[0], 16)


def test_a_rank_that_is_told_twice_to_end_ends_at_once_with_its_lines(stage: Stage) -> None:
    truth = stage.truth(stall=0.3)
    options = ("--requests-per-second", "20", "--num-clients", "500", "--timeout", "600")
    process, run = stage.starting(truth.url, *options, "--duration", "600", "--drain", "600", "--ranks", "2")
    running_second(run, process, 2)
    rank = rank_pids(process.pid)[0]
    os.kill(rank, signal.SIGTERM)
    wait_for(lambda: number_pending(rank) == 0, "the first signal was never taken")
    os.kill(rank, signal.SIGTERM)
    wait_for(lambda: not alive(rank), "the rank never ended")
    process.send_signal(signal.SIGINT)
    wait_for(lambda: run.json("status.json")["phase"] == "draining", "the run never drained")
    process.send_signal(signal.SIGINT)
    stage.ended(process)
    (lost,) = (report for report in run.summary["ranks"] if report["lost"])
    assert lost["pid"] == rank
    of_rank = [line for line in run.lines() if line["rank"] == lost["rank"]]
    assert {line["error"]["detail"] for line in of_rank if line["error"]} == {"aborted"}
    assert any(line["error"] is None for line in of_rank)
    assert run.stderr == ""


def test_nohup_keeps_a_run_from_ending_with_its_terminal(stage: Stage) -> None:
    run = Run(stage.folder / "run")
    command = ["nohup", *TOKENSTORM, "bench", stage.truth().url, *STEADY, "--duration", "3", "--ranks", "2"]
    process = stage.popen(
        [*command, "--run-dir", str(run.root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    running_second(run, process)
    os.killpg(process.pid, signal.SIGHUP)
    assert stage.ended(process).code in {0, 3}  # by the verdict, which a busy machine spoils
    assert run.summary["outcome"] == "completed"
    assert run.summary["counts"]["succeeded"] == 60
    nothing_lost(run)


# On a terminal


class Terminal:
    """A bench in the foreground of a terminal, which is the standard stream of everything it writes."""

    def __init__(self, stage: Stage, run: Run, *words: str) -> None:
        self.screen, its = os.openpty()
        self.said = ""

        def in_the_foreground() -> None:
            hear_interrupts()
            os.login_tty(its)

        self.process = stage.popen(
            [*TOKENSTORM, "bench", *words, "--run-dir", str(run.root)],
            stdin=its,
            stdout=its,
            stderr=its,
            preexec_fn=in_the_foreground,
            pass_fds=[its],
            start_new_session=False,
        )
        os.close(its)

    def shows(self, words: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while words not in self.said:
            assert self.read(), f"it ended: {self.said}"
            assert time.monotonic() < deadline, self.said

    def read(self) -> bool:
        """Take in what is new on the screen; whether the other side is still there."""
        readable, _, _ = select.select([self.screen], [], [], 0.1)
        try:
            self.said += os.read(self.screen, 4096).decode(errors="replace") if readable else ""
        except OSError:
            return False
        return True

    def ended(self) -> int:
        while self.read():
            pass
        return self.process.wait(TIMEOUT)


def test_in_the_drain_the_first_ctrl_c_does_what_the_screen_says(stage: Stage) -> None:
    run = Run(stage.folder / "run")
    options = ("--requests-per-second", "20", "--num-clients", "100", "--timeout", "600", "--drain", "600")
    terminal = Terminal(stage, run, stage.truth(stall=0.3).url, *options, "--duration", "1", "--ranks", "2")
    terminal.shows("Ctrl-C ends at once")
    os.write(terminal.screen, b"\x03")
    terminal.ended()
    assert "Traceback" not in terminal.said
    assert run.summary["outcome"] == "cancelled"
    assert run.summary["counts"]["scheduled"] == 20
    assert run.summary["counts"]["censored"] > 0
    nothing_lost(run)
    os.close(terminal.screen)


def test_a_terminal_that_is_closed_drains_the_run_and_keeps_everything(stage: Stage) -> None:
    run = Run(stage.folder / "run")
    terminal = Terminal(stage, run, stage.truth(ttft=100).url, *STEADY, "--duration", "60", "--ranks", "2")
    terminal.shows("in flight")
    running_second(run, terminal.process)
    os.close(terminal.screen)
    terminal.process.wait(TIMEOUT)
    assert run.summary["outcome"] == "cancelled"
    assert run.summary["counts"]["censored"] == 0
    nothing_lost(run)
