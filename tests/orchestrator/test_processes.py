"""The whole way with real processes: jobs of this machine, the wrapper on the node, simulated engines that answer."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrating import RECIPES, submitted
from running import TIMEOUT, alive
from tokenstorm.cluster.opening import open_site
from tokenstorm.config.file import load_config
from tokenstorm.orchestrator.recipes import Recipes, load_recipes
from tokenstorm.orchestrator.service import Service
from tokenstorm.orchestrator.services import ServiceOrchestrator

QUICK = {"preset": "fast"}


@dataclass
class Place:
    """A folder to run in, where all that was started is ended."""

    folder: Path
    recipes: Recipes = RECIPES

    @asynccontextmanager
    async def orchestrator(self, *, has_gpu: bool = False) -> AsyncIterator[ServiceOrchestrator]:
        profile = load_config({"TOKENSTORM_HOME": str(self.folder), "HOME": str(self.folder)}).profile()
        site = replace(await open_site(profile), has_gpu=has_gpu)
        orchestrator = ServiceOrchestrator(site, self.recipes, self.folder / "services.db")
        await orchestrator.start()
        try:
            yield orchestrator
        finally:
            await orchestrator.close()
            await site.close()

    def published(self, service: Service) -> list[Mapping[str, Any]]:
        """What the node says of its replicas."""
        return [json.loads(path.read_bytes()) for path in sorted(Path(service.folder).glob("replica.*.json"))]

    def run(self, test: Callable[[ServiceOrchestrator], Coroutine[Any, Any, None]]) -> None:
        """One test; its services are cancelled at its end."""

        async def whole() -> None:
            async with self.orchestrator() as orchestrator:
                try:
                    await test(orchestrator)
                finally:
                    await self.clean(orchestrator)

        asyncio.run(whole())

    async def clean(self, orchestrator: ServiceOrchestrator) -> None:
        """End every service, and see that its engines are gone."""
        for service in orchestrator.list():
            await orchestrator.cancel(service.id)
        pids = [one["pid"] for service in orchestrator.list() for one in self.published(service) if one["pid"]]
        await until(lambda: not any(map(alive, pids)), "the engines never ended")


async def until(what: Callable[[], object], why: str) -> None:
    """Ask again and again until it is so."""
    deadline = time.monotonic() + TIMEOUT
    while not what():
        assert time.monotonic() < deadline, f"waited in vain: {why}"
        await asyncio.sleep(0.02)


async def status(orchestrator: ServiceOrchestrator, service: Service, wanted: str) -> Service:
    """Wait for a status; any other end is a failure."""

    def there() -> bool:
        found = orchestrator.get(service.id)
        assert found.status == wanted or not found.ended, found
        return found.status == wanted

    await until(there, f"{service.id} never was {wanted}: {orchestrator.get(service.id)}")
    return orchestrator.get(service.id)


async def models(url: str, key: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})


def test_four_replicas_of_a_group_and_a_service_beside_them_each_answer_with_their_own_key(tmp_path: Path) -> None:
    async def test(orchestrator: ServiceOrchestrator) -> None:
        group = await submitted(orchestrator, "inference/vllm-replicas", {"model": "big $(model) {port}"})
        single = await submitted(orchestrator, "inference/sim-single-node", QUICK)
        for service in (group, single):
            await status(orchestrator, service, "running")
        assert orchestrator.get(group.id).engine == "simulated"
        replicas = [*orchestrator.replicas(group.id), *orchestrator.replicas(single.id)]
        assert len({replica.url for replica in replicas}) == 5
        for replica in replicas:
            assert replica.url
            assert replica.api_key
            answer = await models(replica.url, replica.api_key)
            assert [model["id"] for model in answer.json()["data"]] == list(replica.models)
            other = single if replica.service_id == group.id else group
            assert (await models(replica.url, other.api_key)).status_code == 401
        assert orchestrator.replicas(group.id)[0].models == ("big $(model) {port}",)
        assert "serving big $(model) {port} at" in (await orchestrator.logs(group.id))[0]
        assert 'replica="' in await orchestrator.engine_metrics(group.id)

    Place(tmp_path).run(test)


def test_services_outlive_the_orchestrator_and_are_found_again(tmp_path: Path) -> None:
    place = Place(tmp_path)

    async def test() -> None:
        async with place.orchestrator() as first:
            service = await first.create("inference/sim-single-node", QUICK)
            before = await status(first, service, "running")
        async with place.orchestrator() as second:
            try:
                assert second.list() == [before]
                await until(lambda: second.replicas(service.id), "its replica was not found again")
                (replica,) = second.replicas(service.id)
                assert replica.url
                assert (await models(replica.url, before.api_key)).status_code == 200
            finally:
                await place.clean(second)

    asyncio.run(test())


def test_a_replica_that_is_killed_is_left_out_and_a_service_whose_last_engine_died_has_failed(tmp_path: Path) -> None:
    place = Place(tmp_path)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        group = await submitted(
            orchestrator, "inference/sim-replicas", {**QUICK, "resources": {"replicas_per_node": 2}}
        )
        await status(orchestrator, group, "running")
        first, second = place.published(group)
        os.kill(first["pid"], signal.SIGKILL)
        await until(lambda: orchestrator.replicas(group.id)[0].status == "failed", "nobody saw that it died")
        assert orchestrator.get(group.id).status == "running"
        assert orchestrator.replicas(group.id)[1].status == "running"
        await until(lambda: "SIGKILL" in orchestrator.get(group.id).reason, "nobody told why")
        os.kill(second["pid"], signal.SIGKILL)
        await until(lambda: orchestrator.get(group.id).ended, "nobody saw that all are dead")
        found = orchestrator.get(group.id)
        assert found.status == "failed"
        assert "SIGKILL" in found.reason

    place.run(test)


def test_an_engine_that_is_not_installed_is_named(tmp_path: Path) -> None:
    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, "inference/llama-cpp", {"environment": {"PATH": "/nowhere"}})
        await until(lambda: orchestrator.get(service.id).ended, "it never ended")
        found = orchestrator.get(service.id)
        assert found.status == "failed"
        assert "llama-server" in found.reason

    Place(tmp_path).run(test)


def test_hostile_text_reaches_the_engine_as_typed(tmp_path: Path) -> None:
    """The engine is a program that writes down how it was started, and then serves like any other."""
    hostile = [
        "$(touch x)`id`",
        "a'b\"c\\",
        "x\ny\tz",
        "{port} {api_key_file}",
        "; rm -rf ~",
        "été 🐍",
        " ",
        "",
        "%s{}",
    ]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "engine.py").write_text(ENGINE)
    (tmp_path / "recipes" / "mine.yaml").write_text(RECIPE)
    place = Place(tmp_path, load_recipes([tmp_path / "recipes"]))

    async def test() -> None:
        async with place.orchestrator() as orchestrator:
            try:
                config = {"script": str(tmp_path / "engine.py"), "words": hostile}
                environment = {f"TYPED_{number}": text for number, text in enumerate(hostile)}
                service = await submitted(orchestrator, "mine/engine", {**config, "environment": environment})
                await status(orchestrator, service, "running")
                said = json.loads((Path(service.folder) / "started.json").read_bytes())
                assert said["words"] == hostile
                assert [said["environment"][f"TYPED_{number}"] for number in range(len(hostile))] == hostile
                assert said["key"] == f"key: {service.api_key}\n"
                assert service.api_key not in " ".join(said["argv"])
                assert not (Path(service.folder) / "x").exists()
            finally:
                await place.clean(orchestrator)

    asyncio.run(test())


RECIPE = """\
name: mine/engine
engine: mine
model: mine
command: ["{profile.python}", "{script}", "{host}", "{port}", "{api_key_file}", "{words}"]
ports: [8001]
api_key: {file: options.yaml, content: "key: {api_key}\\n"}
parameters:
  script: {type: string, default: engine.py}
  words: {type: strings, default: []}
"""
ENGINE = """\
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

host, port, key_file, *words = sys.argv[1:]
key = Path(key_file).read_text()
said = {"argv": sys.argv, "words": words, "environment": dict(os.environ), "key": key}
Path(key_file).with_name("started.json").write_text(json.dumps(said))

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["authorization"] == "Bearer " + key.split()[1]
        body = json.dumps({"data": [{"id": "mine"}]}).encode()
        self.send_response(200 if known or self.path == "/health" else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer((host, int(port)), Handler).serve_forever()
"""


def test_a_service_of_this_machine_runs_inside_somebody_elses_slurm_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `tokenstorm up` does in an interactive job of a user: the node's name is that of Slurm, and so is the run."""
    for name, value in {"SLURM_JOB_ID": "5", "SLURMD_NODENAME": "gpu-07", "SLURM_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, "inference/sim-single-node", QUICK)
        assert (await status(orchestrator, service, "running")).nodes == ("gpu-07",)

    Place(tmp_path).run(test)
