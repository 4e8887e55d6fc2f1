"""Engines over several nodes, from their recipes to what is told of them."""

from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrating import RUNNING, laptop, slurm, submitted, with_orchestrator
from tokenstorm.cluster.scheduler import JobState
from tokenstorm.config.profile import Container, Profile
from tokenstorm.orchestrator.container import contained
from tokenstorm.orchestrator.document import RecipeError, parse_document
from tokenstorm.orchestrator.launch import ConfigError, Launch, prepare, service_file
from tokenstorm.orchestrator.recipe import Recipe
from tokenstorm.orchestrator.recipes import Recipes, load_recipes, make_recipe
from tokenstorm.orchestrator.schemas import group_info
from tokenstorm.orchestrator.service import WRAPPER_SAYS_SECONDS
from tokenstorm.orchestrator.services import ServiceOrchestrator

RECIPES = load_recipes()
PLAIN = SimpleNamespace(python="python3", model_dir=None, hf_home=None, offline=False)
MINE = """\
name: mine/span
engine: mine
model: big
image: /mine.sif
command:
  - serve
  - --listen={host}:{port}
  - --head={head}:{head_port}
  - --part={node_rank}
  - --of={nnodes}
  - {if: is_worker, words: [--quiet], else: [--serve]}
  - "{extra}"
environment:
  HOST_IP: "{host}"
  NET: "={interface}"
ports: [9000]
spans_nodes: true
resources: {nodes: 2, cpu: 3, memory: 4G}
api_key: {variable: THE_KEY}
parameters:
  extra: {type: strings, default: []}
"""
GROUP = MINE.replace("ports: [9000]", "base_port: 9000\nnodes_per_replica: 2").replace("nodes: 2,", "nodes: 4,")


def recipe(text: str) -> Recipe:
    return make_recipe(parse_document(text, "mine.yaml"))


def prepared(text: str, **config: object) -> Launch:
    return prepare(recipe(text), config, PLAIN)


def after(words: tuple[str, ...], option: str) -> str:
    return words[words.index(option) + 1]


def test_vllm_gets_a_stage_on_each_node_and_its_workers_serve_nothing() -> None:
    launch = prepare(RECIPES.get("inference/vllm-multi-node"), {"resources": {"nodes": 3, "gpu": 8}}, PLAIN)
    both = (launch.command, launch.worker_command)
    for words in both:
        assert (after(words, "--tensor-parallel-size"), after(words, "--pipeline-parallel-size")) == ("8", "3")
        assert (after(words, "--nnodes"), after(words, "--node-rank")) == ("3", "{node_rank}")
        assert (after(words, "--master-addr"), after(words, "--master-port")) == ("{head}", "{head_port}")
    assert ["--headless" in words for words in both] == [False, True]
    assert launch.node_environment["VLLM_HOST_IP"] == "{host}"
    assert (launch.parts, launch.resources.total_replicas, launch.resources.is_group) == (3, 1, False)


def test_sglang_shares_each_layer_over_the_gpus_of_all_nodes() -> None:
    launch = prepare(RECIPES.get("inference/sglang-multi-node"), {"resources": {"nodes": 2, "gpu": 8}}, PLAIN)
    for words in (launch.command, launch.worker_command):
        assert after(words, "--tp-size") == "16"
        assert (after(words, "--nnodes"), after(words, "--dist-init-addr")) == ("2", "{head}:{head_port}")


def test_how_gpus_share_a_model_can_be_chosen() -> None:
    config = {"tensor_parallel_size": 8, "pipeline_parallel_size": 1}
    words = prepare(RECIPES.get("inference/vllm-multi-node"), config, PLAIN).command
    assert (after(words, "--tensor-parallel-size"), after(words, "--pipeline-parallel-size")) == ("8", "1")


def test_a_group_shares_its_nodes_out_among_engines() -> None:
    launch = prepared(GROUP, resources={"nodes": 6, "nodes_per_replica": 3})
    assert (launch.parts, launch.resources.total_replicas, launch.resources.is_group) == (3, 2, True)
    assert "--of=3" in launch.command
    with pytest.raises(
        ConfigError, match=r"config.resources.nodes: must be a multiple of nodes_per_replica \(2\), not 3"
    ):
        prepared(GROUP, resources={"nodes": 3})


def test_what_a_user_typed_is_no_placeholder_for_any_part() -> None:
    launch = prepared(MINE, extra=["{head}", "{node_rank}"], environment={"HOST_IP": "{host}", "NET": None})
    assert [launch.command[number] for number in launch.literal] == ["{head}", "{node_rank}"]
    assert [launch.worker_command[number] for number in launch.worker_literal] == ["{head}", "{node_rank}"]
    assert (launch.environment["HOST_IP"], launch.node_environment) == ("{host}", {})


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("spans_nodes: true", "spans_nodes: 2", "`spans_nodes` must be true or false, not 2"),
        ("spans_nodes: true\n", "", "which engines over several nodes have: set `spans_nodes`"),
        (
            "ports: [9000]",
            "base_port: 9000",
            "`base_port` belongs to replicas, with `gpu_per_replica`, `replicas_per_node` or",
        ),
        ("ports: [9000]", "base_port: 9000\nreplicas_per_node: 2", "are taken whole by engines that span them"),
        (
            "ports: [9000]",
            "base_port: 9000\nnodes_per_replica: 3",
            "must be a multiple of nodes_per_replica (3), not 2",
        ),
        ("  extra: {", "  head: {", "`parameters.head` is no name for a parameter"),
        ('NET: "={interface}"', 'NET: "{nnodes}={interface}"', "with other placeholders"),
        ('NET: "={interface}"', 'NET: "{api_key_file}"', "names `{api_key_file}`"),
        ("{nnodes}", "{is_worker}", "names `{is_worker}`"),
    ],
)
def test_a_recipe_that_does_not_go_together_is_refused_with_what_to_do(was: str, becomes: str, says: str) -> None:
    assert was in MINE
    with pytest.raises(RecipeError) as caught:
        recipe(MINE.replace(was, becomes))
    assert says in str(caught.value)


def test_an_engine_that_is_not_told_its_place_is_refused() -> None:
    text = "\n".join(line for line in MINE.splitlines() if "{head}" not in line and "node_rank" not in line)
    with pytest.raises(RecipeError, match="must tell each part of the engine its place"):
        recipe(text)


def with_recipe(cluster: Any, text: str) -> Any:
    return replace(cluster, recipes=Recipes({"mine/span": recipe(text)}))


def test_on_slurm_a_service_is_a_job_of_all_its_nodes_and_one_replica(tmp_path: Path) -> None:
    cluster = with_recipe(slurm(tmp_path), MINE)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, "mine/span", {})
        (job,) = cluster.scheduler.submitted
        assert (job.nodes, job.cpus_per_task, service.total_replicas) == (2, 3, 1)
        content = cluster.content(service)
        assert (content["parts"], content["together"], content["replicas_per_node"]) == (2, False, 1)
        assert content["worker_command"][-1] == "--quiet"
        assert content["node_environment"] == {"HOST_IP": "{host}", "NET": "={interface}"}
        cluster.put_job(service, JobState("running", nodes=("n1", "n2")))
        cluster.publish(service, 0, await cluster.engine(service), "running")
        await orchestrator.look()
        assert (orchestrator.get(service.id).status, len(orchestrator.replicas(service.id))) == ("running", 1)

    with_orchestrator(cluster, test)


def test_a_part_that_waits_or_cannot_start_is_told_as_the_reason(tmp_path: Path) -> None:
    cluster = with_recipe(slurm(tmp_path), MINE)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, "mine/span", {})
        cluster.put_job(service, RUNNING)
        cluster.publish(service, 1, None, "starting", "waits for the engine's head on n2")
        await orchestrator.look()
        found = orchestrator.get(service.id)
        assert (found.status, found.reason) == (
            "starting",
            "the engine does not answer yet; n1.1: waits for the engine's head on n2",
        )
        cluster.publish(service, 1, None, "failed", "n2 cannot be reached")
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "failed"
        assert "n2 cannot be reached" in orchestrator.get(service.id).reason

    with_orchestrator(cluster, test)


def test_the_wrapper_has_the_first_word_on_why_an_engine_is_not_ready_in_time(tmp_path: Path) -> None:
    cluster = with_recipe(slurm(tmp_path), MINE)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, "mine/span", {})
        cluster.put_job(service, RUNNING)
        cluster.publish(service, 0, None, "starting", "the part on n2 has not joined")
        await orchestrator.look()
        cluster.time.seconds += service.probe.timeout_seconds + 1
        await orchestrator.look()
        assert orchestrator.get(service.id).status == "starting"
        cluster.time.seconds += WRAPPER_SAYS_SECONDS
        await orchestrator.look()
        found = orchestrator.get(service.id)
        assert (found.status, "not ready after 600 s" in found.reason) == ("failed", True)

    with_orchestrator(cluster, test)


def test_a_group_shows_each_engine_with_its_nodes(tmp_path: Path) -> None:
    cluster = with_recipe(slurm(tmp_path), GROUP)

    async def test(orchestrator: ServiceOrchestrator) -> None:
        service = await submitted(orchestrator, "mine/span", {})
        cluster.put_job(service, JobState("running", nodes=("n1", "n2", "n3", "n4")))
        await orchestrator.look()
        shown = group_info(orchestrator.get(service.id), orchestrator.replicas(service.id))
        assert shown.total_replicas == 2
        assert [(job.node, [(one.id, one.status, one.nodes) for one in job.replicas]) for job in shown.node_jobs] == [
            ("n1", [("n1.0", "pending", ("n1", "n2"))]),
            ("n3", [("n3.0", "pending", ("n3", "n4"))]),
        ]

    with_orchestrator(cluster, test)


def test_on_one_machine_the_parts_are_processes_beside_each_other(tmp_path: Path) -> None:
    for text, replicas in ((MINE, 1), (GROUP, 2)):
        cluster = with_recipe(laptop(tmp_path / str(replicas)), text)

        async def test(orchestrator: ServiceOrchestrator, cluster: Any = cluster, replicas: int = replicas) -> None:
            service = await submitted(orchestrator, "mine/span", {})
            (job,) = cluster.scheduler.submitted
            content = cluster.content(service)
            assert (job.nodes, service.total_replicas) == (1, replicas)
            assert (content["parts"], content["together"], content["replicas_per_node"]) == (2, True, replicas)

        with_orchestrator(cluster, test)


def test_without_a_gpu_one_simulated_engine_stands_in_for_each(tmp_path: Path) -> None:
    for cluster, wanted in ((laptop(tmp_path / "a"), (1, 1)), (slurm(tmp_path / "b", simulate=True), (1, 1))):

        async def test(orchestrator: ServiceOrchestrator, cluster: Any = cluster, wanted: Any = wanted) -> None:
            service = await submitted(orchestrator, "inference/vllm-multi-node", {})
            (job,) = cluster.scheduler.submitted
            assert (job.nodes, service.total_replicas) == wanted
            assert (service.engine, cluster.content(service)["parts"]) == ("simulated", None)

        with_orchestrator(cluster, test)


def test_every_part_runs_in_its_image() -> None:
    profile = Profile(
        name="p",
        scheduler="slurm",
        base_path=PurePosixPath("/ts"),
        python="python3",
        container=Container(runtime="apptainer"),
    )
    made = contained(prepared(MINE, extra=["{head}"]), profile, PurePosixPath("/ts/services/s1"))
    for words, literal in ((made.command, made.literal), (made.worker_command, made.worker_literal)):
        assert words[:2] == ("apptainer", "exec")
        assert words[literal[-1]] == "{head}"
        assert "--part={node_rank}" in [word for number, word in enumerate(words) if number not in literal]
    assert made.node_environment["APPTAINERENV_HOST_IP"] == "{host}"
    assert service_file(made, "s1", "key", "auto", PurePosixPath("/ts"))["parts"] == 2
