"""A recipe that is wrong is named with file and line; one that is right can be changed only as it says."""

from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenstorm.errors import Unknown
from tokenstorm.orchestrator.document import RecipeError, parse_document
from tokenstorm.orchestrator.launch import ConfigError, Launch, prepare, service_file, simulated
from tokenstorm.orchestrator.recipes import SHIPPED, load_recipes, make_recipe

RECIPES = load_recipes()
PLAIN = SimpleNamespace(python="python3", model_dir=None, hf_home=None, offline=False)
MINE = """\
name: mine/engine
engine: vllm
model: "{model}"
command:
  - serve
  - "{model}"
  - --host
  - "{host}"
  - --port={port}
ports: [9000]
api_key: {variable: THE_KEY}
parameters:
  model:
    type: string
    default: tiny
"""


def prepared(name: str, settings: Any = PLAIN, **config: object) -> Launch:
    return prepare(RECIPES.get(f"inference/{name}"), config, settings)


def wrong(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        make_recipe(parse_document(text, "mine.yaml"))
    return str(caught.value)


def test_nine_recipes_are_shipped_and_all_can_be_started_as_they_are() -> None:
    names = ["llama-cpp", "sglang", "sglang-multi-node", "sim-replicas", "sim-single-node", "vllm-cpu"]
    names += ["vllm-multi-node", "vllm-replicas", "vllm-single-node"]
    assert list(RECIPES.by_name) == [f"inference/{name}" for name in names]
    for name in names:
        command = prepared(name).command
        assert "{host}" in command
        assert "{port}" in command


def test_a_recipe_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(Unknown, match=r"inference/sglang, inference/sglang-multi-node"):
        RECIPES.get("inference/nothing")


def test_the_replicas_of_a_node_are_its_gpus_by_those_of_a_replica() -> None:
    assert (prepared("vllm-replicas").resources.replicas, prepared("vllm-replicas").resources.total_replicas) == (4, 4)
    halves = prepared("vllm-replicas", resources={"nodes": 3, "gpu": 8, "gpu_per_replica": 2})
    assert (halves.resources.replicas, halves.resources.total_replicas) == (4, 12)
    assert halves.command[halves.command.index("--tensor-parallel-size") + 1] == "2"


@pytest.mark.parametrize("words", [["--served-model-name", "mine"], ["--served-model-name=mine", "--seed", "1"]])
def test_the_model_is_the_name_that_the_engine_is_told_to_serve_it_under(words: list[str]) -> None:
    assert prepared("vllm-single-node", model="/models/m", extra_args=words).model == "mine"
    assert prepared("vllm-single-node", model="/models/m").model == "/models/m"


def test_settings_of_the_profile_can_be_named() -> None:
    settings = SimpleNamespace(
        python="p", model_dir=PurePosixPath("/models"), hf_home=PurePosixPath("/hub"), offline=True
    )
    launch = prepared("vllm-single-node", settings, model="org/model")
    assert launch.command[:3] == ("vllm", "serve", "/models/org/model")
    assert launch.command[3:5] == ("--served-model-name", "org/model")
    assert launch.environment["HF_HOME"] == "/hub"
    assert launch.environment["HF_HUB_OFFLINE"] == "true"
    assert "HF_HOME" not in prepared("vllm-single-node").environment
    assert prepared("vllm-single-node", model="org/model").command[2] == "org/model"


def test_words_with_a_condition_come_and_go_with_their_parameter() -> None:
    assert "--max-model-len" not in prepared("vllm-single-node").command
    given_one = prepared("vllm-single-node", max_model_len=2048, enforce_eager=True).command
    assert given_one[given_one.index("--max-model-len") + 1] == "2048"
    assert "--enforce-eager" in given_one
    assert prepared("vllm-single-node", extra_args=["-O", "3"]).command[-2:] == ("-O", "3")


@pytest.mark.parametrize("name", list(RECIPES.by_name))
def test_no_key_is_ever_on_a_command_line(name: str) -> None:
    launch = prepare(RECIPES.get(name), {}, PLAIN)
    content = service_file(launch, "s1", "the-secret", "127.0.0.1", PurePosixPath("/f"))
    assert not [word for word in content["command"] if "the-secret" in word]  # type: ignore[attr-defined]
    assert (launch.key.variable is None) != (launch.key.file is None)
    if launch.key.file:
        assert content["api_key_file"] == f"/f/{launch.key.file}"
        assert "{api_key}" in launch.key.content


@pytest.mark.parametrize(
    ("config", "field", "message"),
    [
        ({"temperature": 1}, "config.temperature", "there are dtype, enforce_eager, environment, extra_args"),
        ({"resources": {"gpus": 1}}, "config.resources.gpus", "there are cpu, gpu, memory, nodes, time_limit"),
        ({"resources": {"gpu": -1}}, "config.resources.gpu", "must be at least 0, not -1"),
        ({"resources": {"gpu": 65}}, "config.resources.gpu", "must be at most 64, not 65"),
        ({"resources": {"nodes": True}}, "config.resources.nodes", "whole number"),
        (
            {"resources": {"time_limit": "a day"}},
            "config.resources.time_limit",
            "minutes (90), or as Slurm has it: MM:SS",
        ),
        ({"resources": {"time_limit": True}}, "config.resources.time_limit", "must be minutes"),
        ({"resources": {"time_limit": "0"}}, "config.resources.time_limit", "from 1 to 1000000 minutes"),
        ({"resources": {"memory": "lots"}}, "config.resources.memory", "64G"),
        ({"resources": []}, "config.resources", "must be an object"),
        ({"environment": {"A B": "x"}}, "config.environment.A B", "no name for a variable"),
        ({"environment": {"A": True}}, "config.environment.A", "must be text"),
        ({"environment": {"A": "x\0"}}, "config.environment.A", "NUL"),
        ({"environment": {"VLLM_API_KEY": "x"}}, "config.environment.VLLM_API_KEY", "leave it out"),
        ({"model": 5}, "config.model", "must be text, not 5"),
        ({"model": None}, "config.model", "must be text"),
        ({"model": "\ud800"}, "config.model", "UTF-8"),
        ({"dtype": "int3"}, "config.dtype", "one of auto, bfloat16, float16, float32"),
        ({"gpu_memory_utilization": 1.5}, "config.gpu_memory_utilization", "at most 1"),
        ({"gpu_memory_utilization": float("nan")}, "config.gpu_memory_utilization", "must be a number"),
        ({"max_model_len": 1.5}, "config.max_model_len", "whole number"),
        ({"enforce_eager": "yes"}, "config.enforce_eager", "true or false"),
        ({"extra_args": "--x"}, "config.extra_args", "list of texts"),
        ({"\ud800": 1}, "config.\\ud800", "no such key"),
    ],
)
def test_what_a_user_gives_wrong_is_named_with_its_field(config: dict[str, object], field: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepared("vllm-single-node", **config)
    assert caught.value.field == field
    assert message in str(caught.value)
    str(caught.value).encode()


def test_gpus_that_do_not_divide_into_replicas_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"config.resources.gpu: must be a multiple of gpu_per_replica \(3\), not 4"):
        prepared("vllm-replicas", resources={"gpu_per_replica": 3})


def test_replicas_cannot_be_taken_away_by_a_null() -> None:
    for recipe, field in (("vllm-replicas", "gpu_per_replica"), ("sim-replicas", "replicas_per_node")):
        with pytest.raises(ConfigError, match=f"config.resources.{field}: must be a whole number"):
            prepared(recipe, resources={field: None})


def test_a_variable_is_added_changed_or_taken_away() -> None:
    environment = {"VLLM_NO_USAGE_STATS": None, "HF_HUB_OFFLINE": "1", "NCCL_DEBUG": "INFO", "N": 4}
    found = prepared("vllm-single-node", environment=environment).environment
    assert found == {"HF_HUB_OFFLINE": "1", "NCCL_DEBUG": "INFO", "N": "4"}


TYPED = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(
    [
        "$(reboot)",
        "`id`",
        "a'b\"c",
        "x\ny",
        "{port}",
        "{model}",
        "{api_key}",
        "{profile.python}",
        "; rm -rf /",
        "%s {} {0}",
    ]
)


@given(typed=TYPED)
def test_what_was_typed_reaches_argv_and_environment_as_typed(typed: str) -> None:
    launch = prepared("vllm-single-node", model=typed, extra_args=[typed, typed], environment={"A": typed})
    assert launch.command[2] == typed
    assert launch.command[-2:] == (typed, typed)
    assert launch.environment["A"] == typed
    assert launch.model == typed
    assert simulated(launch, "p", "no GPU").command[8] == typed
    # What looks like a placeholder because a user typed it is marked, so that the node leaves it alone.
    for made in (launch, simulated(launch, "p", "no GPU")):
        placeholders = [word for number, word in enumerate(made.command) if number not in made.literal]
        assert [word for word in placeholders if "{port}" in word] == ["{port}"]


def test_a_simulated_engine_stands_in_with_as_many_replicas_and_says_so() -> None:
    launch = simulated(prepared("vllm-replicas", model="big"), "/py", "this machine has no GPU")
    assert (launch.engine, launch.model, launch.resources.total_replicas) == ("simulated", "big", 4)
    assert (launch.resources.gpu, launch.resources.is_group) == (0, True)
    assert launch.command[:3] == ("/py", "-m", "tokenstorm.simulator")
    assert "no GPU for vllm" in launch.note


@pytest.mark.parametrize(
    ("was", "becomes", "place", "says"),
    [
        ("engine: vllm", "engine: vllm\nport: 1", 3, "`port` is no key of `a recipe`: there are api_key, base_port"),
        ("engine: vllm\n", "", 1, "lacks the key `engine`"),
        ("name: mine/engine", "name: Mine", 1, "category/name"),
        ("name: mine/engine", "name: 5", 1, '`name` must be text in quotes, such as "x", not 5'),
        ("engine: vllm", "engine: vllm\nengine: x", 3, "the key `engine` is there twice"),
        ("engine: vllm", "engine: vllm\n1: x", 3, "a key must be text, not '1'"),
        ("  - serve", "  - 17", 5, '`command.0` must be text in quotes, such as "x", not 17'),
        ("  - serve", '  - "{modle}"', 5, "names `{modle}`: there are api_key_file, head, head_port, host, index"),
        ("  - serve", '  - "{api_key_file}"', 5, "needs an `api_key` with a `file`"),
        ("  - serve", '  - "{profile.model_dir}"', 5, "may be missing: write it as {if: profile.model_dir"),
        ("  - serve", "  - {if: nothing, words: [x]}", 5, "`command.0.if` names 'nothing'"),
        ("  - serve", "  - {words: [x], else: [y]}", 5, "`command.0.else` needs an `if`"),
        ("  - serve", "  - {if: model, words: []}", 5, "`command.0.words` must not be empty"),
        ("--port={port}", "--port={port}-{model}", 9, "with other placeholders"),
        ("  - --port={port}", "  - x", 4, "must hold `{host}` and `{port}`"),
        ("ports: [9000]", "ports: [x]", 10, "from which a free one is looked for"),
        ("ports: [9000]", "base_port: 9000", 10, "belongs to replicas"),
        (
            "ports: [9000]",
            "base_port: 9000\ngpu_per_replica: 2\nresources: {gpu: 3}",
            12,
            "multiple of gpu_per_replica (2)",
        ),
        (
            "ports: [9000]",
            "ports: [9000]\nresources:\n  cpu: 1\n  gpu: many",
            13,
            "`resources.gpu` must be a whole number, such as 4, not 'many'",
        ),
        ("ports: [9000]", "ports: [9000]\nresources: {gpu: 010}", 11, "must be a whole number, such as 4, not '010'"),
        ("ports: [9000]", "ports: [9000]\nresources: {cpu: 0x10}", 11, "must be a whole number, such as 4, not '0x10'"),
        (
            "ports: [9000]",
            "ports: [9000]\nresources: {cpu: 1_000}",
            11,
            "must be a whole number, such as 4, not '1_000'",
        ),
        ("ports: [9000]", "ports: [9000]\nresources: {cpu: 0o10}", 11, "must be a whole number, such as 4, not '0o10'"),
        ("ports: [9000]", "ports: [9000]\nresources: {cpu: 1:30}", 11, "must be a whole number, such as 4, not '1:30'"),
        ("ports: [9000]", "ports: [9000]\nresources: {cpu: 1e3}", 11, "must be a whole number, such as 4, not 1000.0"),
        ("ports: [9000]", "ports: [9000]\nresources: {cpu: !!int '010'}", 11, "'010' is no plain integer"),
        ("ports: [9000]", "ports: [9000]\nresources: {nodes: on}", 11, "must be a whole number, such as 4, not 'on'"),
        ("ports: [9000]", "ports: [9000]\nresources: {gpu: 65}", 11, "`resources.gpu` must be at most 64, not 65"),
        ("ports: [9000]", "base_port: 9000\ngpu_per_replica: 0", 11, "`gpu_per_replica` must be at least 1, not 0"),
        (
            "ports: [9000]",
            "ports: [9000]\nresources: {gpu_per_replica: 1}",
            11,
            "is no key of `resources`: there are cpu",
        ),
        (
            "ports: [9000]",
            "ports: [9000]\nreadiness: {timeout_seconds: .inf}",
            11,
            "must be a number, such as 1.5, not inf",
        ),
        ("ports: [9000]", "ports: [9000]\nreadiness: [x]", 11, "`readiness` must be a table, with keys of its own"),
        ("{variable: THE_KEY}", "{variable: K, file: k}", 11, "two ways of giving a key: take one"),
        ("ports: [9000]", "ports: [010]", 10, "from which a free one is looked for"),
        (
            "ports: [9000]",
            "ports: [9000]\nresources: {time_limit: soon}",
            11,
            "`resources.time_limit` must be minutes (90)",
        ),
        (
            "ports: [9000]",
            "ports: [9000]\nresources: {time_limit: 1.5}",
            11,
            "`resources.time_limit` must be minutes (90)",
        ),
        ("ports: [9000]", "ports: [9000]\nresources: {time_limit: 0}", 11, "must be from 1 to 1000000 minutes, not 0"),
        (
            "ports: [9000]",
            "ports: [9000]\nresources: {memory: 010}",
            11,
            "must be megabytes (64000), or a whole number with",
        ),
        ("ports: [9000]", "ports: [9000]\nresources: {memory: 1.5G}", 11, "with a unit: M, G or T (64G), not '1.5G'"),
        ("ports: [9000]", "ports: [9000]\nreadiness: {generates: no}", 11, "must be true or false, not 'no'"),
        ("ports: [9000]", "ports: [9000]\nreadiness: {path: health}", 11, "begins with /"),
        ("ports: [9000]", "ports: [9000]\nenvironment: {A-B: x}", 11, "no name for a variable"),
        (
            "ports: [9000]",
            "ports: [9000]\nenvironment: {A: 1}",
            11,
            '`environment.A` must be text in quotes, such as "x"',
        ),
        ("{variable: THE_KEY}", "{}", 11, "must say by which `variable` or `file`"),
        ("{variable: THE_KEY}", "{file: k, content: x}", 11, "must hold `{api_key}`"),
        ("{variable: THE_KEY}", "{file: k}", 11, "it needs `{api_key_file}`"),
        ("{variable: THE_KEY}", "{file: ../k}", 11, "must look like api_key.yaml"),
        (
            "    type: string",
            "    type: text",
            14,
            "must be 'string', 'integer', 'number', 'boolean' or 'strings', not 'text'",
        ),
        ("    default: tiny", "    default: 5", 15, "must be text, not 5"),
        ("    default: tiny", "    default: tiny\n    choices: [a, b]", 15, "must be one of a, b, not 'tiny'"),
        ("    default: tiny", "    defualt: tiny", 15, "`defualt` is no key of `parameters.model`"),
        ("    default: tiny", "    default: null", 3, "must be a parameter of text with a default"),
        ("  model:\n", "  port:\n", 13, "is no name for a parameter"),
        ("engine: vllm", "engine: [", 4, "flow sequence"),
        ("engine: vllm", "engine: !!python/name:os.system x", 2, "could not determine a constructor"),
        ("engine: vllm", "engine: \x07", 2, "U+0007"),
        ("engine: vllm", "engine: !!timestamp 2001-99-99", 2, "month must be in 1..12"),
        ("engine: vllm", "engine: &a [*a]", 2, "is nested too deeply"),
    ],
)
def test_a_wrong_recipe_is_named_with_its_line(was: str, becomes: str, place: int, says: str) -> None:
    assert was in MINE
    message = wrong(MINE.replace(was, becomes))
    assert message.startswith(f"mine.yaml, line {place}: "), message
    assert says in message


@pytest.mark.parametrize("text", ["", "- a\n", "just text", "{}"])
def test_a_file_that_is_no_recipe_at_all_is_refused(text: str) -> None:
    assert wrong(text).startswith("mine.yaml, line 1: ")


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        ("90", 90),
        ("'90'", 90),
        ("12:00:00", 720),
        ("'12:00:00'", 720),
        ("30:00", 30),
        ("0:30", 1),
        ("1-12", 36 * 60),
        ("2-01:30", 49 * 60 + 30),
        ("1-00:00:01", 24 * 60 + 1),
    ],
)
def test_a_time_limit_is_minutes_or_a_time_as_slurm_has_it(written: str, minutes: int) -> None:
    text = MINE.replace("ports: [9000]", f"ports: [9000]\nresources: {{time_limit: {written}}}")
    assert make_recipe(parse_document(text, "mine.yaml")).resources.time_limit == minutes
    given = written.strip("'")
    launch = prepared("sim-single-node", resources={"time_limit": int(given) if given.isdigit() else given})
    assert launch.resources.time_limit == minutes


@pytest.mark.parametrize(
    ("written", "megabytes"), [("64000", 64000), ("64G", 65536), ("64g", 65536), ("64GB", 65536), ("'512'", 512)]
)
def test_memory_is_megabytes_or_has_a_unit(written: str, megabytes: int) -> None:
    text = MINE.replace("ports: [9000]", f"ports: [9000]\nresources: {{memory: {written}}}")
    assert make_recipe(parse_document(text, "mine.yaml")).resources.memory_mb == megabytes


def test_words_that_yaml_1_1_takes_for_something_else_are_text() -> None:
    for word in ("yes", "off", "12:00:00", "010", "0x1F", "1_000", "2024-01-01"):
        assert parse_document(f"a: {word}", "x").value == {"a": word}
    for word, value in {"true": True, "null": None, "~": None, "-7": -7, "1e3": 1000.0, "0.5": 0.5, ".5": 0.5}.items():
        assert parse_document(f"a: {word}", "x").value == {"a": value}


def test_the_folder_that_is_named_last_wins(tmp_path: Path) -> None:
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.yaml").write_text(MINE.replace("9000", str(9000 + number)))
    (tmp_path / "b" / "deeper").mkdir()
    text = (SHIPPED / "inference" / "sim-single-node.yaml").read_text()
    (tmp_path / "b" / "deeper" / "sim.yml").write_text(text.replace("[8101]", "[7000]"))
    recipes = load_recipes([tmp_path / "a", tmp_path / "b"])
    assert recipes.get("mine/engine").base_port == 9001
    assert recipes.get("inference/sim-single-node").base_port == 7000
    assert len(recipes.by_name) == len(RECIPES.by_name) + 1


def test_one_folder_has_one_recipe_of_a_name(tmp_path: Path) -> None:
    for name in ("x.yaml", "y.yaml"):
        (tmp_path / name).write_text(MINE)
    with pytest.raises(RecipeError, match=r"y.yaml: .*x.yaml has the name mine/engine already"):
        load_recipes([tmp_path])


def test_a_folder_or_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no folder"):
        load_recipes([tmp_path / "nothing"])
    (tmp_path / "x.yaml").write_bytes(b"\xff")
    with pytest.raises(RecipeError, match=r"x.yaml: is not UTF-8"):
        load_recipes([tmp_path])
