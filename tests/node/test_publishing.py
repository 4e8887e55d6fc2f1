"""A file system that takes nothing for a while ends no engine, and is told everything once it does."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from running import Stage, alive, fetch, wait_for
from wrapped import NODE, SIMULATOR, Service

LOADS = ["bash", "-c", 'sleep 1.5; exec "$@"', "bash", *SIMULATOR]


def answers(service: Service) -> bool:
    try:
        return fetch(f"http://127.0.0.1:{service.published()['port']}/health")[0] == 200
    except OSError:
        return False


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, so small that a file fills it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount one")
    (tmp_path / "disk").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path / "disk"], check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield tmp_path / "disk"
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)


def test_a_full_disk_ends_no_engine_and_the_last_word_is_told_when_there_is_room(stage: Stage, full_disk: Path) -> None:
    service = Service(stage, name="disk/service", command=LOADS).start()
    pid = wait_for(lambda: service.published()["status"] == "starting" and service.published()["pid"], "starting")
    with pytest.raises(OSError, match="No space"):
        (full_disk / "filler").write_bytes(bytes(1_000_000))
    wait_for(lambda: answers(service), "the engine is ready")
    before = service.folder.stat().st_mtime_ns
    wait_for(lambda: service.folder.stat().st_mtime_ns > before, "it is tried to publish that")
    assert alive(pid)
    assert service.published()["status"] == "starting"
    (full_disk / "filler").unlink()
    assert service.reaches("running")["pid"] == pid
    service.process.terminate()
    service.process.wait(60)
    assert service.published()["status"] == "stopped"
    assert b"serving" in (service.folder / f"replica.{NODE}.0.log").read_bytes()
