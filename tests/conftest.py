import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import hypothesis
import pytest

import slurmlab
import sshd
from running import Stage, compile_truthd
from slurmlab import slurm_lab
from tokenstorm.config.file import load_config
from tokenstorm.config.profile import Profile, Ssh

INSTALL = "scripts/lab install"
HOW = f"{INSTALL} --slurmdbd, as root, installs what they need from Debian's packages, and starts nothing."
OF_EACH_WORKER = {"tmp_path_factory", "truthd", "pytestconfig"}
"""Fixtures that live long, and that cost little to have in each worker."""
_skipped: list[str] = []

hypothesis.settings.register_profile(
    "any machine", deadline=None
)  # how long an example takes is no property of the code
hypothesis.settings.load_profile("any machine")


def pytest_configure() -> None:
    """Under `nohup` SIGHUP is ignored, and SIGINT behind `&`; so they would be in what tests start: a handler is not handed on."""
    for number, handler in ((signal.SIGHUP, lambda _number, _frame: None), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever needs a stage or a Slurm starts processes. A real engine is started only where it is asked for."""
    if config.option.markexpr != "engine":
        engines = [item for item in items if item.get_closest_marker("engine")]
        items[:] = [item for item in items if item not in engines]
        config.hook.pytest_deselected(items=engines)
    _name_apart(items)
    for item in items:
        if item.path.parent.name == "cluster" or item.path.stem in {"test_lab", "test_odd_sites", "test_placement"}:
            item.add_marker(pytest.mark.cluster)
        if {"stage", "lab"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)
        if _shares(item) and hasattr(config, "workerinput"):  # a worker runs all tests of such a file
            item._id = item.id.parse(f"{item.nodeid}@{item.id.path}")
    items.sort(key=_when)


def _name_apart(items: list[pytest.Item]) -> None:
    """A worker is told by name what to run: of two tests with one name it would run one. Schemathesis' have the call in theirs."""
    names = Counter(item.nodeid for item in items)
    for item in items:
        if names[item.nodeid] > 1 and item.parent:
            item._id = item.id.parse(f"{item.parent.nodeid}::{item.name}")
    twice = [name for name, count in Counter(item.nodeid for item in items).items() if count > 1]
    assert not twice, f"two tests have one name: {twice}"


def _shares(item: pytest.Item) -> bool:
    """Whether it uses a fixture that lives longer than a test, and that is worth sharing."""
    found = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    return any(found[name][-1].scope != "function" for name in found.keys() - OF_EACH_WORKER)


def _when(item: pytest.Item) -> int:
    """Tests of a Slurm go first, since they wait most, and those that start nothing last: they fill the gaps at the end."""
    return 0 if _shares(item) else 1 if item.get_closest_marker("integration") else 2


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember what was skipped because a program is not here."""
    if report.skipped and INSTALL in str(report.longrepr):
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """The last lines: which tests the cluster's programs were missing for, and how to get them."""
    if _skipped:
        files = Counter(nodeid.partition("::")[0] for nodeid in _skipped)
        print(f"\n{len(_skipped)} tests of the cluster were skipped, since Slurm or sshd is not here:")
        print("".join(f"  {file}: {count}\n" for file, count in sorted(files.items())) + HOW)


@pytest.fixture(scope="session")
def truthd(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """The ground-truth endpoint's program, built once, by the first test that wants it."""
    return cache(lambda: compile_truthd(tmp_path_factory.mktemp("truthd")))


@pytest.fixture
def stage(tmp_path: Path, truthd: Callable[[], Path]) -> Iterator[Stage]:
    """Starts commands and engines below the test's folder; ends them all, even when the test fails."""
    stage = Stage(tmp_path, truthd)
    try:
        yield stage
    finally:
        stage.close()


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the test's own masters of ssh have their sockets: a path that is short enough for them."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture
def dot_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ~/.ssh of this test's own, and no agent."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    (tmp_path / ".ssh" / "config").touch()
    (tmp_path / "bin").mkdir()  # ssh itself looks for its files in the home of the account, wherever $HOME points to
    (tmp_path / ".ssh" / "all").write_text(
        f"Include {tmp_path}/.ssh/config\nMatch all\n UserKnownHostsFile {tmp_path}/.ssh/known_hosts\n"
    )
    (tmp_path / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "$HOME/.ssh/all" "$@"\n')
    (tmp_path / "bin" / "ssh").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path / ".ssh"


@pytest.fixture(params=sshd.SHELLS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest, sockets: Path) -> sshd.Kind:
    """Each shell that gets to a login node."""
    chosen: sshd.Kind = request.param
    return chosen


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The slurm.conf of a Slurm that all tests share; beside it lies all else that `scripts/lab up` made.

    LAB_OPTIONS are further options of `scripts/lab up`: with `--slurmdbd` the same tests run on a site with accounting.
    """
    if not slurmlab.THERE:
        pytest.skip(slurmlab.MISSING)
    if not sshd.SSHD:
        pytest.skip(sshd.MISSING)
    with slurm_lab(tmp_path_factory.mktemp("lab"), *os.environ.get("LAB_OPTIONS", "").split()) as conf:
        yield conf


@pytest.fixture
def slurm(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared Slurm, in the environment of this test. Gives its slurm.conf."""
    monkeypatch.setenv("SLURM_CONF", str(lab))
    return lab


@pytest.fixture
def lab_profile(lab: Path, tmp_path: Path) -> Profile:
    """The shared Slurm over its real sshd, with a base path of this test's own."""
    profile = load_config({"TOKENSTORM_CONFIG": str(lab.parent / "config.toml")}).profile("lab")
    return profile.model_copy(update={"base_path": PurePosixPath(tmp_path / "base")})


@pytest.fixture
def here_profile(slurm: Path, lab_profile: Profile) -> Profile:
    """The shared Slurm by the commands of this machine, without SSH."""
    return lab_profile.model_copy(update={"ssh": Ssh()})
