"""The terminal that somebody is asked on, which is left as it was."""

import contextlib
import os
import termios


def restore(terminal: int, was: "list[int | list[bytes | int]]") -> None:
    """Set a terminal as it was, where that is ours to do: a job in the background would be stopped for it."""
    with contextlib.suppress(OSError, termios.error):  # it is gone
        if os.tcgetpgrp(terminal) == os.getpgrp():
            termios.tcsetattr(terminal, termios.TCSADRAIN, was)
