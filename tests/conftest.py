from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from running import Stage, compile_truthd


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs a stage starts processes."""
    for item in items:
        if "stage" in getattr(item, "fixturenames", ()):
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
