"""Services that speak no OpenAI, as they do: what each demands of a request, and the answer in its real shape."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Answer = tuple[int, str, list[bytes]]
"""Status, content type, and the pieces of the body."""
Service = Callable[[str, dict[str, Any]], Answer]
"""Answers a path and a body; a KeyError is a request that lacks a field."""


def whole(body: object, status: int = 200) -> Answer:
    return status, "application/json", [json.dumps(body).encode()]


def lines(*values: object) -> Answer:
    return 200, "application/x-ndjson", [json.dumps(value).encode() + b"\n" for value in values]


def events(*values: object, prefix: str = "data: ") -> Answer:
    return 200, "text/event-stream", [f"{prefix}{json.dumps(value)}\n\n".encode() for value in values]


def ollama(path: str, body: dict[str, Any]) -> Answer:
    """Of /api/chat and /api/generate."""
    if body["model"] != "tiny":
        return whole({"error": f"model '{body['model']}' not found"}, 404)
    many = body["options"]["num_predict"]
    assert isinstance(many, int)
    of_chat = path == "/api/chat"
    assert body["messages"][0]["content"] if of_chat else body["prompt"]

    def says(text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}} if of_chat else {"response": text}

    end = {"done_reason": "length", "prompt_eval_count": 11, "eval_count": many, "total_duration": 1}
    head = {"model": "tiny", "created_at": "2026-11-27T00:00:00Z"}
    if not body["stream"]:
        return whole({**head, **says("a b c"), "done": True, **end})
    words = [{**head, **says(" word"), "done": False} for _ in range(many)]
    return lines(*words, {**head, **says(""), "done": True, **end})


def tgi(path: str, body: dict[str, Any]) -> Answer:
    """Of /generate_stream: no space after `data:`."""
    assert path == "/generate_stream"
    many = body["parameters"]["max_new_tokens"]
    assert body["inputs"]
    assert body["parameters"]["details"]
    found = []
    for index in range(1, many + 1):
        token = {"id": index, "text": " word", "logprob": -0.1, "special": False}
        last = index == many
        details = {"finish_reason": "length", "generated_tokens": many, "input_length": 11, "seed": None}
        text = " word" * many if last else None
        found.append({"index": index, "token": token, "generated_text": text, "details": details if last else None})
    return events(*found, prefix="data:")


def triton(path: str, body: dict[str, Any]) -> Answer:
    """Of the generate extension."""
    many = body["parameters"]["max_tokens"]
    head = {"model_name": "tiny", "model_version": "1"}
    if path == "/v2/models/tiny/generate" and not body["parameters"]["stream"]:
        return whole({**head, "text_output": body["text_input"]})
    if path == "/v2/models/tiny/generate_stream":
        return events(*[{**head, "text_output": " word"}] * many)
    return whole({"error": "Request for unknown model: 'other' is not found"}, 400)


def qdrant(path: str, body: dict[str, Any]) -> Answer:
    """Of a search for points."""
    if path != "/collections/tiny/points/search":
        return whole({"status": {"error": "Not found: Collection `other` doesn't exist!"}, "time": 0.001}, 404)
    assert all(isinstance(number, float) for number in body["vector"])
    points = [{"id": number, "version": 0, "score": 0.9} for number in range(body["limit"])]
    return whole({"result": points, "status": "ok", "time": 0.0001})


def vision(path: str, body: dict[str, Any]) -> Answer:
    """Of a chat about an image."""
    assert path == "/v1/chat/completions"
    text, image = body["messages"][0]["content"]
    assert (text["type"], image["image_url"]["url"][:22]) == ("text", "data:image/png;base64,")
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "tiny"}
    words = [{**head, "choices": [{"index": 0, "delta": {"content": " word"}, "finish_reason": None}]}]
    stop = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    usage = {**head, "choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": body["max_tokens"]}}
    status, kind, pieces = events(*words * body["max_tokens"], stop, usage)
    return status, kind, [*pieces, b"data: [DONE]\n\n"]


class Asked:
    """What a service was asked: method, path and headers (names in lower case) of each request, and its body."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []


@contextmanager
def serving(service: Service) -> Iterator[Asked]:
    """A service on loopback, one thread for each connection."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.loads(data) if data else {}
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked.requests.append((self.command, self.path, headers, body))
            try:
                status, kind, pieces = service(self.path, body)
            except (KeyError, AssertionError, TypeError, ValueError) as error:
                status, kind, pieces = whole({"error": f"the stand-in does not understand this: {error!r}"}, 422)
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in (*pieces, b""):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    asked = Asked(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
