"""What is put on a cluster: this very code as a wheel, and the wheels of its dependencies for the platform there."""

import base64
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import tokenstorm
from tokenstorm.cluster.setup.bare import digest
from tokenstorm.errors import RunError, UsageError
from tokenstorm.runs import make_private

PACKAGE = Path(tokenstorm.__file__).parent
_PINS = Path(__file__).with_name("base.txt")
_SERVICES = Path(__file__).with_name("services.txt")
_IMPORTS = "import httptools, msgspec, uvloop, tokenstorm.loadgen.launcher, tokenstorm.node.__main__"
DOWNLOAD_SECONDS = 600.0
OLDEST = (3, 11)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_GLIBC_FROM = 5


@dataclass(frozen=True)
class Target:
    """A Python on the cluster. `code` tells the tokenstorm that it can run already; `missing`, the modules it lacks."""

    node: str
    machine: str
    libc: str
    libc_version: str
    implementation: str
    version: tuple[int, int, int]
    abi: str
    executable: str
    missing: tuple[str, ...]
    code: str | None

    @property
    def python(self) -> str:
        """The version, for people."""
        return ".".join(map(str, self.version))

    @property
    def name(self) -> str:
        """Platform and Python, for the name of a folder. Two Pythons of the same version are told apart."""
        which = hashlib.sha256(f"{self.executable} {self.python}".encode()).hexdigest()[:8]
        return f"{self.machine}-{self.libc}{self.libc_version}-{self.abi}-{which}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platform tags of wheels that run there, the best first. None for one that has none."""
        if not re.fullmatch(r"\d+\.\d+.*", self.libc_version):
            return ()
        major, minor = map(int, re.findall(r"\d+", self.libc_version)[:2])
        if self.libc == "musl":
            return tuple(f"musllinux_{major}_{number}_{self.machine}" for number in range(minor, -1, -1))
        tags = [f"manylinux_{major}_{number}_{self.machine}" for number in range(minor, _GLIBC_FROM - 1, -1)]
        aliases = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        return (*tags, *(f"{alias}_{self.machine}" for number, alias in aliases.items() if number <= minor))


@dataclass(frozen=True)
class Bundle:
    """This version: its wheel, and the pins of what it needs. `code` tells it from every other version."""

    code: str
    wheel_name: str
    wheel: bytes = field(repr=False)
    pins: str = field(repr=False)
    imports: str = _IMPORTS
    """What runs where this version is whole."""

    @property
    def name(self) -> str:
        """Version and content."""
        content = hashlib.sha256(f"{self.code} {self.pins}".encode()).hexdigest()[:12]
        return f"{tokenstorm.__version__}-{content}"

    @property
    def requirements(self) -> str:
        """What pip is to install, with the hash of every file."""
        own = hashlib.sha256(self.wheel).hexdigest()
        return f"{self.pins.rstrip()}\ntokenstorm=={tokenstorm.__version__} --hash=sha256:{own}\n"


def bundle(*, services: bool = False) -> Bundle:
    """This tokenstorm as it is installed here, from a wheel or a checkout, with the extra `services`, or without."""
    base = _PINS.read_text(encoding="utf-8")
    name = f"tokenstorm-{tokenstorm.__version__}-py3-none-any.whl"
    own = Bundle(code=digest(str(PACKAGE)), wheel_name=name, wheel=_wheel(base), pins=base)
    if not services:
        return own
    return replace(own, pins=_SERVICES.read_text(encoding="utf-8"), imports=f"{_IMPORTS}, tokenstorm.cli.serve")


def wheels(bundle: Bundle, target: Target, cache: Path) -> dict[str, bytes]:
    """All files that pip needs there, by name. Downloaded once, with the index that this user's pip is set up for.

    Raises UsageError when there is no wheel for the target, or no pip here, and RunError for a disk that takes none.
    """
    pins = hashlib.sha256(bundle.pins.encode()).hexdigest()[:12]
    folder = cache / f"{pins}-{target.machine}-{target.libc}{target.libc_version}-{target.abi}"
    try:
        if not folder.is_dir():
            _download(bundle, target, folder)
        found = {path.name: path.read_bytes() for path in sorted(folder.glob("*.whl"))}
    except OSError as error:
        message = f"the wheels for the cluster cannot be kept in {cache} on this machine: {error.strerror or error}"
        raise RunError(message) from error
    return {**found, bundle.wheel_name: bundle.wheel, "requirements.txt": bundle.requirements.encode()}


def _download(bundle: Bundle, target: Target, folder: Path) -> None:
    if not target.platforms:
        message = (
            f"{target.node} has no C library that wheels are made for ({target.libc or 'none'}): build tokenstorm there"
        )
        raise UsageError(message)
    make_private(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as scratch:
        (Path(scratch) / "pins.txt").write_text(bundle.pins, encoding="utf-8")
        made = Path(scratch) / "wheels"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += [
            "--only-binary=:all:",
            "--require-hashes",
            "--requirement",
            f"{scratch}/pins.txt",
            "--dest",
            str(made),
        ]
        command += ["--python-version", ".".join(map(str, target.version[:2])), "--implementation", "cp"]
        command += ["--abi", target.abi, *(f"--platform={tag}" for tag in target.platforms)]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=DOWNLOAD_SECONDS)  # noqa: S603
        except subprocess.TimeoutExpired:
            message = (
                f"pip did not download the wheels for the cluster in {DOWNLOAD_SECONDS:g} s: try `pip download msgspec`"
            )
            raise UsageError(message) from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            reasons = [line for line in said if line.startswith("ERROR")] or said[-3:]
            message = (
                f"pip here found no wheels for Python {target.python} on {target.machine} with {target.libc} "
                f"{target.libc_version}: {' '.join(reasons)}"
            )
            raise UsageError(message)
        try:
            made.rename(folder)
        except OSError:  # another download of the same was quicker
            if not folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
                raise


def _wheel(pins: str) -> bytes:
    """The package's files as a wheel, the same bytes each time."""
    version = tokenstorm.__version__
    needs = "".join(f"Requires-Dist: {name}\n" for name in re.findall(r"^([a-z0-9-]+)==", pins, re.MULTILINE))
    info = f"tokenstorm-{version}.dist-info"
    least = ".".join(map(str, OLDEST))
    files = {
        f"tokenstorm/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes()
        for path in sorted(PACKAGE.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc" and path.name[0] != "."
    }
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: tokenstorm\nVersion: {version}\nRequires-Python: >={least}\n{needs}".encode()
    )
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: tokenstorm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = f"{info}/RECORD"
    lines = [f"{name},sha256={_hash(data)},{len(data)}\n" for name, data in files.items()]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return whole.getvalue()


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
