"""From a `Job` to the text of its `script.sh`: pure, and nothing that a user typed is read as shell text."""

import re
import shlex
from collections.abc import Iterable

from tokenstorm.cluster.scheduler import Job
from tokenstorm.config.profile import Profile
from tokenstorm.errors import UsageError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# Names that bash computes, counts or keeps read-only: a value given to them would not reach the program as it is.
_BASHS_OWN = re.compile(
    "_|BASH|BASH_.*|BASHOPTS|BASHPID|COMP_WORDBREAKS|DIRSTACK|EPOCHREALTIME|EPOCHSECONDS|EUID|FUNCNAME|GROUPS|HISTCMD|"
    "LINENO|OLDPWD|OPTIND|PPID|PWD|RANDOM|SECONDS|SHELLOPTS|SHLVL|SRANDOM|UID"
)


def render(job: Job, profile: Profile, *, first: Iterable[str] = ()) -> str:
    """The script that becomes the job's command, after the profile's prologue; `first` are lines of the scheduler.

    The prologue is shell text of the profile's owner, and stands as it is. Raises `UsageError` for what no script can
    hand over: a NUL, text that is no Unicode, a name that is none for a variable or is bash's own.
    """
    if not job.command:
        message = f"the job {job.name!r} has no command"
        raise UsageError(message)
    jobs = profile.of(job.kind)
    lines = ["#!/usr/bin/env bash", "umask 077", f"cd -- {_quoted(str(job.folder))} || exit 1"]
    lines += [*first, *jobs.prologue]
    lines += [
        f"export {_name(name)}={_quoted(value)}"
        for name, value in sorted({**jobs.variables, **job.environment}.items())
    ]
    lines.append(f"exec -- {words(job.command)}")
    return "\n".join(lines) + "\n"


def words(argv: Iterable[str]) -> str:
    """An argv as shell text. Raises `UsageError`."""
    return " ".join(map(_quoted, argv))


def _quoted(text: str) -> str:
    if "\0" in text:
        message = f"{text[:80]!r} holds a NUL, which no argument of a program can: leave it out"
        raise UsageError(message)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{text[:80]!r} is no valid Unicode: it holds half of a surrogate pair"
        raise UsageError(message) from None
    return shlex.quote(text)


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        message = f"{name!r} is no name for an environment variable: use letters, digits and underscores"
        raise UsageError(message)
    if _BASHS_OWN.fullmatch(name):
        message = f"{name} is a variable of bash itself and cannot be given a value: choose another name"
        raise UsageError(message)
    return name
