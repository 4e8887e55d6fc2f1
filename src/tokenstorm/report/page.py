"""`report.html` in the folder of a run, made from its files."""

from tokenstorm.metrics.summary import Summary
from tokenstorm.report.assets import read_assets
from tokenstorm.report.html import report_page
from tokenstorm.report.story import read_story
from tokenstorm.runs import RunPaths, write_atomically


def made_page(paths: RunPaths, summary: Summary) -> bytes:
    """The page of a run."""
    story = read_story(paths, summary)
    return report_page(summary, story, read_assets()).encode()


def write_page(paths: RunPaths, summary: Summary) -> None:
    """Write the page into the run's folder. Raises OSError."""
    write_atomically(paths.report, made_page(paths, summary))


def try_page(paths: RunPaths, summary: Summary) -> str:
    """The same at the end of a run, whose results stand whatever becomes of the page. Returns in words what was wrong."""
    try:
        write_page(paths, summary)
    except Exception as error:  # noqa: BLE001 - a bug of the page is no reason to lose a run
        why = (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {error}"
        return f"could not make {paths.report} ({why}); `tokenstorm report {paths.root} --format html` tries it again"
    return ""
