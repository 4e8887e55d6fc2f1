"""The latency model: continuous batching as vLLM's scheduler does it, without a clock of its own.

Time comes in as integer nanoseconds. The driver alternates `start_step(now)`, which returns when the step ends, and
`finish_step(now)`, which returns every sequence that got a token.
"""

import random
from collections import deque
from collections.abc import Callable

from .metrics import Metrics
from .prefixes import PrefixCache
from .settings import Settings

__all__ = ["Engine", "Sequence"]


class Sequence:
    """One request inside the engine: so many prompt tokens in, so many output tokens out.

    `computed` tokens have their place in the KV cache. When all of `prompt_tokens + produced` are
    computed, a step yields one more token; a sequence that was preempted computes them all again.
    """

    __slots__ = (
        "admitted",
        "arrived",
        "blocks",
        "cached",
        "chunk",
        "computed",
        "finish_reason",
        "last_token",
        "on_token",
        "output_tokens",
        "pools",
        "prefix",
        "produced",
        "prompt_tokens",
    )

    def __init__(
        self,
        prompt_tokens: int,
        output_tokens: int,
        finish_reason: str = "length",
        on_token: Callable[[], None] = lambda: None,
        *,
        pools: bool = False,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.finish_reason = finish_reason
        self.on_token = on_token
        self.pools = pools  # its one output is an answer in numbers, no token
        self.produced = 0
        self.computed = 0
        self.prefix: tuple[int, ...] = ()  # the whole blocks of its prompt
        self.cached = 0  # prompt tokens that came from the prefix cache
        self.chunk = 0  # tokens that the present step computes
        self.blocks = 0
        self.arrived = 0
        self.admitted = 0
        self.last_token = 0

    @property
    def done(self) -> bool:
        return self.produced >= self.output_tokens


class Engine:
    """Runs sequences in steps; holds to the batch, token and KV-cache limits of its settings."""

    def __init__(self, settings: Settings, metrics: Metrics, seed: int = 0) -> None:
        self._settings = settings
        self._metrics = metrics
        self._random = random.Random(seed)
        self._free_blocks = self._blocks = settings.kv_cache_tokens // settings.block_tokens
        self.prefixes = PrefixCache(settings.prefix_cache_tokens, settings.block_tokens)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def kv_usage(self) -> float:
        """The share of the KV cache that is taken, 0 to 1."""
        return 1 - self._free_blocks / self._blocks

    def submit(self, sequence: Sequence, now: int) -> None:
        """Put a sequence at the end of the queue."""
        sequence.arrived = now
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence, in whatever state; its place is free from the next step on."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            return
        self._release(sequence)
        self._metrics.finished("abort")

    def start_step(self, now: int) -> int | None:
        """Choose the work of the step that begins at `now`; return its end, None without work."""
        budget, prefill, preempted = self._schedule_running()
        if not preempted:  # what was just put back must not be let in again at once
            prefill += self._admit(budget, now)
        if not self.running:
            return None
        model = self._settings
        milliseconds = (
            model.step_base_ms
            + model.step_per_sequence_ms * len(self.running)
            + model.step_per_prefill_token_ms * prefill
        )
        jitter = 1 + model.jitter_fraction * (2 * self._random.random() - 1)
        return now + round(milliseconds * jitter * 1e6)

    def finish_step(self, now: int) -> list[Sequence]:
        """Account for the step that ends at `now`; return the sequences that got a token."""
        yielded = []
        finished = False
        for sequence in self.running:
            if not sequence.chunk:
                continue
            sequence.computed += sequence.chunk
            sequence.chunk = 0
            if sequence.prefix and not sequence.produced:
                self.prefixes.add(sequence.prefix, sequence.computed)
            if sequence.computed < sequence.prompt_tokens + sequence.produced:
                continue
            self._token(sequence, now)
            yielded.append(sequence)
            finished = finished or sequence.done
        if finished:
            self._retire(now)
        return yielded

    def _schedule_running(self) -> tuple[int, int, bool]:
        """Give every running sequence its part of the step: one token, or a piece of the prompt."""
        budget = self._settings.max_num_batched_tokens
        prefill = 0
        preempted = False
        at = 0
        while at < len(self.running):
            sequence = self.running[at]
            missing = sequence.prompt_tokens + sequence.produced - sequence.computed
            chunk = min(missing, budget)
            if not self._reserve(sequence, chunk):
                self._preempt(self.running.pop())  # the latest makes room, be it this one
                preempted = True
                continue
            sequence.chunk = chunk
            budget -= chunk
            if missing > 1 or not sequence.produced:
                prefill += chunk
            at += 1
        return budget, prefill, preempted

    def _admit(self, budget: int, now: int) -> int:
        """Let waiting sequences in, in order, while the limits allow; return their prefill."""
        prefill = 0
        while self.waiting and budget > 0 and len(self.running) < self._settings.max_num_seqs:
            sequence = self.waiting[0]
            cached = self.prefixes.find(sequence.prefix, sequence.prompt_tokens)
            sequence.computed = cached
            chunk = min(sequence.prompt_tokens + sequence.produced - cached, budget)
            if not self._reserve(sequence, chunk):
                sequence.computed = 0
                break
            self.running.append(self.waiting.popleft())
            if not sequence.admitted:
                sequence.admitted, sequence.cached = now, cached
                self._metrics.prefix_queries += sequence.prompt_tokens if sequence.prefix else 0
                self._metrics.prefix_hits += cached
                self._metrics.queue_time.observe((now - sequence.arrived) / 1e9)
            sequence.chunk = chunk
            budget -= chunk
            prefill += chunk
        return prefill

    def _reserve(self, sequence: Sequence, chunk: int) -> bool:
        """Take the blocks that `chunk` more tokens need; False when there are not enough."""
        size = self._settings.block_tokens
        more = -(-(sequence.computed + chunk) // size) - sequence.blocks
        if more > self._free_blocks:
            return False
        self._free_blocks -= more
        sequence.blocks += more
        return True

    def _release(self, sequence: Sequence) -> None:
        self._free_blocks += sequence.blocks
        sequence.blocks = sequence.computed = sequence.chunk = 0

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self._metrics.preemptions += 1

    def _token(self, sequence: Sequence, now: int) -> None:
        metrics = self._metrics
        if sequence.pools:
            metrics.prompt_tokens += sequence.prompt_tokens
        elif sequence.produced:
            metrics.inter_token.observe((now - sequence.last_token) / 1e9)
        else:
            metrics.ttft.observe((now - sequence.arrived) / 1e9)
            metrics.prompt_tokens += sequence.prompt_tokens
        metrics.generation_tokens += not sequence.pools
        sequence.produced += 1
        sequence.last_token = now

    def _retire(self, now: int) -> None:
        for sequence in self.running:
            if sequence.done:
                self._release(sequence)
                self._metrics.finished(sequence.finish_reason)
                self._metrics.e2e.observe((now - sequence.arrived) / 1e9)
        self.running = [sequence for sequence in self.running if not sequence.done]
