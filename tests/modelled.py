"""What a simulated engine truly carries: its own model, run in a time of its own, without sockets, processes or load generator."""

import heapq
import random
from dataclasses import dataclass, field

from tokenstorm.simulator.engine import Engine, Sequence
from tokenstorm.simulator.metrics import Metrics
from tokenstorm.simulator.settings import Settings

BETWEEN_NS = 1_000_000
"""From the end of an answer to when the client's next request is at the engine."""


@dataclass
class Modelled:
    """Requests of one length each against an engine; TPOT and TTFT bounds in seconds decide which are good."""

    settings: Settings
    prompt_tokens: int
    output_tokens: int
    ttft: float = float("inf")
    tpot: float = float("inf")
    seconds: float = 120.0
    warmup: float = 20.0
    _good: int = field(default=0, init=False)
    _all: int = field(default=0, init=False)

    def share(self, *, clients: int | None = None, rate: float | None = None, seed: int = 1) -> float:
        """The share of good requests of so many clients, each with one in flight, or at a constant rate."""
        self._good = self._all = 0
        engine, end = Engine(self.settings, Metrics(), seed), round((self.warmup + self.seconds) * 1e9)
        spread = random.Random(seed)
        arrivals = [spread.randrange(10**9) for _ in range(clients)] if clients else []
        if rate:
            arrivals = [round(number / rate * 1e9) for number in range(int(rate * (self.warmup + self.seconds)))]
        heapq.heapify(arrivals)
        now = 0
        while now < end:
            while arrivals and arrivals[0] <= now:
                self._send(engine, heapq.heappop(arrivals), arrivals if clients else None)
            self._now = engine.start_step(now)
            if self._now is None:
                if not arrivals:
                    break
                now = arrivals[0]
                continue
            now = self._now
            while arrivals and arrivals[0] <= now:  # they wait for the next step
                self._send(engine, heapq.heappop(arrivals), arrivals if clients else None)
            for sequence in engine.finish_step(now):
                sequence.on_token()
        return self._good / self._all if self._all else 0.0

    def capacity(self, of: str, low: float, high: float, share: float, precision: float = 0.002) -> float:
        """The highest value below which the share is reached, by bisection; `of` is "clients" or "rate"."""
        while high - low > (1 if of == "clients" else precision * low):
            middle = (low + high) // 2 if of == "clients" else (low + high) / 2
            reached = self.share(clients=int(middle)) if of == "clients" else self.share(rate=middle)
            low, high = (middle, high) if reached >= share else (low, middle)
        return low

    def _send(self, engine: Engine, arrived: int, again: list[int] | None) -> None:
        times: list[int] = []

        def on_token() -> None:
            assert self._now is not None
            times.append(self._now)
            if len(times) == self.output_tokens:
                if again is not None:
                    heapq.heappush(again, self._now + BETWEEN_NS)
                if arrived >= self.warmup * 1e9:
                    tpot = (times[-1] - times[0]) / max(1, self.output_tokens - 1) / 1e9
                    self._all += 1
                    self._good += (times[0] - arrived) / 1e9 <= self.ttft and tpot <= self.tpot

        engine.submit(Sequence(self.prompt_tokens, self.output_tokens, on_token=on_token), arrived)
