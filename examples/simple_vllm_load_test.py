"""One vLLM service, one group of clients: create, wait, load, results, clean up.

Run `tokenstorm up` first, then: python3 examples/simple_vllm_load_test.py
A short version: python3 examples/simple_vllm_load_test.py --duration-seconds 5
"""

from utils.utils import (
    arguments,
    create_client_group,
    create_service,
    print_results,
    stop_service,
    wait_for_client_group,
    wait_for_service,
)

PROMPTS = ["Write a poem about AI.", "Explain machine learning.", "What is deep learning?"]


def main() -> None:
    """The whole flow; the service is stopped whatever happens."""
    options = arguments(
        "Load test of one service",
        recipe="inference/vllm-single-node",
        num_clients=10,
        requests_per_second=2.0,
        duration_seconds=60.0,
        max_tokens=100,
    )
    service = create_service(options.recipe)
    print(f"Created service {service['id']} ({service['engine']}), waiting for it ...")
    try:
        print(f"Ready: {', '.join(wait_for_service(service['id']))}")
        group_id = create_client_group(
            service_id=service["id"],
            num_clients=options.num_clients,
            requests_per_second=options.requests_per_second,
            duration_seconds=options.duration_seconds,
            prompts=PROMPTS,
            max_tokens=options.max_tokens,
        )
        print(f"Load test {wait_for_client_group(group_id)}")
        print_results(group_id)
    finally:
        stop_service(service["id"])


if __name__ == "__main__":
    main()
