"""A real Slurm of four nodes on this machine, brought up by the project's own tool and shared by a test run."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenstorm.runs import write_atomically

LAB = Path(__file__).parents[1] / "scripts" / "lab"
THERE = all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("slurmctld", "slurmd", "munged"))
MISSING = "no Slurm here: install it with scripts/lab install"


@contextlib.contextmanager
def slurm_lab(folder: Path, *options: str) -> Iterator[Path]:
    """Bring the lab up, and end it with all its jobs. Gives the path of its slurm.conf, for SLURM_CONF."""
    subprocess.run([LAB, "up", folder, *options], check=True, capture_output=True, timeout=120)
    try:
        yield folder / "slurm.conf"
    finally:
        subprocess.run([LAB, "down", folder], check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def network_lab(nodes: int) -> Iterator[Path]:
    """A lab whose nodes have addresses, clocks and cables of their own; only root may make it. Gives its folder."""
    with tempfile.TemporaryDirectory(prefix="lab-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "lab"
        with slurm_lab(folder, "--nodes", str(nodes), "--netns", "--set", "SlurmdTimeout=5"):
            yield folder


def ask(folder: Path, *words: str) -> None:
    """A command of scripts/lab about one that is up: `unplug n2`, or `run n2 hostname`."""
    subprocess.run([LAB, words[0], folder, *words[1:]], check=True, capture_output=True, timeout=120)


@contextlib.contextmanager
def configured(slurm: Path, change: Callable[[str], str]) -> Iterator[None]:
    """A site whose Slurm is set up in another way."""
    before = slurm.read_bytes()
    try:
        write_atomically(slurm, change(before.decode()).encode())  # a slurmd that reads half of it ends
        subprocess.run(["scontrol", "reconfigure"], check=True, capture_output=True, timeout=60)
        yield
    finally:
        write_atomically(slurm, before)
        subprocess.run(["scontrol", "reconfigure"], check=True, capture_output=True, timeout=60)
