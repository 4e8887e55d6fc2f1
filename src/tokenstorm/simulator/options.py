"""What the simulator can be told on a command line."""

import argparse
from typing import Literal, get_args, get_origin, get_type_hints

from .settings import PRESETS, Faults, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the simulator's options; every field of the settings and faults is one."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=_port, default=8000, help="0 picks a free one (%(default)s)")
    parser.add_argument("--model", default="sim-model", help="model name (%(default)s)")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME",
        help="another model, as a LoRA over the first; may be given again",
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="medium", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of jitter, faults and text (0)")
    parser.add_argument("--api-key-env", metavar="VAR", help="variable that holds the API key")
    for title, kind in (("engine (defaults from the preset)", Settings), ("faults", Faults)):
        group = parser.add_argument_group(title)
        for name, hint in get_type_hints(kind, include_extras=True).items():
            value_type, text = get_args(hint)
            choices = get_args(value_type) if get_origin(value_type) is Literal else None
            group.add_argument(
                "--" + name.replace("_", "-"),
                type=str if choices else value_type,
                choices=choices,
                metavar=None if choices else "N",
                help=text,
            )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 2**16:
        msg = f"{port} is not a port: give 0 to 65535"
        raise argparse.ArgumentTypeError(msg)
    return port
