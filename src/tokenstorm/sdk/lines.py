"""Lines of a stream that comes in pieces."""


class Lines:
    """A line ends with a newline and with nothing else: JSON may hold all the other characters that split text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are whole now."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.removesuffix(b"\r").decode(errors="replace") for line in whole]
