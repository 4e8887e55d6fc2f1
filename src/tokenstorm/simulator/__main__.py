"""`python -m tokenstorm.simulator`. Imports the rest where Ctrl-C is minded."""

from collections.abc import Callable

try:
    from tokenstorm.program import run
except KeyboardInterrupt:  # even this takes some milliseconds
    raise SystemExit(130) from None


def main() -> int:
    """Run the command line. Returns the exit code."""
    return run(_load)


def _load() -> Callable[[], int]:
    from tokenstorm.simulator.command import main as command  # noqa: PLC0415

    return command


if __name__ == "__main__":
    raise SystemExit(main())
