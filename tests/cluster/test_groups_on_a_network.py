"""Groups on nodes that have addresses, clocks and cables of their own, reached over SSH through a login node alone."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import slurmlab
import sshd
from grouplab import groups
from running import Stage
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.ssh.remote import Remote
from tokenstorm.config.file import load_config
from tokenstorm.config.profile import Profile
from waiting import finish

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not slurmlab.THERE, reason=slurmlab.MISSING),
    pytest.mark.skipif(not sshd.SSHD, reason=sshd.MISSING),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make networks"),
]


@dataclass(frozen=True)
class Network:
    """A lab with a network, and an engine in it."""

    folder: Path
    profile: Profile
    engine: str

    def ask(self, *words: str) -> None:
        slurmlab.ask(self.folder, *words)


@pytest.fixture
def network(stage: Stage) -> Iterator[Network]:
    with slurmlab.network_lab(3) as folder:
        try:
            simulator = [sys.executable, "-m", "tokenstorm.simulator", "--host", "10.77.0.254", "--port", "0"]
            argv = [str(slurmlab.LAB), "run", str(folder), "login", *simulator, "--preset", "fast"]
            process = stage.popen(argv, stdout=subprocess.PIPE)
            assert process.stdout
            found = re.search(r"at (http://\S+)", process.stdout.readline())
            assert found
            profile = load_config({"TOKENSTORM_CONFIG": str(folder / "config.toml")}).profile("lab")
            yield Network(folder, profile, found[1])
        finally:
            stage.close()


def test_ranks_reach_a_launcher_on_another_node_and_users_do_through_the_login_node(
    tmp_path: Path, network: Network
) -> None:
    async def work() -> None:
        async with groups(tmp_path, network.engine, site=await open_site(network.profile)) as api:
            group = await api.create(nodes=3, ranks=3, duration_seconds=6.0)
            info = await api.sending(group)
            assert re.match(r"http://10\.77\.0\.[123]:", info["client_address"])
            assert info["progress"]["age_seconds"] is None
            info = await api.stopped(group)
            assert (info["outcome"], info["reason"]) == ("completed", "")
            summary = await api.summary(group)
            assert {report["host"] for report in summary["ranks"]} == {"n1", "n2", "n3"}
            assert len({round(clock["offset"] / 1e9) for clock in summary["clock"].values()}) == 3
            assert summary["counts"]["succeeded"] == len(await api.rows(group)) == 120

    finish(work(), 180)


def test_a_pulled_cable_costs_the_ranks_of_that_node(tmp_path: Path, network: Network) -> None:
    async def work() -> None:
        async with groups(tmp_path, network.engine, site=await open_site(network.profile)) as api:
            group = await api.create(nodes=3, ranks=3, duration_seconds=10.0, request_timeout_seconds=2.0)
            info = await api.sending(group)
            launcher = re.match(r"http://10\.77\.0\.([123]):", info["client_address"])
            assert launcher
            away = f"n{int(launcher[1]) % 3 + 1}"
            network.ask("unplug", away)
            info = await api.stopped(group)
            assert (info["outcome"], info["reason"]) == ("completed", "")
            summary = await api.summary(group)
            assert [report["host"] for report in summary["ranks"] if report["lost"]] == [away]
            others = [row for row in await api.rows(group) if summary["ranks"][row["rank"]]["host"] != away]
            assert len(others) >= 133
            assert not [row for row in others if row["error"]]

    finish(work(), 240)


def test_where_the_login_node_reaches_no_node_connections_pass_through_a_job(tmp_path: Path, network: Network) -> None:
    """A firewall that drops what the login node wants to open at nodes, but for Slurm itself."""
    slurm = re.findall(r"^NodeName=.* Port=(\d+)", (network.folder / "slurm.conf").read_text(), re.MULTILINE)
    nodes = "ip daddr 10.77.0.0/24 ip daddr != 10.77.0.254"
    network.ask("run", "login", "nft", "add table ip site")
    network.ask("run", "login", "nft", "add chain ip site out { type filter hook output priority 0; }")
    network.ask(
        "run",
        "login",
        "nft",
        f"add rule ip site out {nodes} tcp flags & (syn|ack) == syn tcp dport != {{ {','.join(slurm)} }} drop",
    )

    async def work() -> None:
        site = await open_site(network.profile)
        assert isinstance(site.shell, Remote)
        async with groups(tmp_path, network.engine, site=site) as api:
            group = await api.create(nodes=2, ranks=2, duration_seconds=30.0)
            info = await api.until(
                group, lambda info: bool(info["progress"]) and info["progress"]["age_seconds"] is None
            )
            assert site.shell.reach.way == "by a relay beside a job"
            assert (await api.post(f"/{group}/stop")).status_code == 200
            info = await api.stopped(group)
            assert (info["outcome"], info["reason"]) == ("cancelled", "stopped")
            assert (await api.summary(group))["counts"]["succeeded"] == len(await api.rows(group)) > 0

    finish(work(), 120)
