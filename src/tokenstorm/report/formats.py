"""The forms in which a run can be had, and how each is written."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import msgspec

from tokenstorm.errors import RunError, UsageError
from tokenstorm.metrics.rebuild import batches_of
from tokenstorm.metrics.summary import Summary
from tokenstorm.printable import printable
from tokenstorm.report.hdr import hdr_log
from tokenstorm.report.junit import run_junit
from tokenstorm.report.markdown import summary_markdown
from tokenstorm.report.page import made_page
from tokenstorm.report.rows import csv_head, csv_rows, write_parquet
from tokenstorm.report.text import summary_text
from tokenstorm.report.whole import Found, find_results, latest_moment, seconds_of
from tokenstorm.result import Result
from tokenstorm.runs import RunPaths

Format = Literal["text", "html", "json", "csv", "md", "junit", "parquet", "hdr"]
FORMATS: tuple[Format, ...] = get_args(Format)
_BY_SUFFIX: dict[str, Format] = {
    ".txt": "text",
    ".html": "html",
    ".json": "json",
    ".csv": "csv",
    ".md": "md",
    ".xml": "junit",
    ".parquet": "parquet",
    ".hdr": "hdr",
    ".hlog": "hdr",
}
Write = Callable[[RunPaths, Summary, BinaryIO], None]


def format_of(path: Path) -> Format:
    """The format that a file's name asks for. Raises `UsageError`."""
    if (found := _BY_SUFFIX.get(path.suffix.lower())) is None:
        message = f"-o {path}: end its name with one of {', '.join(_BY_SUFFIX)}, or give --format"
        raise UsageError(message)
    return found


def write_as(form: Format, paths: RunPaths, summary: Summary, file: BinaryIO, fail_on: Sequence[str] = ()) -> None:
    """Write a run in one of the forms. Raises `RunError` where the form needs a package that is not there.

    `fail_on` are the bounds that it was to keep, as they were typed: JUnit has a test for each.
    """
    if form == "junit":
        file.write(run_junit(summary, fail_on).encode())
    else:
        _WRITERS[form](paths, summary, file)


def save_as(form: Format, paths: RunPaths, summary: Summary, target: Path, fail_on: Sequence[str] = ()) -> None:
    """Write it to a file: the whole of it, or nothing. Raises `RunError`."""
    unfinished = target.parent / f".{target.name}.part"
    try:
        with unfinished.open("wb") as file:
            write_as(form, paths, summary, file, fail_on)
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        message = f"cannot write {target}: {error.strerror}; name another file with -o"
        raise RunError(message) from None
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _text(_paths: RunPaths, summary: Summary, file: BinaryIO) -> None:
    file.write(printable(f"{summary_text(summary, wide=True)}\n").encode())


def _json(_paths: RunPaths, summary: Summary, file: BinaryIO) -> None:
    file.write(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")


def _markdown(_paths: RunPaths, summary: Summary, file: BinaryIO) -> None:
    file.write(summary_markdown(summary).encode())


def _html(paths: RunPaths, summary: Summary, file: BinaryIO) -> None:
    file.write(made_page(paths, summary))


def _csv(paths: RunPaths, summary: Summary, file: BinaryIO) -> None:
    file.write(csv_head())
    file.writelines(csv_rows(batch) for batch in _requests(paths, summary))


def _parquet(paths: RunPaths, summary: Summary, file: BinaryIO) -> None:
    write_parquet(_requests(paths, summary), file)


def _hdr(paths: RunPaths, summary: Summary, file: BinaryIO) -> None:
    file.writelines(
        f"{line}\n".encode() for line in hdr_log(seconds_of(paths, _found(paths, summary)), summary.started_at)
    )


_WRITERS: dict[Format, Write] = {
    "text": _text,
    "html": _html,
    "json": _json,
    "csv": _csv,
    "md": _markdown,
    "parquet": _parquet,
    "hdr": _hdr,
}


def _requests(paths: RunPaths, summary: Summary) -> Iterator[list[Result]]:
    """The requests of a run, many at a time. Lines that cannot be read are left out: the summary has noted them."""
    found = _found(paths, summary)
    for _, batch in batches_of(found.results, summary.plan, found.skip, latest=found.latest):
        yield batch


def _found(paths: RunPaths, summary: Summary) -> Found:
    found = find_results(paths, summary.plan)
    found.latest = latest_moment(summary.plan, summary, None)
    return found
