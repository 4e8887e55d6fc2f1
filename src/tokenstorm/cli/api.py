"""How commands reach the two APIs."""

import argparse
import os

from tokenstorm.cli.commands import TOKEN
from tokenstorm.cli.terminal import tell
from tokenstorm.errors import ApiError
from tokenstorm.sdk import CLIENT_URL, SERVER_URL, Client


def client_of(args: argparse.Namespace) -> Client:
    """A client of the addresses that were given: as options, in the environment, or those of `tokenstorm up`."""
    return Client(
        args.server_url or os.environ.get("TOKENSTORM_SERVER_URL") or SERVER_URL,
        args.client_url or os.environ.get("TOKENSTORM_CLIENT_URL") or CLIENT_URL,
        token=os.environ.get(TOKEN) or None,
    )


def say_again(error: ApiError) -> None:
    """Tell that a call had no answer that says anything, and is made again."""
    tell(f"{error}; asking again")
