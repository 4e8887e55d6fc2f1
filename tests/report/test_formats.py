"""A run in the forms that other programs and people take."""

import contextlib
import csv
import io
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pyarrow.parquet
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from reporting import SECOND, request, run_of, second
from tokenstorm.errors import RunError, UsageError
from tokenstorm.metrics.histogram import Histogram
from tokenstorm.metrics.summary import Summary
from tokenstorm.report.formats import FORMATS, Format, format_of, save_as
from tokenstorm.report.markdown import summary_markdown
from tokenstorm.report.rows import ROW_GROUP, ParquetTable, csv_head, csv_rows
from tokenstorm.result import Failure, Result
from tokenstorm.runs import RunPaths

HOSTILE = "<img src=x onerror=alert(1)> | ``` [x](http://evil) @all \x1b[2J\n# title"
FAILED = {
    "error": {"kind": "timeout", "detail": HOSTILE},
    "first_token": None,
    "last_token": None,
    "output_tokens": None,
}
STRETCH = {"stretch": {"count": 5, "stride": 1, "last_scheduled": SECOND - 1}, "sent": None, "slot_free": None}
NEVER = {**STRETCH, "first_token": None, "last_token": None, "done": None, "output_tokens": None, "prompt_tokens": None}


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunPaths, Summary]:
    """Three requests: one that succeeded, one that failed, and five that were never sent."""
    results = [request(0, 10**8, ms=100), request(1, 2 * 10**8, ms=50, **FAILED), request(2, 3 * 10**8, ms=0, **NEVER)]
    paths, summary = run_of(tmp_path, results, model=HOSTILE, name=HOSTILE)
    paths.timeline.write_bytes(b"".join(msgspec.json.encode(second(t, latency_ms=100 + t)) + b"\n" for t in range(2)))
    return paths, summary


def saved(run: tuple[RunPaths, Summary], form: Format) -> Path:
    target = run[0].root / f"saved.{form}"
    save_as(form, *run, target)
    return target


def test_csv_has_a_row_for_each_line_and_its_columns_name_their_units(run: tuple[RunPaths, Summary]) -> None:
    good, failed, never = csv.DictReader(saved(run, "csv").read_text().splitlines())
    assert (good["outcome"], good["scheduled_seconds"], good["sent_seconds"]) == ("succeeded", "0.1", "0.1")
    assert (good["latency_seconds"], good["service_time_seconds"], good["ttft_seconds"]) == ("0.1", "0.1", "0.01")
    assert (good["tpot_seconds"], good["output_tokens"], good["prompt_tokens"]) == ("0.009", "11", "5")
    assert (failed["outcome"], failed["error_kind"], failed["latency_seconds"]) == ("failed", "timeout", "")
    assert failed["done_seconds"] == "0.25"
    assert "\x1b" not in failed["error_detail"]
    assert (never["outcome"], never["sent_seconds"], never["stretch_count"]) == ("unsent", "", "5")
    assert never["stretch_last_scheduled_seconds"] == "0.999999999"


def test_parquet_has_the_same_rows_with_types(run: tuple[RunPaths, Summary]) -> None:
    table = pyarrow.parquet.read_table(saved(run, "parquet"))
    rows = csv.DictReader(saved(run, "csv").read_text().splitlines())
    assert table.column_names == rows.fieldnames
    good, failed, never = table.to_pylist()
    assert good["ttft_seconds"] == 0.01
    assert (good["seq"], good["resent"], good["finish_reason"]) == (0, False, None)
    assert (failed["error_detail"], failed["tpot_seconds"], never["stretch_count"]) == (HOSTILE, None, 5)
    assert str(table.schema.field("latency_seconds").type) == "double"


def test_parquet_comes_a_row_group_at_a_time() -> None:
    row = Result(1, 7, 0, "0", "measured", 0, 0, 5, done=9)
    table = ParquetTable()
    parts = [*(table.add([row] * (ROW_GROUP // 2)) for _ in range(5)), table.end()]
    assert [bool(part) for part in parts] == [True, True, False, True, False, True]  # the head, then every second time
    read = pyarrow.parquet.ParquetFile(io.BytesIO(b"".join(parts)))
    assert [read.metadata.row_group(one).num_rows for one in range(3)] == [ROW_GROUP, ROW_GROUP, ROW_GROUP // 2]
    assert read.read().to_pylist()[-1]["seq"] == 7


@pytest.mark.parametrize("words", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\uff1d1"])
def test_no_text_of_a_server_is_a_formula_in_a_spreadsheet(words: str) -> None:
    failed = Result(1, 0, 0, "0", "measured", 0, 0, 5, done=9, error=Failure("timeout", words))
    (row,) = csv.DictReader((csv_head() + csv_rows([failed])).decode().splitlines())
    assert row["error_detail"] == f"'{words}"


def test_every_field_of_a_result_has_a_column(run: tuple[RunPaths, Summary]) -> None:
    names = saved(run, "csv").read_text().partition("\n")[0].split(",")
    for field in set(Result.__struct_fields__) - {"schema"}:
        assert any(name.startswith(field) for name in names), field
    assert len(names) == len(set(names))


def test_a_public_reader_finds_every_second_in_the_hdr_log(run: tuple[RunPaths, Summary]) -> None:
    with contextlib.closing(HistogramLogReader(str(saved(run, "hdr")), HdrHistogram(1, 86400 * 10**9, 3))) as reader:
        seconds = [reader.get_next_interval_histogram() for _ in range(3)]
    assert seconds[2] is None
    for t, found in enumerate(seconds[:2]):
        assert found.get_tag() == "latency"
        assert found.get_total_count() == 4
        assert found.get_value_at_percentile(50) == pytest.approx((100 + t) * 10**6, rel=0.01)
        assert found.get_end_time_stamp() - found.get_start_time_stamp() == 1000


def test_the_hdr_log_keeps_each_value_within_a_percent(run: tuple[RunPaths, Summary]) -> None:
    paths, summary = run
    values = [0, 1, 127, 128, 2047, 2048, 10**6 + 1, 3 * 10**9, 90_000 * 10**9]
    histogram = Histogram()
    histogram.record_many(values)
    line = second(0, histograms={"ttft": msgspec.to_builtins(histogram)})
    paths.timeline.write_bytes(msgspec.json.encode(line) + b"\n")
    with contextlib.closing(
        HistogramLogReader(str(saved((paths, summary), "hdr")), HdrHistogram(1, 10**15, 3))
    ) as reader:
        histogram = reader.get_next_interval_histogram()
    found = [item.value_iterated_to for item in histogram.get_recorded_iterator()]
    assert found == pytest.approx(values, rel=0.011, abs=0.5)


class Tags(HTMLParser):
    def handle_starttag(self, tag: str, attrs: object) -> None:
        pytest.fail(f"<{tag}> in Markdown")


def test_markdown_has_verdict_and_numbers_and_nothing_of_a_server_is_markup(run: tuple[RunPaths, Summary]) -> None:
    text = summary_markdown(run[1])
    lines = text.splitlines()
    assert lines[0].endswith(f": {run[1].verdict.state}")
    assert "**SIMULATED ENGINE" in text
    assert "| latency, from schedule | 100 ms |" in text.replace("&#126;", "").replace("&gt;", "")
    assert "1 failed with `timeout`" in text
    assert not [line for line in lines if line.startswith("# ")]
    outside = "".join(part for line in lines for part in line.split("````")[::2])
    assert "<img" not in outside
    assert "@all" not in outside
    Tags().feed(outside)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(run: tuple[RunPaths, Summary], form: Format) -> None:
    with pytest.raises(RunError, match=r"cannot write .*nowhere.*name another file with -o"):
        save_as(form, *run, run[0].root / "nowhere" / "file")
    assert not [*run[0].root.glob(".*part")]


def test_the_folder_that_one_is_in_is_no_file_to_write(
    run: tuple[RunPaths, Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(RunError, match=r"cannot write \.: .*name another file with -o"):
        save_as("csv", *run, Path())
    assert not [*folder.iterdir()]


def test_a_files_name_tells_its_format_and_an_unknown_one_is_refused_with_those_there_are() -> None:
    assert format_of(Path("a.HTML")) == "html"
    assert format_of(Path("a.b.hlog")) == "hdr"
    with pytest.raises(UsageError, match=r"\.csv.*--format"):
        format_of(Path("a.xlsx"))
