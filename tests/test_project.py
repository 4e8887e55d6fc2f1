"""What the repository promises, beside its code."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

import tokenstorm

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def pins(name: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def test_no_tracked_file_names_a_package_index() -> None:
    options = [a + "-" + b for a, b in [("index", "url"), ("find", "links"), ("--extra", "index"), ("trusted", "host")]]
    found = [
        f"{path.relative_to(ROOT)}: {option}"
        for path in tracked()
        for option in options
        if option in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert not found


def test_every_link_leads_somewhere() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    links = [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_symlink()]
    assert links
    assert [link for link in links if not link.exists()] == []


def test_the_installed_version_is_the_one_in_the_source() -> None:
    assert version("tokenstorm") == tokenstorm.__version__, "run scripts/setup again"


def test_a_bare_compute_node_needs_three_packages() -> None:
    assert pins("base.txt") == {"httptools", "msgspec", "uvloop"}


def test_development_uses_the_pins_that_users_get() -> None:
    lines = {name: (ROOT / "requirements" / name).read_text().splitlines() for name in ("base.txt", "dev.txt")}
    pinned = {name: {line for line in lines[name] if "==" in line} for name in lines}
    assert pinned["base.txt"] <= pinned["dev.txt"]


@pytest.mark.parametrize("name", ["base.txt", "dev.txt"])
def test_every_pin_has_hashes(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert set(re.findall(r"^([a-z0-9-]+)==\S+ \\\n +--hash=sha256:", text, re.MULTILINE)) == pins(name)


def test_the_map_of_the_code_fits_on_a_page() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 100


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_can_be_run(script: Path) -> None:
    assert script.stat().st_mode & 0o111 == 0o111
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", script], check=True)
