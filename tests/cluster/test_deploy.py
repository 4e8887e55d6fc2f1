"""This version comes to run on a cluster that has no internet and nothing of it: whole, once, by whoever deploys.

The Python there is the system's own, which is another than the one that runs the tests and has no tokenstorm.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath

import pytest

from sshd import MISSING, SSHD, sshd
from tokenstorm.cluster.opening import open_site
from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.setup import bare, bundle
from tokenstorm.cluster.setup import deploy as deploying
from tokenstorm.cluster.setup.deploy import Deployment, check, deploy, deployed
from tokenstorm.cluster.setup.hold import submitted
from tokenstorm.cluster.setup.prune import prune
from tokenstorm.cluster.site import Site
from tokenstorm.config.profile import Orchestrator, Partitions, Profile, Ssh
from tokenstorm.errors import RefusedJob, Unreachable, UsageError
from waiting import finish, until

OTHER = "/usr/bin/python3"


def _fits(python: str) -> bool:
    code = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    return shutil.which(python) is not None and subprocess.run([python, "-c", code], check=False).returncode == 0


another_python = pytest.mark.skipif(
    not _fits(OTHER), reason=f"{OTHER} is no Python 3.11 or newer that can make environments"
)
pytestmark = [pytest.mark.integration]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache of wheels for all tests of this file."""
    home = _home(tmp_path_factory)
    monkeypatch.setenv("TOKENSTORM_HOME", str(home))
    return home


def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.getbasetemp() / "deploy-home"
    home.mkdir(exist_ok=True)
    return home


@pytest.fixture(scope="module")
def environment(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PurePosixPath]:
    """A base path with an environment, and its Python, for all tests that leave it as it was."""
    base = tmp_path_factory.mktemp("deployed") / "base"
    made: list[PurePosixPath] = []

    async def scenario() -> None:
        async with opened(profile(base)) as site:
            made.append(await deploy(site, ignore))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENSTORM_HOME", str(_home(tmp_path_factory)))
        patch.setenv("SLURM_CONF", str(lab))
        finish(scenario(), 120)
    return base, made[0]


def profile(base: Path, python: str = OTHER, **more: object) -> Profile:
    fields = {"scheduler": "slurm", "partitions": Partitions(cpu="cpu", gpu="gpu"), **more}
    return Profile(name="lab", base_path=PurePosixPath(base), python=python, **fields)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def opened(profile: Profile) -> AsyncIterator[Site]:
    site = await open_site(profile)
    try:
        yield site
    finally:
        await site.close()


def ignore(line: str) -> None:
    """Progress that this test does not look at."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def left_over(base: Path) -> list[str]:
    return [name for name in names(base / "deploy") if name.startswith(".")]


def start(*words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", *words], stdout=subprocess.DEVNULL)


def runs(python: PurePosixPath) -> str:
    """What the deployed load generator says of itself, outside of this checkout."""
    code = "import tokenstorm.loadgen.launcher as l, msgspec, uvloop, httptools; print(l.__file__)"
    done = subprocess.run([python, "-I", "-c", code], cwd="/", check=True, capture_output=True, text=True)
    return done.stdout.strip()


@another_python
def test_a_first_deploy_makes_an_environment_that_runs_and_the_second_has_nothing_to_do(
    slurm: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with opened(profile(tmp_path / "base")) as site:
            assert await deployed(site) is None
            said: list[str] = []
            python = await deploy(site, said.append)
            assert runs(python).startswith(str(tmp_path / "base" / "deploy"))
            assert await deployed(site) == python
            assert [line.split()[0] for line in said] == ["asking", "getting", "sending", "making", "deployed:"]
            before = names(tmp_path / "base" / "deploy")
            again: list[str] = []
            assert await deploy(site, again.append) == python
            assert [line.split()[0] for line in again] == ["asking"]
            assert names(tmp_path / "base" / "deploy") == before
            assert not left_over(tmp_path / "base")
            assert (tmp_path / "base").stat().st_mode & 0o777 == 0o700
            assert await Deployment(site, ignore).python("gpu") == python  # the same platform: nothing new is made

    finish(scenario(), 120)


@another_python
def test_a_deployed_environment_knows_itself_as_this_version(
    slurm: Path, tmp_path: Path, environment: tuple[Path, PurePosixPath]
) -> None:
    async def scenario() -> None:
        python, said = environment[1], list[str]()
        async with opened(profile(tmp_path / "other", str(python))) as site:
            assert await deploy(site, said.append) == python
        assert said[-1].endswith("runs this version already")

    finish(scenario(), 120)


@another_python
@pytest.mark.skipif(SSHD is None, reason=MISSING)
def test_two_deploys_at_once_over_ssh_both_succeed_and_leave_one_environment(slurm: Path, tmp_path: Path) -> None:
    async def scenario(ssh: Ssh) -> None:
        there = profile(tmp_path / "base", ssh=ssh, prologue=(f"export SLURM_CONF={slurm}", "echo a line of a module"))
        async with opened(there) as one, opened(there) as other:
            said: list[str] = []
            pythons = await asyncio.gather(deploy(one, said.append), deploy(other, said.append))
            assert pythons[0] == pythons[1]
            assert runs(pythons[0])
        assert sum(line.startswith("deployed") for line in said) == 2
        assert sum(line.startswith("deployed by another") for line in said) <= 1
        assert len([name for name in names(tmp_path / "base" / "deploy") if "glibc" in name]) == 1
        assert not left_over(tmp_path / "base")

    with sshd(tmp_path / "sshd", f"SetEnv SLURM_CONF={slurm}\n") as login:
        finish(scenario(login.ssh), 180)


@another_python
def test_a_deploy_that_was_killed_is_never_taken_for_whole_and_the_next_one_succeeds(
    slurm: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    code = (
        "import asyncio, sys\n"
        "from pathlib import PurePosixPath\n"
        "from tokenstorm.cluster.setup.deploy import deploy\n"
        "from tokenstorm.cluster.opening import open_site\n"
        "from tokenstorm.config.profile import Partitions, Profile\n"
        "async def main():\n"
        "    profile = Profile(name='lab', scheduler='slurm', base_path=PurePosixPath(sys.argv[1]), python=sys.argv[2],\n"
        "                      partitions=Partitions(cpu='cpu'))\n"
        "    await deploy(await open_site(profile), print)\n"
        "asyncio.run(main())\n"
    )

    async def scenario() -> None:
        process = start(code, str(base), OTHER)
        try:
            await until(lambda: list(base.glob("deploy/.new-*/venv/pyvenv.cfg")))
        finally:
            process.kill()
            process.wait()
        async with opened(profile(base)) as site:
            assert await deployed(site) is None
            python = await deploy(site, ignore)
            assert runs(python)
            assert await deployed(site) == python

    finish(scenario(), 120)


@another_python
def test_an_environment_of_which_the_site_purged_a_file_is_noticed_and_made_again(
    slurm: Path, environment: tuple[Path, PurePosixPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(profile(environment[0])) as site:
            deployment = Deployment(site, ignore)
            python = await deployment.python()
            assert await deployment.there()
            purged = next(Path(python).parents[1].glob("lib/*/site-packages/tokenstorm/loadgen/rank.py"))
            purged.unlink()
            assert await deployed(site) is None
            assert await deployment.there(), "what was found a moment ago is believed"
            monkeypatch.setattr(deploying, "KNOWN_SECONDS", 0.0)
            assert not await deployment.there()
            assert await deployment.python() == python
            assert purged.exists()
            assert runs(python)

    finish(scenario(), 120)


def fake_environment(folder: Path, name: str, days: float) -> Path:
    """Something that looks like an environment that was used last so many days ago; its Python runs until it reads a line."""
    python = folder / name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\ntouch "$1"\nread -r line\n')
    python.chmod(0o700)
    (folder / name / bare.WHOLE).write_text('{"files": 1}')
    answer = {"python": str(python), "environment": str(folder / name)}
    (folder / f"python-{name}.json").write_text(json.dumps(answer))
    then = time.time() - days * 24 * 3600
    for path in (folder / name / bare.WHOLE, folder / name):
        os.utime(path, (then, then))
    return python


def test_old_environments_go_but_not_what_a_job_or_a_process_runs_from_or_was_used_lately(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own variables hide no job from the question what runs."""
    monkeypatch.setenv("SQUEUE_STATES", "suspended")
    monkeypatch.setenv("SQUEUE_FORMAT", "%j")
    folder = tmp_path / "base" / "deploy"
    found = {name: fake_environment(folder, name, days=3) for name in ("1-old", "2-queued", "3-process", "4-current")}
    fake_environment(folder, "5-young", days=0.5)
    (folder / ".new-being-made").mkdir()

    async def scenario() -> None:
        job = Job(
            name=f"prune-{os.getpid()}", command=(str(found["2-queued"]),), folder=PurePosixPath(tmp_path / "base/run")
        )
        async with opened(profile(tmp_path / "base", sbatch=("--begin=now+1hour",))) as site, submitted(site, job):
            assert await prune(site, [PurePosixPath(found["4-current"])]) == ["1-old"]
        left = ("2-queued", "3-process", "4-current", "5-young")
        assert names(folder) == [".new-being-made", *left, *(f"python-{name}.json" for name in left)]

    process = subprocess.Popen([found["3-process"], tmp_path / "runs"], stdin=subprocess.PIPE)
    try:
        finish(until((tmp_path / "runs").exists))
        finish(scenario())
    finally:
        process.communicate(b"\n")


def test_where_it_is_not_known_what_runs_nothing_is_removed(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_environment(tmp_path / "base" / "deploy", "1-old", days=3)
    (tmp_path / "squeue").write_text("#!/bin/sh\necho no controller >&2\nexit 1\n")
    (tmp_path / "squeue").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    async def scenario() -> None:
        async with opened(profile(tmp_path / "base")) as site:
            with pytest.raises(
                Unreachable, match=r"nothing was removed from .*not known what runs from there: no controller"
            ):
                await prune(site, [])

    finish(scenario())
    assert "1-old" in names(tmp_path / "base" / "deploy")


def test_on_the_command_line_what_was_pruned_is_told(slurm: Path, tmp_path: Path) -> None:
    fake_environment(tmp_path / "base" / "deploy", "1-old", days=3)
    config = tmp_path / "config.toml"
    config.write_text(
        f'[profiles.lab]\nscheduler = "slurm"\nbase_path = "{tmp_path}/base"\npython = "{sys.executable}"\n'
    )
    environment = {**os.environ, "TOKENSTORM_CONFIG": str(config)}
    command = [sys.executable, "-m", "tokenstorm", "deploy", "--profile", "lab", "--prune", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"profile": "lab", "python": {"cpu": sys.executable}, "removed": ["1-old"]}


def test_what_an_old_deploy_left_behind_is_removed_and_what_is_being_made_is_not(tmp_path: Path) -> None:
    for name, age in ((".new-old", 3 * 3600), (".new-young", 60), (".new-mine", 0)):
        (tmp_path / name / "wheels").mkdir(parents=True)
        now = (tmp_path / name).stat().st_mtime
        os.utime(tmp_path / name, (now - age, now - age))
    (tmp_path / ".new-gone").symlink_to(tmp_path / "taken by another that cleans")
    bare._clean(str(tmp_path), str(tmp_path / ".new-mine"))
    (tmp_path / ".new-gone").unlink()
    assert names(tmp_path) == [".new-mine", ".new-young"]


def test_the_python_of_the_profile_is_used_as_it_is_where_it_runs_this_version(slurm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(profile(tmp_path / "base", sys.executable)) as site:
            assert await deploy(site, ignore) == PurePosixPath(sys.executable)
            assert await deployed(site) == PurePosixPath(sys.executable)

    finish(scenario())


def test_on_this_machine_nothing_is_asked_and_nothing_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(
            profile(tmp_path / "base", sys.executable, scheduler="local", partitions=Partitions())
        ) as site:
            assert await deployed(site) == PurePosixPath(sys.executable)
        assert not (tmp_path / "base" / "deploy").exists()

    finish(scenario())


def test_a_python_that_is_not_there_is_named_with_the_key_to_change(slurm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(profile(tmp_path / "base", "python3.99")) as site:
            with pytest.raises(UsageError, match=r"profiles\.lab\.python: python3\.99 is not to be found on n\d"):
                await deploy(site, ignore)

    finish(scenario())


def test_a_partition_that_is_not_there_is_told_in_slurms_words(slurm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(profile(tmp_path / "base", partitions=Partitions(cpu="none"))) as site:
            with pytest.raises(RefusedJob, match=r"partition none gives no node: .*[Ii]nvalid partition"):
                await deploy(site, ignore)

    finish(scenario())


TARGET = bundle.Target(
    node="n1",
    machine="x86_64",
    libc="glibc",
    libc_version="2.28",
    implementation="cpython",
    version=(3, 11, 4),
    abi="cp311",
    executable="/usr/bin/python3.11",
    missing=(),
    code=None,
)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (replace(TARGET, version=(3, 6, 8)), r"cpython 3\.6\.8 on n1, and CPython 3\.11 or newer is needed"),
        (replace(TARGET, implementation="pypy"), "pypy"),
        (replace(TARGET, missing=("ensurepip",)), "lacks ensurepip"),
    ],
)
def test_a_python_that_will_not_do_is_refused_with_what_to_do(target: bundle.Target, said: str, tmp_path: Path) -> None:
    site = Site(profile(tmp_path), None, None, has_gpu=False)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        check(site, target)


def test_wheels_are_asked_for_by_every_platform_tag_that_the_c_library_there_satisfies() -> None:
    tags = TARGET.platforms
    assert tags[:2] == ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64")
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"} <= set(tags)
    assert "manylinux_2_29_x86_64" not in tags
    assert "manylinux2014_aarch64" not in replace(TARGET, machine="aarch64", libc_version="2.16").platforms
    assert replace(TARGET, libc="musl", libc_version="1.2").platforms[0] == "musllinux_1_2_x86_64"
    assert replace(TARGET, libc="", libc_version="").platforms == ()


def test_wheels_for_another_python_and_an_older_platform_than_this_are_had_and_kept(tmp_path: Path) -> None:
    target = replace(TARGET, version=(3, 12, 1), abi="cp312")
    found = bundle.wheels(bundle.bundle(), target, tmp_path)
    assert {name.partition("-")[0] for name in found} == {
        "httptools",
        "msgspec",
        "uvloop",
        "tokenstorm",
        "requirements.txt",
    }
    assert all("cp312" in name for name in found if not name.startswith(("tokenstorm", "requirements")))
    assert bundle.wheels(bundle.bundle(), target, tmp_path) == found


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_wheels_for_a_cluster_of_musl_are_had_by_its_tags(tmp_path: Path, machine: str) -> None:
    target = replace(TARGET, machine=machine, libc="musl", libc_version="1.2.5")
    found = bundle.wheels(bundle.bundle(), target, tmp_path)
    compiled = [name for name in found if not name.startswith(("tokenstorm", "requirements"))]
    assert len(compiled) == 3
    assert all(f"musllinux_1_2_{machine}" in name and "cp311" in name for name in compiled)


def test_where_there_are_no_wheels_the_platform_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no wheels for Python 3\.11\.4 on vax with glibc 2\.28"):
        bundle.wheels(bundle.bundle(), replace(TARGET, machine="vax"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_wheel_is_the_same_bytes_each_time_and_holds_the_whole_package() -> None:
    once, again = bundle.bundle(), bundle.bundle()
    assert once == again
    with zipfile.ZipFile(BytesIO(once.wheel)) as archive:
        held = set(archive.namelist())
        pins = archive.read("tokenstorm/cluster/setup/base.txt").decode()
    here = {path.relative_to(bundle.PACKAGE.parent).as_posix() for path in bundle.PACKAGE.rglob("*.py")}
    assert here <= held
    assert not [name for name in held if "__pycache__" in name]
    assert pins == (Path(__file__).parents[2] / "requirements" / "base.txt").read_text()


def test_an_installed_tokenstorm_deploys_the_same_as_the_checkout_it_came_from(tmp_path: Path) -> None:
    """A wheel as users install it, unpacked elsewhere: same code, same pins, hence the same name."""
    root = Path(__file__).parents[2]
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(tmp_path),
        str(root),
    ]
    subprocess.run(build, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "site")
    code = "from tokenstorm.cluster.setup.bundle import PACKAGE, bundle; print(PACKAGE, bundle().name)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(tmp_path / "site" / "tokenstorm"), bundle.bundle().name]


def test_a_bare_python_answers_with_one_line_that_a_program_can_read() -> None:
    source = Path(bare.__file__).read_text()
    done = subprocess.run(
        [sys.executable, "-c", source, "ask", bundle.bundle().imports], check=True, capture_output=True, text=True
    )
    answer = json.loads(done.stdout.removeprefix(bare.MARK))
    assert (answer["version"], answer["missing"]) == (list(sys.version_info[:3]), [])
    assert answer["code"] == bundle.bundle().code


@another_python
def test_where_the_orchestrator_runs_on_the_cluster_the_services_are_deployed_too(slurm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(profile(tmp_path / "base", orchestrator=Orchestrator(placement="job"))) as site:
            python = await deploy(site, ignore)
            assert await deployed(site) == python
        command = [str(python), "-I", "-m", "tokenstorm", "orchestrator", "--help"]
        assert subprocess.run(command, cwd="/", check=True, capture_output=True).returncode == 0  # noqa: ASYNC221
        assert subprocess.run([python, "-I", "-c", "import tokenstorm.cli.stack"], cwd="/", check=True).returncode == 0  # noqa: ASYNC221
        async with opened(profile(tmp_path / "base")) as site:
            assert await deployed(site) is None  # another bundle

    finish(scenario(), 180)
