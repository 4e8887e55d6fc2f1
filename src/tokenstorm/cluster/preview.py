"""A job as it would be submitted: pure, without secrets."""

import json
import re
from collections.abc import Mapping

from tokenstorm.api.dry_run import DryRun, PlannedFile
from tokenstorm.cluster.scheduler import Job
from tokenstorm.cluster.script import render
from tokenstorm.cluster.slurm import script_of
from tokenstorm.cluster.submission import OPTIONS
from tokenstorm.config import Profile

HIDDEN = "…"
_SECRET = re.compile(r"(?i)(token|secret|passw|api_?key|credential)")
_IN_URL = re.compile(r"(?<=://)[^/@\s'\"]+(?=@)")
_EXPORT = re.compile(r"^(export ([A-Za-z_][A-Za-z0-9_]*)=).*$", re.MULTILINE)


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
    script = script_of(job, profile) if slurm else render(job, profile)
    return DryRun(
        script=_IN_URL.sub(HIDDEN, _EXPORT.sub(_exported, script)),
        submit=("sbatch", *cluster, *OPTIONS.split(), f"{job.folder}/script.sh") if slurm else (),
        command=tuple(_IN_URL.sub(HIDDEN, word) for word in command),
        files=tuple(
            PlannedFile(path=f"{job.folder}/{name}", content=content if isinstance(content, str) else _json(content))
            for name, content in files.items()
        ),
        notes=notes,
    )


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(_hidden(content), indent=2, ensure_ascii=False)


def _exported(line: re.Match[str]) -> str:
    return f"{line[1]}{HIDDEN}" if _SECRET.search(line[2]) else line[0]


def _hidden(value: object, name: str = "") -> object:
    """JSON without the values of keys that name secrets, and without passwords in URLs."""
    if isinstance(value, Mapping):
        return {key: _hidden(inner, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(inner) for inner in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and _SECRET.search(name) and name not in _NO_SECRETS else _IN_URL.sub(HIDDEN, value)


_NO_SECRETS = frozenset(("api_key_env", "api_key_file"))
"""Names of variables and files, which hold the secret elsewhere."""
