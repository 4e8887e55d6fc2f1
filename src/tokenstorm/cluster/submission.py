"""One submission, as shell text for the login node: one job, however often it is asked for and wherever it was cut.

Files of the job's folder tell:

    job.id        its id, once that is known
    job.started   whose the folder is: the job that began in it, or one that was chosen of several. Any other ends at once
    .submit       the lock; in it, when each sbatch was begun whose answer nobody saw
    .taken        what an sbatch said that ended with 0: there is a job, and no other is ever made
    .missed       when Slurm first answered and listed no job, after the last of those was begun

What is not told there, Slurm is asked by the job's name: squeue, then (in doubt, or where squeue is silent) scontrol and sacct.
Where none lists it, no job was made, or it is too new for them: the longer that goes on, the longer the next sbatch waits. A
job that was missed so late that it may have been cancelled and forgotten (MinJobAge) is lost, and never submitted a second
time. What does not answer proves nothing: the submission is then unconfirmed, and may be repeated.
"""

import re
from typing import Final, Literal

from tokenstorm.cluster.clusters import JOB, MANY, NAME
from tokenstorm.cluster.scheduler import JobId
from tokenstorm.cluster.shell import Output
from tokenstorm.errors import ClusterError, RefusedJob, Unconfirmed, Unreachable

SECONDS: Final = 120.0
LOCK_SECONDS: Final = 90.0
"""How long an earlier submission of the same job that goes on without its caller is waited for."""
DOUBT_SECONDS: Final = (10.0, 60.0, 300.0)
"""How long Slurm has to list no such job before the second sbatch, the third, and each after that.

It was seen to answer before it made a job of what it was sent, and a squeue that is a cache may be a minute late.
"""
NOTE: Final = "job.started"
_NOT_ASKED, _NOT_TAKEN, _IN_DOUBT, _FORGOTTEN, _WITHDRAWN = 90, 91, 92, 93, 95
_NOBODY: Final = "withdrawn"
"""In the note of a job that is not to run: whichever begins ends at once."""
OPTIONS: Final = "--no-requeue --no-kill --export=NONE --parsable"
"""Of each sbatch."""
_NO_ANSWER = (
    "timed out|communication (connection|shutdown)|insane message|zero bytes|unable to contact|standby mode|"
    "temporarily un|authentication (error|credential)|message (send|receive) failure"
)
"""What sbatch says when it could not ask, or saw no answer: no word about the job."""
# Sites wrap commands, and wrappers say more than was asked for: an id is what stands alone on the last line, or in sbatch's
# own sentence.
# Other users' jobs are named as they like, with line breaks too: scontrol is believed about one job that has one owner.
# Where a file system has no locks, flock fails otherwise than when time is up; a second job then ends by the first's note.
_LOOK = rf"""
queued() {{
    squeue ${{M:+-M "$M"}} --noheader --me --states=all --name="$name" --format='job=%i' |
        sed -n 's/.*job=\([0-9][0-9]*\)$/\1/p'
    return "${{PIPESTATUS[0]}}"
}}
shown() {{
    scontrol ${{M:+-M "$M"}} --oneliner show job | while read -r id named _; do
        [[ $named == "JobName=$name" && $id =~ ^JobId=[0-9]+$ ]] || continue
        one=$(scontrol ${{M:+-M "$M"}} --oneliner show job "${{id#*=}}" | tr '\n' ' ')
        [[ $one != *' UserId='*' UserId='* && $one =~ "$id $named UserId="[^\ ]*"($UID) " ]] && echo "${{id#*=}}"
    done
    return "${{PIPESTATUS[0]}}"
}}
accounted() {{ # 1: nobody answers; 2: the site has none
    since=$(date --date="@${{begun:-$(date +%s)}}" +%FT%T)
    said=$(timeout 20 sacct ${{M:+-M "$M"}} --noheader --parsable2 --allocations --user="$UID" --starttime="$since" \
        --name="$name" --format=JobIDRaw,JobName 2>&1)
    status=$?
    sed -n 's/^\([0-9][0-9]*\)|.*/\1/p' <<< "$said"
    [ "$status" -ne 0 ] || return 0
    printf '%s\n' "$said" >&2
    case $status/$said in 126/*|127/*|*'storage is disabled'*) return 2 ;; esac
    return 1
}}
look() {{ # by the note, and by the name; `listed` where Slurm answered
    listed=yes
    [ ! -s {NOTE} ] || noted
    [ -z "$known" ] || return
    if ! found=$(queued); then
        found=$(shown) || listed=
    elif [ -z "$found" ] && [ -n "$doubt" ]; then
        found=$(shown) # squeue may be a cache
    fi
    [ -z "$found" ] || chosen
}}
noted() {{
    read -r known < {NOTE}
    [ "$known" != {_NOBODY} ] || known=
    known=$(own "$known" "${{known#*;}}")
}}
chosen() {{ # of several the one that has the folder, else the oldest, which gets it; the others are cancelled
    found=$(sort -nu <<< "$found")
    oldest=${{found%%[!0-9]*}} known=${{found%%[!0-9]*}}
    [ "$oldest" != "$found" ] || return
    claim "$oldest" || noted
    known=${{known:-$oldest}}
    for one in $found; do [ "$one" = "${{known%%;*}}" ] || scancel ${{M:+-M "$M"}} "$one" >&2; done
}}
claim() {{ (set -o noclobber; printf '%s\n' "$1" > {NOTE}) 2> /dev/null; }}
told() {{ # the id in what sbatch said
    words=$(sed -nE 's/^(.*[^[:alnum:]])?Submitted batch job ([0-9]+)(;{NAME})?( on cluster ({NAME}))?[.[:space:]]*$/\2;\5/p' <<< "$said")
    if [ -n "$words" ]; then
        words=$(sed 's/;$//' <<< "$words" | sort -u)
    else
        words=$(grep -E '^[0-9]+(;{NAME})?$' <<< "$said" | sort -u)
        [ "$words" = "$(grep . <<< "$said" | tail -n 1)" ] || words=
    fi
    [[ ! $words =~ ^[0-9]+(\;{NAME})?$ ]] || own "$words"
}}
own() {{ # an id, without the name of the cluster that is asked anyway; that is $2 where nobody tells
    usual=$named
    [ -n "$M" ] || [ "$1" = "${{1%;*}}" ] || usual=$(scontrol show config 2> /dev/null | sed -n 's/^ClusterName *= *//p')
    if [ "${{1#*;}}" = "${{usual:-$2}}" ]; then echo "${{1%;*}}"; else echo "$1"; fi
}}
kept() {{ # how long Slurm remembers a job that ended
    age=$(scontrol ${{M:+-M "$M"}} show config | sed -n 's/^MinJobAge *= *\([0-9]*\) .*/\1/p')
    [ "${{age:=300}}" -gt 0 ] || age=999999999
}}
"""
_SUBMIT = rf"""
submit() {{
    look
    if [ -z "$known" ] && {{ [ -n "$doubt" ] || [ -z "$listed" ]; }}; then
        found=$(accounted)
        accounts=$?
        if [ -n "$found" ]; then chosen
        elif [ -e .taken ]; then taken
        elif [ -n "$doubt" ]; then missing
        elif [ "$accounts" -ne 0 ]; then exit {_NOT_ASKED}
        fi
    fi
    [ -n "$known" ] || begin
}}
begin() {{
    ! grep -qsx {_NOBODY} {NOTE} || exit {_WITHDRAWN}
    begun=$(date +%s)
    echo "$begun" >> .submit && rm -f .missed || exit {_NOT_ASKED}
    said=$(sbatch ${{M:+-M "$M"}} {OPTIONS} script.sh 2>&1)
    status=$?
    said=$(sed 's/[[:space:]]*$//' <<< "$said")
    if [ "$status" -ne 0 ]; then
        printf '%s\n' "$said" >&2
        if [ "$status" -gt 128 ] || grep -qiE '{_NO_ANSWER}' <<< "$said"; then exit {_IN_DOUBT}; fi
        [ -z "$(told)" ] || look # a wrapper may fail behind an sbatch that did not
        if [ -z "$known" ]; then
            [ -z "$doubt" ] || claim {_NOBODY} # of an earlier sbatch there may be a job after all
            : > .submit
            exit {_NOT_TAKEN}
        fi
    fi
    printf '%s\n' "$said" > .taken
    again=$doubt doubt=yes
    [ "$(grep -c . <<< "$said")" -ne 1 ] || known=$(told)
    [ -n "$known" ] || look
    [ -n "$known" ] || taken
    if [ -n "$again" ] && ! claim "${{known%%;*}}"; then # of an earlier sbatch there is a job after all, which runs
        ours=$known
        noted
        known=${{known:-$ours}}
    fi
}}
taken() {{ # a job was made, and nobody lists it
    said=$(cat .taken)
    known=$(told)
    [ -z "$known" ] || return
    kept
    if [ -n "$listed" ] && [ "$accounts" != 1 ] && [ $(($(date +%s) - begun)) -ge "$age" ]; then exit {_FORGOTTEN}; fi
    printf 'it took it, and said no id: %s\n' "$(head -c 500 .taken)" >&2
    exit {_IN_DOUBT}
}}
missing() {{ # returns where there is none, and another sbatch may be begun
    [ -n "$listed" ] || exit {_IN_DOUBT}
    [ -s .missed ] || date +%s > .missed || exit {_NOT_ASKED}
    read -r missed < .missed
    kept
    if [ $((missed - begun)) -ge "$age" ]; then
        [ "$accounts" -ne 1 ] || exit {_IN_DOUBT}
        exit {_FORGOTTEN}
    fi
    times=$(wc -l < .submit)
    [ "$times" -le "${{#waits[@]}}" ] || times=${{#waits[@]}}
    wait=$((missed + waits[times - 1] - $(date +%s)))
    if [ "$wait" -gt 10 ]; then
        echo "Slurm lists no such job; where that stays so, it is submitted again in $wait s" >&2
        exit {_IN_DOUBT}
    fi
    [ "$wait" -le 0 ] || {{ sleep "$wait"; look; }}
    [ -n "$listed" ] || exit {_IN_DOUBT}
}}
"""
_WITHDRAW = rf"""
withdraw() {{ # the job that there is all the same
    [ ! -s {NOTE} ] || noted
    [ -n "$known" ] || [ -n "$doubt" ] || nothing
    [ -n "$known" ] || look
    [ -n "$known" ] || {{ found=$(accounted); [ -z "$found" ] || chosen; }}
    [ -n "$known" ] || [ ! -e .taken ] || {{ said=$(cat .taken); known=$(told); }}
    [ -z "$known" ] || return
    [ -z "$listed" ] || [ $(($(date +%s) - begun)) -lt "${{waits[1]:-$waits}}" ] || nothing
    echo 'Slurm lists no such job yet' >&2
    exit {_IN_DOUBT}
}}
nothing() {{ echo 'nothing was submitted'; exit 0; }}
"""
_MAIN = rf"""
if ! trouble=$(LC_ALL=C; cd -- "$folder" 2>&1) || ! cd -- "$folder"; then
    echo "$trouble" >&2
    case $what/$trouble in
        submit/*) exit {_NOT_ASKED} ;;
        *'No such file or directory') nothing ;;
    esac
    found=$(queued) || exit {_IN_DOUBT} # the folder is out of reach: Slurm alone tells
    [ -n "$found" ] || nothing
    known=$(sort -n <<< "$found" | head -n 1)
    [ "$M" = "$named" ] || known="$known;$M"
    printf 'submitted as %s\n' "$known"
    exit 0
fi
[ "$what" = submit ] || claim {_NOBODY} # before an earlier submission that goes on comes to its sbatch
if [ ! -s job.id ]; then
    exec 9>> .submit || exit {_NOT_ASKED}
    flock -w "$patience" 9 || [ $? -ne 1 ] || {{ echo 'an earlier submission of it has not ended' >&2; exit {_IN_DOUBT}; }}
    if [ ! -s job.id ]; then
        begun=$(tail -n 1 .submit) known= found= listed= accounts= doubt=
        [ -z "$begun" ] || doubt=yes
        "$what"
        case $known in *\;*) ;; *) [ "$M" = "$named" ] || known="$known;$M" ;; esac
        printf '%s\n' "$known" > .job.id && mv .job.id job.id || exit {_IN_DOUBT}
    fi
    rm -f .submit .taken .missed # whoever waits for its lock, or makes it anew, finds job.id
fi
printf 'submitted as %s\n' "$(cat job.id)"
"""
TEXT: Final = f'what=$1 folder=$2 name=$3 patience=$4; shift 4; waits=("$@")\n{_LOOK}{_SUBMIT}{_WITHDRAW}{_MAIN}'
_SUBMITTED = re.compile(rf"^submitted as ({JOB.pattern})$", re.ASCII | re.MULTILINE)


What = Literal["submit", "withdraw"]


def arguments(what: What, folder: str, name: str) -> tuple[str, ...]:
    """The arguments of `TEXT`."""
    return what, folder, name, f"{LOCK_SECONDS:g}", *(f"{seconds:.0f}" for seconds in DOUBT_SECONDS)


def job_of(done: Output, name: str) -> JobId:
    """The job that came of it. Raises `RefusedJob`, `Unreachable` or `Unconfirmed` where none did, or nobody knows."""
    if done.status == 0 and (found := _SUBMITTED.search(done.stdout.decode(errors="replace"))):
        return found[1]
    said = (done.stderr or done.stdout).decode(errors="replace").strip() or f"status {done.status}"
    kind: type[ClusterError] = Unconfirmed
    message = f"whether Slurm took the job {name!r} is not known: {said}; it is safe to try again"
    if done.status == _NOT_ASKED:
        kind, message = Unreachable, f"Slurm could not be asked, so that {name!r} was not submitted: {said}; try again"
    elif done.status in {_NOT_TAKEN, MANY}:
        kind, message = RefusedJob, f"sbatch did not take the job {name!r}: {said}"
    elif done.status == _WITHDRAWN:
        kind, message = RefusedJob, f"the job {name!r} was withdrawn, and is not submitted"
    elif done.status == _FORGOTTEN:
        kind = RefusedJob
        message = (
            f"the job {name!r} is lost: its submission was cut off too long ago for Slurm to tell whether a job came of "
            "it (it may have been cancelled since). It is not submitted a second time: create it anew"
        )
    raise kind(message)


def left_of(done: Output, name: str) -> JobId | None:
    """The job that there is although it was withdrawn. Raises `Unconfirmed` where that is not known yet."""
    if done.status == 0:
        found = _SUBMITTED.search(done.stdout.decode(errors="replace"))
        return found[1] if found else None
    said = (done.stderr or done.stdout).decode(errors="replace").strip() or f"status {done.status}"
    message = f"whether there is a job {name!r} is not known yet: {said}; it is not submitted any more"
    raise Unconfirmed(message)
