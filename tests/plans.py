"""A plan for tests: the least that is one, and what the test is about."""

from tokenstorm.plan import Plan, make_plan

LEAST = {
    "run_id": "0" * 32,
    "targets": [{"replica": "0", "url": "http://127.0.0.1:1"}],
    "prompts": {"kind": "list", "prompts": ["hi"]},
    "num_clients": 4,
    "seed": 1,
}
TWO_REPLICAS = [{"replica": "0", "url": "http://h"}, {"replica": "1", "url": "http://i"}]


def plan(**fields: object) -> Plan:
    """The least plan with other or more fields."""
    return make_plan({**LEAST, **fields})
