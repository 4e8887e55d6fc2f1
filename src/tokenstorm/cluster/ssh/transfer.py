"""Files of a machine behind SSH, moved by commands: a way that works wherever commands run."""

import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import PurePosixPath
from typing import Protocol

from tokenstorm.cluster.shell import Output
from tokenstorm.errors import RefusedFile, Unconfirmed, Unreachable

TRANSFER_SECONDS, SLOWEST_BYTES_PER_SECOND = 60.0, 100_000
_PUT = """umask 077
case $1 in */*) mkdir -p -- "${1%/*}/" || exit ;; esac
target=$1 new=$2 size=$3 mode=$4
shift 4
[ $# -eq 0 ] || rm -f -- "$@"
if cat > "$new" && [ "$(wc -c < "$new")" -eq "$size" ] && chmod "$mode" "$new" && mv -fT -- "$new" "$target"; then exit 0; fi
rm -f -- "$new"; exit 1
"""

Run = Callable[..., Awaitable[Output]]


class Files(Protocol):
    """A way to move files. Its methods mean and raise the same as those of `Shell`."""

    async def put(self, path: PurePosixPath, data: bytes, mode: int) -> None: ...

    async def get(self, path: PurePosixPath, offset: int, limit: int | None) -> bytes: ...

    async def list(self, path: PurePosixPath) -> list[str]: ...

    async def remove(self, path: PurePosixPath) -> None: ...


class Leftovers:
    """Files with temporary names that transfers may have left behind: the next one removes them."""

    def __init__(self) -> None:
        self.paths: set[PurePosixPath] = set()

    def beside(self, path: PurePosixPath) -> PurePosixPath:
        """A temporary name for a file; it counts as left behind until `whole` is called."""
        temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}"
        self.paths.add(temporary)
        return temporary

    def whole(self, temporary: PurePosixPath) -> None:
        """It was renamed or removed."""
        self.paths.discard(temporary)


class ByCommands:
    """Files by commands of every Unix. `run` is the shell's own; `host` names the machine in what is said."""

    def __init__(self, run: Run, host: str, left: Leftovers) -> None:
        self._run, self._host, self._left = run, host, left

    async def put(self, path: PurePosixPath, data: bytes, mode: int) -> None:
        """A transfer that was cut leaves at most a file with a temporary name."""
        before = tuple(self._left.paths)
        temporary = self._left.beside(path)
        argv = ["sh", "-c", _PUT, "sh", str(path), str(temporary), str(len(data)), f"{mode:o}", *map(str, before)]
        seconds = TRANSFER_SECONDS + len(data) / SLOWEST_BYTES_PER_SECOND
        try:
            done = await self._run(argv, stdin=data, timeout=seconds)
        except Unreachable:  # it was not begun
            self._left.whole(temporary)
            raise
        for file in (*before, temporary):
            self._left.whole(file)
        self._check(done, f"cannot write {path}")

    async def get(self, path: PurePosixPath, offset: int, limit: int | None) -> bytes:
        if limit == 0:
            return b""
        argv = ["env", "LC_ALL=C", "dd", f"if={path}", "bs=65536", f"skip={offset}", "status=none"]
        argv += ["iflag=skip_bytes,count_bytes,fullblock", *([] if limit is None else [f"count={limit}"])]
        done = await self._run_reading(argv)
        said = _one_line(done.stderr)
        if done.status and re.search(r"No such file|Not a directory|Too many levels", said):
            raise FileNotFoundError(f"cannot read {path}: {said}")  # noqa: EM102
        self._check(done, f"cannot read {path}")
        return done.stdout

    async def list(self, path: PurePosixPath) -> list[str]:
        argv = ["find", f"{path}/", "-mindepth", "1", "-maxdepth", "1", "-printf", r"%f\0"]
        done = await self._run_reading(["env", "LC_ALL=C", *argv])
        if not re.search(rb"No such file|Not a directory", done.stderr):
            self._check(done, f"cannot list {path}")
        return sorted(name.decode(errors="surrogateescape") for name in done.stdout.split(b"\0") if name)

    async def remove(self, path: PurePosixPath) -> None:
        done = await self._run(["rm", "-rf", "--", str(path)], timeout=TRANSFER_SECONDS)
        self._check(done, f"cannot remove {path}")

    async def _run_reading(self, argv: Sequence[str]) -> Output:
        try:
            return await self._run(argv, timeout=TRANSFER_SECONDS)
        except Unconfirmed as error:  # nothing was to change
            raise Unreachable(str(error)) from error

    def _check(self, done: Output, what: str) -> None:
        if done.status:
            message = f"{self._host}: {what}: {_one_line(done.stderr) or 'it said nothing'}"
            raise RefusedFile(message)


def _one_line(said: bytes) -> str:
    return " ".join(said.decode(errors="replace").split())
