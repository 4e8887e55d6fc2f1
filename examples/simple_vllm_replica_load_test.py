"""A group of vLLM replicas under high load: the clients spread over all of them.

Run `tokenstorm up` first, then: python3 examples/simple_vllm_replica_load_test.py
A short version: python3 examples/simple_vllm_replica_load_test.py --duration-seconds 5 --requests-per-second 20
"""

from utils.utils import (
    arguments,
    create_client_group,
    create_service,
    print_results,
    stop_service,
    wait_for_client_group,
    wait_for_replicas,
)


def main() -> None:
    """The whole flow; the replicas are stopped whatever happens."""
    options = arguments(
        "Load test of a group of replicas",
        recipe="inference/vllm-replicas",
        num_clients=100,
        requests_per_second=50.0,
        duration_seconds=300.0,
        max_tokens=200,
    )
    service = create_service(options.recipe)
    group_id = service["group_id"]
    print(
        f"Created group {group_id} of {service['total_replicas']} replicas ({service['engine']}), waiting for them ..."
    )
    try:
        print(f"Ready: {', '.join(wait_for_replicas(group_id))}")
        client_group_id = create_client_group(
            service_id=group_id,
            num_clients=options.num_clients,
            requests_per_second=options.requests_per_second,
            duration_seconds=options.duration_seconds,
            prompts=["Test prompt"] * 10,
            max_tokens=options.max_tokens,
        )
        print(f"Stress test {wait_for_client_group(client_group_id)}")
        print_results(client_group_id)
    finally:
        stop_service(group_id)


if __name__ == "__main__":
    main()
