"""A job as it would be submitted, without secrets: pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tokenstorm.api.dry_run import DryRun, PlannedFile
from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.script import render
from tokenstorm.cluster.slurm import script_of
from tokenstorm.cluster.submission import OPTIONS
from tokenstorm.config.profile import Profile

HIDDEN = "…"
_PYTHON = "the Python may become that of the environment which `tokenstorm deploy` makes"
_WORDS = (
    r"(?:token(?!storm|iz)|secret|passw|passphrase|pwd|credential|(?:api|access|private)[_-]?key|(?<=[_-])key(?![a-z]))"
)
_SECRET = re.compile(_WORDS, re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)[^/\s]+(?=@)")
_SET = re.compile(rf"""((?:^|[\s;&])\w*{_WORDS}\w*=)("[^"]*"|'[^']*'|[^\s;&]+)""", re.IGNORECASE)
"""A variable that is set in shell text, such as the prologue's."""
_OPTION = re.compile(rf"(--(?:[\w-]*[_-])?{_WORDS})(=.*)?", re.IGNORECASE | re.DOTALL)


def preview(
    job: Job,
    profile: Profile,
    *,
    command: tuple[str, ...],
    files: Mapping[str, Mapping[str, object] | str],
    notes: tuple[str, ...] = (),
) -> DryRun:
    """The job's script, how it would be submitted, and the files of its folder, by name: text, or what they hold as JSON."""
    slurm = profile.scheduler == "slurm"
    cluster = ("-M", profile.cluster) if profile.cluster else ()
    environment = {name: str(_hidden(value, name)) for name, value in {**profile.variables, **job.environment}.items()}
    shown = replace(job, environment=environment, command=_argv(job.command))
    script = script_of(shown, profile) if slurm else render(shown, profile)
    return DryRun(
        script=_IN_URL.sub(HIDDEN, _SET.sub(rf"\1{HIDDEN}", script)),
        submit=("sbatch", *cluster, *OPTIONS.split(), f"{job.folder}/script.sh") if slurm else (),
        command=_argv(command),
        files=tuple(
            PlannedFile(path=f"{job.folder}/{name}", content=content if isinstance(content, str) else _json(content))
            for name, content in files.items()
        ),
        notes=(*notes, *((_PYTHON,) if slurm else ())),
    )


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(_hidden(content), indent=2, ensure_ascii=False)


def _argv(words: Sequence[str]) -> tuple[str, ...]:
    """An argv without the values of options that name secrets."""
    shown: list[str] = []
    follows = False
    for word in words:
        option = _OPTION.fullmatch(word)
        text = f"{option[1]}={HIDDEN}" if option and option[2] else _IN_URL.sub(HIDDEN, word)
        shown.append(HIDDEN if follows else text)
        follows = option is not None and not option[2]
    return tuple(shown)


def _hidden(value: object, name: str = "") -> object:
    """JSON without the values of keys that name secrets, and without passwords in URLs."""
    if isinstance(value, Mapping):
        return {key: _hidden(inner, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        words = _argv(value) if all(isinstance(inner, str) for inner in value) else value
        return [_hidden(inner) for inner in words]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and _SECRET.search(name) and name not in _NO_SECRETS else _IN_URL.sub(HIDDEN, value)


_NO_SECRETS = frozenset(("api_key_env", "api_key_file"))
"""Keys that hold the name of a variable or a file, not the secret itself."""
