from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from running import Stage, compile_truthd
from slurmlab import MISSING, THERE, slurm_lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs a stage or a Slurm starts processes."""
    for item in items:
        if {"stage", "slurm"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


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


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The slurm.conf of a Slurm that all tests share."""
    if not THERE:
        pytest.skip(MISSING)
    with slurm_lab(tmp_path_factory.mktemp("lab")) as conf:
        yield conf


@pytest.fixture
def slurm(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared Slurm, in the environment of this test. Gives its slurm.conf."""
    monkeypatch.setenv("SLURM_CONF", str(lab))
    return lab
