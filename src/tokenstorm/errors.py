"""What tokenstorm raises on purpose. What only one package raises and catches stands there, and is one of these.

    TokenstormError            the message says what happened, to what, and what to do next
    ├── UsageError             the user asked for something that makes no sense (exit code 2); names the field
    │   ├── PlanError          a plan that cannot be carried out as written
    │   └── KeyUsed            an idempotency key that was used for another request
    ├── RunError               a run that could not start, go on, or be read (exit code 1)
    │   ├── PreflightError     the engine refused or never answered the first request
    │   └── OtherVersion       a file that another version wrote, which this one does not read
    ├── Unknown                what was named is not there; the message lists what is
    ├── ApiError               an API refused a call, or did not answer; carries its problem document
    └── ClusterError           where jobs run, something went wrong
        ├── Unreachable        the machine cannot be reached: nothing was done
        │   ├── NoNodeFree     all nodes are busy, and nothing is known to be wrong
        │   └── RefusedFile    it does not do with a file what it was asked to
        ├── Unconfirmed        it was lost on the way: what was asked for happened, or did not
        ├── CommandFailed      a command there ended badly; carries argv, status and what it said
        └── RefusedJob         the scheduler does not take this job

A request that fails is not an error but data: see `tokenstorm.result.Failure`.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

NOT_JSON: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not the JSON they should be."""


_WORD = re.compile(r"[A-Z][a-z]")
"""The beginning of a word that may be small; "JSON" is not one."""


def fault(error: Exception) -> str:
    """What a decoder found, the field first: "`counts.sent`: expected `int`, got `str`"."""
    what, _, place = str(error).partition(" - at ")
    field = place.removeprefix("`key` in ").strip("`").removeprefix("$").lstrip(".")
    said = what[:1].lower() + what[1:] if _WORD.match(what) else what
    return f"`{field}`: {said}" if field else said


class TokenstormError(Exception):
    """Base of the tree. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(TokenstormError):
    """Something the user typed or wrote makes no sense as it stands.

    `field` is the field of the plan or request that is wrong, such as `arrival.stages`, and None where it is not one
    field. `also` are fields that `message` names in backticks, by the last part of their names.
    """

    exit_code = 2

    def __init__(self, message: str, field: str | None = None, also: Sequence[str] = ()) -> None:
        super().__init__(f"`{field}`: {message}" if field else message)
        self.message = message
        self.field = field
        self.also = tuple(also)

    def told(self, name: Callable[[str], str]) -> str:
        """The same for a reader who knows the fields by other names, such as options of the command line."""
        message = self.message
        for field in self.also:
            message = message.replace(f"`{field.rpartition('.')[2]}`", name(field))
        return f"{name(self.field)}: {message}" if self.field else message


class PlanError(UsageError):
    """A plan that cannot be carried out as written."""


class KeyUsed(UsageError):
    """An idempotency key was used for another request."""


class RunError(TokenstormError):
    """A run that could not start, could not go on, or whose files cannot be read."""


class PreflightError(RunError):
    """No replica answered the first request, or one refused it."""


class OtherVersion(RunError):
    """A file that another version wrote, which this one does not read."""


class Unknown(TokenstormError):
    """What was named is not there; the message lists what is."""


class ApiError(TokenstormError):
    """A call of an API came to nothing. `status` is None when there was no answer; `sent` is False where nobody took the call.

    `problem` is the problem document (RFC 9457) with all its members, empty when there was none.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        problem: Mapping[str, object] | None = None,
        *,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.sent = sent
        self.problem = dict(problem or {})
        wrong = status == 422 or bool(self.problem.get("errors"))  # noqa: PLR2004 - what was asked for makes no sense
        self.exit_code = 2 if wrong else 1


class ClusterError(TokenstormError):
    """Where jobs run, something went wrong."""


class Unreachable(ClusterError):
    """The machine cannot be reached: nothing was done, and it may be tried again."""


class NoNodeFree(Unreachable):
    """No node was free in time; nothing is known to be wrong."""


class RefusedFile(Unreachable):
    """The machine does not do with a file what it was asked to; the message has its own words."""


class Unconfirmed(ClusterError):
    """The machine was lost on the way: what was asked for happened, or did not."""


class CommandFailed(ClusterError):
    """A command ended with a status other than 0."""

    def __init__(self, argv: Sequence[str], status: int, stdout: bytes, stderr: bytes) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        words = (stderr or stdout).decode(errors="replace").strip()
        super().__init__(f"{shlex.join(argv)} ended with status {status}" + (f": {words}" if words else ""))


class RefusedJob(ClusterError):
    """The scheduler does not take this job; the message says why."""
