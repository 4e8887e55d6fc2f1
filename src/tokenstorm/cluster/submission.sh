# shellcheck shell=bash
# shellcheck disable=SC2086,SC2154  # M and options are words; prelude (clusters.py) sets M and named, submission.py the rest
# One submission, as shell text for the login node: one job, however often it is asked for and wherever it was cut.
#
# Files of the job's folder tell:
#
#     job.id        its id, once that is known
#     job.started   whose the folder is: the job that began in it, or one that was chosen of several. Any other ends at once
#     .submit       the lock; in it, when each sbatch was begun whose answer nobody saw
#     .taken        what an sbatch said that ended with 0: there is a job, and no other is ever made
#     .missed       when Slurm first answered and listed no job, after the last of those was begun
#
# What is not told there, Slurm is asked by the job's name: squeue, then (in doubt, or where squeue is silent) scontrol and sacct.
# Where none lists it, no job was made, or it is too new for them: the longer that goes on, the longer the next sbatch waits. A
# job that was missed so late that it may have been cancelled and forgotten (MinJobAge) is lost, and never submitted a second
# time. What does not answer proves nothing: the submission is then unconfirmed, and may be repeated.
#
# Sites wrap commands, and wrappers say more than was asked for: an id is what stands alone on the last line, or in sbatch's
# own sentence.
# Other users' jobs are named as they like, with line breaks too: scontrol is believed about one job that has one owner.
# Where a file system has no locks, flock fails otherwise than when time is up; a second job then ends by the first's note.

what=$1 folder=$2 name=$3 patience=$4; shift 4; waits=("$@")

queued() {
    squeue ${M:+-M "$M"} --noheader --me --states=all --name="$name" --format='job=%i' |
        sed -n 's/.*job=\([0-9][0-9]*\)$/\1/p'
    return "${PIPESTATUS[0]}"
}
shown() {
    scontrol ${M:+-M "$M"} --oneliner show job | while read -r id named _; do
        [[ $named == "JobName=$name" && $id =~ ^JobId=[0-9]+$ ]] || continue
        one=$(scontrol ${M:+-M "$M"} --oneliner show job "${id#*=}" | tr '\n' ' ')
        [[ $one != *' UserId='*' UserId='* && $one =~ "$id $named UserId="[^\ ]*"($UID) " ]] && echo "${id#*=}"
    done
    return "${PIPESTATUS[0]}"
}
accounted() { # 1: nobody answers; 2: the site has none
    since=$(date --date="@${begun:-$(date +%s)}" +%FT%T)
    said=$(timeout 20 sacct ${M:+-M "$M"} --noheader --parsable2 --allocations --user="$UID" --starttime="$since" \
        --name="$name" --format=JobIDRaw,JobName 2>&1)
    status=$?
    sed -n 's/^\([0-9][0-9]*\)|.*/\1/p' <<< "$said"
    [ "$status" -ne 0 ] || return 0
    printf '%s\n' "$said" >&2
    case $status/$said in 126/*|127/*|*'storage is disabled'*) return 2 ;; esac
    return 1
}
look() { # by the note, and by the name; `listed` where Slurm answered
    listed=yes
    [ ! -s "$note" ] || noted
    [ -z "$known" ] || return
    if ! found=$(queued); then
        found=$(shown) || listed=
    elif [ -z "$found" ] && [ -n "$doubt" ]; then
        found=$(shown) # squeue may be a cache
    fi
    [ -z "$found" ] || chosen
}
noted() {
    read -r known < "$note"
    [ "$known" != "$nobody" ] || known=
    known=$(own "$known" "${known#*;}")
}
chosen() { # of several the one that has the folder, else the oldest, which gets it; the others are cancelled
    found=$(sort -nu <<< "$found")
    oldest=${found%%[!0-9]*} known=${found%%[!0-9]*}
    [ "$oldest" != "$found" ] || return
    claim "$oldest" || noted
    known=${known:-$oldest}
    for one in $found; do [ "$one" = "${known%%;*}" ] || scancel ${M:+-M "$M"} "$one" >&2; done
}
claim() { (set -o noclobber; printf '%s\n' "$1" > "$note") 2> /dev/null; }
told() { # the id in what sbatch said
    words=$(sed -nE 's/^(.*[^[:alnum:]])?Submitted batch job ([0-9]+)(;'"$cluster"')?( on cluster ('"$cluster"'))?[.[:space:]]*$/\2;\5/p' <<< "$said")
    if [ -n "$words" ]; then
        words=$(sed 's/;$//' <<< "$words" | sort -u)
    else
        words=$(grep -E '^[0-9]+(;'"$cluster"')?$' <<< "$said" | sort -u)
        [ "$words" = "$(grep . <<< "$said" | tail -n 1)" ] || words=
    fi
    [[ ! $words =~ ^[0-9]+(\;$cluster)?$ ]] || own "$words"
}
own() { # an id, without the name of the cluster that is asked anyway; that is $2 where nobody tells
    usual=$named
    [ -n "$M" ] || [ "$1" = "${1%;*}" ] || usual=$(scontrol show config 2> /dev/null | sed -n 's/^ClusterName *= *//p')
    if [ "${1#*;}" = "${usual:-$2}" ]; then echo "${1%;*}"; else echo "$1"; fi
}
kept() { # how long Slurm remembers a job that ended
    age=$(scontrol ${M:+-M "$M"} show config | sed -n 's/^MinJobAge *= *\([0-9]*\) .*/\1/p')
    [ "${age:=300}" -gt 0 ] || age=999999999
}

submit() {
    look
    if [ -z "$known" ] && { [ -n "$doubt" ] || [ -z "$listed" ]; }; then
        found=$(accounted)
        accounts=$?
        if [ -n "$found" ]; then chosen
        elif [ -e .taken ]; then taken
        elif [ -n "$doubt" ]; then missing
        elif [ "$accounts" -ne 0 ]; then exit "$not_asked"
        fi
    fi
    [ -n "$known" ] || begin
}
begin() {
    ! grep -qsx "$nobody" "$note" || exit "$withdrawn"
    begun=$(date +%s)
    echo "$begun" >> .submit && rm -f .missed || exit "$not_asked"
    said=$(sbatch ${M:+-M "$M"} $options script.sh 2>&1)
    status=$?
    said=$(sed 's/[[:space:]]*$//' <<< "$said")
    if [ "$status" -ne 0 ]; then
        printf '%s\n' "$said" >&2
        if [ "$status" -gt 128 ] || grep -qiE "$no_answer" <<< "$said"; then exit "$in_doubt"; fi
        [ -z "$(told)" ] || look # a wrapper may fail behind an sbatch that did not
        if [ -z "$known" ]; then
            [ -z "$doubt" ] || claim "$nobody" # of an earlier sbatch there may be a job after all
            : > .submit
            exit "$not_taken"
        fi
    fi
    printf '%s\n' "$said" > .taken
    again=$doubt doubt=yes
    [ "$(grep -c . <<< "$said")" -ne 1 ] || known=$(told)
    [ -n "$known" ] || look
    [ -n "$known" ] || taken
    if [ -n "$again" ] && ! claim "${known%%;*}"; then # of an earlier sbatch there is a job after all, which runs
        ours=$known
        noted
        known=${known:-$ours}
    fi
}
taken() { # a job was made, and nobody lists it
    said=$(cat .taken)
    known=$(told)
    [ -z "$known" ] || return
    kept
    if [ -n "$listed" ] && [ "$accounts" != 1 ] && [ $(($(date +%s) - begun)) -ge "$age" ]; then exit "$forgotten"; fi
    printf 'it took it, and said no id: %s\n' "$(head -c 500 .taken)" >&2
    exit "$in_doubt"
}
missing() { # returns where there is none, and another sbatch may be begun
    [ -n "$listed" ] || exit "$in_doubt"
    [ -s .missed ] || date +%s > .missed || exit "$not_asked"
    read -r missed < .missed
    kept
    if [ $((missed - begun)) -ge "$age" ]; then
        [ "$accounts" -ne 1 ] || exit "$in_doubt"
        exit "$forgotten"
    fi
    times=$(wc -l < .submit)
    [ "$times" -le "${#waits[@]}" ] || times=${#waits[@]}
    wait=$((missed + waits[times - 1] - $(date +%s)))
    if [ "$wait" -gt 10 ]; then
        echo "Slurm lists no such job; where that stays so, it is submitted again in $wait s" >&2
        exit "$in_doubt"
    fi
    [ "$wait" -le 0 ] || { sleep "$wait"; look; }
    [ -n "$listed" ] || exit "$in_doubt"
}

withdraw() { # the job that there is all the same
    [ ! -s "$note" ] || noted
    [ -n "$known" ] || [ -n "$doubt" ] || nothing
    [ -n "$known" ] || look
    [ -n "$known" ] || { found=$(accounted); [ -z "$found" ] || chosen; }
    [ -n "$known" ] || [ ! -e .taken ] || { said=$(cat .taken); known=$(told); }
    [ -z "$known" ] || return
    [ -z "$listed" ] || [ $(($(date +%s) - begun)) -lt "${waits[1]:-$waits}" ] || nothing
    echo 'Slurm lists no such job yet' >&2
    exit "$in_doubt"
}
nothing() { echo 'nothing was submitted'; exit 0; }

if ! trouble=$(LC_ALL=C; cd -- "$folder" 2>&1) || ! cd -- "$folder"; then
    echo "$trouble" >&2
    case $what/$trouble in
        submit/*) exit "$not_asked" ;;
        *'No such file or directory') nothing ;;
    esac
    found=$(queued) || exit "$in_doubt" # the folder is out of reach: Slurm alone tells
    [ -n "$found" ] || nothing
    known=$(sort -n <<< "$found" | head -n 1)
    [ "$M" = "$named" ] || known="$known;$M"
    printf 'submitted as %s\n' "$known"
    exit 0
fi
[ "$what" = submit ] || claim "$nobody" # before an earlier submission that goes on comes to its sbatch
if [ ! -s job.id ]; then
    exec 9>> .submit || exit "$not_asked"
    flock -w "$patience" 9 || [ $? -ne 1 ] || { echo 'an earlier submission of it has not ended' >&2; exit "$in_doubt"; }
    if [ ! -s job.id ]; then
        begun=$(tail -n 1 .submit) known= found= listed= accounts= doubt=
        [ -z "$begun" ] || doubt=yes
        "$what"
        case $known in *\;*) ;; *) [ "$M" = "$named" ] || known="$known;$M" ;; esac
        printf '%s\n' "$known" > .job.id && mv .job.id job.id || exit "$in_doubt"
    fi
    rm -f .submit .taken .missed # whoever waits for its lock, or makes it anew, finds job.id
fi
printf 'submitted as %s\n' "$(cat job.id)"
