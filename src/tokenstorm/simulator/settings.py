"""Everything that can be set about the simulated engine, with its units."""

import math
from dataclasses import dataclass, fields, replace
from typing import Annotated, Final, Literal

__all__ = ["FAULT_KINDS", "PRESETS", "Faults", "Settings"]

FAULT_KINDS: Final = ("error_500", "error_429", "reset", "stall", "malformed")
"""The faults that a request can have, each a share of requests in `Faults`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The latency model, the limits, and the shape of the answers.

    A step that runs `n` sequences and prefills `p` prompt tokens takes
    `step_base_ms + n * step_per_sequence_ms + p * step_per_prefill_token_ms`, times a factor drawn
    evenly from `1 - jitter_fraction` to `1 + jitter_fraction`.
    """

    step_base_ms: Annotated[float, "time of a step before any work, milliseconds"] = 12.0
    step_per_sequence_ms: Annotated[float, "more for each running sequence, milliseconds"] = 0.05
    step_per_prefill_token_ms: Annotated[float, "more for each prompt token, milliseconds"] = 0.04
    jitter_fraction: Annotated[float, "spread of a step's time, 0 (none) to below 1"] = 0.05
    max_num_seqs: Annotated[int, "most sequences that run at once"] = 256
    max_num_batched_tokens: Annotated[int, "most tokens computed in one step"] = 4096
    kv_cache_tokens: Annotated[int, "size of the KV cache, tokens"] = 400_000
    block_tokens: Annotated[int, "tokens in one block of the KV cache"] = 16
    prefix_cache_tokens: Annotated[int, "tokens of prompts that are kept for those that begin alike (0: none)"] = 0
    max_model_len: Annotated[int, "longest prompt and answer together, tokens"] = 16_384
    template_tokens: Annotated[int, "tokens that the chat template adds to each prompt"] = 0
    natural_output_tokens: Annotated[int, "length of an answer that was given no max_tokens"] = 256
    early_stop_rate: Annotated[float, "share of answers that end before max_tokens, 0 to 1"] = 0.0
    reasoning_tokens: Annotated[int, "tokens at the start of an answer that are reasoning"] = 0
    reasoning_field: Annotated[Literal["reasoning_content", "reasoning"], "where reasoning text goes"] = (
        "reasoning_content"
    )
    role_chunk: Annotated[
        Literal["early", "with-token", "none"],
        "when a chat stream's empty first chunk leaves: at once, with the first token, never",
    ] = "early"

    def __post_init__(self) -> None:
        _check_numbers(self)
        for name in ("max_num_seqs", "max_num_batched_tokens", "block_tokens", "max_model_len"):
            if getattr(self, name) < 1:
                msg = f"{_option(name)} must be at least 1"
                raise ValueError(msg)
        if self.jitter_fraction >= 1 or self.early_stop_rate > 1:
            msg = "--jitter-fraction must be below 1, and --early-stop-rate at most 1"
            raise ValueError(msg)
        # One sequence alone must always fit, or it would wait for ever.
        if self.kv_cache_tokens // self.block_tokens * self.block_tokens < self.max_model_len:
            msg = (
                f"--kv-cache-tokens {self.kv_cache_tokens} cannot hold one sequence of "
                f"--max-model-len {self.max_model_len}: raise the first or lower the second"
            )
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, by share of requests; each request has one fault at most."""

    error_500: Annotated[float, "share of requests answered with status 500, 0 to 1"] = 0.0
    error_429: Annotated[float, "share of requests answered with status 429, 0 to 1"] = 0.0
    reset: Annotated[float, "share of answers cut off by a TCP reset, 0 to 1"] = 0.0
    stall: Annotated[float, "share of answers that stop and never end, 0 to 1"] = 0.0
    malformed: Annotated[float, "share of answers with one broken event, 0 to 1"] = 0.0
    slow_start: Annotated[float, "seconds of answering 503 before the engine is ready"] = 0.0

    def __post_init__(self) -> None:
        _check_numbers(self)
        if sum(self.rates().values()) > 1 + 1e-9:  # ten times 0.1 is 1
            msg = "the fault rates together must not be above 1: a request has one fault at most"
            raise ValueError(msg)

    def rates(self) -> dict[str, float]:
        """The share of each kind of fault."""
        return {kind: getattr(self, kind) for kind in FAULT_KINDS}


def _check_numbers(values: Settings | Faults) -> None:
    for field in fields(values):
        value = getattr(values, field.name)
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            msg = f"{_option(field.name)} must be a number from 0 on, got {value}"
            raise ValueError(msg)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


_MEDIUM = Settings()

PRESETS: Final = {
    "fast": replace(
        _MEDIUM,
        step_base_ms=2.0,
        step_per_sequence_ms=0.02,
        step_per_prefill_token_ms=0.002,
        max_num_seqs=128,
        max_num_batched_tokens=8192,
        kv_cache_tokens=1_000_000,
        max_model_len=32_768,
    ),
    "medium": _MEDIUM,
    "slow": replace(
        _MEDIUM,
        step_base_ms=40.0,
        step_per_sequence_ms=0.2,
        step_per_prefill_token_ms=0.2,
        max_num_seqs=64,
        max_num_batched_tokens=2048,
        kv_cache_tokens=64_000,
        max_model_len=8192,
    ),
}
