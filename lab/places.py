"""The login node and the nodes: this machine, or namespaces with a hostname, an address, a clock and a cable each.

A namespace lives as long as the process that holds it, so ending that process by its pid leaves nothing behind.
"""

import shlex
import subprocess

from lab import conf
from lab.processes import start, started
from lab.setup import LOGIN, Lab, refuse

_BRIDGE = "lab0"
_CLOCK_STEP_SECONDS = 1000


def make(lab: Lab) -> None:
    """Make the places that this lab needs; the nodes' cables end at a bridge of the login node."""
    if lab.netns:
        (lab.folder / "hosts").write_text(conf.hosts(lab))
    if not (lab.netns or lab.user.made):
        return
    for number, place in enumerate(lab.places):
        _hold(lab, place, number * _CLOCK_STEP_SECONDS)
    if not lab.netns:
        return
    _ip(lab, LOGIN, f"link add {_BRIDGE} type bridge", f"addr add {conf.address(lab, LOGIN)}/24 dev {_BRIDGE}")
    _ip(lab, LOGIN, f"link set {_BRIDGE} up")
    for name in lab.nodes:
        _ip(lab, LOGIN, f"link add cable-{name} type veth peer name eth0 netns {_holder(lab, name)}")
        _ip(lab, LOGIN, f"link set cable-{name} master {_BRIDGE}", f"link set cable-{name} up")
        _ip(lab, name, f"addr add {conf.address(lab, name)}/24 dev eth0", "link set eth0 up")


def enter(lab: Lab, place: str) -> list[str]:
    """The words before a command that make it run there."""
    place = place if lab.netns else LOGIN
    if not (lab.netns or lab.user.made):
        return []
    spaces = ["--net", "--uts", "--time"] if lab.netns else []
    return ["nsenter", f"--target={_holder(lab, place)}", "--mount", *spaces, "--"]


def cable(lab: Lab, node: str, *, plugged: bool) -> None:
    """Pull a node's cable out of the switch, or put it back."""
    if not lab.netns:
        refuse("there are no cables in this lab: bring it up with --netns")
    if node not in lab.nodes:
        refuse(f"there is no node {node!r}: there is {', '.join(lab.nodes)}")
    _ip(lab, LOGIN, f"link set cable-{node} {'up' if plugged else 'down'}")


def _hold(lab: Lab, place: str, clock: int) -> None:
    """Start the process that holds a place's namespaces, and wait until they are furnished."""
    steps = []
    if lab.user.made:
        steps += [f"mount --bind {lab.folder}/{name} /etc/{name}" for name in ("passwd", "shadow")]
    if lab.netns:
        steps += [f"hostname {place}", f"mount --bind {lab.folder}/hosts /etc/hosts", "ip link set lo up"]
    script = " && ".join([*steps, "echo furnished", "exec >&2 && exec sleep infinity"])
    spaces = ["--net", "--uts", "--time", f"--monotonic={clock}", "--fork", "--kill-child"] if lab.netns else []
    argv = ["unshare", "--mount", "--propagation=private", *spaces, "--", "sh", "-c", script]
    process = start(lab, f"place-{place}", argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        if said.readline() != b"furnished\n":
            refuse(f"cannot make the namespaces of {place}: {lab.folder}/log/daemons.log says why")


def _holder(lab: Lab, place: str) -> int:
    """Whose namespaces they are: the process that was started, or with a clock of its own, its child."""
    found = [process for process in started(lab.folder) if process.name == f"place-{place}" and process.alive]
    if not found:
        refuse(f"{place} is gone: scripts/lab down {lab.folder}, then up again")
    if not lab.netns:
        return found[0].pid
    with open(f"/proc/{found[0].pid}/task/{found[0].pid}/children") as children:  # noqa: PTH123 - /proc is read at once
        return int(children.read().split()[0])


def _ip(lab: Lab, place: str, *commands: str) -> None:
    for command in commands:
        argv = [*enter(lab, place), "ip", *shlex.split(command)]
        done = subprocess.run(argv, env=lab.environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            refuse(f"{place}: ip {command}: {done.stderr.strip()}")
