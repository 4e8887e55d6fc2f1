"""A real sshd of a test's own, on loopback, with a key that may log in."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenstorm.cluster.ssh.native import SSHManager
from tokenstorm.cluster.ssh.openssh import OpenSSH
from tokenstorm.config.profile import Ssh

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
MISSING = "no sshd here: install it with scripts/lab install"
Kind = type[SSHManager] | type[OpenSSH]
SHELLS: tuple[Kind, ...] = (SSHManager, OpenSSH)
"""What holds for one holds for the other."""


@dataclass(frozen=True)
class Login:
    """How to log in, and the daemon that lets one in."""

    ssh: Ssh
    daemon: "subprocess.Popen[bytes]"

    def servers(self) -> list[int]:
        """The processes that serve the connections there are."""
        children = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


@contextlib.contextmanager
def sshd(home: Path, more: str = "", sftp: str | None = "internal-sftp") -> Iterator[Login]:
    """Run an sshd as Debian ships it (MaxSessions 10), with its keys and known_hosts in `home`; `more` configures it.

    `sftp` is the command of its SFTP subsystem; None for a server without one.
    """
    assert SSHD is not None
    home.mkdir()
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / key], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "authorized").write_text((home / "user.pub").read_text())
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {(home / 'host.pub').read_text()}")
    (home / "conf").write_text(
        f"{more}"  # sshd takes what it reads first
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nPidFile none\nAuthorizedKeysFile {home}/authorized\n"
        f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nUseDNS no\nMaxSessions 10\n"
        f"{f'Subsystem sftp {sftp}' if sftp else ''}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", home / "conf"], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not _listens(port):
            assert time.monotonic() < end
            time.sleep(0.01)
        known, key_file = str(home / "known_hosts"), str(home / "user")
        yield Login(Ssh(host="127.0.0.1", port=port, known_hosts=known, identity_file=key_file), daemon)
    finally:
        daemon.kill()
        daemon.wait()


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
