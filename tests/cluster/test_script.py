"""A job's script is the text that was agreed on, and hands every value to the program as it was typed."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.script import render
from tokenstorm.config.profile import Profile
from tokenstorm.errors import UsageError

GOLDEN = Path(__file__).parent / "golden"
LOCAL = Profile(name="local", scheduler="local", base_path=PurePosixPath("/data"), python="python3")
CLUSTER = LOCAL.model_copy(
    update={"name": "there", "prologue": ("module load env/release/2023.1", "module load Apptainer")}
)
PLAIN = Job(name="plain", command=("python3", "-m", "tokenstorm.node", "."), folder=PurePosixPath("/data/services/s1"))
HOSTILE = Job(
    name="x\n#SBATCH --uid=0\n",
    command=("./-my engine", "--prompt", 'it\'s $(id) `id` "$HOME"; rm -rf / &\nsecond line', "-", "", "--ünï=☃"),
    folder=PurePosixPath('/data/a folder\'s "name"\n$(id)'),
    environment={"MODEL": "a; b", "EMPTY": "", "LINES_OF_TEXT": "1\n2'\n"},
)
ECHO = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"
NASTY = [
    "'",
    '"',
    "\\",
    "\n",
    "\r",
    "\t",
    " ",
    "$(id)",
    "`id`",
    "${HOME}",
    ";",
    "&&",
    "|",
    "*",
    "~",
    "!",
    "#",
    "-",
    "=",
    "é",
    "☃",
    "𝄞",
]

text = st.one_of(
    st.lists(st.sampled_from(NASTY), max_size=8).map("".join),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
)
names = st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True).map(lambda name: f"T_{name}")


def as_received(job: Job) -> tuple[list[str], Mapping[str, str], str]:
    """What the program gets, when bash runs the script."""
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    script = Path(job.folder) / "script.sh"
    script.write_bytes(render(job, LOCAL).encode())
    done = subprocess.run(["bash", script], capture_output=True, check=True, timeout=60, cwd="/")
    assert done.stderr == b""
    argv, environment, folder = json.loads(done.stdout)
    return argv, environment, folder


@pytest.mark.parametrize(
    ("name", "job", "profile"),
    [("plain", PLAIN, LOCAL), ("prologue", PLAIN, CLUSTER), ("hostile", HOSTILE, LOCAL)],
)
def test_the_text_is_the_golden_file(name: str, job: Job, profile: Profile) -> None:
    assert render(job, profile) == (GOLDEN / f"{name}.sh").read_text()


@settings(max_examples=40)
@given(words=st.lists(text, max_size=4), environment=st.dictionaries(names, text, max_size=4), folder=text)
def test_what_was_typed_reaches_the_program_and_nothing_else_happens(
    words: list[str], environment: dict[str, str], folder: str
) -> None:
    with tempfile.TemporaryDirectory() as root:
        place = PurePosixPath(root) / f"-{folder.replace('/', '_')}x"[:60]
        job = Job(name=folder, command=(sys.executable, "-c", ECHO, *words), folder=place, environment=environment)
        argv, got, where = as_received(job)
        assert argv == words
        assert {name: got[name] for name in environment} == environment
        assert where == str(place)
        assert [path.name for path in Path(place).iterdir()] == ["script.sh"]


def test_a_program_whose_name_starts_with_a_dash_is_run(tmp_path: Path) -> None:
    program = tmp_path / "-c"
    program.write_text('#!/bin/sh\nprintf "[\\"%s\\"]" "$1"\n')
    program.chmod(0o755)
    job = Job(
        name="dash",
        command=("-c", "-e"),
        folder=PurePosixPath(tmp_path),
        environment={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    (tmp_path / "script.sh").write_text(render(job, LOCAL))
    done = subprocess.run(["bash", tmp_path / "script.sh"], capture_output=True, check=True, timeout=60)
    assert done.stdout == b'["-e"]'


@pytest.mark.parametrize(
    ("job", "named"),
    [
        ({"command": ("echo", "a\0b")}, "NUL"),
        ({"command": ("echo", "\ud800")}, "Unicode"),
        ({"command": ()}, "no command"),
        ({"environment": {"A B": "x"}}, "'A B'"),
        ({"environment": {"A=$(id)": "x"}}, "no name"),
        ({"environment": {"A\n": "x"}}, "no name"),
        ({"environment": {"RANDOM": "4"}}, "RANDOM"),
        ({"environment": {"BASH_FUNC_ls%%": "() { id; }"}}, "no name"),
        ({"environment": {"SHELLOPTS": "xtrace"}}, "SHELLOPTS"),
    ],
)
def test_what_no_script_can_hand_over_is_refused_by_name(job: dict[str, object], named: str) -> None:
    fields = {"name": "j", "command": ("true",), "folder": PurePosixPath("/tmp"), **job}
    with pytest.raises(UsageError, match=named):
        render(Job(**fields), LOCAL)  # type: ignore[arg-type]
