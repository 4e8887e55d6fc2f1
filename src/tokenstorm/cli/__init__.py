"""The `tokenstorm` command."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from tokenstorm import __version__
from tokenstorm.cli.commands import add_commands
from tokenstorm.cli.terminal import tell
from tokenstorm.errors import TokenstormError
from tokenstorm.printable import printable


class Parser(argparse.ArgumentParser):
    """A word that is no option is told with the usage of the command it was given to."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, with nothing left over."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """As argparse's, fit to be shown: it quotes what was typed."""
        super().error(printable(message))


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 wrong usage, 3 done but the verdict is `invalid`, 4 `compare` found a regression, 5 what --fail-on names came true."""
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.run
    try:
        return command(args)
    except TokenstormError as error:
        tell(str(error))
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="tokenstorm", description="Load tests of AI inference services.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"tokenstorm {__version__}")
    add_commands(parser.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    return parser
