"""A real Prometheus, and what its promtool says of a text."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from running import Stage, fetch, free_port, wait_for

THERE = all(shutil.which(name) for name in ("prometheus", "promtool"))
MISSING = "no Prometheus here: install it with scripts/lab install"


def complaints(text: str) -> list[str]:
    """What `promtool check metrics` does not like about a text, line by line. Fails for one that it cannot read."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode in (0, 3), done.stderr
    return done.stderr.splitlines()


@dataclass
class Prometheus:
    """One that runs."""

    url: str

    def ask(self, path: str, **query: str) -> Any:
        """The `data` of one call of its API."""
        status, body, _ = fetch(f"{self.url}/api/v1/{path}?{urlencode(query)}")
        answer = json.loads(body)
        assert (status, answer["status"]) == (200, "success"), answer
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What an expression gives now: labels and a value for each series."""
        return [(one["metric"], float(one["value"][1])) for one in self.ask("query", query=expression)["result"]]


def scrape(stage: Stage, config: str, addresses: Mapping[str, str]) -> Prometheus:
    """A Prometheus with a configuration as it is shipped, but for the addresses and a faster pace."""
    for written, real in (*addresses.items(), ("interval: 5s", "interval: 1s")):
        assert written in config, f"the configuration has no {written}"
        config = config.replace(written, real)
    path, port = stage.folder / "prometheus.yml", free_port()
    path.write_text(config)
    url = f"127.0.0.1:{port}"
    words = [f"--config.file={path}", f"--storage.tsdb.path={stage.folder}/tsdb", f"--web.listen-address={url}"]
    with (stage.folder / "prometheus.log").open("w") as log:
        process = stage.popen(["prometheus", *words], stderr=log)

    def answers() -> bool:
        assert process.poll() is None, (stage.folder / "prometheus.log").read_text()
        try:
            return fetch(f"http://{url}/-/ready")[0] == 200
        except OSError:
            return False

    wait_for(answers, "Prometheus never got ready")
    return Prometheus(f"http://{url}")
