"""A service's folder on a node, and the real wrapper on it."""

import json
import socket
import sys
from typing import Any

from running import Stage, fetch, free_port, wait_for

NODE = socket.gethostname()
KEY = "sk-of-this-service"
SIMULATOR = [
    sys.executable, "-m", "tokenstorm.simulator", "--preset", "fast",
    "--host", "{host}", "--port", "{port}", "--api-key-env", "ENGINE_KEY",
]  # fmt: skip


class Service:
    """A service's folder, and the wrapper on it."""

    def __init__(self, stage: Stage, name: str = "service", **fields: Any) -> None:
        self.stage = stage
        self.folder = stage.folder / name
        self.folder.mkdir()
        content = {
            "schema": 1,
            "service_id": name,
            "api_key": KEY,
            "replicas_per_node": 1,
            "base_port": free_port(),
            "host": "127.0.0.1",
            "command": SIMULATOR,
            "environment": {},
            "api_key_env": "ENGINE_KEY",
            "gpus_per_replica": None,
            "health_path": "/health",
            "models_path": "/v1/models",
            "ready_seconds": 60,
            **fields,
        }
        self.base_port = content["base_port"]
        (self.folder / "service.json").write_text(json.dumps(content))

    def start(self, **environment: str) -> "Service":
        argv = [sys.executable, "-m", "tokenstorm.node", str(self.folder)]
        self.process = self.stage.popen(argv, env=self.stage.environment(**environment))
        return self

    def published(self, index: int = 0) -> dict[str, Any]:
        path = self.folder / f"replica.{NODE}.{index}.json"
        content: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {"status": None}
        return content

    def reaches(self, status: str, index: int = 0) -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            found = self.published(index)
            assert found["status"] in (status, "starting", "running", None), found
            return found if found["status"] == status else None

        return wait_for(there, f"replica {index} never was {status}")

    def answers(self, index: int = 0) -> int:
        found = self.published(index)
        return fetch(f"http://{found['host']}:{found['port']}/v1/models", secret=KEY)[0]
