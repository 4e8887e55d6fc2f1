"""Debian's packages of everything a lab runs, installed without starting a daemon."""

import os
import shutil
import subprocess
from pathlib import Path

from lab.setup import refuse

PACKAGES = ["munge", "slurm-wlm", "slurmctld", "slurmd", "slurm-client", "openssh-server", "rsync", "iproute2"]
PACKAGES += ["nftables", "tcsh", "fish", "zsh"]  # firewalls, and login shells as sites have them
PACKAGES += ["prometheus"]  # which scrapes what runs there
PACKAGES += ["chromium", "fonts-dejavu-core"]  # which shows the page to its tests
ACCOUNTING = ["slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server"]
_POLICY = Path("/usr/sbin/policy-rc.d")


def install(*, slurmdbd: bool) -> None:
    """Install them. Needs root and Debian's package tool."""
    if os.geteuid() != 0:
        refuse("installing packages needs root: sudo scripts/lab install")
    if not shutil.which("apt-get"):
        refuse(f"there is no apt-get here: install what this system calls {', '.join(PACKAGES)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wanted = [*PACKAGES, *(ACCOUNTING if slurmdbd else [])]
    made = not _POLICY.exists()
    if made:  # it keeps the packages from starting what they install
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        subprocess.run(["apt-get", "update"], check=True, env=quiet)
        subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *wanted], check=True, env=quiet)
    except subprocess.CalledProcessError as error:
        refuse(f"{' '.join(error.cmd[:2])} failed with status {error.returncode}; what it said is above")
    finally:
        if made:
            _POLICY.unlink()
