"""The configuration files of a lab, as text."""

import stat
from pathlib import Path

from lab.setup import LOGIN, MARK, Lab

GPUS = 8
SUBNET = "10.77.0.0/24"
_SETTINGS = """\
ClusterName lab
AuthType auth/munge
CredType cred/munge
ProctrackType proctrack/linuxproc
TaskPlugin task/none
JobAcctGatherType jobacct_gather/linux
SwitchType switch/none
MpiDefault none
ReturnToService 2
SlurmctldTimeout 30
SlurmdTimeout 20
InactiveLimit 0
KillWait 5
MinJobAge 300
MailProg /bin/true
SchedulerType sched/backfill
SchedulerParameters sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SelectType select/cons_tres
SelectTypeParameters CR_Core
SlurmdParameters config_overrides
GresTypes gpu
AccountingStorageType accounting_storage/none
"""


def address(lab: Lab, place: str) -> str:
    """Where a node is reached: all share loopback, unless each has a network of its own."""
    if not lab.netns:
        return "127.0.0.1"
    return SUBNET.replace("0/24", "254" if place == LOGIN else place.removeprefix("n"))


def slurm(lab: Lab, hostname: str) -> str:
    """slurm.conf. What was set with --set comes instead of the lab's own."""
    folder = lab.folder
    settings = dict(line.split(" ", 1) for line in _SETTINGS.splitlines())
    settings |= {
        "SlurmctldHost": f"{LOGIN if lab.netns else 'localhost'}({address(lab, LOGIN)})",
        "SlurmctldPort": str(lab.ports["slurmctld"]),
        "SlurmUser": lab.daemons,
        "SlurmdUser": lab.daemons,
        "AuthInfo": f"socket={folder}/munge/munge.sock",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/run/slurmd.%n.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
        "SlurmdLogFile": f"{folder}/log/slurmd.%n.log",
    }
    if lab.slurmdbd:
        settings |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": address(lab, LOGIN),
            "AccountingStoragePort": str(lab.ports["slurmdbd"]),
            "AccountingStoragePass": f"{folder}/munge/munge.sock",
        }
    settings |= lab.settings
    gpus = len(_devices())
    nodes = [
        f"NodeName={name} NodeHostname={name if lab.netns else hostname} NodeAddr={address(lab, name)} "
        f"Port={lab.ports[name]} Sockets=2 CoresPerSocket=16 ThreadsPerCore=1 RealMemory=64000"
        f"{f' Gres=gpu:{gpus}' * bool(gpus)} State=UNKNOWN"
        for name in lab.nodes
    ]
    partitions = [
        f"PartitionName=cpu Nodes={','.join(lab.nodes)} Default=YES MaxTime=INFINITE State=UP",
        f"PartitionName=gpu Nodes={','.join(lab.nodes[len(lab.nodes) // 2 :])} MaxTime=INFINITE State=UP",
    ]
    return _lines(*(f"{key}={value}" for key, value in settings.items()), *nodes, *partitions)


def gres(lab: Lab) -> str:
    """gres.conf: GPUs that are not there, each a character device that is."""
    return _lines(*(f"NodeName={','.join(lab.nodes)} Name=gpu File={device}" for device in _devices()))


def slurmdbd(lab: Lab) -> str:
    """slurmdbd.conf; it must be readable by its user alone."""
    return _lines(
        "AuthType=auth/munge",
        f"AuthInfo=socket={lab.folder}/munge/munge.sock",
        f"DbdHost={LOGIN if lab.netns else 'localhost'}",
        f"DbdAddr={address(lab, LOGIN)}",
        f"DbdPort={lab.ports['slurmdbd']}",
        f"SlurmUser={lab.daemons}",
        f"LogFile={lab.folder}/log/slurmdbd.log",
        f"PidFile={lab.folder}/run/slurmdbd.pid",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        "StorageUser=slurm",
        "StorageLoc=slurm_acct_db",
        "CommitDelay=0",
    )


def sshd(lab: Lab) -> str:
    """sshd_config, as Debian ships it where it matters. Commands over SSH see Slurm without a login shell."""
    ssh = lab.folder / "ssh"
    return _lines(
        f"Port {lab.ports['ssh']}",
        "ListenAddress 127.0.0.1",
        f"HostKey {ssh}/host",
        "PidFile none",
        f"AuthorizedKeysFile {ssh}/authorized",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "UseDNS no",
        "MaxSessions 10",
        f"SetEnv SLURM_CONF={lab.conf} {MARK}={lab.folder}",
        "Subsystem sftp internal-sftp",
    )


def profile(lab: Lab) -> str:
    """config.toml of tokenstorm with the profile `lab`."""
    return _lines(
        "[profiles.lab]",
        'scheduler = "slurm"',
        f'base_path = "{lab.work}"',
        f'python = "{lab.python}"',
        "simulate = true",
        f'interface = "{SUBNET if lab.netns else address(lab, LOGIN)}"',
        "",
        "[profiles.lab.ssh]",
        'host = "127.0.0.1"',
        f"port = {lab.ports['ssh']}",
        f'user = "{lab.user.name}"',
        f'identity_file = "{lab.folder}/ssh/user"',
        f'known_hosts = "{lab.folder}/ssh/known_hosts"',
        "",
        "[profiles.lab.partitions]",
        'cpu = "cpu"',
        'gpu = "gpu"',
    )


def hosts(lab: Lab) -> str:
    """/etc/hosts of every node that has a network of its own."""
    return _lines("127.0.0.1 localhost", *(f"{address(lab, place)} {place}" for place in lab.places))


def _devices() -> list[str]:
    """Eight terminals where there are some (Slurm refuses what is no character device), else whatever there is."""
    found = [path for path in Path("/dev").iterdir() if stat.S_ISCHR(path.stat().st_mode) and not path.is_symlink()]
    chosen = sorted(found, key=lambda path: (not path.name.startswith("tty"), len(path.name), path.name))
    return sorted(str(path) for path in chosen[:GPUS])


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)
