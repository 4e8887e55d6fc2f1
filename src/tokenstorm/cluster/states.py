"""What Slurm's commands print of jobs, read: pure. A word that is not known here is a running job only where it has nodes."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tokenstorm.cluster.scheduler import JobId, JobState, Outcome
from tokenstorm.hostlist import expand

OUTCOMES: dict[str, Outcome] = {
    "COMPLETED": "completed",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node_fail",
    "BOOT_FAIL": "node_fail",
    "PREEMPTED": "preempted",
    "OUT_OF_MEMORY": "out_of_memory",
    "FAILED": "failed",
}
HELD = frozenset(("REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"))
"""Back in the queue, and held until somebody releases it."""
PENDING = HELD | {"PENDING", "CONFIGURING", "POWER_UP_NODE", "REQUEUED", "REQUEUE_FED", "EXPEDITING"}
SUSPENDED = frozenset(("SUSPENDED", "STOPPED"))
RUNNING = SUSPENDED | {"RUNNING", "COMPLETING", "STAGE_OUT", "RESIZING", "SIGNALING"}
_KNOWN = sorted({*OUTCOMES, *PENDING, *RUNNING})
_CUT_AT_LEAST = 6
"""The shortest beginning of a word that is still recognised: some sites' wrappers cut columns."""
_FIELDS = re.compile(r"(?:^| )(JobId|JobName|SubmitTime|JobState|Reason|ExitCode|NodeList|BatchHost)=(\S*)")
_ROW = re.compile(r"([0-9]+)\|([A-Za-z0-9._-]+)\|([^|]*)\|([A-Z_]+)[^|]*\|([^|]*)\|([^|]*)\|(.*)", re.ASCII)


@dataclass(frozen=True)
class Told:
    """A job as a command tells of it; `submitted` is Unix time, None where it does not say when."""

    name: str
    submitted: float | None
    state: JobState


def of_table(text: bytes) -> dict[JobId, Told]:
    """Read rows `id|name|submitted|state|nodes|exit code|reason`. Other lines come from a site's wrapper and are left out."""
    rows = filter(None, map(_ROW.fullmatch, _lines(text)))
    return {row[1]: Told(row[2], _time(row[3]), _state(*row.groups()[3:])) for row in rows}


def of_scontrol(text: bytes) -> dict[JobId, Told]:
    """Lines of `scontrol --oneliner show job`."""
    found = {}
    for line in _lines(text):
        fields: dict[str, str] = {}
        for name, value in _FIELDS.findall(line):
            fields.setdefault(name, value)  # what comes after them, folders and comments, may look the same
        if "JobId" in fields and "JobState" in fields:
            nodes = fields.get("NodeList", "")
            word = "NODE_FAIL" if _lost_its_first_node(fields) else fields["JobState"]
            state = _state(word, nodes, fields.get("ExitCode", ""), fields.get("Reason", ""))
            found[fields["JobId"]] = Told(fields.get("JobName", ""), _time(fields.get("SubmitTime", "")), state)
    return found


def _lines(text: bytes) -> Iterator[str]:
    return iter(text.decode(errors="replace").splitlines())


def _time(text: str) -> float | None:
    """Unix time of a time in UTC, in which the commands are told to print."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _lost_its_first_node(fields: Mapping[str, str]) -> bool:
    """With --no-kill a job of many nodes goes on without one that is down, as FAILED where its script ran on that one."""
    nodes = expand(fields.get("NodeList", ""))
    return fields["JobState"] == "FAILED" and bool(nodes) and fields.get("BatchHost", nodes[0]) not in nodes


def _state(word: str, nodes: str, code: str, reason: str) -> JobState:
    """`code` is `status:signal`, or nothing."""
    word, reason, on = _whole(word), "" if reason in {"None", "(null)"} else reason, expand(nodes)
    if word in OUTCOMES:
        return JobState("ended", OUTCOMES[word], reason, _exit_code(code), on)
    if word in RUNNING or (word not in PENDING and on):
        return JobState("running", reason=reason, nodes=on, suspended=word in SUSPENDED)
    if word in PENDING - HELD or "held" in reason:
        return JobState("pending", reason=reason)
    return JobState("pending", reason=", ".join(filter(None, (word, reason))))


def _whole(word: str) -> str:
    """The word that this is the beginning of, where there is one alone."""
    if word in _KNOWN or len(word) < _CUT_AT_LEAST:
        return word
    longer = [known for known in _KNOWN if known.startswith(word)]
    return longer[0] if len(longer) == 1 else word


def _exit_code(text: str) -> int | None:
    status, _, signal = text.partition(":")
    if not status.isdecimal():
        return None
    return 128 + int(signal) if signal.isdecimal() and int(signal) else int(status)
