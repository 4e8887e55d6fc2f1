"""Lines of a stream that comes in pieces."""

from collections.abc import AsyncIterator, Iterator


class Lines:
    """A line ends with a newline and with nothing else: JSON may hold all the other characters that split text."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are whole now."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.removesuffix(b"\r").decode(errors="replace") for line in whole]


def read_lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """The lines of a whole stream."""
    lines = Lines()
    for piece in pieces:
        yield from lines.feed(piece)


async def read_alines(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The same of an asynchronous one."""
    lines = Lines()
    async for piece in pieces:
        for line in lines.feed(piece):
            yield line
