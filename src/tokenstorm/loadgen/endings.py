"""Recognises a read that is one whole chunk like the last one, by comparing bytes."""

import msgspec

from tokenstorm.errors import NOT_JSON

MANY_TAILS = 64
MANY_TEXTS = 4096
LARGEST_EXPECTED = 2048
"""A larger read is always parsed, whatever is expected."""


def _chunk_line(size: int) -> bytes:
    """The first line of a read that is one whole chunk of `size` bytes in all. No chunk has 21 or 262 bytes, for example."""
    for digits in range(1, 4):
        line = b"%x\r\n" % max(0, size - digits - 4)
        if len(line) == digits + 2:
            return line
    return b"\0"


CHUNK_LINES = [_chunk_line(size) for size in range(LARGEST_EXPECTED)]
"""For each size below `LARGEST_EXPECTED`, how a read of one whole chunk begins."""


_decode_text = msgspec.json.Decoder(str).decode


class Endings:
    """What follows the common start of similar events: a text, and then `tail`.

    Tokens repeat, so most endings are `known`. Thousands of streams share one of these objects.
    """

    def __init__(self, tail: bytes) -> None:
        self._tail = tail
        self.known: set[bytes] = set()

    def holds(self, ending: bytes) -> bool:
        """Whether this is a non-empty text that is valid inside a JSON string, and then the tail."""
        text = ending.removesuffix(self._tail)
        if len(text) == len(ending):
            return False
        try:
            if not text or not _decode_text(b'"%b"' % text):
                return False
        except NOT_JSON:
            return False
        if len(self.known) > MANY_TEXTS:
            self.known.clear()
        self.known.add(ending)
        return True


_endings: dict[bytes, Endings] = {}
NO_ENDINGS = Endings(b"\0")


def endings_of(tail: bytes) -> Endings:
    """The endings with this tail, which all connections share."""
    if len(_endings) > MANY_TAILS:
        _endings.clear()
    if (endings := _endings.get(tail)) is None:
        endings = _endings[tail] = Endings(tail)
    return endings
