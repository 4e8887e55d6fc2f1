"""`scripts/lab`: what may be typed."""

import argparse
import os
import signal
import sys
from pathlib import Path

from lab import cluster, packages, places
from lab.setup import LOGIN, ROOT, Lab, become, load, plan, refuse

_MOST_NODES = 64


def main() -> None:
    """Run a command. Ends with 1 and the reason where it cannot be done."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `up` takes down what it started
    options = _parser().parse_args()
    folder = Path(options.folder).absolute() if "folder" in options else Path()
    match options.command:
        case "install":
            packages.install(slurmdbd=options.slurmdbd)
        case "up":
            _up(folder, options)
        case "down":
            cluster.down(folder)
        case "status":
            if (said := cluster.status(folder)) is None:
                refuse(f"nothing is up in {folder}")
            sys.stdout.write(said)
        case "unplug" | "plug":
            places.cable(_there(folder), options.node, plugged=options.command == "plug")
        case "run":
            _run(_there(folder), options.place, options.argv)


def _up(folder: Path, options: argparse.Namespace) -> None:
    settings = {}
    for text in options.set:
        key, equals, value = text.partition("=")
        if not (key.isidentifier() and equals) or "\n" in value:
            refuse(f"--set {text}: write KEY=VALUE, as in slurm.conf")
        settings[key] = value
    if not 1 <= options.nodes <= _MOST_NODES:
        refuse(f"--nodes {options.nodes}: choose 1 to {_MOST_NODES}")
    chosen = {"nodes": options.nodes, "user": options.user, "netns": options.netns, "slurmdbd": options.slurmdbd}
    lab = plan(folder, **chosen, settings=settings)
    new = cluster.up(lab)
    _say(load(folder) or lab, new=new)


def _say(lab: Lab, *, new: bool) -> None:
    """What to type next. Standard output is for `eval`; all else goes to standard error."""
    own = f"scripts/lab run {lab.folder} {LOGIN} " if lab.netns else ""
    lines = [f"the lab {'is up' if new else 'was up already'}: {len(lab.nodes)} nodes, partitions cpu and gpu"]
    if lab.python == "python3":
        lines.append(f"{lab.user.name} cannot use the Python of {ROOT}: what jobs need is deployed with the first")
    lines += [f"type the two lines below, then {own}sinfo, or tokenstorm up --profile lab"]
    lines += [f"scripts/lab down {lab.folder} ends it"]
    print("\n".join(f"# {line}" for line in lines), file=sys.stderr, flush=True)
    print(f"export TOKENSTORM_CONFIG={lab.folder}/config.toml")
    print(f"export SLURM_CONF={lab.conf}")


def _there(folder: Path) -> Lab:
    lab = load(folder)
    if lab is None:
        refuse(f"nothing is up in {folder}: scripts/lab up {folder}")
    return lab


def _run(lab: Lab, place: str, argv: list[str]) -> None:
    """Become the command, there, as the lab's user."""
    if place not in (LOGIN, *lab.nodes):
        refuse(f"there is no {place!r}: there is {', '.join((LOGIN, *lab.nodes))}")
    if not argv:
        refuse(f"say what to run on {place}")
    words = [*places.enter(lab, place), *become(lab.user), *argv]
    whose = {"HOME": lab.user.home, "USER": lab.user.name, "LOGNAME": lab.user.name}
    os.execvpe(words[0], words, {**os.environ, **whose, "SLURM_CONF": str(lab.conf)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/lab", description="A real Slurm and a real sshd on this machine, in a folder of their own."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, folder: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        if folder:
            made.add_argument("folder", metavar="FOLDER")
        return made

    install = command("install", "install Debian's packages; nothing is started", folder=False)
    up = command("up", "bring a lab up, and say what to type next")
    up.add_argument("--nodes", type=int, default=4, metavar="N", help="how many nodes (4)")
    up.add_argument(
        "--user", metavar="NAME", help="who logs in, for root: an account, or a name that is made for the lab"
    )
    up.add_argument("--netns", action="store_true", help="nodes with a hostname, an address, a clock and a cable each")
    for parsed in (install, up):
        parsed.add_argument("--slurmdbd", action="store_true", help="with accounting: slurmdbd and its database")
    up.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a line of slurm.conf; repeatable")
    command("down", "end a lab with all its jobs; work/ and log/ stay")
    command("status", "the nodes and the jobs of a lab")
    for name, text in (("unplug", "pull a node's cable (--netns)"), ("plug", "put a node's cable back")):
        command(name, text).add_argument("node", metavar="NODE")
    run = command("run", "run a command in a lab, as its user")
    run.add_argument("place", metavar="NODE", help="a node, or login")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND")
    return parser


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
