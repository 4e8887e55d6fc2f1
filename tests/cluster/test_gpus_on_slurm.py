"""A service with GPUs on a real Slurm: its jobs tell what their GPUs say, and whoever has its access can read it."""

import asyncio
import contextlib
from pathlib import Path

from driver import install_driver
from grouplab import cancel_everything, profile
from orchestrating import submitted
from running import fetch, wait_for
from tokenstorm.cluster.local import LocalShell
from tokenstorm.cluster.site import Site
from tokenstorm.cluster.slurm import Slurm
from tokenstorm.metrics.gputext import read_gpus
from tokenstorm.orchestrator.recipes import SHIPPED, load_recipes
from tokenstorm.orchestrator.services import ServiceOrchestrator
from waiting import finish


def test_the_gpus_of_a_job_are_read_with_the_services_key_and_no_others(slurm: Path, tmp_path: Path) -> None:
    """The node has three boards, and Slurm gives the job two of them."""
    (tmp_path / "recipes").mkdir()
    shipped = (SHIPPED / "inference" / "sim-single-node.yaml").read_text()
    recipe = shipped.replace("inference/sim-single-node", "test/gpus").replace("gpu: 0", "gpu: 2")
    (tmp_path / "recipes" / "gpus.yaml").write_text(recipe)
    driver = install_driver(tmp_path / "driver")

    async def scenario() -> None:
        shell, there = LocalShell(), profile(tmp_path / "base", environment={"PYTHONPATH": str(driver)})
        site = Site(there, shell, Slurm(shell, there), has_gpu=True)
        recipes = load_recipes([tmp_path / "recipes"])
        orchestrator = ServiceOrchestrator(site, recipes, tmp_path / "services.db")
        await orchestrator.start()
        try:
            service = await submitted(orchestrator, "test/gpus", {"preset": "fast"})
            async with asyncio.timeout(60):
                while not (samplers := await orchestrator.gpu_samplers(service.id)):
                    assert not orchestrator.get(service.id).ended, orchestrator.get(service.id)
                    await asyncio.sleep(0.1)
            (sampler,) = samplers
            assert (sampler.node, sampler.gpus) == (orchestrator.get(service.id).nodes[0], 2)
            status, text, _ = await asyncio.to_thread(fetch, sampler.url, secret=service.api_key)
            assert status == 200
            assert [told.reading.gpu for told in read_gpus(text, sampler.node, 0.0, 1.0)] == ["GPU-0", "GPU-1"]
            await orchestrator.cancel(service.id)
            await asyncio.to_thread(wait_for, lambda: _is_gone(sampler.url), "what tells of GPUs outlived its service")
        finally:
            await orchestrator.close()

    try:
        finish(scenario(), 120)
    finally:
        cancel_everything(slurm)


def _is_gone(url: str) -> bool:
    with contextlib.suppress(OSError):
        return not fetch(url)
    return True
