"""What end-to-end tests start, watch and stop: the real command, and engines on loopback. Everything ends by its pid."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

TIMEOUT = 60.0
"""Far beyond what any command of a test takes: whoever needs it hangs."""
YARDSTICK = Path(__file__).parents[1] / "benchmarks" / "yardstick"

T = TypeVar("T")


def wait_for(what: Callable[[], T | None], why: str, seconds: float = TIMEOUT) -> T:
    """Ask again and again until there is an answer."""
    deadline = time.monotonic() + seconds
    while True:
        if found := what():
            return found
        if time.monotonic() > deadline:
            message = f"waited {seconds:g} s in vain: {why}"
            raise AssertionError(message)
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def fetch(url: str, *, secret: str | None = None, body: bytes | None = None) -> tuple[int, bytes, str]:
    """Status, body and content type of one HTTP request; a status is no exception."""
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    request = urllib.request.Request(url, data=body, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.read(), answer.headers["content-type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers["content-type"]


@dataclass
class Run:
    """The files of one run, read as plain JSON: nothing here goes through tokenstorm's own readers."""

    root: Path

    @property
    def summary(self) -> dict[str, Any]:
        return self.json("summary.json")

    def json(self, name: str) -> dict[str, Any]:
        """One file, as it is now."""
        content: dict[str, Any] = json.loads((self.root / name).read_bytes())
        return content

    def lines(self) -> list[dict[str, Any]]:
        """Every whole result line of all ranks."""
        return [line for path in sorted(self.root.glob("results.*.jsonl")) for line in _whole_lines(path.read_bytes())]

    def timeline(self) -> list[dict[str, Any]]:
        """Every second whose line is whole."""
        try:
            content = (self.root / "timeline.jsonl").read_bytes()
        except FileNotFoundError:  # it begins anew when the load does
            content = b""
        return list(_whole_lines(content))

    @property
    def stderr(self) -> str:
        """What the ranks said."""
        path = self.root / "stderr.log"
        return path.read_text() if path.exists() else ""

    @property
    def reasons(self) -> dict[str, str]:
        """The verdict's reasons by code."""
        return {reason["code"]: reason["text"] for reason in self.summary["verdict"]["reasons"]}


def _whole_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file that may be half-way through its last one."""
    return (json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n"))


@dataclass
class Ended:
    """A command that is over."""

    code: int
    out: str
    err: str


@dataclass
class Engine:
    """An endpoint that listens."""

    url: str
    process: subprocess.Popen[str]

    def stop(self) -> None:
        """End it in its own way, so that its files are complete."""
        self.process.terminate()
        self.process.wait(TIMEOUT)


@dataclass
class Truth(Engine):
    """truthd: it logs when it truly received and answered each request."""

    log: Path

    def requests(self) -> dict[str, list[dict[str, int]]]:
        """The log, by x-request-id; stops the engine, which completes it. The first request that only tries is left out."""
        self.stop()
        found: dict[str, list[dict[str, int]]] = {}
        for line in self.log.read_text().splitlines():
            *numbers, request_id = line.split()
            if not request_id.endswith("-preflight"):
                names = ("number", "received", "first", "last", "tokens", "stream", "status")
                found.setdefault(request_id, []).append(dict(zip(names, map(int, numbers), strict=True)))
        return found


@dataclass
class Stage:
    """Starts what a test needs below one folder, and ends all of it."""

    folder: Path
    truthd: Callable[[], Path]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        """A home of its own; nothing of the user's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENSTORM", "XDG_"))}
        home = str(self.folder / "home")
        return {**kept, "HOME": home, "TOKENSTORM_HOME": f"{home}/data", **more}

    def popen(self, argv: list[str], **options: Any) -> subprocess.Popen[str]:
        """A process in a group of its own, so that its children can be ended with it."""
        environment = options.pop("env", None) or self.environment()
        options.setdefault("start_new_session", True)
        process = subprocess.Popen(argv, text=True, env=environment, **options)
        self.processes.append(process)
        return process

    def simulate(self, *options: str, preset: str = "fast", **environment: str) -> Engine:
        """A simulated engine."""
        argv = [sys.executable, "-m", "tokenstorm.simulator", "--port", "0", "--preset", preset, *options]
        process = self.popen(argv, stdout=subprocess.PIPE, env=self.environment(**environment))
        assert process.stdout
        said = process.stdout.readline()
        found = re.search(r"at (http://\S+)", said)
        assert found, f"the simulator said {said!r}"
        return Engine(found[1], process)

    def truth(self, *, ttft: float = 5, itl: float = 2, **faults: float) -> Truth:
        """The ground-truth endpoint, with times in milliseconds and faults as rates."""
        port = free_port()
        log = self.folder / f"truth.{port}.log"
        argv = [str(self.truthd()), "--port", str(port), "--ttft", str(ttft), "--itl", str(itl), "--log", str(log)]
        argv += [word for name, rate in faults.items() for word in (f"--{name}", str(rate))]
        process = self.popen(argv)

        def listens() -> bool:
            assert process.poll() is None, "truthd did not start"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, "truthd never listened")
        return Truth(f"http://127.0.0.1:{port}", process, log)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """The tokenstorm command."""
        return self.popen(
            [sys.executable, "-m", "tokenstorm", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(**environment),
        )

    def ended(self, process: subprocess.Popen[str]) -> Ended:
        """Wait for the end of a process."""
        out, err = process.communicate(timeout=TIMEOUT)
        return Ended(process.returncode, out, err)

    def command(self, *words: str, **environment: str) -> Ended:
        """The tokenstorm command, to its end."""
        return self.ended(self.start(*words, **environment))

    def on_a_terminal(self, *words: str, **environment: str) -> tuple[int, str]:
        """The tokenstorm command with a terminal as its standard error; what it wrote there."""
        return self._on_a_terminal(words, environment, output=False)

    def printed_on_a_terminal(self, *words: str, **environment: str) -> tuple[int, str]:
        """The same with a terminal as its standard output, too."""
        return self._on_a_terminal(words, environment, output=True)

    def _on_a_terminal(self, words: Sequence[str], variables: dict[str, str], *, output: bool) -> tuple[int, str]:
        ours, its = pty.openpty()
        command = [sys.executable, "-m", "tokenstorm", *words]
        options = {"stdin": subprocess.DEVNULL, "stdout": its if output else subprocess.DEVNULL, "stderr": its}
        process = self.popen(command, env=self.environment(**variables), **options)
        os.close(its)
        said = b""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            readable, _, _ = select.select([ours], [], [], 0.1)
            try:
                said += os.read(ours, 4096) if readable else b""
            except OSError:  # the other side is closed
                break
        os.close(ours)
        return process.wait(TIMEOUT), said.decode()

    def starting(self, url: str, *options: str, name: str = "run") -> tuple[subprocess.Popen[str], Run]:
        """A bench that goes on, and its files."""
        run = Run(self.folder / name)
        return self.start("bench", url, *options, "--run-dir", str(run.root)), run

    def bench(self, url: str, *options: str, name: str = "run", codes: tuple[int, ...] = (0, 3)) -> Run:
        """A bench to its end: it says nothing on standard error, and no rank leaves a traceback."""
        process, run = self.starting(url, *options, name=name)
        ended = self.ended(process)
        assert ended.code in codes, ended
        assert ended.err == ""
        assert run.stderr == ""
        return run

    def plan_file(self, run: Run, **fields: object) -> Path:
        """A plan.json for `python -m tokenstorm.loadgen run`."""
        run.root.mkdir(parents=True, exist_ok=True)
        plan = {
            "schema": 1,
            "tokenstorm": "0.1.0",
            "run_id": "0" * 32,
            "prompts": {"kind": "list", "prompts": ["hello"]},
            "num_clients": 5,
            "requests_per_second": 20,
            "seed": 1,
            "max_tokens": 4,
            "duration_seconds": 1,
            "drain_seconds": 5,
            **fields,
        }
        path = run.root / "plan.json"
        path.write_text(json.dumps(plan))
        return path

    def loadgen(self, plan: Path) -> subprocess.Popen[str]:
        """The load generator on its own."""
        return self.popen(
            [sys.executable, "-m", "tokenstorm.loadgen", "run", str(plan)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(),
        )

    def close(self) -> None:
        """End every process, its children too, stopped ones as well."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT)
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def compile_truthd(folder: Path) -> Path:
    """Build the ground-truth endpoint."""
    compiler = shutil.which("cc")
    assert compiler, "these tests need a C compiler named cc, for benchmarks/yardstick/truthd.c"
    binary = folder / "truthd"
    subprocess.run([compiler, "-O2", "-o", binary, YARDSTICK / "truthd.c", "-lm"], check=True, timeout=TIMEOUT)
    return binary


def running_second(run: Run, process: subprocess.Popen[str], seconds: int = 1) -> None:
    """Wait until so many seconds of a run are in its timeline."""

    def there() -> bool:
        assert process.poll() is None, process.communicate()
        return len(run.timeline()) >= seconds

    wait_for(there, "the run never got going")


def rank_pids(launcher: int) -> list[int]:
    """The children of a launcher."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text()
    return [int(pid) for pid in children.split()]


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample of a Prometheus text."""
    for line in text.splitlines():
        if line and not line.startswith("#"):
            found = re.fullmatch(r'([a-z_:]+)\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\} (\S+)', line)
            assert found, line
            yield found[1], dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', found[2])), float(found[3])
