"""`python -m tokenstorm.cluster.setup.echo FOLDER NETWORK SECONDS`: something on a compute node that can be tried to reach.

It listens on the node's address in a network, writes `address.json` into the folder, and says the text of the folder's
`greeting` to each connection, until it is ended or the time is up. Standard library only.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

from tokenstorm.errors import UsageError
from tokenstorm.interfaces import local_address, node_name

_LOOK_SECONDS = 1.0


def main(folder: Path, network: str, seconds: float) -> int:
    """Returns the exit code."""
    try:
        host = local_address(network)
    except UsageError as error:
        _write(folder, {"error": str(error)})
        return 1
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        _write(folder, {"error": f"{node_name()} cannot listen on {host}: {error.strerror}"})
        return 1
    greeting = (folder / "greeting").read_bytes()
    listener.settimeout(_LOOK_SECONDS)
    port = str(listener.getsockname()[1])
    _write(folder, {"host": host, "port": port, "node": node_name(), "job": os.environ.get("SLURM_JOB_ID", "")})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            caller = listener.accept()[0]
        except TimeoutError:
            continue
        with caller:
            caller.sendall(greeting)
    return 0


def _write(folder: Path, answer: dict[str, str]) -> None:
    temporary = folder / ".address.json"
    temporary.write_text(json.dumps(answer))
    temporary.rename(folder / "address.json")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
