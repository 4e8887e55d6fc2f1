"""Engines over nodes that have addresses and cables of their own, reached over SSH through a login node alone."""

import os
from pathlib import Path

import pytest

import slurmlab
import sshd
from spanlab import parts_of, spanning
from tokenstorm.cluster.opening import open_site
from tokenstorm.config.file import load_config
from waiting import finish, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not slurmlab.THERE, reason=slurmlab.MISSING),
    pytest.mark.skipif(not sshd.SSHD, reason=sshd.MISSING),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make networks"),
]


def test_parts_meet_on_the_profiles_network_and_a_pulled_cable_is_told_by_the_nodes_name(tmp_path: Path) -> None:
    async def work(lab: Path) -> None:
        profile = load_config({"TOKENSTORM_CONFIG": str(lab / "config.toml")}).profile("lab")
        async with spanning(tmp_path, await open_site(profile)) as there:
            service = await there.running()
            (replica,) = there.orchestrator.replicas(service.id)
            assert replica.host
            assert replica.host.startswith("10.77.0.")
            assert await there.asked(service) == [200]
            away = service.nodes[1]
            slurmlab.ask(lab, "unplug", away)
            found = await there.until(service.id, lambda one: away in one.reason or one.ended, 150)
            assert away in found.reason, (found, there.said(found))
            slurmlab.ask(lab, "plug", away)
            await there.until(service.id, lambda one: one.ended, 150)
            await until(lambda: not parts_of(service.folder), 150)

    with slurmlab.network_lab(3) as lab:
        finish(work(lab), 400)
