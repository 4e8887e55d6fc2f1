"""What a login asks the user for: passwords, codes and passphrases."""

from collections.abc import Callable

from tokenstorm.threads import run_in_thread

Ask = Callable[[str, bool], str]
"""Asks the user: the prompt, and whether what is typed is shown. It blocks, and is called in a thread."""

TYPING_SECONDS = 180.0
"""How long a login may take while the user types."""


async def typed(ask: Ask, prompt: str, shown: bool) -> str:  # noqa: FBT001 - as SSH servers say it of each prompt
    """What the user answers. A thread of its own, which nobody waits for: one who leaves at the prompt may leave."""
    return await run_in_thread(lambda: ask(prompt, shown), None)
