"""The `tokenstorm` command."""

import argparse
from collections.abc import Callable

from tokenstorm import __version__
from tokenstorm.cli.commands import add_commands
from tokenstorm.cli.parser import Parser
from tokenstorm.cli.terminal import tell
from tokenstorm.errors import TokenstormError


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 wrong usage, 3 done but the verdict is `invalid`, 4 `compare` found a regression, 5 what --fail-on names came true."""
    args = parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.run
    try:
        return command(args)
    except TokenstormError as error:
        tell(str(error))
        return error.exit_code


def parser() -> Parser:
    """What reads the command line."""
    whole = Parser(
        prog="tokenstorm",
        description="Load tests of AI inference services.",
    )
    whole.other_names = {"ls": "runs", "ps": "group list"}
    whole.add_argument("--version", action="version", version=f"tokenstorm {__version__}")
    add_commands(whole.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    return whole
