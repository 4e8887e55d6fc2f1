"""slurmdbd and the database below it, which listens on a unix socket alone."""

import subprocess

from lab import conf
from lab.places import enter
from lab.processes import start, wait
from lab.setup import LOGIN, Lab, refuse

_READY_SECONDS = 60


def begin(lab: Lab) -> None:
    """Bring up the database and slurmdbd, and make the cluster known to them."""
    database, socket = lab.folder / "db", lab.folder / "db/sql.sock"
    who = f"--user={lab.daemons}"
    data = [f"--datadir={database}/data", who]
    _run(
        lab, "mariadb-install-db", "--no-defaults", *data, "--auth-root-authentication-method=normal", "--skip-test-db"
    )
    here = [f"--socket={socket}", f"--pid-file={lab.folder}/run/mariadbd.pid", "--skip-networking"]
    small = ["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", "--innodb-lock-wait-timeout=900"]
    start(lab, "mariadbd", [*enter(lab, LOGIN), "mariadbd", "--no-defaults", *data, *here, *small])
    wait(lab, socket.exists, "the database did not come up", _READY_SECONDS)
    grant = (
        "CREATE DATABASE slurm_acct_db; CREATE USER slurm@localhost; GRANT ALL ON slurm_acct_db.* TO slurm@localhost"
    )
    _run(lab, "mariadb", "--no-defaults", "--user=root", f"--socket={socket}", f"--execute={grant}")
    text = lab.folder / "slurmdbd.conf"
    text.touch(mode=0o600)
    text.write_text(conf.slurmdbd(lab))
    start(lab, "slurmdbd", [*enter(lab, LOGIN), "slurmdbd", "-D"])
    wait(lab, lambda: _asked(lab).returncode == 0, "slurmdbd did not come up", _READY_SECONDS)
    _run(lab, "sacctmgr", "--immediate", "add", "cluster", "lab")


def _asked(lab: Lab) -> "subprocess.CompletedProcess[bytes]":
    argv = [*enter(lab, LOGIN), "sacctmgr", "-n", "list", "cluster"]
    return subprocess.run(argv, env=lab.environment(), capture_output=True, check=False)


def _run(lab: Lab, *argv: str) -> None:
    done = subprocess.run(
        [*enter(lab, LOGIN), *argv], env=lab.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        refuse(f"{argv[0]} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
