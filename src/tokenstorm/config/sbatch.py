"""Options of `sbatch`: those that a profile may give its jobs, and those that each job has of its own."""

import shlex
from collections.abc import Collection, Iterable, Iterator


def _option_names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OF_EACH_JOB = _option_names(
    "array chdir error export export-file help input job-name no-requeue ntasks ntasks-per-gpu ntasks-per-node "
    "open-mode output parsable requeue signal test-only usage version wait wrap"
)
_INSTEAD = {
    **dict.fromkeys(_OF_EACH_JOB, "leave it out"),
    **{name: f"set the profile's `{name}`" for name in ("account", "constraint", "partition", "qos", "reservation")},
    **dict.fromkeys(("time", "time-min"), "set the profile's `time_limit`, or give one to a service or a group"),
    "clusters": "set the profile's `cluster`",
    "nodes": "give the number of nodes to a service or a group",
}
"""Options that belong to each job, and what to do instead: given to all, they would keep jobs from what they ask for, from
starting, or from being found."""
FORMS = {
    "cpu_request": _option_names("cpus-per-task cpus-per-gpu"),
    "gpu_request": _option_names("gpus gpus-per-node gpus-per-socket gpus-per-task tres-per-job tres-per-task"),
    "memory_request": _option_names("mem mem-per-cpu mem-per-gpu"),
}
"""Keys whose value "none" leaves these options to the profile's `sbatch`. `gres` is one of them where it names GPUs."""
_OTHERS = _option_names(
    "acctg-freq batch bb bbf begin cluster-constraint comment container container-id contiguous core-spec "
    "cores-per-socket cpu-freq deadline delay-boot dependency distribution exclude exclusive extra extra-node-info "
    "get-user-env gpu-bind gpu-freq gres gres-flags hint hold ignore-pbs kill-on-invalid-dep licenses mail-type mail-user "
    "mcs-label mem-bind mincpus network nice no-kill nodefile nodelist ntasks-per-core ntasks-per-socket overcommit "
    "oversubscribe power prefer priority profile propagate quiet reboot resv-ports sockets-per-node spread-job stepmgr "
    "switches thread-spec threads-per-core tmp uid umask use-min-nodes verbose wait-all-nodes wckey x11"
)
_ALIASES = {"share": "oversubscribe", "tasks": "ntasks", "tasks-per-node": "ntasks-per-node", "workdir": "chdir"}
_LONG = frozenset().union(_INSTEAD, _OTHERS, _ALIASES, *FORMS.values())
_SHORT = dict(
    pair.split("=")
    for pair in _option_names(
        "A=account a=array B=extra-node-info C=constraint c=cpus-per-task D=chdir d=dependency e=error F=nodefile "
        "G=gpus H=hold h=help i=input J=job-name k=no-kill L=licenses M=clusters m=distribution N=nodes n=ntasks "
        "O=overcommit o=output p=partition Q=quiet q=qos S=core-spec s=oversubscribe t=time V=version v=verbose W=wait "
        "w=nodelist x=exclude"
    )
)
_WITHOUT_VALUE = _option_names(
    "contiguous exclusive get-user-env help hold ignore-pbs nice no-kill no-requeue overcommit oversubscribe parsable "
    "propagate quiet reboot requeue resv-ports spread-job stepmgr test-only usage use-min-nodes verbose version wait x11"
)
"""Options that take no value, or only one after `=`."""

Option = tuple[tuple[str, ...], str, str]
"""The long names that an option may stand for, its value, and how it is written."""


def refused(line: str) -> str | None:
    """Why a line of a profile's `sbatch` cannot be taken, whatever else the profile says; None if it can."""
    if not line.startswith("-") or len(line.splitlines()) != 1 or "\0" in line:
        return f"{line!r} is no option of sbatch: write each as it stands after #SBATCH, such as --licenses=a"
    try:
        found = list(_options(line))
    except ValueError as error:
        return f"{line!r} cannot be read: {error}"
    for names, _, written in found:
        if ours := next((name for name in names if name in _INSTEAD), None):
            return f"{written} is tokenstorm's own to set, for each job: {_INSTEAD[ours]}"
    return None


def overridden(lines: Iterable[str], forms: Collection[str]) -> tuple[str, str] | None:
    """The first option that would override what a job asks for by one of these keys of `FORMS`, and that key."""
    for names, value, written in (option for line in lines for option in _options(line)):
        for key in forms:
            if not set(FORMS[key]).isdisjoint(names) or (key == "gpu_request" and "gres" in names and "gpu" in value):
                return written, key
    return None


def values(lines: Iterable[str], name: str) -> list[str]:
    """The values that lines give an option, such as `exclude`."""
    return [value for line in lines for names, value, _ in _options(line) if names == (name,)]


def without(lines: Iterable[str], name: str) -> list[str]:
    """The lines, less those that give that option and nothing else."""
    return [line for line in lines if {names for names, _, _ in _options(line)} != {(name,)}]


def _options(line: str) -> Iterator[Option]:
    """The options of a line as getopt reads them: long ones cut short, short ones in one word. Raises ValueError."""
    words = iter(shlex.split(line))
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            names = _meant(name)
            takes_next = not equals and _WITHOUT_VALUE.isdisjoint(names)
            yield names, next(words, "") if takes_next else value, word
        elif word.startswith("-"):
            yield from _short(word, words)


def _short(word: str, rest: Iterator[str]) -> Iterator[Option]:
    """The options of one word: each without a value may be followed by another."""
    for place, letter in enumerate(word[1:], 2):
        name = _SHORT.get(letter, letter)
        if name in _WITHOUT_VALUE:
            yield (name,), "", word
            continue
        yield (name,), word[place:] or next(rest, ""), word
        return


def _meant(name: str) -> tuple[str, ...]:
    """The options that a long name may stand for: itself, or all that begin so. One that is not known is a plug-in's."""
    found = [name] if name in _LONG else [known for known in sorted(_LONG) if known.startswith(name)]
    return tuple(dict.fromkeys(_ALIASES.get(known, known) for known in found)) or (name,)
