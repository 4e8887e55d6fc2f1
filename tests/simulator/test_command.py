"""`python -m tokenstorm.simulator`, as a user starts it."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tokenstorm.simulator.command import main

COMMAND = [sys.executable, "-m", "tokenstorm.simulator"]


@contextmanager
def started(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the line that it prints once it listens."""
    with subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_says_where_it_listens_and_ends_cleanly_when_told_to(number: signal.Signals) -> None:
    with started("--port", "0", "--model", "m", "--preset", "fast") as (process, line):
        found = re.fullmatch(r"serving m at (http://127\.0\.0\.1:\d+) \(simulated engine, preset fast\)\n", line)
        assert found
        with urllib.request.urlopen(found[1] + "/health") as answer:
            assert answer.status == 200
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, "")


def test_a_port_in_use_is_one_clear_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([*COMMAND, "--port", str(port)], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "choose another --host or --port (0 picks a free port)\n"
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--jitter-fraction", "1.5"], "--jitter-fraction"),
        (["--max-model-len", "999999999"], "--kv-cache-tokens"),
        (["--reset", "0.6", "--stall", "0.6"], "at most"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--port", "70000"], "70000"),
        (["--preset", "enormous"], "enormous"),
        (["--step-base-ms", "soon"], "--step-base-ms"),
    ],
)
def test_wrong_values_are_exit_code_2_and_named(
    options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(options)
    except SystemExit as left:  # argparse's own way
        code = int(left.code or 0)
    assert code == 2
    assert named in capsys.readouterr().err


def test_every_setting_is_an_option_with_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--step-base-ms N time of a step before any work, milliseconds" in text
    assert "--slow-start N seconds of answering 503" in text
