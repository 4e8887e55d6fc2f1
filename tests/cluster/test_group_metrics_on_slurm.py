"""A real Prometheus beside a service and a group on a real Slurm, set up as docs/prometheus.md says."""

import json
import math
import sys
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import scraping
from grouplab import cancel_everything
from running import TIMEOUT, Stage, fetch, wait_for
from scraping import Prometheus
from serving import Up, start_up
from tokenstorm.metrics.exposition import BOUNDS

GRAFANA = Path(__file__).parents[2] / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))

pytestmark = pytest.mark.skipif(not scraping.THERE, reason=scraping.MISSING)


@pytest.fixture
def up(slurm: Path, stage: Stage) -> Iterator[Up]:
    """`tokenstorm up` on a login node of the lab."""
    config = stage.folder / "config.toml"
    there = f'scheduler = "slurm"\nbase_path = "{stage.folder}/base"\npython = "{sys.executable}"\ninterface = "127.0.0.1"\n'
    config.write_text(f'default_profile = "lab"\n[profiles.lab]\n{there}')
    yield start_up(stage, TOKENSTORM_CONFIG=str(config))
    cancel_everything(slurm)


def expressions() -> Iterator[str]:
    """Each expression of each dashboard, for all groups and services, over the rate's shortest interval."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_bytes())["panels"]:
            for target in panel["targets"]:
                chosen = target["expr"].replace("$group_id", ".+").replace("$service_id", ".+")
                yield chosen.replace("$__rate_interval", "4s")


def without_data(prometheus: Prometheus, asked: set[str]) -> set[str]:
    """The expressions that give no number now; a quantile of nothing is none."""
    return {one for one in asked if all(math.isnan(value) for _, value in prometheus.query(one))}


def test_a_prometheus_finds_what_runs_fills_every_panel_and_agrees_with_the_summary(stage: Stage, up: Up) -> None:
    addresses = {"127.0.0.1:8000": up.orchestrator, "127.0.0.1:8001": up.server, "127.0.0.1:8003": up.client}
    addresses = {written: url.removeprefix("http://") for written, url in addresses.items()}
    prometheus = scraping.scrape(stage, (GRAFANA / "prometheus.yml").read_text(), addresses)
    with up.sdk() as client:
        config = {"preset": "fast", "extra_args": ["--error-500", "0.2"]}
        service = client.create_service("inference/sim-single-node", config).id
        load: dict[str, Any] = {
            "num_clients": 20,
            "requests_per_second": 40.0,
            "duration_seconds": 300.0,
            "max_tokens": 20,
            "slo": {"latency_seconds": 9.0},
        }
        group = client.create_group(service_id=service, prompts=["hello there"], **load).group_id
        empty = set(expressions())

        def every_panel_shows_something() -> bool:
            empty.intersection_update(without_data(prometheus, empty))
            assert client.get_group(group).info.status != "stopped", f"nothing came of {empty}"
            return not empty

        wait_for(every_panel_shows_something, "the group never began")
        texts = [f"{url}/metrics" for url in (up.orchestrator, up.server, up.client)]
        texts += [f"{up.client}/api/v1/client-groups/{group}/metrics", f"{up.server}/api/v1/services/{service}/metrics"]
        complaints = [one for url in texts for one in scraping.complaints(fetch(url)[1].decode())]
        assert [one for one in complaints if not one.startswith("vllm:")] == []
        assert all(one.endswith("metric names should not contain ':'") for one in complaints)  # they are vLLM's own

        client.stop_group(group)
        client.wait_until_stopped(group, seconds=TIMEOUT)
        summary = client.results(group)
    agrees(prometheus, f'group_id="{group}"', summary.counts.succeeded, summary.metrics["ttft_seconds"].p99 or 0.0)
    targets = {target["labels"]["job"] for target in prometheus.ask("targets", state="active")["activeTargets"]}
    assert targets == {"groups", "services", "tokenstorm"}
    assert {labels["service_id"] for labels, _ in prometheus.query("vllm:num_requests_running")} == {service}


def agrees(prometheus: Prometheus, label: str, succeeded: int, ttft: float) -> None:
    """The last scrape has all requests; the summary's p99 lies in the bucket in which PromQL finds it, 1% at its edges."""
    count = f"client_latency_seconds_count{{{label}}}"
    wait_for(lambda: prometheus.query(count)[0][1] == succeeded, "Prometheus never saw the last figures")
    ((labels, found),) = prometheus.query(f"histogram_quantile(0.99, client_ttft_seconds_bucket{{{label}}})")
    assert "exported_group_id" not in labels
    place = bisect_left(BOUNDS, found)
    assert 0.99 * BOUNDS[place - 1] <= ttft <= 1.01 * BOUNDS[place], (found, ttft)


def test_dashboards_take_their_data_source_from_a_variable() -> None:
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_bytes())
        chosen, *variables = dashboard["templating"]["list"]
        assert (chosen["type"], chosen["name"], chosen["query"]) == ("datasource", "datasource", "prometheus")
        places = {place["datasource"]["uid"] for place in (*variables, *dashboard["panels"])}
        assert places == {"${datasource}"}


def test_the_compose_file_and_the_provisioning_name_each_others_files_and_ports() -> None:
    """What can be known without Docker and Grafana: every mount is there, and one finds the other where it is."""
    services = yaml.safe_load((GRAFANA / "compose.yaml").read_text())["services"]
    mounts = {
        place.split(":")[1]: GRAFANA / place.split(":")[0] for one in services.values() for place in one["volumes"]
    }
    assert all(path.exists() for path in mounts.values())
    (listens,) = (word for word in services["prometheus"]["command"] if "listen-address" in word)
    assert mounts[services["prometheus"]["command"][0].partition("=")[2]] == GRAFANA / "prometheus.yml"
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == f"http://{listens.partition('=')[2]}"
    scraped = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/tokenstorm.yaml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert mounts[folder] == GRAFANA / "dashboards"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (mounts[folder] / home.removeprefix(f"{folder}/")).exists()
