"""How much CPU the simulator spends on a streamed chunk.

    python benchmarks/simulator.py [--connections 100] [--seconds 5] [-- simulator options]

Starts the simulator, reads streams from it over many connections, and divides the tokens it says it
has sent (`vllm:generation_tokens_total`) by the CPU time of its process (/proc/PID/stat, so Linux).
"""

import argparse
import os
import re
import selectors
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

TARGET_PER_CPU_SECOND = 50_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("simulator", nargs="*", help="options for the simulator, after --")
    args = parser.parse_args()
    command = [sys.executable, "-m", "tokenstorm.simulator", "--port", "0"]
    options = args.simulator or ["--preset", "fast"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.search(r"http://([^ ]+):(\d+)", line)
            if not found:
                print("the simulator did not start", file=sys.stderr)
                return 1
            return measure(args, process.pid, found[1], int(found[2]))
        finally:
            process.terminate()


def measure(args: argparse.Namespace, pid: int, host: str, port: int) -> int:
    """Load the simulator, print what a chunk costs, and tell by the exit code if that is enough."""
    readers = Readers(host, port, args.connections, args.max_tokens)
    readers.run(1.0)  # warm-up: connections and first prompts
    tokens, cpu, start = (
        counter(host, port, "vllm:generation_tokens_total"),
        cpu_seconds(pid),
        now(),
    )
    readers.run(args.seconds)
    tokens = counter(host, port, "vllm:generation_tokens_total") - tokens
    cpu, elapsed = cpu_seconds(pid) - cpu, now() - start
    rate = tokens / cpu
    late = counter(host, port, "simulator_late_seconds_total")
    print(f"{tokens:.0f} chunks in {elapsed:.2f} s, {cpu:.2f} CPU seconds ({cpu / elapsed:.0%})")
    print(f"{rate:.0f} chunks per CPU second, {1e6 / rate:.1f} us per chunk; late by {late:.2f} s")
    print(f"reads: {readers.reads} for {tokens:.0f} chunks, answers ended: {readers.ended}")
    return 0 if rate >= TARGET_PER_CPU_SECOND else 1


class Readers:
    """Sockets that each read one stream after another, without looking at it."""

    def __init__(self, host: str, port: int, connections: int, max_tokens: int) -> None:
        body = (
            '{"model":"sim-model","messages":[{"role":"user","content":"hello"}],'
            f'"max_tokens":{max_tokens},"stream":true,"ignore_eos":true}}'
        )
        self._request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self._selector = selectors.DefaultSelector()
        self.reads = self.ended = 0
        for _ in range(connections):
            peer = socket.create_connection((host, port))
            peer.sendall(self._request)
            peer.setblocking(False)
            self._selector.register(peer, selectors.EVENT_READ)

    def run(self, seconds: float) -> None:
        self.reads = self.ended = 0
        until = now() + seconds
        while now() < until:
            for key, _ in self._selector.select(0.1):
                peer = key.fileobj
                assert isinstance(peer, socket.socket)
                data = peer.recv(65536)
                self.reads += 1
                if not data:
                    msg = "the simulator closed a connection"
                    raise ConnectionError(msg)
                if data.endswith(b"0\r\n\r\n"):
                    self.ended += 1
                    peer.sendall(self._request)


def now() -> float:
    return time.monotonic()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def counter(host: str, port: int, name: str) -> float:
    """One value from the simulator's /metrics."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name):
                return float(line.split()[-1])
    msg = f"no {name} in /metrics"
    raise LookupError(msg)


if __name__ == "__main__":
    sys.exit(main())
