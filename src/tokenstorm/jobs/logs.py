"""Logs that grow, read in pieces: each goes on where the last one ended, and shows no secret."""

import codecs
from collections.abc import Iterable
from pathlib import PurePosixPath

from tokenstorm.cluster.shell import Shell

TELLING_NOTHING = 3
"""A piece may end with this many first bytes of the secret: all keys begin alike, so they give nothing away."""


async def read_on(
    shell: Shell,
    folder: PurePosixPath,
    names: Iterable[str],
    places: dict[str, int],
    *,
    limit: int,
    secret: str = "",
    whole_lines: bool = False,
) -> list[tuple[str, str]]:
    """The new text of each file, with the file's name; the places move on to where it ends.

    `limit` is in bytes for each file. The `secret` is masked. With `whole_lines` a line that has begun is left for the next
    piece, unless it is all there is. A file that is not there, or has nothing more, is left out. Raises what the shell does.
    """
    parts = []
    for name in names:
        place = places.get(name, 0)
        try:
            data = await shell.get(folder / name, offset=place, limit=limit)
        except FileNotFoundError:
            continue
        if secret:
            data = data[: len(data) - _begun(data, secret.encode())]
        if whole_lines:
            data = data[: data.rfind(b"\n") + 1 or len(data)]
        text, used = _decoded(data)
        places[name] = place + used
        if text:
            parts.append((name, masked(text, secret)))
    return parts


def masked(text: str, secret: str) -> str:
    """The text, with the secret and its telling parts masked."""
    return text.replace(secret, "***").replace(secret[TELLING_NOTHING:], "***") if secret else text


def _decoded(data: bytes) -> tuple[str, int]:
    """The text, and how many bytes it took: a character that is cut in two is left for the next piece."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data)
    return text, len(data) - len(decoder.getstate()[0])


def _begun(data: bytes, secret: bytes) -> int:
    """How many bytes at the end may be the start of the secret. The next piece begins with them, so it has all of it."""
    lengths = range(min(len(secret) - 1, len(data)), TELLING_NOTHING, -1)
    return next((length for length in lengths if data.endswith(secret[:length])), 0)
