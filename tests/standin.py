"""An engine of any kind, as a process: it answers what a file says, and notes what it was asked.

    python standin.py PORT FOLDER [wait]

`FOLDER/answers` has a [status, content] for each path; what is not there is 404. `FOLDER/asked` gets a line for each
request: its path, how many there are at once, its body. With `wait` a POST is answered once `FOLDER/go` is there.
"""

import http.server
import json
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[2]) if __name__ == "__main__" else Path()
CHAT = "/v1/chat/completions"
TOKEN = [200, {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "length"}]}]


class Engine(http.server.BaseHTTPRequestHandler):
    """Streams nothing; answers are cut into chunks."""

    protocol_version = "HTTP/1.1"
    at_once = 0

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        Engine.at_once += 1
        with (FOLDER / "asked").open("a") as asked:
            asked.write(f"{self.path} {Engine.at_once} {body}\n")
        while "wait" in sys.argv and body and not (FOLDER / "go").exists():
            time.sleep(0.01)
        answers = json.loads((FOLDER / "answers").read_text())
        status, content = answers.get(self.path, [404, {"detail": "Not Found"}])
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in (*filter(None, (data[:5], data[5:])), b""):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        Engine.at_once -= 1

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


def answer(folder: Path, answers: dict[str, Any]) -> None:
    """Have the engine of a folder answer so from now on."""
    folder.mkdir(exist_ok=True)
    (folder / "new").write_text(json.dumps(answers))
    (folder / "new").rename(folder / "answers")


def asked(folder: Path) -> list[str]:
    """What it was asked."""
    path = folder / "asked"
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Engine).serve_forever()
