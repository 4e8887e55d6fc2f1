"""Configuration says what it knows, refuses what it does not by file and key, and needs none for this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.script import render
from tokenstorm.config.file import Config, keys_of, load_config
from tokenstorm.config.profile import Profile
from tokenstorm.errors import UsageError

ROOT = Path(__file__).parents[1]
CLUSTER = """
default_profile = "there"

[profiles.there]
scheduler = "slurm"
base_path = "/project/scratch/me/tokenstorm"
account = "p200000"
qos = "default"
python = "python3.11"
prologue = ["module load env/release/2023.1", "module load Apptainer"]
interface = "ib0"

[profiles.there.ssh]
host = "login.example"
port = 8822
user = "u100000"
identity_file = "~/.ssh/id_ed25519"
shell = "asyncssh"

[profiles.there.partitions]
cpu = "cpu"
gpu = "gpu"

[profiles.there.container]
runtime = "apptainer"
images = "/project/scratch/images"

[profiles.there.orchestrator]
placement = "local"
"""


def configured(folder: Path, text: str, **environ: str) -> Config:
    file = folder / "config.toml"
    file.write_text(text)
    return load_config({"TOKENSTORM_CONFIG": str(file), "TOKENSTORM_HOME": str(folder / "home"), **environ})


def test_with_nothing_configured_there_is_this_machine(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    code = "from tokenstorm.config.file import load_config as l; c = l(); p = c.profile(); print(c.file, c.home, p.base_path, p.python)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    home = f"{tmp_path}/.local/share/tokenstorm"
    assert done.stdout.split() == ["None", home, home, sys.executable]
    profile = load_config({"TOKENSTORM_HOME": str(tmp_path)}).profile()
    assert (profile.name, profile.scheduler, profile.base_path) == ("local", "local", PurePosixPath(tmp_path))


def test_the_file_in_the_users_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "tokenstorm").mkdir()
    (tmp_path / "tokenstorm" / "config.toml").write_text('[profiles.local]\ninterface = "mine"\n')
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    code = "from tokenstorm.config.file import load_config as l; print(l().profile('local').interface)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "mine\n"


@pytest.mark.parametrize(
    "lines", ['account = "a"', 'ssh.host = "h"', 'partitions.gpu = "g"', 'orchestrator.placement = "job"']
)
def test_what_jobs_of_this_machine_have_no_use_for_is_refused_by_its_name(tmp_path: Path, lines: str) -> None:
    with pytest.raises(UsageError, match=lines.split(maxsplit=1)[0] + ": only used with"):
        configured(tmp_path, f"[profiles.local]\n{lines}")


@pytest.mark.parametrize(
    "line",
    [
        "--array=1-2",
        "--outp=x",
        "-oout",
        "--comment=a -J b",
        "--test-only",
        "-W",
        "--wrap=true",
        "--clusters=other",
        "--cluster other",
        "-Mother",
        "--time=5",
        "--time 5",
        "-t5",
        "--tim 5",
        "-Qt5",
        "--licenses=a --time-min=5",
        "-J name",
        "--job=name",
        "--err=x",
        "-N 2",
        "--nodes=2",
        "-n4",
        "--tasks-per-node=2",
        "--chdir=/",
        "-D /",
        "--signal=TERM",
        "--pars",
        "--export=ALL",
        "--requeue",
        "--no-req",
        "--account=a",
        "-pgpu",
        "--qos x",
        "-Cgpu",
        "--reserv=x",
    ],
)
def test_an_option_of_sbatch_that_each_job_has_of_its_own_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError, match=r"profiles\.there\.sbatch: .* is tokenstorm's own to set, for each job"):
        configured(tmp_path, CLUSTER.replace("[profiles.there]\n", f"[profiles.there]\nsbatch = ['{line}']\n"))


def test_an_option_of_sbatch_whose_quote_is_not_closed_is_refused(tmp_path: Path) -> None:
    text = CLUSTER.replace("[profiles.there]\n", "[profiles.there]\nsbatch = ['--comment=\"no end']\n")
    with pytest.raises(UsageError, match="No closing quotation"):
        configured(tmp_path, text)


def test_an_option_of_sbatch_that_looks_like_one_of_those_is_taken(tmp_path: Path) -> None:
    lines = [
        "--wait-all-nodes=1",
        "--cluster-constraint=a",
        "--exclude=n1",
        "--nodelist=n[2-3]",
        '--comment="--output=x"',
        "--mail-type=FAIL -Q",
        "--comment -t5",
        "--gres-flags=enforce-binding",
        "--hint=nomultithread",
        "--threads-per-core=1",
        "--a-plugin-of-the-site=1",
        "-x n4",
        "-s",
        "--exclusive",
    ]
    text = CLUSTER.replace("[profiles.there]\n", f"[profiles.there]\nsbatch = {lines}\n")
    assert configured(tmp_path, text).profile("there").sbatch == tuple(lines)


def test_an_option_that_would_change_what_jobs_ask_for_names_the_key_that_lifts_it(tmp_path: Path) -> None:
    def lines(*more: str) -> str:
        return CLUSTER.replace("[profiles.there]\n", "[profiles.there]\n" + "\n".join(more) + "\n")

    for option, key in (("--mem=0", "memory_request"), ("-c 4", "cpu_request"), ("-G4", "gpu_request")):
        with pytest.raises(UsageError, match=rf'sbatch: {option.split()[0]} would override .* set {key} = "none"'):
            configured(tmp_path, lines(f'sbatch = ["{option}"]'))
        assert configured(tmp_path, lines(f'sbatch = ["{option}"]', f'{key} = "none"')).profile().sbatch == (option,)
    with pytest.raises(UsageError, match="sbatch: --gres=gpu:4 would override"):
        configured(tmp_path, lines('sbatch = ["--gres=gpu:4"]'))
    with pytest.raises(UsageError, match=r'sbatch: --gres would take the GPUs away: .* gpu_request = "gpus-per-node"'):
        configured(tmp_path, lines('sbatch = ["--gres=disk:4"]'))
    configured(tmp_path, lines('sbatch = ["--gres=disk:4"]', 'gpu_request = "gpus-per-node"'))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('gpu_type = "a100"\ngpu_request = "none"', "gpu_type: is not asked for with gpu_request"),
        ('memory_request = "mem-per-gpu"', "memory_request: is by GPU, and these jobs have no GPU"),
        ('cpu_request = "cpus-per-gpu"', "cpu_request: is by GPU, and these jobs have no GPU"),
        ('gpu.cpu_request = "cpus-per-gpu"\ngpu.gpu_request = "none"', "gpu.cpu_request: is by GPU, and gpu_request"),
        ('cpu.memory_request = "mem-per-cpu"\ncpu.cpu_request = "none"', "cpu.memory_request: is by CPU"),
        ('gpu.partition = "a"\npartitions.gpu = "b"', "gpu.partition and partitions.gpu are the same key"),
        ('gpu.sbatch = ["--time=5"]', "gpu.sbatch: --time=5 is tokenstorm's own"),
        ('gpu.colour = "red"', "gpu.colour: no such key; there is account, constraint"),
        ("gpu.time_limit = 0", "gpu.time_limit: must be from 1 to 1000000 minutes, not 0"),
    ],
)
def test_keys_that_do_not_go_together_are_named(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        configured(tmp_path, f'[profiles.x]\nscheduler = "slurm"\nbase_path = "/x"\n{lines}')
    assert f"config.toml: profiles.x{'.' if said.startswith('gpu.') and ': no such' in said else ''}" in str(
        caught.value
    )
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["account", "qos", "constraint", "reservation", "gpu.account", "partitions.gpu"])
def test_a_second_line_in_what_stands_on_one_of_the_script_is_refused_with_its_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(UsageError, match=f"profiles.x.{key}: must be one line of text"):
        configured(tmp_path, f'[profiles.x]\nscheduler = "slurm"\nbase_path = "/x"\n{key} = "a\\ntouch /tmp/b"')


def test_a_kind_of_job_says_what_differs_and_a_variable_overrides_that(tmp_path: Path) -> None:
    text = CLUSTER.replace("[profiles.there.ssh]", '[profiles.there.gpu]\nqos = "boost"\n\n[profiles.there.ssh]')
    variables = {"TOKENSTORM_GPU_ACCOUNT": "g", "TOKENSTORM_GPU_PROLOGUE": "module load a\nmodule load b"}
    profile = configured(tmp_path, text, **variables).profile()
    gpu, cpu = profile.of("gpu"), profile.of("cpu")
    assert (gpu.qos, gpu.account, gpu.partition, gpu.python) == ("boost", "g", "gpu", "python3.11")
    assert (cpu.qos, cpu.account, cpu.partition, cpu.python) == ("default", "p200000", "cpu", "python3.11")
    assert gpu.prologue == ("module load a", "module load b")
    assert [profile.key("gpu", name) for name in ("qos", "python", "partition")] == [
        "gpu.qos",
        "python",
        "partitions.gpu",
    ]


def test_every_key_of_the_design_is_known(tmp_path: Path) -> None:
    config = configured(tmp_path, CLUSTER)
    profile = config.profile()
    assert config.profiles == ("local", "there")
    assert (profile.name, profile.ssh.port, profile.container.runtime) == ("there", 8822, "apptainer")
    assert profile.prologue == ("module load env/release/2023.1", "module load Apptainer")
    assert config.profile("local").scheduler == "local"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "colour: no such key"),
        ("default_profile = 3", "default_profile: must be"),
        ("profiles = 3", "[profiles.NAME]"),
        ("[profiles]\nlocal = 3", "[profiles.NAME]"),
        ('[profiles.local]\ncolour = "red"', "profiles.local.colour: no such key; there is account, base_path"),
        ("[profiles.local.ssh]\nhots = 1", "profiles.local.ssh.hots: no such key; there is host, identity_file"),
        ('[profiles.local]\nname = "x"', "profiles.local.name: no such key"),
        ("[profiles.local]\nssh = 3", "profiles.local.ssh: "),
        ("[profiles.local.ssh]\nport = 70000", "profiles.local.ssh.port: must be at most 65535, not 70000"),
        ("[profiles.local]\naccount = 3", 'profiles.local.account: must be text in quotes, such as "x", not 3'),
        ('[profiles.local]\nbase_path = "here"', "profiles.local.base_path: must be an absolute path, not 'here'"),
        ('[profiles.x]\nscheduler = "pbs"', "profiles.x.scheduler: must be 'local' or 'slurm', not 'pbs'"),
        ('[profiles.local]\nprologue = "x"', 'prologue: must be a list of texts, such as ["a", "b"], not \'x\''),
        ('[profiles.local.orchestrator]\ntime_limit = "a day"', "orchestrator.time_limit: must be minutes (90), or as"),
        (
            "[profiles.local.orchestrator]\ntime_limit = 4",
            "orchestrator.time_limit: must be from 5 to 1000000 minutes, not 4",
        ),
        ("[profiles", "not TOML: "),
    ],
)
def test_what_is_wrong_is_named_by_file_and_key(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        configured(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/config.toml: ")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", ["150", '"2:30:00"', "02:30:00", '"0-2:30"', '"150"'])
def test_a_time_limit_is_minutes_or_a_time_as_slurm_has_it(tmp_path: Path, written: str) -> None:
    text = f"[profiles.local.orchestrator]\ntime_limit = {written}"
    assert configured(tmp_path, text).profile().orchestrator.time_limit == 150
    told = configured(tmp_path, "", TOKENSTORM_ORCHESTRATOR_TIME_LIMIT=written.strip('"'))
    assert told.profile().orchestrator.time_limit == 150


@pytest.mark.parametrize(
    "value", ["3", "-1", "1.5", "true", '"x y"', '""', "[3]", "[]", "{a = 1}", "07:30:00", "2024-01-01", "nan"]
)
def test_a_value_of_another_type_is_refused_in_plain_words_whatever_its_key(tmp_path: Path, value: str) -> None:
    told: dict[str, str] = {}
    for *above, key in keys_of(Profile):
        top = {"scheduler": '"slurm"', "base_path": '"/b"'} | ({} if above else {key: value})
        lines = ["[profiles.x]", *(f"{name} = {given}" for name, given in top.items())]
        lines += [f"[profiles.x.{'.'.join(above)}]", f"{key} = {value}"] if above else []
        try:
            configured(tmp_path, "\n".join(lines))
        except UsageError as error:
            told[".".join((*above, key))] = str(error).partition("config.toml: profiles.x.")[2]
    assert len(told) >= 5
    for name, words in told.items():
        assert words.startswith(name)
        assert not re.search(r"Input|valid|error|tuple|dict|instance|None|\n", words), words


def test_a_value_that_may_be_a_secret_is_not_shown(tmp_path: Path) -> None:
    for text in ("[profiles.local]\nenvironment = {TOKEN = 123456}", "[profiles.local.proxies]\nhttp = 123456"):
        with pytest.raises(UsageError, match="must be text in quotes") as caught:
            configured(tmp_path, text)
        assert "123456" not in str(caught.value)


def test_a_home_is_the_users_own(tmp_path: Path) -> None:
    text = '[profiles.x]\nscheduler = "slurm"\nbase_path = "/b"\npython = "~/venv/bin/python"\n[profiles.x.gpu]\npython = "~/gpu"'
    profile = configured(tmp_path, text).profile("x").at_home("/home/u")
    assert (profile.of("cpu").python, profile.of("gpu").python) == ("/home/u/venv/bin/python", "/home/u/gpu")
    with pytest.raises(UsageError, match=r"profiles\.local\.python: '~other/python' is in somebody else's home"):
        configured(tmp_path, '[profiles.local]\npython = "~other/python"')


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: cannot read the configuration: No such file"):
        load_config({"TOKENSTORM_CONFIG": str(tmp_path / "none.toml")})


def test_an_unknown_profile_is_told_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no profile 'nowhere' in .*config\.toml: there is local, there"):
        configured(tmp_path, CLUSTER).profile("nowhere")


def test_what_a_profile_lacks_is_named_with_its_override(tmp_path: Path) -> None:
    text = '[profiles.x]\nscheduler = "slurm"'
    with pytest.raises(UsageError, match=r"profiles\.x\.base_path in .*config\.toml, or TOKENSTORM_BASE_PATH"):
        configured(tmp_path, text).profile("x")
    assert configured(tmp_path, text, TOKENSTORM_BASE_PATH="/x").profile("x").base_path == PurePosixPath("/x")
    with pytest.raises(UsageError, match=r"profiles\.y\.scheduler"):
        configured(tmp_path, "[profiles.y]").profile("y")


def test_every_key_can_be_overridden(tmp_path: Path) -> None:
    overrides = {
        "TOKENSTORM_ACCOUNT": "other",
        "TOKENSTORM_SSH_PORT": "22",
        "TOKENSTORM_SSH_IDENTITY_FILE": "/key",
        "TOKENSTORM_PROLOGUE": "module load a\nmodule load b",
        "TOKENSTORM_OFFLINE": "true",
        "TOKENSTORM_ORCHESTRATOR_PLACEMENT": "login",
        "TOKENSTORM_QOS": "",
    }
    profile = configured(tmp_path, CLUSTER, **overrides).profile("there")
    assert (profile.account, profile.ssh.port, profile.ssh.identity_file) == ("other", 22, "/key")
    assert (profile.prologue, profile.offline) == (("module load a", "module load b"), True)
    assert (profile.orchestrator.placement, profile.qos, profile.ssh.user) == ("login", "default", "u100000")
    assert configured(tmp_path, CLUSTER, TOKENSTORM_DEFAULT_PROFILE="local").profile().name == "local"


def test_an_override_that_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^TOKENSTORM_SSH_PORT: must be a whole number, such as 4, not '"):
        configured(tmp_path, CLUSTER, TOKENSTORM_SSH_PORT="x").profile()


def test_the_manual_shows_every_key_and_its_example_is_right(tmp_path: Path) -> None:
    manual = (ROOT / "docs" / "configuration.md").read_text()
    example = "\n".join(line[4:] for line in manual.splitlines() if line.startswith("    "))
    assert configured(tmp_path, example).profile().name == "there"
    paths = [path[1:] if path[0] in {"cpu", "gpu"} else path for path in keys_of(Profile)]
    missing = [".".join(path) for path in paths if f"`{'.'.join(path)}`" not in manual]
    assert not missing


def test_variables_and_proxies_of_a_profile_are_those_of_its_jobs(tmp_path: Path) -> None:
    text = f"{CLUSTER}\n[profiles.there.environment]\nA = 'x y'\n[profiles.there.proxies]\nhttps = 'http://p:1'\nno = 'a,b'\n"
    profile = configured(tmp_path, text).profile()
    proxies = {"https_proxy": "http://p:1", "HTTPS_PROXY": "http://p:1", "no_proxy": "a,b", "NO_PROXY": "a,b"}
    assert profile.variables == {**proxies, "A": "x y"}
    assert "http://p:1" not in repr(profile), "a proxy's address may hold a password"
    script = render(
        Job(name="j", command=("env",), folder=PurePosixPath("/j"), environment={"A": "the job's"}), profile
    )
    assert "export A='the job'\"'\"'s'" in script
    assert "export https_proxy=http://p:1" in script
    assert configured(tmp_path, text, TOKENSTORM_ENVIRONMENT="B=1\nC=a=b").profile().environment == {
        "B": "1",
        "C": "a=b",
    }
    with pytest.raises(UsageError, match=r"profiles\.there\.environment: 'A-B' is no name for a variable"):
        configured(tmp_path, f"{CLUSTER}\n[profiles.there.environment]\nA-B = ''\n")
