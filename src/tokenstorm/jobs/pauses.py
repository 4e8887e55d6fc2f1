"""How long to wait before trying once more."""

from collections.abc import Iterator


def pauses(first: float, most: float, factor: float = 1.6) -> Iterator[float]:
    """Seconds that grow from `first` to `most`, without end."""
    pause = first
    while True:
        yield pause
        pause = min(most, pause * factor)
