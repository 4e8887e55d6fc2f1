"""A real `tokenstorm up`, and what is left of it."""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from running import TIMEOUT, Ended, Stage, wait_for
from tokenstorm.sdk import Client

ANY_PORTS = ("--server-port", "0", "--client-port", "0", "--orchestrator-port", "0")


@dataclass
class Up:
    """The three APIs, by their addresses."""

    stage: Stage
    process: subprocess.Popen[str]
    server: str
    client: str
    orchestrator: str

    def sdk(self, **options: Any) -> Client:
        return Client(self.server, self.client, **options)

    def command(self, *words: str) -> Ended:
        """The tokenstorm command, told where the APIs are."""
        return self.stage.command(*words, **self.variables)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return self.stage.start(*words, **self.variables)

    @property
    def variables(self) -> dict[str, str]:
        return {"TOKENSTORM_SERVER_URL": self.server, "TOKENSTORM_CLIENT_URL": self.client}

    def stop(self, how: signal.Signals = signal.SIGTERM) -> Ended:
        """End it in its own way."""
        self.process.send_signal(how)
        return self.stage.ended(self.process)


def start_up(stage: Stage, *options: str, ports: Sequence[str] = ANY_PORTS, **environment: str) -> Up:
    """`tokenstorm up`, once it has said where it is."""
    process = stage.start("up", *ports, *options, **environment)
    assert process.stdout
    found: dict[str, str] = {}
    while "profile" not in found:
        line = process.stdout.readline()
        assert line, f"`up` ended: {stage.ended(process)}"
        if match := re.match(r"(Server API|Client API|orchestrator|profile|token) +(\S+)", line):
            found[match[1]] = match[2]
    return Up(stage, process, found["Server API"], found["Client API"], found["orchestrator"])


def processes_of(folder: Path) -> list[int]:
    """The processes whose command names a folder: jobs, engines, launchers, ranks."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def nothing_is_left(folder: Path) -> None:
    wait_for(lambda: not processes_of(folder), f"processes of {folder} are left", 30)


def kill_what_is_left(folder: Path) -> None:
    """For a test that failed: a job outlives whoever started it."""
    for pid in processes_of(folder):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def end_all(stage: Stage) -> None:
    """End what a test started, in its own way; nothing of it is left then."""
    for process in stage.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=TIMEOUT)
    try:
        nothing_is_left(stage.folder)
    finally:
        kill_what_is_left(stage.folder)
