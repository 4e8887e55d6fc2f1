"""Prepared workloads: one file of the run, read in stripes, whose texts share what the trace shares."""

import json
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plans import plan
from tokenstorm.errors import PlanError, RunError
from tokenstorm.load import Load, make
from tokenstorm.load_parts import Trace
from tokenstorm.loadgen.arrivals import mean_rate, scheduled_count
from tokenstorm.loadgen.composing import WORDS_AT_ONCE, Composer
from tokenstorm.loadgen.endpoint import endpoints_of
from tokenstorm.loadgen.openai import AHEAD, Requests
from tokenstorm.loadgen.prepared import AT_ONCE, Entry, Rows, write_prepared
from tokenstorm.loadgen.prompts import Prompt, PromptSource, load_prompts
from tokenstorm.loadgen.replay import keep_rows, settle_trace
from tokenstorm.loadgen.schedule import schedule_of
from tokenstorm.loadgen.workload import prepare, read_workload
from tokenstorm.metrics.reports import WorkloadFacts
from tokenstorm.plan import Plan, TraceFile
from tokenstorm.report.workload import workload_lines

MOONCAKE = Path(__file__).parents[1] / "traces" / "mooncake.jsonl"
ROWS = [json.loads(line) for line in MOONCAKE.read_text().splitlines()]


def replay(path: Path, load: dict[str, Any] | None = None, **fields: Any) -> Plan:
    trace = {"path": str(path), **fields}
    known = {"num_clients": 4, "trace": trace, **(load or {})}
    settled = settle_trace(make(known, Load), Trace(**trace), path.read_bytes(), str(path))
    return plan(**{**known, **settled})


def prepared(some: Plan, folder: Path, rank: int = 0, ranks: int = 1) -> tuple[PromptSource, WorkloadFacts]:
    workload, facts = prepare(some, folder / "workload")
    return read_workload(some, workload, rank, ranks), facts


def content(requests: Requests, seq: int) -> str:
    """The text that a request asks, from its bytes."""
    body = requests.build(seq, 0)[0].partition(b"\r\n\r\n")[2]
    text: str = json.loads(body)["messages"][0]["content"]
    return text


def requests_of(some: Plan, source: PromptSource) -> Requests:
    return Requests(some, "m", endpoints_of((target.url for target in some.targets), some.endpoint), source, None)


def words(text: str, start: int, stop: int) -> list[str]:
    return text.split(" ")[start:stop]


def test_requests_share_their_beginnings_as_far_as_the_trace_shares_blocks_and_no_further(tmp_path: Path) -> None:
    some = replay(MOONCAKE)
    requests = requests_of(some, prepared(some, tmp_path)[0])
    texts = [content(requests, seq) for seq in range(len(ROWS))]
    assert [len(text.split(" ")) for text in texts] == [row["input_length"] for row in ROWS]
    for place, (one, text) in enumerate(zip(ROWS, texts, strict=True)):
        for other, another in zip(ROWS[:place], texts[:place], strict=True):
            pairs = enumerate(zip(one["hash_ids"], other["hash_ids"], strict=False))
            common = next(
                (block for block, (a, b) in pairs if a != b), min(len(one["hash_ids"]), len(other["hash_ids"]))
            )
            whole = min(512 * common, one["input_length"], other["input_length"])
            assert words(text, 0, whole) == words(another, 0, whole)
            rest = words(text, whole, whole + 40), words(another, whole, whole + 40)
            assert not all(rest) or rest[0] != rest[1]


def test_a_block_is_a_function_of_the_seed_and_its_id_alone(tmp_path: Path) -> None:
    """Ranks agree without a word between them: 1 and 4 send the same bytes. Another seed is another text."""
    some = replay(MOONCAKE)
    alone = requests_of(some, prepared(some, tmp_path)[0])
    whole = [alone.build(seq, 0)[0] for seq in range(len(ROWS))]
    for rank in range(4):
        requests = requests_of(some, prepared(some, tmp_path, rank, 4)[0])
        requests.expect(iter(range(rank, len(ROWS), 4)))
        while requests.compose_next():
            pass
        assert [requests.build(seq, 0)[0] for seq in range(rank, len(ROWS), 4)] == whole[rank::4]
    other = replay(MOONCAKE, {"seed": 2})
    assert content(requests_of(other, prepared(other, tmp_path)[0]), 0) != content(alone, 0)


def test_requests_are_composed_ahead_again_after_a_burst_of_more_than_were_ready() -> None:
    """What was built before it could be composed ahead keeps no place among those that are ready."""
    some = plan(prompts={"kind": "synthetic", "unit": "text", "length": {"n": 3}})
    requests = requests_of(some, load_prompts(some))
    requests.expect(iter(range(10_000)))
    for burst in range(3):
        first, ready = 100 * burst, 0
        while requests.compose_next():
            ready += 1
        assert ready == AHEAD
        for seq in range(first, first + 100):
            requests.build(seq, 0)


def test_composing_before_the_start_ends_in_time_for_it() -> None:
    some = plan(prompts={"kind": "synthetic", "unit": "text", "length": {"n": 3}})
    source = load_prompts(some)
    composed: list[int] = []

    def get(seq: int, really: Callable[[int], Prompt] = source.get) -> Prompt:
        composed.append(seq)
        time.sleep(0.05)
        return really(seq)

    source.get = get  # type: ignore[method-assign]
    requests = requests_of(some, source)
    requests.expect(iter(range(10_000)))
    requests.compose_until(time.monotonic_ns() + 200_000_000)
    assert len(composed) < AHEAD
    before = len(composed)
    requests.compose_until(time.monotonic_ns() - 1)
    assert len(composed) == before


def test_every_row_of_a_stripe_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop waits for no file: each row of the stripe is read once, by the thread."""
    workload = write_prepared(tmp_path / "workload", ((row, Entry(row + 1, 1, [])) for row in range(4 * AT_ONCE)))
    readers: Counter[int] = Counter()

    def read(self: Rows[Any], index: int, really: Callable[[Rows[Any], int], bytes] = Rows._read) -> bytes:
        readers[threading.get_ident()] += 1
        return really(self, index)

    monkeypatch.setattr(Rows, "_read", read)
    rows = Rows(workload, iter(range(4 * AT_ONCE)), Entry)
    for row in range(4 * AT_ONCE):
        rows._coming.result()  # the thread is never behind
        assert rows[row].input == row + 1
    rows.close()
    assert readers[threading.get_ident()] == 0


def test_each_row_leaves_once_when_the_trace_says_over_any_number_of_ranks(tmp_path: Path) -> None:
    some = replay(MOONCAKE, speed=3)
    seen: list[tuple[int, int]] = []
    for rank in range(4):
        schedule = schedule_of(some, rank, 4, prepared(some, tmp_path, rank, 4)[0].times)
        count = 0
        while schedule.next_at is not None:
            schedule.fall_due()
            seen.append(schedule.take())
            count += 1
        assert scheduled_count(some, rank, 4, some.window_end_ns or 0) == (0, count)
    assert sorted(seen) == [(seq, round(row["timestamp"] * 1e6 / 3)) for seq, row in enumerate(ROWS)]


def test_rows_that_are_left_out_are_not_asked_for_by_the_plan(tmp_path: Path) -> None:
    """Else they would be missing: in the asked rate, and among the arrivals of a rank that was lost."""
    some = replay(MOONCAKE)
    workload, _ = prepare(some, tmp_path / "workload", 8000)
    times = read_workload(some, workload).times
    kept = keep_rows(some, workload.rows, times)
    end = kept.window_end_ns or 0
    assert 0 < workload.rows < len(ROWS)
    assert end == some.window_end_ns
    assert sum(scheduled_count(kept, rank, 3, end)[1] for rank in range(3)) == workload.rows
    assert mean_rate(kept, end) == pytest.approx(workload.rows * 1e9 / end)
    assert isinstance(kept.prompts, TraceFile)
    assert kept.prompts.rows == workload.rows
    with pytest.raises(PlanError, match="due before the run's end"):
        keep_rows(some, 1, [end])


def test_what_a_trace_holds_is_told_before_the_run(tmp_path: Path) -> None:
    some = replay(MOONCAKE, speed=2)
    source, facts = prepared(some, tmp_path)
    requests = requests_of(some, source)
    texts = [content(requests, seq) for seq in range(len(ROWS))]
    reused = sum(
        max(len(os.path.commonprefix([text, earlier]).split(" ")) - 1 for earlier in texts[:place])  # noqa: RUF071 - letters are what is compared
        for place, text in enumerate(texts)
        if place
    )
    moments = Counter(row["timestamp"] for row in ROWS)
    seconds = Counter(row["timestamp"] // 2000 for row in ROWS)
    assert (facts.format, facts.rows, facts.span_seconds) == ("Mooncake", 60, 7.5)
    assert facts.mean_rps == 8
    assert facts.peak_rps == max(seconds.values())
    assert facts.tied == len(ROWS) - len(moments)
    assert facts.ideal_reuse == pytest.approx(reused / sum(row["input_length"] for row in ROWS), rel=0.001)
    assert (facts.input.least, facts.input.most) == (
        min(row["input_length"] for row in ROWS),
        max(row["input_length"] for row in ROWS),
    )
    told = "\n".join(workload_lines(facts))
    assert "60 requests in 7.5 s, 90.0% of them at the same moment" in told
    assert "of the prompt tokens would come from an ideal prefix cache" in told


def test_rows_without_an_answer_ask_for_one_token_and_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Timestamp,Model,Request tokens,Response tokens\n1,GPT-4,5,0\n2,GPT-4,6,9\n2,GPT-4,0,9\n")
    some = replay(path, skip_bad_rows=True)
    source, facts = prepared(some, tmp_path)
    assert [source.get(seq).max_tokens for seq in (0, 1)] == [1, 9]
    assert (facts.no_output, facts.skipped) == (1, {"its prompt has … tokens: it cannot be sent": 1})
    told = "\n".join(workload_lines(facts))
    assert "1 rows have an answer of 0 tokens: 1 is asked" in told
    assert "1 rows were left out: 1 times: its prompt has … tokens" in told


def test_rows_that_are_too_long_for_the_model_are_left_out_and_told_before_the_start(tmp_path: Path) -> None:
    fitting = [row for row in ROWS if row["input_length"] + row["output_length"] <= 8000]
    some = replay(MOONCAKE)
    workload, facts = prepare(some, tmp_path / "w", 8000)
    assert workload.rows == facts.rows == len(fitting) < len(ROWS)
    assert facts.input.most == max(row["input_length"] for row in fitting)
    told = "\n".join(workload_lines(facts))
    assert f"{60 - len(fitting)} rows were left out" in told
    assert "longer than the 8000 tokens that the model takes" in told
    with pytest.raises(PlanError, match=r"no row of .* can be sent: prompt and answer are longer than the 10 tokens"):
        prepare(some, tmp_path / "w", 10)


def test_without_ids_every_row_has_a_text_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2024-05-10 00:00:00,50,5\n" * 20)
    some = replay(path)
    source, facts = prepared(some, tmp_path)
    assert facts.ideal_reuse is None
    requests = requests_of(some, source)
    assert len({content(requests, seq)[:60] for seq in range(20)}) == 20


def test_rows_that_come_again_share_nothing_with_the_first_ones(tmp_path: Path) -> None:
    """Else a second pass would find all of its prompts in the engine's prefix cache."""
    some = replay(MOONCAKE, {"requests_per_second": 5}, lengths_only=True)
    requests = requests_of(some, prepared(some, tmp_path)[0])
    first, again = content(requests, 0), content(requests, 60)
    assert len(first.split(" ")) == len(again.split(" "))
    assert words(first, 0, 20) != words(again, 0, 20)
    assert words(content(requests, 61), 0, 512) == words(again, 0, 512), "they share with each other what rows share"


def test_salted_requests_share_nothing(tmp_path: Path) -> None:
    some = replay(MOONCAKE, {"unique_prompts": True})
    requests = requests_of(some, prepared(some, tmp_path)[0])
    assert words(content(requests, 0), 0, 20) != words(content(requests, 1), 0, 20)


def test_the_first_look_warms_no_cache_for_the_run(tmp_path: Path) -> None:
    some = replay(MOONCAKE)
    source, _ = prepared(some, tmp_path)
    first, tried = source.get(0).composed, source.preflight().composed
    assert first
    assert tried
    assert bytes(first)[:100] != bytes(tried)[:100]
    assert bytes(first).count(b" ") == bytes(tried).count(b" ")


def some_rows(count: int) -> Iterator[tuple[int, Entry]]:
    return ((number * 10, Entry(number + 1, 2, [number])) for number in range(count))


def test_a_rank_reads_its_stripe_ahead_and_any_other_row_too(tmp_path: Path) -> None:
    workload = write_prepared(tmp_path / "w", some_rows(2000))
    rows = Rows(workload, iter(range(1, 2000, 3)), Entry)
    assert [rows[index].input for index in range(1, 2000, 3)] == [*range(2, 2001, 3)]
    assert rows[5] == Entry(6, 2, [5])
    assert [rows.times()[index] for index in (0, 1999)] == [0, 19990]
    rows.close()


def test_a_prepared_workload_is_for_this_user_alone_and_pinned_by_its_content(tmp_path: Path) -> None:
    workload = write_prepared(tmp_path / "w", some_rows(5))
    path = Path(workload.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert workload == write_prepared(tmp_path / "w", some_rows(5)), "the same rows are the same file"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(RunError, match="is not what was prepared"):
        Rows(workload, iter(()), Entry)
    path.unlink()
    with pytest.raises(RunError, match="cannot read the prepared workload"):
        Rows(workload, iter(()), Entry)


def test_a_trace_that_was_changed_since_the_plan_was_made_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(MOONCAKE.read_bytes())
    some = replay(path)
    path.write_bytes(MOONCAKE.read_bytes() + b"\n")
    with pytest.raises(PlanError, match="has changed since the plan was made"):
        prepare(some, tmp_path / "w")


def test_text_needs_no_escape_in_json_and_keeps_to_its_room() -> None:
    composer = Composer(1)
    keys = [bytes([number]) for number in range(256)]
    text = composer.text(keys, 700, 3, 700 * 256)
    assert json.loads(b'"%b"' % text).split(" ") == text.decode().split(" ")
    assert text.count(b" ") == 700 * 256 - 3 - 1
    assert composer.text(keys[:1], 700, 3, 700) == b" ".join(text.split(b" ")[:697])


def test_a_long_row_is_composed_in_steps_between_which_requests_can_leave(tmp_path: Path) -> None:
    """And is the same whether it was composed whole, in steps, or had to leave in the middle of them."""
    path = tmp_path / "t.jsonl"
    blocks = 10 * WORDS_AT_ONCE // 512
    rows = [
        {"timestamp": at, "input_length": 512 * blocks, "output_length": 1, "hash_ids": [*range(at, at + blocks)]}
        for at in (0, 1000, 2000)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    some = replay(path)
    whole, stepped = (requests_of(some, prepared(some, tmp_path)[0]) for _ in "ab")
    stepped.expect(iter(range(3)))
    steps = 0
    while not stepped._composed:
        assert stepped.compose_next()
        steps += 1
    assert steps == 11
    assert stepped.compose_next()
    for seq in range(3):
        assert stepped.build(seq, 0)[0] == whole.build(seq, 0)[0]
    assert not stepped.compose_next()
