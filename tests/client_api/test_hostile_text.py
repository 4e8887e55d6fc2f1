"""Shell metacharacters, quotes, newlines and controls in every text field reach the engine as typed, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from groups import GROUPS
from running import Stage
from tokenstorm.httpd import Reply, Request, serve
from waiting import finish, until

HOSTILE = [
    "'; touch {canary}; '",
    '"; touch {canary}; "',
    "$(touch {canary})",
    "`touch {canary}`",
    "a\ntouch {canary}\n",
    "${IFS}&& touch {canary} || touch {canary} | tee {canary} > {canary} &",
    "\\'\\\"\\$\\`!*?[a-z]{a,b}~#%\r\t\x00\x01\x7f",
    "--config={canary}",
    "é 漢字 🙂 \u2028 \u202e \ufeff",
    "EOF\n#!/bin/sh\ntouch {canary}",
]


def test_hostile_text_reaches_the_engine_as_typed(stage: Stage) -> None:
    canary = stage.folder / "canary"
    texts = [text.replace("{canary}", str(canary)) for text in HOSTILE]
    asked: list[dict[str, Any]] = []
    keys: set[str] = set()

    def answer(request: Request, reply: Reply) -> None:
        if request.method == "POST":
            asked.append(json.loads(request.body))
            keys.add(request.headers["authorization"])
        said = {
            "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
            "usage": {"completion_tokens": 1},
        }
        reply.send(200, json.dumps(said).encode())

    async def work() -> None:
        engine = await serve(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}"
        tests = str(Path(__file__).parents[1])
        process = stage.popen(
            [sys.executable, str(Path(__file__).with_name("api_process.py")), str(stage.folder), url],
            stdout=subprocess.PIPE,
            env=stage.environment(PYTHONPATH=tests),
        )
        assert process.stdout
        everything = "\n".join(texts)[:500]
        body = {
            "target_url": url,
            "num_clients": 5,
            "requests_per_second": 50,
            "request_count": 100,
            "stream": False,
            "prompts": texts,
            "name": everything,
            "labels": {text: text for text in texts},
            "model": everything,
            "extra_body": {"user": everything},
            "api_key": "$(id)`id`'\";|&",
            "drain_seconds": 5,
        }
        async with httpx.AsyncClient(base_url=process.stdout.readline().strip(), trust_env=False) as client:
            created = await client.post(GROUPS, json=body)
            assert created.status_code == 201, created.text
            where = f"{GROUPS}/{created.json()['group_id']}"
            await until(lambda: len(asked) > 100)
            async with client.stream("GET", f"{where}/events", timeout=60) as events:
                await events.aread()
            info = (await client.get(where)).json()["info"]
        engine.close()
        assert (info["status"], info["outcome"]) == ("stopped", "completed"), info
        requests = asked[1:]  # the first look asks what no request asks
        assert {question["messages"][0]["content"] for question in requests} == set(texts)
        assert {question["model"] for question in asked} == {everything}
        assert {question["user"] for question in asked} == {everything}
        assert keys == {f"Bearer {body['api_key']}"}
        plan = json.loads((Path(info["run_dir"]) / "plan.json").read_bytes())
        assert (plan["name"], plan["labels"]) == (everything, body["labels"])
        assert {name: info["load_config"][name] for name in ("name", "labels", "model", "prompts")} == {
            name: body[name] for name in ("name", "labels", "model", "prompts")
        }

    finish(work())
    assert not canary.exists()
