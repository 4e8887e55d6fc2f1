"""Chooses the replica of a request: request n goes to replica n mod m; requests of one that refuses go to the others in turn."""

from tokenstorm.loadgen.pool import Pool

REFUSALS = 3
RETRY_NS = 5_000_000_000


class Replicas:
    """The replicas of the service as one rank sees them."""

    def __init__(self, names: list[str], pools: list[Pool]) -> None:
        self.names = names
        self.pools = pools
        self._refusals = [0] * len(names)
        self._retry_at = [0] * len(names)
        self._all_well = True
        self.was_left_out: set[str] = set()

    def pick(self, seq: int, now: int) -> int:
        """The replica of a request; a left-out one gets one request every 5 s, to see whether it is back.

        Its other requests are spread evenly over the rest, by their numbers too.
        """
        turn, replica = divmod(seq, len(self.names))
        if self._all_well:
            return replica
        takers = [
            one for one, refusals in enumerate(self._refusals) if refusals < REFUSALS or now >= self._retry_at[one]
        ]
        if replica not in takers and takers:
            replica = takers[turn % len(takers)]
        if self._refusals[replica] >= REFUSALS and now >= self._retry_at[replica]:
            self._retry_at[replica] = now + RETRY_NS
        return replica

    def refused(self, replica: int, now: int) -> None:
        """A replica did not take a connection."""
        self._refusals[replica] += 1
        if self._refusals[replica] >= REFUSALS and len(self.names) > 1:
            self._retry_at[replica] = now + RETRY_NS
            self._all_well = False
            self.was_left_out.add(self.names[replica])

    def answered(self, replica: int) -> None:
        """A replica answered, well or not."""
        if self._refusals[replica]:
            self._refusals[replica] = 0
            self._all_well = not any(refusals >= REFUSALS for refusals in self._refusals)
