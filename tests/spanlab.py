"""Services whose engine spans nodes, on a real Slurm: the orchestrator, and what runs for it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from orchestrating import submitted
from slurmjobs import output
from tokenstorm.cluster.http import transport
from tokenstorm.cluster.site import Site
from tokenstorm.orchestrator.recipes import load_recipes
from tokenstorm.orchestrator.service import Service
from tokenstorm.orchestrator.services import ServiceOrchestrator

ENGINE = Path(__file__).with_name("partsengine.py")
SECONDS = 90.0
RECIPE = f"""\
name: test/NAME
engine: parts
model: parts
command:
  - {sys.executable}
  - {ENGINE}
  - "{{host}}"
  - "{{port}}"
  - "{{head}}"
  - "{{head_port}}"
  - "{{node_rank}}"
  - "{{nnodes}}"
  - {{if: is_worker, words: ["{{worker_args}}"]}}
PORTS
resources: {{nodes: NODES, cpu: 1, time_limit: 10}}
readiness: {{timeout_seconds: READY}}
api_key: {{variable: ENGINE_KEY}}
parameters:
  worker_args: {{type: strings, default: []}}
"""


def write_recipes(folder: Path, ready: float = 60) -> Path:
    """`test/span`, one engine over two nodes, and `test/group`, two of them over four. Gives their folder."""
    folder.mkdir()
    kinds = {
        "span": ("ports: [8300]\nspans_nodes: true", 2),
        "group": ("base_port: 8300\nnodes_per_replica: 2", 4),
    }
    for name, (ports, nodes) in kinds.items():
        text = RECIPE.replace("NAME", name).replace("PORTS", ports).replace("NODES", str(nodes))
        (folder / f"{name}.yaml").write_text(text.replace("READY", f"{ready:g}"))
    return folder


@dataclass
class Spanning:
    """An orchestrator with services over several nodes."""

    orchestrator: ServiceOrchestrator
    site: Site

    async def until(self, service_id: str, what: Callable[[Service], object], seconds: float = SECONDS) -> Service:
        """The service, once it is as wanted."""
        try:
            async with asyncio.timeout(seconds):
                while not what(self.orchestrator.get(service_id)):  # noqa: ASYNC110 - users poll too
                    await asyncio.sleep(0.05)
        except TimeoutError:
            found = self.orchestrator.get(service_id)
            message = f"it never came: {found} {self.said(found)}"
            raise AssertionError(message) from None
        return self.orchestrator.get(service_id)

    async def running(self, name: str = "test/span", **config: object) -> Service:
        """A service that is ready."""
        service = await submitted(self.orchestrator, name, config)
        found = await self.until(service.id, lambda one: one.status == "running" or one.ended)
        assert found.status == "running", (found, self.said(found))
        return found

    async def ended(self, service: Service) -> Service:
        """The same, once it has ended and nothing of it is left on any node."""
        found = await self.until(service.id, lambda one: one.ended)
        async with asyncio.timeout(SECONDS):
            while parts_of(service.folder):  # noqa: ASYNC110 - processes of nodes tell nobody
                await asyncio.sleep(0.05)
        return found

    async def asked(self, service: Service) -> list[int]:
        """What each replica answers to its key."""
        async with httpx.AsyncClient(transport=transport(self.site.shell)) as client:
            key = {"authorization": f"Bearer {service.api_key}"}
            replicas = self.orchestrator.replicas(service.id)
            return [(await client.get(f"{one.url}/v1/models", headers=key)).status_code for one in replicas]

    def said(self, service: Service) -> str:
        """What the job said, for a test that fails."""
        path = Path(service.folder) / "stderr.log"
        return path.read_text() if path.exists() else ""


@asynccontextmanager
async def spanning(folder: Path, site: Site, ready: float = 60) -> AsyncIterator[Spanning]:
    """An orchestrator on a site; in the end its services are cancelled."""
    recipes = load_recipes([write_recipes(folder / "recipes", ready)])
    orchestrator = ServiceOrchestrator(site, recipes, folder / "store.sqlite")
    try:
        await orchestrator.start()
        yield Spanning(orchestrator, site)
        for service in orchestrator.list():
            await orchestrator.cancel(service.id)
    finally:
        await orchestrator.close()
        await site.close()


def parts_of(folder: str) -> dict[str, int]:
    """The processes of a service's engines, by the rank of their part and their node, `0 n1`."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
            there = str((path.parent / "cwd").readlink())
            variables = (path.parent / "environ").read_bytes().decode().split("\0")
        except OSError:
            continue
        if str(ENGINE) in words and there == folder:
            node = next(one.partition("=")[2] for one in variables if one.startswith("SLURMD_NODENAME="))
            found[f"{words[6]} {node}"] = int(path.parent.name)
    return found


def kill_part(service: Service, rank: int) -> str:
    """Kill a part of the service's one engine. Gives its node."""
    place, pid = next((place, pid) for place, pid in parts_of(service.folder).items() if place.startswith(f"{rank} "))
    os.kill(pid, signal.SIGKILL)
    return place.split()[1]


def scontrol(*words: str) -> str:
    """As an administrator."""
    return output("scontrol", *words)


def idle(nodes: Sequence[str]) -> None:
    """Give nodes back."""
    for node in nodes:
        scontrol("update", f"nodename={node}", "state=idle")
