"""A command as it travels to a machine behind SSH: on standard input, past a login shell that may be any shell.

The SSH server hands the login shell one line, the same for every command, which bash, dash, zsh, tcsh and fish read alike:
it says that it is there, and waits for a script. So nothing of a command is ever seen on the login node's process list,
what a site's start-up files print is no part of an answer, and a command whose connection is lost before it was asked for
its script has certainly not run. A script that arrives in part is a syntax error, and nothing of it runs.
"""

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from tokenstorm.cluster.shell import Output
from tokenstorm.errors import UsageError


@dataclass(frozen=True)
class Command:
    """`line` is for the login shell; `script` goes to its standard input once `mark` came, and the command's own after it."""

    line: str
    mark: bytes
    script: bytes

    def answer(self, stdout: bytes, stderr: bytes) -> Output | None:
        """What the command left behind; None when it did not come to its end."""
        found = re.search(rb"\n%b (\d+)\n" % self.mark, stderr)
        if found is None:
            return None
        return Output(int(found[1]), stdout, stderr[: found.start()] + stderr[found.end() :])


def once(argv: Sequence[str], environment: Mapping[str, str], timeout: float) -> Command:
    """A command that tells its status at its end; after `timeout` seconds it is ended, and tells none."""
    limited = shlex.join(["timeout", "--kill-after=5", f"{ceil(timeout)}"])
    telling = shlex.quote('"$@"; code=$?; printf "\\n%s %s\\n" {mark} $code >&2; exit $code')
    return _command(
        argv,
        environment,
        f'set -- sh -c {telling} sh "$@"\nif command -v timeout >/dev/null; then exec {limited} "$@"; fi\nexec "$@"',
    )


def talking(argv: Sequence[str]) -> Command:
    """A command that one talks with for as long as one likes: after its script, standard input is its own."""
    return _command(argv, {}, 'exec "$@"')


def _command(argv: Sequence[str], environment: Mapping[str, str], ending: str) -> Command:
    if any("\0" in word for word in [*argv, *environment, *environment.values()]):
        message = f"{argv[0]!r} cannot be run with these arguments: embedded null byte"
        raise UsageError(message)
    for name in environment:
        if not (name.isascii() and name.isidentifier()):
            message = f"{name!r} cannot be the name of an environment variable"
            raise UsageError(message)
    mark = f"tokenstorm-{secrets.token_hex(8)}"
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines = ["{", *exports, f"set -- {shlex.join(argv)}", ending.replace("{mark}", mark), "}"]
    script = "\n".join(lines).encode(errors="surrogateescape")
    # byte by byte, since what follows is for the command
    line = f"exec sh -c 'echo {mark}; eval \"$(dd bs=1 count={len(script)} 2>/dev/null)\"'"
    return Command(line, mark.encode(), script)
