"""What reads a command line: options of a command are added once it is the one, and what is wrong is one line."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from tokenstorm.cli.examples import EXAMPLES
from tokenstorm.printable import printable

EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but the verdict is `invalid`, 4 `compare` found a regression,\n"
    "5 what --fail-on names came true, or a search in which nothing held"
)


class _Commands(argparse._SubParsersAction):  # type: ignore[type-arg]  # noqa: SLF001 - what add_subparsers makes
    """The commands of a parser. What one is for stands in its own --help too."""

    def add_parser(self, name: str, **options: Any) -> Any:
        return super().add_parser(name, **{"description": options.get("help"), **options})


class Parser(argparse.ArgumentParser):
    """A parser of one command. `fill` adds its options when they are needed, since some take long to be made.

    `other_names` are further names of its commands that people type.
    """

    def __init__(self, **options: Any) -> None:
        options |= {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        if example := EXAMPLES.get(options.get("prog", "").removeprefix("tokenstorm ")):
            options["epilog"] = f"example:\n  tokenstorm {example}\n\n{EXIT_CODES}\n"
        super().__init__(**options)
        self.register("action", "parsers", _Commands)
        self.fill: Callable[[], None] | None = None
        self.other_names: dict[str, str] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, with nothing left over."""
        self._complete()
        args = sys.argv[1:] if args is None else args
        if args and self.other_names:
            args = self._known_words(args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def format_help(self) -> str:
        """As argparse's, with all options."""
        self._complete()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """One line: what is wrong, the nearest right word, and where the others are listed."""
        message = self._nearest(message) or message
        self.exit(2, printable(f"{self.prog}: {message} (`{self.prog} --help` lists what there is)") + "\n")

    def _complete(self) -> None:
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill()

    def _known_words(self, args: Sequence[str]) -> list[str]:
        """The words as they are documented."""
        if args[0] == "help":
            return [*args[1:2], "--help"]
        return [*self.other_names.get(args[0], args[0]).split(), *args[1:]]

    def _nearest(self, message: str) -> str | None:
        """The message with the word that was probably meant."""
        if match := re.match(r"unrecognized arguments: (-\S*?)(=.*| .*)?$", message, re.DOTALL):
            wrong, words = match[1], [word for word in self._option_string_actions if word.startswith("--")]
            near = difflib.get_close_matches(wrong, words, 1)
            return f"there is no option {wrong}" + (f": did you mean {near[0]}?" if near else "")
        if match := re.match(r"argument (?:COMMAND|ACTION): invalid choice: '(.*?)' \(choose from (.*)\)$", message):
            wrong, words = match[1], re.findall(r"[\w-]+", match[2])
            near = difflib.get_close_matches(wrong, words, 1)
            return f"there is no {wrong!r}" + (
                f": did you mean {near[0]}?" if near else f": there is {', '.join(words)}"
            )
        return None
