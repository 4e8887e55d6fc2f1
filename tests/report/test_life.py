"""A run that still goes on is told from one that was cut off, and where nobody can tell, that is said."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from launching import status
from tokenstorm.report.life import life_of
from tokenstorm.runs import RunPaths

HERE = socket.gethostname()


def run_folder(
    folder: Path, *, host: str = HERE, pid: int | None = None, phase: str = "measured", age: float = 0
) -> RunPaths:
    """What a launcher leaves while it runs."""
    paths = RunPaths(folder)
    paths.address.write_text(
        json.dumps({"schema": 1, "url": "http://127.0.0.1:9", "host": host, "pid": pid or os.getpid()})
    )
    paths.status.write_bytes(status(phase=phase, age=age))
    return paths


def test_a_run_goes_on_while_its_launcher_lives_here(tmp_path: Path) -> None:
    assert life_of(run_folder(tmp_path, age=3600)).goes_on


def test_a_run_whose_launcher_is_gone_was_cut_off_however_lately_it_spoke(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    life = life_of(run_folder(tmp_path, pid=process.pid))
    assert (life.goes_on, life.doubt) == (False, "")


def test_another_process_with_the_launchers_number_is_not_the_launcher(tmp_path: Path) -> None:
    paths = run_folder(tmp_path)
    long_ago = time.time() - 10**8
    os.utime(paths.address, (long_ago, long_ago))
    assert not life_of(paths).goes_on


def test_a_run_that_ended_does_not_go_on(tmp_path: Path) -> None:
    assert not life_of(run_folder(tmp_path, phase="failed")).goes_on
    assert not life_of(run_folder(tmp_path, phase="finished")).goes_on
    paths = run_folder(tmp_path)
    paths.summary.write_text("{}")
    assert not life_of(paths).goes_on


def test_what_came_home_from_a_cluster_does_not_go_on(tmp_path: Path) -> None:
    paths = run_folder(tmp_path, host="mel0001")
    paths.address.unlink()
    life = life_of(paths)
    assert (life.goes_on, life.doubt) == (False, "")


def test_of_a_launcher_on_another_machine_only_a_fresh_word_proves_that_it_lives(tmp_path: Path) -> None:
    assert life_of(run_folder(tmp_path, host="mel0001", age=3)).goes_on
    life = life_of(run_folder(tmp_path, host="mel0001", age=45))
    assert not life.goes_on
    assert "mel0001" in life.doubt
    assert "45 s ago" in life.doubt


def test_files_that_a_crash_tore_are_no_error(tmp_path: Path) -> None:
    paths = run_folder(tmp_path, host="mel0001")
    paths.status.write_text('{"at"')
    assert "said nothing" in life_of(paths).doubt
    paths.address.write_text("")
    assert not life_of(paths).goes_on
