"""Traces: each format by its content, with its own units; and what contradicts it is refused with its line."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tokenstorm.errors import PlanError
from tokenstorm.load import Load, make
from tokenstorm.load_parts import Trace
from tokenstorm.loadgen.datasets import MOST_REASONS, OTHERS
from tokenstorm.loadgen.replay import settle_trace
from tokenstorm.loadgen.traces import Row, read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURST_NEW = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
SECOND = 1_000_000_000


def lines(*records: dict[str, object]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def timed(timestamp: float, length: int, ids: list[int], output: int = 5, **more: object) -> dict[str, object]:
    return {"timestamp": timestamp, "input_length": length, "output_length": output, "hash_ids": ids, **more}


MOONCAKE = lines(timed(0, 600, [0, 1]), timed(3000, 512, [0]), timed(3000, 1025, [0, 1, 2]))


def read(text: str, **fields: Any) -> tuple[str, list[Row], dict[str, int]]:
    found = read_trace(text.encode(), "t", Trace(path="t", **fields))
    rows = list(found.rows)
    return found.format.name, rows, dict(found.skipped)


def refused(text: str, **fields: Any) -> str:
    with pytest.raises(PlanError) as raised:
        read(text, **fields)
    return str(raised.value)


def test_mooncake_is_in_milliseconds_and_blocks_of_512() -> None:
    name, rows, _ = read(MOONCAKE)
    assert name == "Mooncake"
    assert rows == [Row(0, 600, 5, [0, 1]), Row(3 * SECOND, 512, 5, [0]), Row(3 * SECOND, 1025, 5, [0, 1, 2])]


def test_bailian_is_in_seconds_and_blocks_of_16() -> None:
    more: dict[str, Any] = {"chat_id": 7, "parent_chat_id": -1, "type": "text", "turn": 1}
    name, rows, _ = read(lines(timed(10.5, 33, [1, 2, 3], **more), timed(12.25, 16, [1], **more)))
    assert name == "Bailian"
    assert rows == [Row(0, 33, 5, [1, 2, 3]), Row(1_750_000_000, 16, 5, [1])]


def test_vllms_timed_trace_has_the_keys_of_mooncake_and_is_known_by_its_blocks() -> None:
    name, rows, _ = read(lines(timed(0, 16, [1]), timed(3, 600, [*range(38)])))
    assert name == "vLLM's timed trace"
    assert rows[1].at == 3 * SECOND


def test_a_trace_that_fits_two_formats_is_not_guessed() -> None:
    """Milliseconds that are read as seconds would be a load a thousand times too low."""
    doubtful = lines(timed(0, 16, [1]), timed(3, 9, [2]))
    assert "give --trace-format" in refused(doubtful)
    assert "give --trace-format" in refused(lines(timed(0, 600, [])))
    assert read(doubtful, format="mooncake")[1][1].at == 3_000_000
    assert read(doubtful, format="vllm")[1][1].at == 3 * SECOND


def test_azure_2023_has_seven_digits_of_a_second_and_no_zone() -> None:
    text = AZURE + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47.0000001,8,0\n"
    name, rows, _ = read(text)
    assert name == "Azure"
    assert rows == [Row(0, 374, 44, []), Row(319_410_100, 8, 0, [])]


def test_azure_2024_has_six_digits_or_none_and_an_offset() -> None:
    text = AZURE + "2024-05-10 00:00:00.009930+00:00,2,3\n2024-05-10 02:00:01+02:00,4,5\n"
    assert [row.at for row in read(text)[1]] == [0, 990_070_000]


@pytest.mark.parametrize(
    "text",
    [
        BURST + "5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1087,0,1087,API log\n",
        BURST_NEW + "5,9,1.5,ChatGPT,472,18,490,Conversation log\n45.5,,,GPT-4,1087,0,1087,API log\n",
    ],
    ids=["old header", "new header"],
)
def test_burstgpt_is_read_by_the_names_of_its_columns(text: str) -> None:
    """By their places, the newer files would give session ids as lengths."""
    name, rows, _ = read(text)
    assert name == "BurstGPT"
    assert rows == [Row(0, 472, 18, []), Row(40_500_000_000, 1087, 0, [])]


def test_ids_are_whole_with_all_their_64_bits() -> None:
    large = [2**64 - 1, 2**53 + 1]
    assert read(lines(timed(0, 600, large)))[1][0].ids == large
    assert "64 bits" in refused(lines(timed(0, 600, [1, 2]), timed(1, 600, [2**64, 1])))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            MOONCAKE + lines(timed(4000, 600, [0])),
            "line 4: `input_length` 600 is 2 blocks of 512 tokens, and `hash_ids` has 1",
        ),
        (MOONCAKE + lines(timed(2000, 600, [0, 1])), "line 4: its time is before that of the row above"),
        (MOONCAKE + lines(timed(4000, 0, [])), "line 4: its prompt has 0 tokens"),
        (MOONCAKE + '{"input_length": 5, "output_length": 5}\n', "line 4: it has no `timestamp`"),
        (MOONCAKE + '{"timestamp": 4000, "input_le', "line 4: it is no row of this trace"),
        (MOONCAKE + lines(timed(4000, 600, [0, 1], -1)), "line 4: its answer has -1 tokens"),
        (AZURE + "yesterday,5,5\n", "line 2: its time 'yesterday' is none"),
        (AZURE + "2024-05-10 00:00:61,5,5\n", "line 2: its time '2024-05-10 00:00:61' is none"),
        (AZURE + "2024-05-10 00:00:00,5\n", "line 2: it has 2 fields, and the header has 3"),
        (AZURE + "2024-05-10 00:00:00,many,5\n", "line 2: its prompt has no length"),
        (BURST + "nan,ChatGPT,472,18,490,API log\n", "line 2: its time 'nan' is no number of seconds"),
        (BURST + f'0,"{"x" * 200_000}",472,18,490,API log\n', "line 2: it is no row of this trace: field larger"),
        (AZURE + "0001-01-01 00:00:00+01:00,5,5\n", "line 2: its time '0001-01-01 00:00:00+01:00' is none"),
        (AZURE + "2024-05-10 00:00:00,1e30,5\n", "tokens, and no model takes more than 10000000"),
        (MOONCAKE + lines(timed(4000, 600, [0, 1], 10**9)), "line 4: its answer has 1000000000 tokens"),
    ],
)
def test_a_row_that_contradicts_its_format_is_refused_with_its_line_or_left_out_and_counted(
    text: str, words: str
) -> None:
    assert words in refused(text)
    assert "--skip-bad-rows" in refused(text)
    _, rows, skipped = read(text, skip_bad_rows=True)
    assert sum(skipped.values()) == 1
    assert len(rows) == (3 if text.startswith(MOONCAKE) else 0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello\nworld\n", "its first line is 'hello'"),
        (b'{"prompt": "x", "output_tokens": 5}\n', "looks like vLLM's custom dataset"),
        (b'{"timestamp": 4', "begins with"),
        (b"a,b\n1,2\n", "its first line is 'a,b'"),
        (b'[{"id": "1", "conversations": [{"from": "human", "value": "' + b"x" * 200_000, "its first line is '[{"),
        (b"PAR1....", "is a Parquet file"),
        (AZURE.encode() + b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_trace_is_told_what_it_looks_like_and_what_is_read(data: bytes, words: str) -> None:
    with pytest.raises(PlanError) as raised:
        list(read_trace(data, "t", Trace(path="t")).rows)
    assert words in str(raised.value)
    assert words == "not UTF-8" or "Mooncake" in str(raised.value)


def test_a_format_that_was_named_for_another_files_header_is_refused() -> None:
    assert "lacks a column of this trace" in refused(BURST + "5,ChatGPT,472,18,490,API log\n", format="azure")


def test_a_part_of_a_trace_begins_at_0_and_a_speed_divides_its_times() -> None:
    text = lines(*(timed(1000 * second, 600, [second, 99]) for second in range(10)))
    _, rows, _ = read(text, from_seconds=2, until_seconds=8, limit=4, speed=4)
    assert [(row.at, row.ids[0]) for row in rows] == [(0, 2), (SECOND // 4, 3), (SECOND // 2, 4), (3 * SECOND // 4, 5)]


def settled(text: str, load: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    trace = Trace(path="t", **fields)
    return settle_trace(make({"num_clients": 1, "trace": trace, **(load or {})}, Load), trace, text.encode(), "t")


def test_a_plan_tells_how_long_a_trace_takes_and_its_rate_in_stretches() -> None:
    text = lines(*(timed(500 * half, 600, [half, 99]) for half in range(8)))
    found = settled(text)
    assert found["duration_seconds"] == 3.501
    assert [round(stage.rps * stage.seconds) for stage in found["arrival"].stages] == [3, 2, 3]
    assert settled(text, speed=2)["duration_seconds"] == 1.751
    assert settled(text, {"duration_seconds": 1.5})["duration_seconds"] == 1.5
    assert settled(text, {"warmup_seconds": 2})["duration_seconds"] == 1.501
    assert settled(text, lengths_only=True).keys() == {"prompts"}


@pytest.mark.parametrize(
    ("load", "trace", "words"),
    [
        ({}, {"from_seconds": 60}, "has no row between"),
        ({"warmup_seconds": 60}, {}, "60 s are all of the trace"),
        ({"requests_per_second": 5}, {}, "the trace says when requests leave"),
        ({"request_count": 5}, {}, "trace.limit"),
        ({"arrival": "poisson"}, {}, "the trace says when requests leave"),
    ],
)
def test_a_trace_that_leaves_nothing_or_is_contradicted_is_refused(
    load: dict[str, Any], trace: dict[str, Any], words: str
) -> None:
    with pytest.raises((PlanError, msgspec.ValidationError)) as raised:
        settled(MOONCAKE, load, **trace)
    assert words in str(raised.value)


def test_however_many_kinds_of_bad_rows_there_are_few_reasons_are_kept() -> None:
    """Each quotes its row, and all of them are in the status of every second."""
    words = ["".join(letters) for letters in product("abcdef", repeat=3)]
    _, rows, skipped = read(AZURE + "".join(f"{word},5,5\n" for word in words), skip_bad_rows=True)
    assert (rows, sum(skipped.values())) == ([], len(words))
    assert len(skipped) == MOST_REASONS + 1
    assert skipped[OTHERS] == len(words) - MOST_REASONS


def test_times_that_no_clock_holds_are_told_and_not_a_bug() -> None:
    with pytest.raises(PlanError, match="would leave in centuries"):
        settled(MOONCAKE + lines(timed(1e300, 600, [0, 1])))
    with pytest.raises(PlanError, match="would leave in centuries"):
        settled(MOONCAKE + lines(timed(1e14, 600, [0, 1])), speed=0.001)


SHARED = Path(__file__).parents[2] / "tests" / "traces"


def test_the_pieces_of_real_traces_are_read_as_a_whole() -> None:
    for name, kind, count, last in (
        ("mooncake.jsonl", "Mooncake", 60, 15 * SECOND),
        ("azure-2023.csv", "Azure", 60, None),
    ):
        found = read_trace((SHARED / name).read_bytes(), name, Trace(path=name))
        rows = list(found.rows)
        assert (found.format.name, len(rows)) == (kind, count)
        assert last is None or rows[-1].at == last
