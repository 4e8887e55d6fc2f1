"""Steps end on time, with timers and a clock that the test moves."""

from collections.abc import Callable

import pytest

from tokenstorm.simulator.driver import Driver
from tokenstorm.simulator.engine import Engine, Sequence
from tokenstorm.simulator.metrics import Metrics
from tokenstorm.simulator.settings import Settings

STEP = Settings(step_base_ms=10.5, step_per_sequence_ms=0, step_per_prefill_token_ms=0, jitter_fraction=0)


class Bench:
    """A driver between a clock and a timer that only move when they are told to."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.timer: tuple[float, Callable[[int], None], int] | None = None
        self.metrics = Metrics()
        engine = Engine(STEP, self.metrics)
        self.driver = Driver(engine, self.metrics, lambda: round(self.now_ms * 1e6), self._later)

    def _later(self, delay: float, callback: Callable[[int], None], end: int) -> None:
        assert self.timer is None, "one timer at a time"
        self.timer = (delay, callback, end)

    @property
    def armed_ms(self) -> float | None:
        return self.timer and round(self.timer[0] * 1e3, 6)

    def fire_at(self, now_ms: float) -> None:
        assert self.timer
        _, callback, end = self.timer
        self.timer, self.now_ms = None, now_ms
        callback(end)


def submit(bench: Bench, tokens: int, on_token: Callable[[], None]) -> None:
    bench.driver.submit(Sequence(1, tokens, on_token=on_token))


def test_a_step_never_ends_early_and_a_late_one_shortens_the_next() -> None:
    bench, tokens = Bench(), list[float]()
    submit(bench, 3, lambda: tokens.append(bench.now_ms))
    assert bench.armed_ms == 11, "whole milliseconds, upwards"
    bench.fire_at(10.2)
    assert tokens == []
    assert bench.armed_ms == 1
    bench.fire_at(12)
    assert tokens == [12]
    assert bench.armed_ms == 9, "the second step ends at 21 ms, whatever the first one did"
    bench.fire_at(21)
    assert bench.armed_ms == 11, "the third at 31.5 ms"
    bench.fire_at(32)
    assert len(tokens) == 3
    assert bench.timer is None, "without work there is no timer"
    assert bench.metrics.late_seconds == 0


def test_time_that_a_busy_machine_took_is_counted_and_not_made_up_for_in_a_burst() -> None:
    bench = Bench()
    submit(bench, 3, lambda: None)
    bench.fire_at(110.5)
    assert bench.metrics.late_seconds == pytest.approx(0.1)
    assert bench.armed_ms == 11


def test_work_that_comes_later_starts_at_once_and_not_in_the_past() -> None:
    bench = Bench()
    submit(bench, 1, lambda: None)
    bench.fire_at(11)
    bench.now_ms = 500.0
    submit(bench, 1, lambda: None)
    assert bench.armed_ms == 11


def test_an_answer_that_fails_does_not_stop_the_engine() -> None:
    def fail() -> None:
        raise OSError

    bench = Bench()
    submit(bench, 2, fail)
    with pytest.raises(OSError, match=r"^$"):
        bench.fire_at(11)
    assert bench.armed_ms == 10
