"""Numbers that look random and are a function of another number."""

from array import array

MASK = 2**64 - 1
"""The largest number of 64 bits."""


def mix(value: int) -> int:
    """64 well-mixed bits of an integer: the finalizer of splitmix64 (Steele, Lea and Flood, 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


class Order:
    """The numbers below `count`, for requests in turn: each comes once before any comes again, and each pass has another order.

    It is the same for a seed in every version: `mix` gives no number twice.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._seed = mix(seed)
        self._order = array("Q", sorted(range(count), key=lambda index: mix(self._seed ^ index)))

    def __getitem__(self, seq: int) -> int:
        order = self._order
        pass_, place = divmod(seq, len(order))
        shift = mix(self._seed ^ pass_)  # applied twice, it makes another order of the one that is shuffled
        return order[(order[(place + shift) % len(order)] + (shift >> 32)) % len(order)]
