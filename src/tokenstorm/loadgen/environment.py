"""What a run ran with, as its summary tells it."""

import os
import platform
from collections.abc import Iterable

from tokenstorm import __version__
from tokenstorm.loadgen.messages import Service
from tokenstorm.metrics.reports import Environment, PromptStock, WorkloadFacts
from tokenstorm.plan import Plan


def environment_of(
    plan: Plan,
    service: Service,
    facts: dict[str, object],
    notes: list[str],
    *,
    hosts: Iterable[str],
    stock: PromptStock | None,
    workload: WorkloadFacts | None,
) -> Environment:
    """What is known before the start."""
    return Environment(
        tokenstorm=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        hosts=sorted(hosts),
        job_id=os.environ.get("SLURM_JOB_ID"),
        model=service.model,
        simulated=any(isinstance(answer, dict) and answer.get("simulated") is True for answer in facts.values()),
        engine=dict(facts),
        prompts=stock,
        workload=workload,
        vocabulary=len(service.vocabulary) if plan.prompts_are_measured else None,
        template_tokens=service.template_tokens,
        ignore_eos=service.ignore_eos,
        notes=notes,
    )
