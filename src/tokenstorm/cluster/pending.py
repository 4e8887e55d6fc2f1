"""Why a job pends, and whether waiting helps: the meaning of Slurm's reasons, in one place."""

import re

from tokenstorm.cluster.scheduler import JobState

_NEVER = re.compile(
    "^Job's |^Partition|PerJob|PerNode|QOSMin|Invalid|NotAllowed|BadConstraints|Held|[ _]held(?:[ _]|$)|NeverSatisfied|"
    r"ReservationDeleted|MaxMemPerLimit|_HOLD\b|SPECIAL_EXIT|[Rr]eservation.*deleted"
)
"""The reasons of jobs that pend for ever. Limits of a user or a group pass, so they are not among these."""
_MEANINGS = (
    (re.compile("^Partition(Down|Inactive)"), "its partition starts no jobs: stop it, and name another in the profile"),
    (re.compile("TimeLimit|Wall"), "it asks for more time than it may have: stop it, and ask for fewer minutes"),
    (
        re.compile("RESV_DEL|[Rr]eservation.*[Dd]eleted"),
        "its reservation is over: stop it, and name another in the profile, or none",
    ),
    (
        re.compile(r"Held|[ _]held(?:[ _]|$)|_HOLD\b|SPECIAL_EXIT"),
        "somebody holds it: release it with `scontrol release`, ask the site why, or stop it",
    ),
    (
        re.compile("^Job's |Invalid|NotAllowed"),
        "the profile's account, qos or reservation does not go with its partition: stop it, and correct the profile",
    ),
    (re.compile(""), "no node or limit of the partition fits it: stop it, and ask for fewer nodes, or less of each"),
)
"""What the reasons to pend for ever mean, and what to do: the first that fits."""
VAGUE = "PartitionConfig"
"""Slurm's first, vague word for many of these."""
SETTLED_SECONDS = 10.0
"""How long Slurm may take to give the true reason."""


def pends_for_ever(state: JobState, waited: float) -> bool:
    """Whether a job waits for something that will not come. A vague reason counts once the job has waited long enough."""
    if state.phase != "pending" or not _NEVER.search(state.reason):
        return False
    return state.reason != VAGUE or waited > SETTLED_SECONDS


def why_pending(state: JobState, waited: float) -> str:
    """Why a job is pending that was submitted so many seconds ago. If it pends for ever, also what that means and what to do."""
    if not pends_for_ever(state, waited):
        return state.reason
    return f"{state.reason}: {next(meaning for reasons, meaning in _MEANINGS if reasons.search(state.reason))}"
