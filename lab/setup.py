"""What a lab is: its folder, its user, its nodes; written down in `lab.json` so that later commands find it again."""

import json
import os
import pwd
import random
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOGIN = "login"
MARK = "LAB_FOLDER"
_LONGEST_FOLDER = 60  # the path of a unix socket holds 107 bytes, and Slurm puts its own below the folder
_BELOW_EPHEMERAL = (12000, 30000)  # no outgoing connection takes a port from here between choosing it and using it
_NO_SHELLS = ("", "/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")
_MADE_UP_UID = 64000


@dataclass(frozen=True)
class User:
    """Who logs in. With `made`, the lab's processes see an account that this machine does not have like that."""

    name: str
    uid: int
    gid: int
    home: str
    made: bool = False


@dataclass(frozen=True)
class Lab:
    """A lab as it was asked for. `daemons` names the account of Slurm's daemons, `python` is the profile's."""

    folder: Path
    user: User
    daemons: str
    python: str
    nodes: tuple[str, ...]
    netns: bool = False
    slurmdbd: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        """What SLURM_CONF names."""
        return self.folder / "slurm.conf"

    @property
    def work(self) -> Path:
        """The profile's base path. It stays when the lab goes."""
        return self.folder / "work"

    @property
    def places(self) -> tuple[str, ...]:
        """Where processes run: the login node, and with network namespaces each node."""
        return (LOGIN, *self.nodes) if self.netns else (LOGIN,)

    def environment(self) -> dict[str, str]:
        """What every daemon has; the mark tells later which processes are the lab's."""
        return {
            "PATH": PATH,
            "HOME": "/",
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(self.conf),
            MARK: str(self.folder),
            "MYSQL_UNIX_PORT": str(self.folder / "db/sql.sock"),
        }

    def save(self) -> None:
        """Write it down."""
        values = {**asdict(self), "folder": str(self.folder)}
        (self.folder / "lab.json").write_text(json.dumps(values, indent=2) + "\n")

    def same_as(self, other: "Lab") -> bool:
        """Whether the same was asked for; ports are chosen, not asked for."""
        return {**asdict(self), "ports": None} == {**asdict(other), "ports": None}


def load(folder: Path) -> Lab | None:
    """The lab of a folder, None where there is none."""
    try:
        values = json.loads((folder / "lab.json").read_text())
    except FileNotFoundError:
        return None
    return Lab(
        **{
            **values,
            "folder": Path(values["folder"]),
            "user": User(**values["user"]),
            "nodes": tuple(values["nodes"]),
        }
    )


def plan(folder: Path, *, nodes: int, user: str | None, netns: bool, slurmdbd: bool, settings: dict[str, str]) -> Lab:
    """A lab for this folder, or an end that says why there can be none."""
    if len(os.fsencode(folder)) > _LONGEST_FOLDER or any(c.isspace() or c in "%,\"'\\#" for c in str(folder)):
        refuse(f"{folder}: choose a folder whose path has at most {_LONGEST_FOLDER} bytes and no blanks or quotes")
    root = os.geteuid() == 0
    if netns and not root:
        refuse("--netns makes network namespaces, which only root may")
    if user is not None and not root:
        refuse("--user is for root: as anybody else, the lab runs as you")
    who = _user(user, folder) if user is not None else _me()
    needed = ["munged", "slurmctld", "slurmd", "sinfo", "sshd", "ssh-keygen"]
    needed += ["ip", "nsenter", "unshare"] if netns or who.made else []
    needed += ["mariadbd", "mariadb-install-db", "slurmdbd"] if slurmdbd else []
    if missing := [name for name in needed if not shutil.which(name, path=PATH)]:
        refuse(f"no {', '.join(missing)} here: scripts/lab install{' --slurmdbd' * slurmdbd}")
    names = tuple(f"n{number}" for number in range(1, nodes + 1))
    ports = _free_ports(["ssh", "slurmctld", "slurmdbd", *names])
    return Lab(folder, who, pwd.getpwuid(os.geteuid()).pw_name, _python(who), names, netns, slurmdbd, settings, ports)


def refuse(message: str) -> NoReturn:
    """End, saying why."""
    sys.exit(f"lab: {message}")


def become(user: User) -> list[str]:
    """The words before a command that make it run as the user; `env` makes sure that root's rights are gone by then."""
    if user.uid == os.geteuid():
        return []
    return ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "--", "env", "--"]


def _python(user: User) -> str:
    """This checkout's, which has tokenstorm; for a user who cannot go there, the system's, which has not."""
    own = f"{ROOT}/.venv/bin/python"
    try:
        done = subprocess.run(
            [*become(user), own, "-c", "import tokenstorm"], cwd="/", capture_output=True, check=False
        )
    except OSError:
        return "python3"
    return own if done.returncode == 0 else "python3"


def _me() -> User:
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        refuse(f"the user {os.geteuid()} has no name here, and Slurm wants one: run it as a user of /etc/passwd")
    if entry.pw_shell in _NO_SHELLS[1:]:
        refuse(f"{entry.pw_name} has no shell to log in with: run it as another user, or as root with --user")
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


def _user(name: str, folder: Path) -> User:
    """An account that can log in is taken as it is; any other is made for the lab alone."""
    home = str(folder / "home")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        taken = {entry.pw_uid for entry in pwd.getpwall()}
        uid = next(uid for uid in range(_MADE_UP_UID, 65000) if uid not in taken)
        return User(name, uid, uid, home, made=True)
    shadow = subprocess.run(["getent", "shadow", name], capture_output=True, text=True, check=False).stdout
    locked = shadow.partition(":")[2].startswith("!")
    if locked or entry.pw_shell in _NO_SHELLS[1:]:
        return User(name, entry.pw_uid, entry.pw_gid, home, made=True)
    return User(name, entry.pw_uid, entry.pw_gid, entry.pw_dir)


def _free_ports(names: list[str]) -> dict[str, int]:
    low, high = _BELOW_EPHEMERAL
    found: dict[str, int] = {}
    for port in random.sample(range(low, high), high - low):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found[names[len(found)]] = port
        if len(found) == len(names):
            return found
    refuse(f"no {len(names)} free ports between {low} and {high}")
