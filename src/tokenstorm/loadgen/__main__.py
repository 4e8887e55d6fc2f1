"""`python -m tokenstorm.loadgen run PLAN` and `… rank`. Imports the rest where Ctrl-C is minded."""

from collections.abc import Callable

try:
    import signal
    import sys

    from tokenstorm.program import run
except KeyboardInterrupt:  # even this takes some milliseconds
    raise SystemExit(130) from None


def main() -> int:
    """Run the command line. Returns the exit code."""
    if sys.argv[1:2] == ["rank"]:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches everyone; the launcher decides
    return run(_load)


def _load() -> Callable[[], int]:
    from tokenstorm.loadgen.command import main as command  # noqa: PLC0415

    return command


if __name__ == "__main__":
    raise SystemExit(main())
