"""An engine for tests that needs all its parts: its head listens once all have joined, and one that leaves breaks it.

`python partsengine.py HOST PORT HEAD HEAD_PORT RANK OF`, with the key in ENGINE_KEY. `--alone` never meets the others.
"""

import contextlib
import http.server
import os
import socket
import sys
import threading
import time

HOST, PORT, HEAD, HEAD_PORT, RANK, OF = sys.argv[1:7]


class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(b'{"object": "list", "data": [{"id": "parts", "object": "model"}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        choice = b'{"index": 0, "text": " all", "message": {"role": "assistant", "content": " all"}, "finish_reason": "stop"}'
        usage = b'{"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}'
        self.answer(
            b'{"id": "1", "object": "x", "model": "parts", "choices": [' + choice + b'], "usage": ' + usage + b"}"
        )

    def answer(self, body: bytes) -> None:
        right = self.path == "/health" or self.headers.get("authorization") == f"Bearer {os.environ['ENGINE_KEY']}"
        self.send_response(200 if right else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def leave(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
    os._exit(1)


def watch(peer: socket.socket, name: str) -> None:
    with contextlib.suppress(OSError):
        while peer.recv(1):
            pass
    leave(f"lost {name}")


def lead() -> None:
    with socket.create_server((HEAD, int(HEAD_PORT))) as door:
        for _ in range(int(OF) - 1):
            peer, _ = door.accept()
            name = peer.recv(20).decode().strip()
            threading.Thread(target=watch, args=(peer, f"rank {name}"), daemon=True).start()
    http.server.ThreadingHTTPServer((HOST, int(PORT)), Engine).serve_forever()


def follow() -> None:
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            peer = socket.create_connection((HEAD, int(HEAD_PORT)))
            break
        time.sleep(0.05)
    peer.sendall(f"{RANK}\n".encode())
    watch(peer, "the head")


print(f"part {RANK} of {OF} on {os.environ.get('SLURMD_NODENAME')}", flush=True)
if "--alone" in sys.argv:
    time.sleep(600)
elif RANK == "0":
    lead()
else:
    follow()
