"""doorman.py PORT COMMAND…: runs a command for each connection to a port of loopback, with the connection as its files.

Network namespaces share no ports: an sshd in one is reached from outside through a listener that was left outside.
"""

import socket
import subprocess
import sys


def main() -> None:
    port, *command = sys.argv[1:]
    running: list[subprocess.Popen[bytes]] = []
    with socket.create_server(("127.0.0.1", int(port))) as door:
        while True:
            caller, _ = door.accept()
            with caller:
                running = [process for process in running if process.poll() is None]
                running.append(
                    subprocess.Popen(command, stdin=caller.fileno(), stdout=caller.fileno(), start_new_session=True)
                )


if __name__ == "__main__":
    main()
