"""Run on the cluster as text, by a Python that has nothing of ours: it says what it is, and builds the environment.

Standard library only, and no syntax that Python 3.6 would refuse: one that is too old has to be able to say so.
The answer is one line on standard output after the mark, since what a site's prologue prints is there too.
"""

import glob
import hashlib
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time

MARK = "tokenstorm-says:"
WHOLE = "deployed.json"
"""The file that is in an environment once all of it is there; it tells how many files that are."""
SEEN_SECONDS = 60.0
"""How long a shared file system may take to show on one machine what another wrote."""
ABANDONED_SECONDS = 2 * 3600
"""A temporary folder this old is nobody's: a deploy has deadlines that are shorter."""


def digest(package: str) -> str:
    """What tells two versions of a package apart: a hash of its files' names and contents. Hidden ones belong to tools."""
    found = []
    for folder, folders, names in os.walk(package):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [os.path.join(folder, name) for name in names if not name.endswith(".pyc") and name[0] != "."]
    whole = hashlib.sha256()
    for path in sorted(found, key=lambda path: os.path.relpath(path, package)):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
        whole.update(f"{os.path.relpath(path, package)} {content}\n".encode())
    return whole.hexdigest()


def ask(imports: str) -> "dict[str, object]":
    """What this Python is, and what it has. `imports` is what has to run for it to have tokenstorm."""
    libc, version = _libc()
    return {
        "node": platform.node(),
        "machine": platform.machine(),
        "libc": libc,
        "libc_version": version,
        "implementation": sys.implementation.name,
        "version": list(sys.version_info[:3]),
        "abi": "cp{}{}{}".format(sys.version_info[0], sys.version_info[1], getattr(sys, "abiflags", "")),
        "executable": os.path.realpath(sys.executable),
        "missing": [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None],
        "code": _ours(imports),
    }


def build(imports: str, temporary: str, final: str, *wheels: str) -> "dict[str, object]":
    """Make the environment `final` of the wheels in `temporary`, whole or not at all. Another may be quicker."""
    _wait_for([os.path.join(temporary, "wheels", name) for name in wheels])
    _clean(os.path.dirname(final), temporary)
    made = os.path.join(temporary, "venv")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    clean.update(PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK="1")
    python = os.path.join(made, "bin", "python")
    folder = os.path.join(temporary, "wheels")
    pins = os.path.join(folder, "requirements.txt")
    offline = ["--quiet", "--no-cache-dir", "--no-index", "--require-hashes", "--no-deps"]
    for command in (
        [sys.executable, "-m", "venv", made],
        [python, "-m", "pip", "install", *offline, "-f", folder, "-r", pins],
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "pip", "setuptools"],  # most of the files, and of no use
        [python, "-I", "-c", imports],
    ):
        done = subprocess.run(
            command, env=clean, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode:
            return {"failed": " ".join(command[:4]), "said": done.stdout.decode(errors="replace")[-2000:]}
    whole = {"schema": 1, "python": sys.executable, "version": platform.python_version(), "files": count(made)}
    with open(os.path.join(made, WHOLE), "w") as file:
        json.dump(whole, file)
        file.flush()
        os.fsync(file.fileno())
    won = _put_in_place(made, final)
    shutil.rmtree(temporary, ignore_errors=True)
    return {"won": won}


def count(environment: str) -> int:
    """How many files an environment has beside the one that tells it; what Python caches comes and goes."""
    found = 0
    for folder, folders, names in os.walk(environment):
        found += len(names) + sum(os.path.islink(os.path.join(folder, name)) for name in folders)
        folders[:] = [name for name in folders if name != "__pycache__"]
    return found - os.path.exists(os.path.join(environment, WHOLE))


def is_whole(environment: str) -> bool:
    """Whether all is there. A site's purge may take single files."""
    try:
        with open(os.path.join(environment, WHOLE)) as file:
            return bool(json.load(file)["files"] == count(environment))
    except (OSError, ValueError, KeyError):
        return False


def _libc(loaders: str = "/lib/ld-musl-*.so.1") -> "tuple[str, str]":
    """The C library and its version; musl tells its own when its loader is run without arguments."""
    if "musl" not in str(sysconfig.get_config_var("HOST_GNU_TYPE")):
        return platform.libc_ver()
    for loader in glob.glob(loaders):
        said = subprocess.run([loader], stderr=subprocess.PIPE, check=False).stderr.decode(errors="replace")
        for line in said.splitlines():
            if line.startswith("Version "):
                return "musl", line[len("Version ") :]
    return "musl", ""


def _ours(imports: str) -> "str | None":
    """The digest of the tokenstorm that this Python can run, if it can."""
    try:
        found = importlib.util.find_spec("tokenstorm")
        if found is None or not found.submodule_search_locations or found.origin is None:
            return None
        done = subprocess.run([sys.executable, "-c", imports], stderr=subprocess.DEVNULL, check=False)
        return digest(next(iter(found.submodule_search_locations))) if done.returncode == 0 else None
    except (ImportError, OSError, ValueError):
        return None


def _wait_for(paths: "list[str]") -> None:
    end = time.monotonic() + SEEN_SECONDS
    while not all(os.path.exists(path) for path in paths):
        if time.monotonic() > end:
            where = os.path.dirname(paths[0])
            message = f"{where} is not to be seen on {platform.node()}: is the base path shared with this partition?"
            raise SystemExit(message)
        time.sleep(0.1)


def _put_in_place(made: str, final: str) -> bool:
    """Whether ours is the one that is there now; another deploy of the same may have won."""
    for _ in range(5):
        try:
            os.rename(made, final)
        except OSError:
            if is_whole(final):
                return False
            os.rename(final, f"{made}.broken-{time.time()}")  # a site purged a part of it
        else:
            return True
    message = f"{final} cannot be put in place: something else makes it again and again"
    raise SystemExit(message)


def _clean(folder: str, ours: str) -> None:
    """Remove what deploys left that never ended. Ages are told by the file system's own clock."""
    now = os.stat(ours).st_mtime
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(".new-") and path != ours and now - _changed(path) > ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _changed(path: str) -> float:
    """When something changed; one that another deploy took away meanwhile is of no concern."""
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return math.inf


if __name__ == "__main__":
    print(MARK + json.dumps((ask if sys.argv[1] == "ask" else build)(*sys.argv[2:])))
