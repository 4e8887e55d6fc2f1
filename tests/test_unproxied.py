"""Whatever proxy a site's nodes are told of, nothing that goes to the node or its networks is sent there."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import requests.utils

from running import Stage, free_port, wait_for
from tokenstorm.interfaces import addresses
from tokenstorm.node.service import Service as NodeService
from tokenstorm.unproxied import unproxied
from wrapped import Service

CLIENTS = {
    "curl": ("curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"),
    "requests": (
        sys.executable,
        "-c",
        "import requests, sys; print(requests.get(sys.argv[1], timeout=10).status_code)",
    ),
    "httpx": (sys.executable, "-c", "import httpx, sys; print(httpx.get(sys.argv[1], timeout=10).status_code)"),
    "urllib": (
        sys.executable,
        "-c",
        "import urllib.request as u, sys; print(u.urlopen(sys.argv[1], timeout=10).status)",
    ),
}


class _Here(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204 if self.path.startswith("/") else 299)  # a proxy is asked for a whole URL
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Here) as here:
        threading.Thread(target=here.serve_forever, daemon=True).start()
        yield here.server_port
        here.shutdown()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_client_asks_the_proxy_for_this_node(server: int, client: str, host: str) -> None:
    """The proxy is a port where nobody listens."""
    proxy = f"http://127.0.0.1:{free_port()}"
    proxied = {"http_proxy": proxy, "HTTP_PROXY": proxy, "https_proxy": proxy, "ALL_PROXY": proxy}
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment = {**clean, **proxied}
    url = [f"http://{host}:{server}/"]
    asked = [*CLIENTS[client], *url]
    assert (
        subprocess.run(asked, check=False, env=environment, capture_output=True, text=True).stdout[-4:].strip() != "204"
    )
    done = subprocess.run(
        asked, check=False, env={**environment, **unproxied(environment)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "204", done.stderr


def test_addresses_networks_and_names_are_there_beside_what_was() -> None:
    given = {"http_proxy": "http://p:1", "no_proxy": "a, b", "NO_PROXY": "c"}
    own = [("lo", "127.0.0.1"), ("ib0", "10.1.2.3"), ("ib0", "fd00::3")]
    found = unproxied(given, own=own, around=["10.1.0.0/16", "fd00::/64"], more=["10.9.0.0/16", "head.cluster"])
    assert found["no_proxy"] == found["NO_PROXY"]
    words = found["no_proxy"].split(",")
    assert words[:3] == ["a", "b", "c"]
    assert {
        "localhost",
        "127.0.0.1",
        "::1",
        "10.1.2.3",
        "fd00::3",
        "10.1.0.0/16",
        "10.9.0.0/16",
        "head.cluster",
    } <= set(words)
    assert "fd00::/64" not in words
    assert requests.utils.should_bypass_proxies("http://10.1.77.5:8000/v1", no_proxy=found["no_proxy"])
    assert requests.utils.should_bypass_proxies("http://10.9.77.5:8000/v1", no_proxy=found["no_proxy"])
    assert not requests.utils.should_bypass_proxies("http://10.8.77.5:8000/v1", no_proxy=found["no_proxy"])


def test_without_a_proxy_and_where_nothing_goes_through_it_nothing_is_said() -> None:
    assert unproxied({"no_proxy": "a"}) == {}
    assert unproxied({"https_proxy": "http://p:1", "NO_PROXY": "*"}) == {}


def test_an_engine_is_told_in_its_own_environment(stage: Stage) -> None:
    script, shown = stage.folder / "engine.py", stage.folder / "shown"
    script.write_text("import json, os, sys\nopen(sys.argv[2], 'w').write(json.dumps(dict(os.environ)))\n")
    command = [sys.executable, str(script), "{port}", str(shown)]
    service = Service(stage, command=command, networks=["10.0.0.0/8"], container_prefix="APPTAINERENV_")
    service.start(HTTPS_PROXY="http://proxy.example:3128", no_proxy=".example")
    wait_for(lambda: shown.exists() and shown.read_bytes(), "the engine was started")
    service.process.wait(60)
    seen = json.loads(Path(shown).read_text())
    words = seen["no_proxy"].split(",")
    assert {".example", "127.0.0.1", "10.0.0.0/8", *(address for _, address in addresses())} <= set(words)
    assert seen["no_proxy"] == seen["NO_PROXY"] == seen["APPTAINERENV_no_proxy"]


def test_a_part_of_an_engine_is_told_where_its_head_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes may be in networks of their own, with a router between them."""
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    told = {"service_id": "s", "api_key": "k", "replicas_per_node": 1, "base_port": 8300, "host": "127.0.0.1"}
    service = msgspec.convert({"schema": 1, "command": ["true"], **told}, type=NodeService)
    environment = service.engine_environment(0, {"head": "10.77.0.9", "port": "8300"})
    assert "10.77.0.9" in environment["no_proxy"].split(",")
