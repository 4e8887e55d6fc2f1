"""What both examples need: finding services, waiting for them, watching groups. Plain `requests`, as in any script."""

import argparse
import os
import time
from typing import Any

import requests

SERVER_API = os.environ.get("TOKENSTORM_SERVER_URL", "http://localhost:8001") + "/api/v1"
CLIENT_API = os.environ.get("TOKENSTORM_CLIENT_URL", "http://localhost:8003") + "/api/v1"
CALL_SECONDS = 60
ENDED = ("completed", "failed", "cancelled", "timeout")


def arguments(description: str, **defaults: Any) -> argparse.Namespace:
    """The options of an example; each default can be given another value, for a shorter or a harder test."""
    parser = argparse.ArgumentParser(description=description)
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="(%(default)s)")
    return parser.parse_args()


def call(method: str, url: str, body: Any = None) -> Any:
    """One call; when it is refused, the reason is what the API says."""
    response = requests.request(method, url, json=body, timeout=CALL_SECONDS)
    if not response.ok:
        raise SystemExit(f"{method} {url}: {response.status_code} {response.json().get('detail', response.text)}")
    return response.json()


def create_service(recipe_name: str) -> dict[str, Any]:
    """Start a service or a group of replicas from a recipe."""
    return call("POST", f"{SERVER_API}/services", {"recipe_name": recipe_name})


def running_services() -> list[str]:
    """The ids of the services that answer now."""
    services = call("GET", f"{SERVER_API}/services")["services"]
    return [service["id"] for service in services if service["status"] == "running"]


def wait_for_service(service_id: str, seconds: float = 900) -> list[str]:
    """Wait until a service answers; the models that it has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = call("GET", f"{SERVER_API}/services/{service_id}/status")
        if state["status"] in ENDED:
            raise SystemExit(f"service {service_id} is {state['status']}: {state.get('reason', '')}")
        models = call("GET", f"{SERVER_API}/vllm/{service_id}/models")
        if state["status"] == "running" and models.get("success"):
            return models["models"]
        time.sleep(1)
    raise SystemExit(f"service {service_id} is not ready after {seconds:g} s")


def wait_for_replicas(group_id: str, seconds: float = 900) -> list[str]:
    """Wait until all replicas of a group answer, telling how many do; their ids."""
    deadline = time.monotonic() + seconds
    told = -1
    while time.monotonic() < deadline:
        group = call("GET", f"{SERVER_API}/service-groups/{group_id}")
        if group["status"] in ENDED:
            raise SystemExit(f"group {group_id} is {group['status']}: {group.get('reason', '')}")
        if group["healthy_replicas"] != told:
            told = group["healthy_replicas"]
            print(f"{told} of {group['total_replicas']} replicas are ready", flush=True)
        if group["status"] == "running":
            return [replica["id"] for job in group["node_jobs"] for replica in job["replicas"]]
        time.sleep(1)
    raise SystemExit(f"group {group_id} is not ready after {seconds:g} s")


def create_client_group(**load: Any) -> int:
    """Create a group of clients; its id."""
    result = call("POST", f"{CLIENT_API}/client-groups", load)
    print(result["message"])
    return result["group_id"]


def wait_for_client_group(group_id: int, seconds: float = 3600) -> str:
    """Watch a group until it has stopped; its outcome."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        info = call("GET", f"{CLIENT_API}/client-groups/{group_id}")["info"]
        if info["status"] == "stopped":
            return info["outcome"]
        progress = info["progress"] or {"elapsed_seconds": 0, "succeeded": 0, "failed": 0}
        print(
            f"[{progress['elapsed_seconds']:.0f}s] {info['status']} {info['reason'] or ''} "
            f"{progress['succeeded']} succeeded, {progress['failed']} failed",
            flush=True,
        )
        time.sleep(2)
    raise SystemExit(f"client group {group_id} has not stopped after {seconds:g} s")


def print_results(group_id: int) -> None:
    """The numbers that matter, the verdict, and what each replica got."""
    results = call("GET", f"{CLIENT_API}/client-groups/{group_id}/results")
    counts, metrics = results["counts"], results["metrics"]
    print(f"{counts['succeeded']} of {counts['scheduled']} requests succeeded, {counts['failed']} failed")
    print(
        f"{results['rates']['achieved_rps']:.2f} requests/s, {results['rates']['output_tokens_per_second'] or 0:.0f} tokens/s"
    )
    for name in ("ttft_seconds", "latency_seconds"):
        found = metrics[name]
        if found["count"]:
            print(f"{name}: p50 {found['p50']:.3f}, p99 {found['p99']:.3f}")
    if len(results["replicas"]) > 1:
        for replica, report in results["replicas"].items():
            print(f"replica {replica}: {report['counts']['sent']} requests")
    print(f"verdict: {results['verdict']['state']}")
    for reason in results["verdict"]["reasons"]:
        print(f"  - {reason['text']}")


def stop_service(service_id: str) -> None:
    """Cancel a service or a group of replicas."""
    state = call("POST", f"{SERVER_API}/services/{service_id}/status", {"status": "cancelled"})
    print(f"service {service_id} is {state['status']}")
