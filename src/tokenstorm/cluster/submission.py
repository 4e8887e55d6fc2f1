"""One submission, as shell text for the login node: one job, however often it is asked for and wherever it was cut.

Files of the job's folder tell: `job.id` is written when sbatch has answered, `job.started` by the job itself. `.submit`
is the lock, and holds since when an sbatch has been begun whose answer nobody saw. What is not told there Slurm is asked
by the job's name. Where slurmctld lists none twice, some seconds apart, and sbatch was begun less than MinJobAge ago, no job
was made, since a job is listed at least for so long: it is submitted again. Was it begun earlier, a job may have been cancelled and forgotten, and
accounting is asked too. Where that tells of none, or the site has none, the job is refused as lost rather than submitted a
second time. What does not answer proves nothing: the submission is then unconfirmed, and may be repeated.
"""

import re
from typing import Final

from tokenstorm.cluster.scheduler import JobId
from tokenstorm.cluster.shell import Output
from tokenstorm.errors import ClusterError, RefusedJob, Unconfirmed, Unreachable

SECONDS: Final = 120.0
LOCK_SECONDS: Final = 90.0
"""How long an earlier submission of the same job that goes on without its caller is waited for."""
SETTLE_SECONDS: Final = 10.0
"""How long after a first answer slurmctld may still make a job of what it was sent before: it was seen to answer that first."""
NOTE: Final = "job.started"
_NOT_ASKED, _NOT_TAKEN, _IN_DOUBT, _FORGOTTEN = 90, 91, 92, 93
_NO_ANSWER = (
    "timed out|communication (connection|shutdown)|insane message|zero bytes|unable to contact|standby mode|"
    "temporarily un|authentication (error|credential)|message (send|receive) failure"
)
"""What sbatch says when it could not ask, or saw no answer: no word about the job."""
# Sites wrap commands, and wrappers say more than was asked for: an id is what stands alone on the last line, or in sbatch's
# own sentence.
# Other users' jobs are named as they like, with line breaks too: scontrol is believed about one job that has one owner.
# Where a file system has no locks, flock fails otherwise than when time is up; a second job then ends by the first's note.
TEXT: Final = rf"""folder=$1 name=$2 patience=$3 settle=$4
queued() {{
    squeue --noheader --me --states=all --name="$name" --format='job=%i' | sed -n 's/.*job=\([0-9][0-9]*\)$/\1/p'
    return "${{PIPESTATUS[0]}}"
}}
shown() {{
    scontrol --oneliner show job | while read -r id named _; do
        [[ $named == "JobName=$name" && $id =~ ^JobId=[0-9]+$ ]] || continue
        one=$(scontrol --oneliner show job "${{id#*=}}" | tr '\n' ' ')
        [[ $one != *' UserId='*' UserId='* && $one =~ "$id $named UserId="[^\ ]*"($UID) " ]] && echo "${{id#*=}}"
    done
    return "${{PIPESTATUS[0]}}"
}}
accounted() {{
    since=$(date --date="@${{begun:-$(date +%s)}}" +%FT%T)
    said=$(timeout 20 sacct --noheader --parsable2 --allocations --user="$UID" --starttime="$since" --name="$name" \
        --format=JobIDRaw,JobName 2>&1)
    status=$?
    sed -n 's/^\([0-9][0-9]*\)|.*/\1/p' <<< "$said"
    [ "$status" -ne 0 ] || return 0
    printf '%s\n' "$said" >&2
    case $status/$said in 126/*|127/*|*'storage is disabled'*) return 2 ;; esac
    return 1
}}
answered() {{
    sentence='s/^\(.*[^[:alnum:]]\)\{{0,1\}}Submitted batch job \([0-9][0-9]*\)\( on cluster [^[:space:]]*\)\{{0,1\}}[.[:space:]]*$/\2/p'
    alone='s/^\([0-9][0-9]*\)\(;[^[:space:]]*\)\{{0,1\}}[[:space:]]*$/\1/p'
    number=$(sed -n "$sentence" <<< "$1")
    if [ -z "$number" ]; then
        number=$(sed -n "$alone" <<< "$1")
        [ "$number" = "$(tail -n 1 <<< "$1" | sed -n "$alone")" ] || return
    fi
    [[ $number =~ ^[0-9]+$ ]] && echo "$number" # several are none: its name tells
}}
look() {{ known=$(queued) || known=$(shown) || listed=; }}
forgetful() {{
    kept=$(scontrol show config | sed -n 's/^MinJobAge *= *\([0-9]*\) .*/\1/p')
    [ -n "$begun" ] && [ "${{kept:=300}}" -gt 0 ] && [ $(($(date +%s) - begun)) -ge "$kept" ]
}}
submit() {{
    date +%s > .submit || exit {_NOT_ASKED}
    said=$(sbatch --no-requeue --no-kill --export=NONE --parsable script.sh 2>&1)
    status=$?
    if [ "$status" -ne 0 ]; then
        printf '%s\n' "$said" >&2
        if [ "$status" -gt 128 ] || grep -qiE '{_NO_ANSWER}' <<< "$said"; then exit {_IN_DOUBT}; fi
        : > .submit
        exit {_NOT_TAKEN}
    fi
    known=$(answered "$said") || known=$(queued) || known=$(shown)
    [ -n "$known" ] || {{ printf 'no id in what it said: %s\n' "$said" >&2; exit {_IN_DOUBT}; }}
}}
once() {{
    begun=$(cat .submit) listed=yes known=
    [ ! -s {NOTE} ] || known=$(cat {NOTE})
    [ -n "$known" ] || look
    if [ -z "$known" ] && [ -n "$begun" ] && [ -n "$listed" ]; then
        sleep "$settle"
        look
    fi
    if [ -z "$known" ] && {{ [ -z "$listed" ] || forgetful; }}; then
        known=$(accounted)
        case ${{known:+known}}/${{begun:+begun}}/${{listed:+listed}}/$? in
            known/*) ;;
            /begun/listed/[02]) exit {_FORGOTTEN} ;;
            /begun/*) exit {_IN_DOUBT} ;;
            //*/0) ;;
            *) exit {_NOT_ASKED} ;;
        esac
    fi
    [ -n "$known" ] || submit
    printf '%s\n' "${{known%%[!0-9]*}}" > .job.id && mv .job.id job.id || exit {_IN_DOUBT}
}}
cd -- "$folder" || exit {_NOT_ASKED}
if [ ! -s job.id ]; then
    exec 9>> .submit || exit {_NOT_ASKED}
    flock -w "$patience" 9 || [ $? -ne 1 ] || {{ echo 'an earlier submission of it has not ended' >&2; exit {_IN_DOUBT}; }}
    [ -s job.id ] || once
    rm -f .submit # whoever waits for its lock, or makes it anew, finds job.id
fi
printf 'submitted as %s\n' "$(cat job.id)"
"""
_SUBMITTED = re.compile(r"^submitted as ([0-9]+)$", re.ASCII | re.MULTILINE)


def job_of(done: Output, name: str) -> JobId:
    """The job that came of it. Raises `RefusedJob`, `Unreachable` or `Unconfirmed` where none did, or nobody knows."""
    if done.status == 0 and (found := _SUBMITTED.search(done.stdout.decode(errors="replace"))):
        return found[1]
    said = (done.stderr or done.stdout).decode(errors="replace").strip() or f"status {done.status}"
    kind: type[ClusterError] = Unconfirmed
    message = f"whether Slurm took the job {name!r} is not known: {said}; it is safe to try again"
    if done.status == _NOT_ASKED:
        kind, message = Unreachable, f"Slurm could not be asked, so that {name!r} was not submitted: {said}; try again"
    elif done.status == _NOT_TAKEN:
        kind, message = RefusedJob, f"sbatch did not take the job {name!r}: {said}"
    elif done.status == _FORGOTTEN:
        kind = RefusedJob
        message = (
            f"the job {name!r} is lost: its submission was cut off too long ago for Slurm to tell whether a job came of "
            "it (it may have been cancelled since). It is not submitted a second time: create it anew"
        )
    raise kind(message)
