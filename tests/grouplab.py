"""A Client API over the real Slurm of the lab: its groups are jobs, its endpoint is a process of the test."""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from groups import GROUPS, Services
from running import Run
from tokenstorm.client_api.app import create_app
from tokenstorm.client_api.manager import ClientManager
from tokenstorm.client_api.services import ServiceInfo
from tokenstorm.client_api.store import Store
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.setup.deploy import Deployment
from tokenstorm.cluster.shell import Output, Shell, Streams
from tokenstorm.cluster.site import Site
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.config.profile import Profile
from tokenstorm.report.page import try_page

LOAD: dict[str, Any] = {
    "service_id": "sim",
    "num_clients": 8,
    "requests_per_second": 20.0,
    "duration_seconds": 2.0,
    "max_tokens": 3,
    "drain_seconds": 5.0,
    "prompts": ["hello there"],
    "nodes": 4,
    "ranks": 4,
}
SECONDS = 90.0
"""Far beyond what anything here takes, on a machine that does other things too."""


def profile(folder: Path, **fields: Any) -> Profile:
    """A profile of the lab, where every node is 127.0.0.1."""
    return Profile.model_validate(
        {
            "name": "lab",
            "scheduler": "slurm",
            "base_path": PurePosixPath(folder),
            "python": sys.executable,
            "interface": "127.0.0.0/8",
            **fields,
        }
    )


@dataclass
class Groups:
    """A Client API on this loop, and a caller of it."""

    manager: ClientManager
    client: httpx.AsyncClient
    services: Services
    folder: Path

    async def create(self, **fields: Any) -> int:
        """A group that is taken."""
        answer = await self.client.post(GROUPS, json={**LOAD, **fields})
        assert answer.status_code == 201, answer.text
        group_id: int = answer.json()["group_id"]
        return group_id

    async def get(self, path: str, **query: Any) -> httpx.Response:
        """GET below /client-groups."""
        return await self.client.get(GROUPS + path, params=query)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        """POST below /client-groups."""
        return await self.client.post(GROUPS + path, json=body)

    async def info(self, group_id: int) -> dict[str, Any]:
        """One group's info."""
        answer = await self.get(f"/{group_id}")
        assert answer.status_code == 200, answer.text
        info: dict[str, Any] = answer.json()["info"]
        return info

    async def until(
        self, group_id: int, what: Callable[[dict[str, Any]], object], seconds: float = SECONDS
    ) -> dict[str, Any]:
        """Its info, once it is as wanted."""
        info: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while not what(info := await self.info(group_id)):  # noqa: ASYNC110 - users poll too
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = self.run(info).root / "stderr.log"
            message = f"it never came: {info}\n{logs.read_text() if logs.exists() else 'no log'}"
            raise AssertionError(message) from None
        return info

    async def sending(self, group_id: int, least: int = 10) -> dict[str, Any]:
        """Its info, once so many of its requests have succeeded."""
        return await self.until(group_id, lambda info: (info["progress"] or {}).get("succeeded", 0) >= least)

    async def stopped(self, group_id: int) -> dict[str, Any]:
        """Its info, once it is over."""
        return await self.until(group_id, lambda info: info["status"] == "stopped")

    async def summary(self, group_id: int) -> dict[str, Any]:
        """Its results."""
        answer = await self.get(f"/{group_id}/results")
        assert answer.status_code == 200, answer.text
        summary: dict[str, Any] = answer.json()
        return summary

    async def rows(self, group_id: int) -> list[dict[str, Any]]:
        """Every request that it tells of."""
        answer = await self.get(f"/{group_id}/requests")
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    def run(self, info: dict[str, Any]) -> Run:
        """Where the run wrote."""
        return Run(Path(info["run_dir"]))

    def home(self, info: dict[str, Any]) -> Run:
        """What was brought home of it."""
        return Run(self.folder / "home" / "runs" / info["run_id"])


class Counting(LocalShell):
    """Counts the commands that pass."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[str] = []

    async def run(self, argv: Sequence[str], **options: Any) -> Output:
        self.commands.append(" ".join(argv))
        return await super().run(argv, **options)

    def count(self, name: str) -> int:
        """How often a command of Slurm's was run."""
        return sum(f" {name} " in f"{command} " for command in self.commands)


_GROWING = (".log", ".jsonl")


class Late(LocalShell):
    """A shared file system that shows what the job wrote some seconds later, and of what grows only a part."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._ours: set[PurePosixPath] = set()
        self.withheld: set[str] = set()

    async def put(self, path: PurePosixPath, data: bytes, *, mode: int = 0o600) -> None:
        self._ours.add(path)
        await super().put(path, data, mode=mode)

    async def get(self, path: PurePosixPath, *, offset: int = 0, limit: int | None = None) -> bytes:
        if not self._is_fresh(path):
            return await super().get(path, offset=offset, limit=limit)
        self.withheld.add(path.name)
        if not path.name.endswith(_GROWING):
            raise FileNotFoundError(path)
        half = Path(path).stat().st_size // 2
        return (await super().get(path, offset=offset, limit=limit))[: max(0, half - offset)]

    async def list(self, path: PurePosixPath) -> list[str]:
        names = await super().list(path)
        return [name for name in names if name.endswith(_GROWING) or not self._is_fresh(path / name)]

    def _is_fresh(self, path: PurePosixPath) -> bool:
        try:
            return path not in self._ours and time.time() - Path(path).stat().st_mtime < self._seconds
        except FileNotFoundError:
            return False


class Walled(LocalShell):
    """A site that lets no connection through to its nodes."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def open_connection(self, host: str, port: int) -> Streams:
        raise self._error


@asynccontextmanager
async def groups(
    folder: Path,
    url: str,
    *,
    shell: Shell | None = None,
    jobs: Callable[[Shell, Profile], Slurm] = Slurm,
    site: Site | None = None,
    deployment: Deployment | None = None,
) -> AsyncIterator[Groups]:
    """The API, over what an earlier one left in the same folder; leaving it is like the end of its process."""
    if site is None:
        shell, there = shell or LocalShell(), profile(folder / "cluster")
        (folder / "cluster").mkdir(mode=0o700, exist_ok=True)
        site = Site(there, shell, jobs(shell, there), has_gpu=False)
    store = Store.open(folder / "home" / "client.db")
    services = Services({"sim": ServiceInfo(status="running", engine="simulated")}, url, replica="0")
    manager = ClientManager(site, store, services, folder / "home", make_page=try_page, deployment=deployment)
    try:
        transport = httpx.ASGITransport(create_app(manager))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            await manager.start()
            yield Groups(manager, client, services, folder)
    finally:
        await manager.close()
        await site.close()
        store.close()


def same(one: object, other: object) -> bool:
    """Whether two parts of summaries say the same; floats that were added up in another order differ in the last digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return one == other


def slurm_says(*argv: str) -> str:
    """A command of Slurm's, as its user types it."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


def cancel_everything(conf: Path) -> None:
    """For a test that failed: its jobs would go on. The lab has no user but the tests."""
    assert os.environ["SLURM_CONF"] == str(conf)
    for number in slurm_says("squeue", "-h", "-o", "%i").split():
        slurm_says("scancel", number)


def processes_of(info: dict[str, Any], *words: str) -> list[int]:
    """The processes of a group's job whose command has all these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            there = str((path / "cwd").readlink())
        except OSError:
            continue
        if there == info["run_dir"] and {word.encode() for word in words} <= set(command):
            found.append(int(path.name))
    return found


def kill(pid: int) -> None:
    """The end that nobody can prepare for."""
    os.kill(pid, signal.SIGKILL)
