"""An endpoint that answers when it is told to, so that a test knows what lies in the sockets."""

import contextlib
import socket
import threading

BODY = b'{"choices":[{"finish_reason":"stop","message":{"content":"hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Service:
    """An endpoint in threads of its own, so that it goes on while the rank's loop stands still."""

    def __init__(self, *, answers: bool, accepts: bool = True) -> None:
        self.answers = answers
        self._held: list[socket.socket] = []
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256 if accepts else 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        if accepts:
            self.accept()
        else:  # whoever comes now is let in when these are, and tries again every second
            for _ in range(4):
                self._sockets.append(socket.socket())
                self._sockets[-1].setblocking(False)
                self._sockets[-1].connect_ex(self._listener.getsockname())

    def accept(self) -> None:
        """Let everybody in from now on."""
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        """Answer what was asked up to now; it lies in the sockets when this returns."""
        held, self._held = self._held, []
        for one in held:
            one.sendall(ANSWER)

    @property
    def asked(self) -> int:
        return len(self._held)

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._sockets.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(65536):  # a request comes as one write
                if self.answers:
                    connection.sendall(ANSWER)
                else:
                    self._held.append(connection)
